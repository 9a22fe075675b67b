"""A check of the elements of a `.mat` file of MATLAB 5 ... 7 before scipy reads it.

scipy ends the whole process (segmentation fault) on an element of an unknown type and on a matrix that lacks a part, such as
one whose damaged flags promise imaginary numbers; and it inflates compressed elements without a limit. Source: MathWorks,
MAT-File Format, chapter 1.
"""

from __future__ import annotations

import struct
import zlib

_NUMBERS = frozenset((1, 2, 3, 4, 5, 6, 7, 9, 12, 13))
_TEXTS = frozenset((16, 17, 18))
_MATRIX, _COMPRESSED = 14, 15
_HEADER_BYTES = 128
_TEXT_CLASS, _SPARSE_CLASS, _NUMBER_CLASSES = 4, 5, range(6, 16)
_COMPLEX = 0x800  # of the flags; the lowest byte is the class
_MAX_DEPTH = 12  # of structs and cells in each other
_MAX_BYTES = 1 << 30  # of a compressed element, inflated


def check_elements(content: bytes) -> None:
    """Check the type of every element of a file; those of MATLAB 4 and 7.3 have no elements.

    Raises:
        ValueError: a type is not known, a matrix lacks a part, elements are nested too deeply, or one inflates to more than 1 GB.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is not None and not content.startswith(b"MATLAB 7.3"):
        _check(memoryview(content)[_HEADER_BYTES:], order, 0)


def _check(data: memoryview, order: str, depth: int) -> int:
    """Check elements that follow each other, and return how many they are."""
    if depth > _MAX_DEPTH:
        raise ValueError("its variables are nested too deeply")
    begin, n_elements = 0, 0
    while begin + 8 <= len(data):
        kind, n_bytes = struct.unpack_from(f"{order}II", data, begin)
        if kind >> 16:  # up to four bytes in the place of the length
            n_bytes, kind, body, step = kind >> 16, kind & 0xFFFF, begin + 4, 8
        else:
            body = begin + 8
            step = 8 + n_bytes + (0 if kind == _COMPRESSED else -n_bytes % 8)
        element = data[body : body + n_bytes]
        if kind == _MATRIX:
            _check_parts(element, order, _check(element, order, depth + 1))
        elif kind == _COMPRESSED and depth == 0:
            stream = zlib.decompressobj()
            inflated = stream.decompress(element, _MAX_BYTES)
            if stream.unconsumed_tail:
                raise ValueError(f"a variable inflates to more than {_MAX_BYTES / 1e9:.1f} GB")
            _check(memoryview(inflated), order, depth + 1)
        elif kind not in _NUMBERS | _TEXTS:
            raise ValueError(f"an element has the unknown type {kind}")
        begin, n_elements = begin + step, n_elements + 1
    return n_elements


def _check_parts(matrix: memoryview, order: str, n_parts: int) -> None:
    """A matrix has flags, sides and a name, then its values: real ones, and imaginary ones if its flags say so."""
    flags = struct.unpack_from(f"{order}I", matrix, 8)[0] if len(matrix) >= 12 else 0
    needed = {_TEXT_CLASS: 4, _SPARSE_CLASS: 6}.get(flags & 0xFF, 4 if flags & 0xFF in _NUMBER_CLASSES else 0)
    if needed and n_parts < needed + bool(flags & _COMPLEX):
        raise ValueError("a matrix lacks its values")
