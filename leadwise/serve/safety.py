"""Checks of every request before its body is read, and headers of every answer.

The page is bound to loopback, where every program and every web page of this machine can reach it. So the Host must be ours
(a foreign name that resolves to 127.0.0.1 is refused), a request of another origin is refused, and every address but the page
itself needs the token, which is in the printed address behind `#` and so is never sent by a link.
"""

from __future__ import annotations

import hmac
import logging
import traceback
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leadwise.serve.settings import ServeSettings

log = logging.getLogger(__name__)

TOKEN_HEADER = "X-Leadwise-Token"
LOOPBACK_NAMES = ("127.0.0.1", "localhost")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def error(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error as JSON: one sentence with a remedy."""
    if status == 503:
        headers = {"Retry-After": "5", **(headers or {})}
    return JSONResponse({"error": text}, status, headers)


class SafetyHeaders:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await self.app(scope, receive, send_with_headers)


class RequestChecks:
    """Refuses requests of other hosts and origins, without the token, or with a body that is too large."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is not None:
            await refused(scope, receive, send)
            return
        await self.app(scope, self._counted(receive), send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """Return the refusal of a request by its headers, or None."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        if self.settings.is_loopback and host_name(host) not in LOOPBACK_NAMES:
            return error(
                403, "this host name is not served; open the printed address, which begins with http://127.0.0.1"
            )
        if not host:
            return error(400, "the request has no Host header, or several")
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return error(403, "requests of another page are refused; use the page itself")
        path = str(scope["path"])
        if not path.startswith("/api/"):
            return None
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return error(403, "requests of another page are refused; use the page itself")
        token = headers.get(TOKEN_HEADER.lower(), "")
        if not hmac.compare_digest(token.encode("latin-1"), self.settings.token.encode()):
            return error(401, f"the token is absent or wrong; open the printed address, or send it as {TOKEN_HEADER}")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > self.settings.limits.upload_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> JSONResponse:
        return error(413, self._size_text)

    @property
    def _size_text(self) -> str:
        return f"the file has more than {self.settings.limits.upload_bytes / 1e6:g} MB; cut it, or use leadwise predict"

    def _counted(self, receive: Receive) -> Receive:
        """Return `receive` with an error when more than the largest upload has arrived, whatever the headers state."""
        n_bytes = 0

        async def receive_counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self.settings.limits.upload_bytes:
                raise HTTPException(413, self._size_text)
            return message

        return receive_counted


class PlainErrors:
    """Answers a fault of the program with 500 and logs its kind and place only: its message may quote an upload."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_started = False

        async def send_noted(message: MutableMapping[str, Any]) -> None:
            nonlocal is_started
            is_started = is_started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except Exception as fault:
            if scope["type"] != "http":
                raise
            frame = traceback.extract_tb(fault.__traceback__)[-1]
            log.error("fault in an answer: %s in %s, line %d", type(fault).__name__, frame.name, frame.lineno or 0)
            if not is_started:
                await error(500, "the program has a fault here; the server's log names its place")(scope, receive, send)


def host_name(host: str) -> str:
    """Return a Host header without its port, in lower case; '' if its form is another."""
    name, colon, port = host.rpartition(":")
    if not colon:
        return host.lower()
    return name.lower() if port.isascii() and port.isdigit() else ""
