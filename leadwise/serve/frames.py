"""Messages between the server and its parsers: a JSON object and blobs of bytes. No pickle: a parser may be hostile."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import IO, Any

_LENGTHS = struct.Struct("<II")  # bytes of the JSON object, number of blobs
_SIZE = struct.Struct("<Q")
_MOST_BYTES = 1 << 30  # of one part


class FrameError(ValueError):
    """A message that is cut off, or implausibly large."""


def write_frame(file: IO[bytes], table: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Write one message."""
    text = json.dumps(table, allow_nan=False).encode()
    file.write(_LENGTHS.pack(len(text), len(blobs)))
    for blob in blobs:
        file.write(_SIZE.pack(len(blob)))
    file.write(text)
    for blob in blobs:
        file.write(blob)
    file.flush()


def read_frame(file: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """Return the next message, or None at the end of the file.

    Raises:
        FrameError: the message is cut off, or a part is too large.
    """
    first = file.read(_LENGTHS.size)
    if not first:
        return None
    if len(first) < _LENGTHS.size:
        raise FrameError("a message is cut off")
    n_text, n_blobs = _LENGTHS.unpack(first)
    if n_text > _MOST_BYTES or n_blobs > 16:
        raise FrameError("a message is too large")
    sizes = [_SIZE.unpack(_exactly(file, _SIZE.size))[0] for _ in range(n_blobs)]
    table = json.loads(_exactly(file, n_text))
    return table, [_exactly(file, size) for size in sizes]


def _exactly(file: IO[bytes], size: int) -> bytes:
    if size > _MOST_BYTES:
        raise FrameError("a message is too large")
    data = file.read(size)
    if len(data) < size:
        raise FrameError("a message is cut off")
    return data
