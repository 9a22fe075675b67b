"""Start and stop the server: bind the address, open the run, answer until Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

import uvicorn
from uvicorn.supervisors import Multiprocess

from leadwise.progress import Progress
from leadwise.serve.app import create_app
from leadwise.serve.opening import open_answers
from leadwise.serve.settings import ServeError, ServeSettings

log = logging.getLogger(__name__)

_POLL_S = 0.2
_STOP_S = 5  # for answers that are being written when the server stops


def serve(settings: ServeSettings, announce: Callable[[str], None], progress: Progress | None = None) -> None:
    """Answer until Ctrl-C. `announce` is called with the address when the first request can be answered.

    Raises:
        ServeError: the port is not free.
        HubError, CohortError, EmbedError: the run or the cohort cannot be opened.
    """
    # what cannot be opened is an error here, before workers start; the embeddings of the cohort are then in its folder
    bound = bind(settings)
    try:
        answers = open_answers(settings, progress)
        config = uvicorn.Config(
            partial(create_app, settings, answers if settings.workers == 1 else None),
            factory=True,
            workers=settings.workers,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=5,
            timeout_graceful_shutdown=_STOP_S,
            h11_max_incomplete_event_size=64 * 1024,
        )
        threading.Thread(target=_announce_when_ready, args=(settings, bound, announce), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the usual end; uvicorn raises it again after its own
            if settings.workers > 1:
                Multiprocess(config, sockets=[bound]).run()
            else:
                uvicorn.Server(config).run([bound])
    finally:
        bound.close()


def bind(settings: ServeSettings) -> socket.socket:
    """Return a socket that is bound to the address; with port 0, to a free port.

    Raises:
        ServeError: the address is not free, or not one of this machine.
    """
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        is_foreign = error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror)
        remedy = "--host must be an IPv4 address of this machine" if is_foreign else "choose another --port, or 0"
        raise ServeError(
            f"{settings.host}:{settings.port} cannot be used ({error.strerror or error}); {remedy}"
        ) from None
    bound.set_inheritable(True)
    return bound


def address(settings: ServeSettings, port: int) -> str:
    """Return the address of the page on this machine with the token behind `#`, which a browser never sends."""
    return f"http://{_own_host(settings)}:{port}/#token={settings.token}"


def _own_host(settings: ServeSettings) -> str:
    """Return where this machine reaches the server: browsers refuse 0.0.0.0, which means every address."""
    return "127.0.0.1" if settings.host == "0.0.0.0" else settings.host


def _announce_when_ready(settings: ServeSettings, bound: socket.socket, announce: Callable[[str], None]) -> None:
    """Call `announce` when the page is answered."""
    port = bound.getsockname()[1]
    host = "127.0.0.1" if settings.host == "localhost" else _own_host(settings)
    while bound.fileno() >= 0:
        connection = http.client.HTTPConnection(host, port, timeout=2)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            time.sleep(_POLL_S)
            continue
        finally:
            connection.close()
        announce(address(settings, port))
        return
