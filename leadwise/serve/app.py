"""The routes of the page and of its JSON API."""

from __future__ import annotations

import contextlib
import json
import logging
import mimetypes
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from leadwise import __version__
from leadwise.batch import LEADS
from leadwise.data.formats import reading
from leadwise.data.recordings.recording import RecordError
from leadwise.ecg import ECG
from leadwise.evaluate.embed import EmbedError
from leadwise.serve import opening
from leadwise.serve.answers import AnswerError, ModelAnswers, NotInterpretableError, ecg_of
from leadwise.serve.bank import Bank
from leadwise.serve.examples import ServedExample, make_examples
from leadwise.serve.openapi import description
from leadwise.serve.parsers import ParserError, ParserPool
from leadwise.serve.requests import NAME_HEADER, body_of, facts_of, whole_number, words_of
from leadwise.serve.safety import PlainErrors, RequestChecks, SafetyHeaders, error
from leadwise.serve.settings import ServeSettings
from leadwise.serve.tracing import read_answer

log = logging.getLogger(__name__)

REMARK = "Research use only. Not a medical device: no result supports a decision about a patient."
_STATIC = (".html", ".css", ".js", ".svg", ".png", ".ico", ".woff2")

Result = TypeVar("Result")


@dataclass
class Serving:
    """What the routes use."""

    settings: ServeSettings
    pool: ParserPool
    answers: ModelAnswers
    examples: dict[str, ServedExample]
    one_at_a_time: anyio.CapacityLimiter  # of the model: its threads use all processors
    parsing: anyio.CapacityLimiter  # threads that wait for a parser

    async def ask_parser(self, kind: str, request: Request) -> tuple[dict[str, Any], list[bytes]]:
        """Return the answer of a parser about the file of a request.

        Raises:
            HTTPException: the file cannot be read, or too many files are being read.
        """
        facts = facts_of(request)
        if self.parsing.statistics().tasks_waiting >= self.settings.limits.waiting:
            raise HTTPException(503, "too many files are read at the moment; try again in a few seconds")
        content = await body_of(request, self.settings.limits)
        if not content:
            raise HTTPException(400, "the request has no file; send its bytes as the body")
        try:
            return await anyio.to_thread.run_sync(
                self.pool.ask, {"kind": kind, "facts": facts}, content, limiter=self.parsing
            )
        except ParserError as reason:
            # most formats are recognised by the suffix, and a script that forgets the header cannot guess that
            hint = (
                "" if facts["name"] else f"; the request has no header {NAME_HEADER}, send the name of the file in it"
            )
            raise HTTPException(reason.status, f"{reason}{hint}") from None

    async def ecg(self, request: Request) -> ECG:
        """Return the ECG of a request's file."""
        table, blobs = await self.ask_parser("signal", request)
        return _ecg(blobs[0], table["rate_hz"])

    async def ask_model(self, question: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a method of `answers` returns, in a thread, one at a time.

        Raises:
            HTTPException: too many questions wait, or this one has no answer.
        """
        if self.one_at_a_time.statistics().tasks_waiting >= self.settings.limits.waiting:
            raise HTTPException(503, "too many questions wait for the model; try again in a few seconds")
        try:
            return await anyio.to_thread.run_sync(partial(question, *arguments), limiter=self.one_at_a_time)
        except NotInterpretableError as reason:
            raise HTTPException(422, str(reason)) from None
        except (AnswerError, EmbedError) as reason:
            raise HTTPException(400, str(reason)) from None
        except RecordError:
            raise HTTPException(422, "the model cannot use this ECG") from None


def _ecg(blob: bytes, rate_hz: float) -> ECG:
    return ecg_of(np.frombuffer(blob, dtype="<f8").reshape(-1, len(LEADS)), float(rate_hz))


def create_app(settings: ServeSettings, answers: ModelAnswers | None = None) -> Starlette:
    """Return the application; its parsers start with it, and the run and the cohort are opened unless `answers` has them."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        _quiet()
        _end_with_supervisor()
        limits = settings.limits
        with ParserPool(limits) as pool:
            opened = answers
            if opened is None:
                opened = await anyio.to_thread.run_sync(opening.open_answers, settings)
            examples = {example.name: example for example in make_examples()}
            model, parsing = anyio.CapacityLimiter(1), anyio.CapacityLimiter(limits.parsers)
            app.state.serving = Serving(settings, pool, opened, examples, model, parsing)
            yield

    static = _static_files()
    routes = [
        Route("/", partial(_page, static), methods=["GET"]),
        Route("/static/{name}", partial(_static_file, static), methods=["GET"]),
        *(Route(f"/api{path}", endpoint, methods=[method]) for method, path, endpoint in API),
    ]
    middleware = [Middleware(SafetyHeaders), Middleware(RequestChecks, settings=settings), Middleware(PlainErrors)]
    return Starlette(
        routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers={HTTPException: _http_error}
    )


def _quiet() -> None:
    """Leave out remarks on single recordings, which quote a file; the user reads them on the page."""
    for name in ("leadwise.data.recordings.twelve_leads", "leadwise.data.formats"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _end_with_supervisor() -> None:
    """In a worker, end the process when the one that started it is gone: it would hold the port with an old token."""
    supervisor = multiprocessing.parent_process()
    if supervisor is None:
        return

    def wait() -> None:
        supervisor.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


async def _http_error(request: Request, reason: Exception) -> Response:
    assert isinstance(reason, HTTPException)
    texts = {404: "there is no such address; see /api/openapi.json", 405: "this address does not take this method"}
    text = (
        texts.get(reason.status_code, reason.detail)
        if reason.detail in ("Not Found", "Method Not Allowed")
        else reason.detail
    )
    return error(reason.status_code, text, dict(reason.headers or {}))


def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


# ------------------------------------------------------------------------------------------------------ page and state


def _static_files() -> dict[str, tuple[bytes, str]]:
    """Return content and type of each file of the page; no other file is served."""
    folder = resources.files("leadwise.serve") / "static"
    files = {}
    if folder.is_dir():
        for file in folder.iterdir():
            if file.is_file() and file.name.endswith(_STATIC):
                kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
                files[file.name] = (file.read_bytes(), "text/javascript" if file.name.endswith(".js") else kind)
    return files


async def _page(static: dict[str, tuple[bytes, str]], request: Request) -> Response:
    return await _static_response(static, "index.html")


async def _static_file(static: dict[str, tuple[bytes, str]], request: Request) -> Response:
    return await _static_response(static, request.path_params["name"])


async def _static_response(static: dict[str, tuple[bytes, str]], name: str) -> Response:
    if name not in static:
        raise HTTPException(404)
    content, kind = static[name]
    return Response(content, media_type=kind)


async def _state(request: Request) -> Response:
    serving = _serving(request)
    model, bank, limits = serving.answers.model, serving.answers.bank, serving.settings.limits
    formats = [
        {"name": known.name, "suffixes": [suffix for suffix in known.suffixes if suffix]}
        for known in reading.all_formats()
    ]
    run = {
        "name": model.name,
        "embeds_text": model.embeds_text,
        "signal": {
            "rate_hz": model.signal.rate_hz,
            "duration_s": model.signal.duration_s,
            "leads": list(model.signal.leads),
        },
        "fingerprint": model.fingerprint,
        "parts": list(model.parts),
    }
    return JSONResponse(
        {
            "version": __version__,
            "run": run,
            "tasks": serving.answers.tasks,
            "cohort": None if bank is None else bank.state(serving.settings.show_reports),
            "formats": formats,
            "limits": {"upload_bytes": limits.upload_bytes, "max_seconds": limits.drawn_s, "samples": limits.samples},
            "examples": [{"name": one.name, "title": one.title} for one in serving.examples.values()],
            "remark": REMARK,
        }
    )


async def _example(request: Request) -> Response:
    example = _serving(request).examples.get(request.path_params["name"])
    if example is None:
        raise HTTPException(404)
    return Response(example.content, media_type="application/octet-stream", headers={NAME_HEADER: example.file_name})


async def _openapi(request: Request) -> Response:
    return JSONResponse(description(_serving(request).settings.limits))


# ----------------------------------------------------------------------------------------------- questions about a file


async def _read(request: Request) -> Response:
    _, blobs = await _serving(request).ask_parser("read", request)
    return Response(blobs[0], media_type="application/json")


async def _embed(request: Request) -> Response:
    serving = _serving(request)
    part = request.query_params.get("part", "backbone")
    ecg = await serving.ecg(request)
    return JSONResponse(await serving.ask_model(serving.answers.embed, ecg, part))


async def _zeroshot(request: Request) -> Response:
    serving = _serving(request)
    words = words_of(request, serving.settings.limits)
    task = request.query_params.get("task", "")
    if bool(words) == bool(task):
        raise HTTPException(400, "pass either task=NAME or words=TEXT (once or several times)")
    ecg = await serving.ecg(request)
    return JSONResponse(await serving.ask_model(serving.answers.zeroshot, ecg, task, words))


async def _explain(request: Request) -> Response:
    serving = _serving(request)
    words = words_of(request, serving.settings.limits)
    task, name = request.query_params.get("task", ""), request.query_params.get("class", "")
    if bool(words) == bool(task and name):
        raise HTTPException(400, "pass either task=NAME and class=NAME, or words=TEXT")
    ecg = await serving.ecg(request)
    return JSONResponse(await serving.ask_model(serving.answers.explain, ecg, task, name, words))


async def _neighbours(request: Request) -> Response:
    serving = _serving(request)
    settings = serving.settings
    top = whole_number(request.query_params.get("top", "6"), "top", 1, settings.limits.neighbours)
    _bank_of(serving)
    ecg = await serving.ecg(request)
    return JSONResponse(await serving.ask_model(serving.answers.neighbours, ecg, top, settings.show_reports))


async def _compare(request: Request) -> Response:
    serving = _serving(request)
    table, blobs = await serving.ask_parser("compare", request)
    first, second = (_ecg(blob, rate_hz) for blob, rate_hz in zip(blobs[1:], table["rates_hz"]))
    answer = json.loads(blobs[0])
    answer["cosine"] = await serving.ask_model(serving.answers.cosine, first, second)
    return JSONResponse(answer)


# ------------------------------------------------------------------------------------------------------------- cohort


def _bank_of(serving: Serving) -> Bank:
    bank = serving.answers.bank
    if bank is None:
        raise HTTPException(404, "there is no cohort; start the server with --cohort FOLDER")
    return bank


def _row_of(serving: Serving, text: str) -> int:
    n = len(_bank_of(serving).cohort)
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) >= n:
        raise HTTPException(404, f"the cohort has no such row; rows are 0 to {n - 1}")
    return int(text)


async def _ecg_of_cohort(request: Request) -> Response:
    serving = _serving(request)
    row, bank, settings = _row_of(serving, request.path_params["row"]), _bank_of(serving), serving.settings

    def answer() -> dict[str, Any]:
        return {**read_answer(bank.ecg(row), settings.limits), "row": row, **bank.labels(row, settings.show_reports)}

    return JSONResponse(await anyio.to_thread.run_sync(answer))


async def _thumb(request: Request) -> Response:
    serving = _serving(request)
    row = _row_of(serving, request.path_params["row"])
    return JSONResponse(await anyio.to_thread.run_sync(_bank_of(serving).thumb, row))


async def _thumbs(request: Request) -> Response:
    serving = _serving(request)
    bank, most = _bank_of(serving), serving.settings.limits.thumbs
    try:
        rows = json.loads(await body_of(request, serving.settings.limits))["rows"]
    except (ValueError, KeyError, TypeError, RecursionError):
        rows = None
    n = len(bank.cohort)
    is_valid = isinstance(rows, list) and len(rows) <= most and all(type(row) is int and 0 <= row < n for row in rows)
    if not is_valid:
        raise HTTPException(400, f'send {{"rows": [...]}} with at most {most} rows from 0 to {n - 1}')
    return JSONResponse(await anyio.to_thread.run_sync(lambda: {str(row): bank.thumb(row) for row in rows}))


async def _map(request: Request) -> Response:
    serving = _serving(request)
    return JSONResponse(await serving.ask_model(_bank_of(serving).map))


API = (
    ("GET", "/state", _state),
    ("GET", "/examples/{name}", _example),
    ("GET", "/openapi.json", _openapi),
    ("POST", "/read", _read),
    ("POST", "/embed", _embed),
    ("POST", "/zeroshot", _zeroshot),
    ("POST", "/explain", _explain),
    ("POST", "/neighbours", _neighbours),
    ("POST", "/compare", _compare),
    ("GET", "/ecg/{row}", _ecg_of_cohort),
    ("GET", "/thumb/{row}", _thumb),
    ("POST", "/thumbs", _thumbs),
    ("GET", "/map", _map),
)
