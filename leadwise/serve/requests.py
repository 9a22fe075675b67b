"""What a request contains: its file, what it states about the file, and its options; each checked."""

from __future__ import annotations

import math
from urllib.parse import unquote

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from leadwise.serve.settings import Limits

NAME_HEADER = "X-File-Name"
_UNITS = ("mV", "uV", "nV", "V")
_MOST_NAME = 1024


async def body_of(request: Request, limits: Limits) -> bytes:
    """Return the body, which is in memory only; the size is checked while it arrives.

    Raises:
        HTTPException: it is empty, of another kind than bytes, or arrives too slowly.
    """
    kind = request.headers.get("content-type", "application/octet-stream").split(";")[0].strip().lower()
    if kind not in ("application/octet-stream", "application/json"):
        raise HTTPException(400, "send the file itself as application/octet-stream, not as a form")
    pieces = []
    try:
        with anyio.fail_after(limits.upload_s):
            async for piece in request.stream():
                pieces.append(piece)
    except TimeoutError:
        raise HTTPException(400, f"the file did not arrive within {limits.upload_s:g} s; send it again") from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed before the file arrived; send it again") from None
    return b"".join(pieces)


def facts_of(request: Request) -> dict[str, object]:
    """Return what the request states about its file, as `UploadFacts` takes it.

    Raises:
        HTTPException: a value is not plausible.
    """
    query = request.query_params
    name = unquote(request.headers.get(NAME_HEADER.lower(), ""), errors="replace")[:_MOST_NAME]
    facts: dict[str, object] = {"name": name}
    if query.get("rate_hz"):
        facts["rate_hz"] = number_of(query["rate_hz"], "rate_hz", 1, 10_000)
    if query.get("leads"):
        facts["leads"] = [lead.strip() for lead in query["leads"][:_MOST_NAME].split(",")]
    if query.get("units"):
        if query["units"] not in _UNITS:
            raise HTTPException(400, f"units is not known; choose {', '.join(_UNITS)}")
        facts["units"] = query["units"]
    if query.get("item"):
        facts["item"] = query["item"][:_MOST_NAME]
    return facts


def number_of(text: str, name: str, low: float, high: float) -> float:
    """Return a number of a query within a range.

    Raises:
        HTTPException: it is no number, or out of range.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise HTTPException(400, f"{name} must be a number from {low:g} to {high:g}")
    return value


def whole_number(text: str, name: str, low: int, high: int) -> int:
    """Return a whole number of a query within a range.

    Raises:
        HTTPException: it is no whole number, or out of range.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or not low <= int(text) <= high:
        raise HTTPException(400, f"{name} must be a whole number from {low} to {high}")
    return int(text)


def words_of(request: Request, limits: Limits) -> list[str]:
    """Return the user's own words, each a text; [] if there are none.

    Raises:
        HTTPException: too many, too long, or without a letter.
    """
    words = request.query_params.getlist("words")
    if len(words) > limits.texts:
        raise HTTPException(400, f"at most {limits.texts} texts are answered at once")
    for text in words:
        if len(text) > limits.text_characters or not any(map(str.isalnum, text)):
            raise HTTPException(400, f"words must have a letter and at most {limits.text_characters} characters")
    return words
