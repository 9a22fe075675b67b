"""XML files of ECG devices: from bytes to elements, and from an element's text to numbers.

The bytes are decoded first, by byte order mark, then by the encoding that the declaration names. The text is parsed by
defusedxml: a document type is allowed, since every MUSE file has one; entities and external references are refused.
Element names are used without their namespace.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np

from leadwise.data.messages import quoted_cell
from leadwise.data.recordings.recording import RecordError

_MAX_BYTES = 256 << 20  # of a file: parsing takes several times as much memory
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_BEFORE_ROOT = re.compile(r"\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>", re.DOTALL)
_ROOT = re.compile(r"<(?:[^\s<>/:!?]+:)?([^\s<>/:!?]+)[\s/>]")


def root_name(first_bytes: bytes) -> str:
    """The name of the root element of a file that begins with these bytes, without namespace; '' if there is none."""
    text, position = _decode(first_bytes), 0
    while match := _BEFORE_ROOT.match(text, position):
        position = match.end()
    root = _ROOT.match(text, position)
    return root[1] if root else ""


def parse(path: Path, content: bytes, root: str, format_name: str) -> Element:
    """The root element of a file, all element names without their namespace; `root` is the name that it must have.

    Raises:
        RecordError: the file is damaged, truncated, too large, contains entities, or has another root element.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    # checks before parsing
    if len(content) > _MAX_BYTES:
        raise RecordError(
            f"record {path}: an XML file of {len(content) >> 20} MB; at most {_MAX_BYTES >> 20} MB are read"
        )
    text = _decode(content)
    if not text:
        raise RecordError(f"record {path}: an XML file without content; export it again")

    # the parser's messages may quote the file: only the position is reported
    try:
        element: Element = fromstring(text)
    except ParseError as error:
        line, column = error.position
        raise RecordError(
            f"record {path}: a damaged or truncated XML file (line {line}, column {column}); export it again"
        ) from None
    except DefusedXmlException as error:
        raise RecordError(
            f"record {path}: its XML declares entities or external references ({type(error).__name__}), which no ECG device "
            "writes; export it again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"record {path}: not a readable XML file ({type(error).__name__}); export it again") from None

    # names without namespace, in place: `find` then takes plain names
    for one in element.iter():
        if isinstance(one.tag, str) and "}" in one.tag:
            one.tag = one.tag.rpartition("}")[2]
    if element.tag != root:
        raise RecordError(
            f"record {path}: its root element is <{element.tag[:60]}> and not <{root}> ({format_name}); this XML is of a "
            "format that cannot be read"
        )
    return element


def _decode(content: bytes) -> str:
    """The text of an XML file, or of its first bytes, without byte order mark and spaces before its declaration."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, errors="replace").lstrip()
    if content[:4] in (b"<\x00?\x00", b"<\x00!\x00") or (content[:1] == b"<" and content[1:2] == b"\x00"):
        return content.decode("utf-16-le", errors="replace")
    if content[:2] == b"\x00<":
        return content.decode("utf-16-be", errors="replace")
    declared = _DECLARED.match(content[:400])
    names = [declared[1].decode("ascii")] if declared else []
    for encoding in (*(name for name in names if not name.lower().startswith(("utf-16", "utf-32"))), "utf-8"):
        try:
            # the first bytes of a file may end within a character
            return codecs.getincrementaldecoder(encoding)().decode(content).lstrip()
        except (LookupError, UnicodeError):
            continue
    return content.decode("latin-1").lstrip()


def text_of(element: Element | None, path: str = "") -> str:
    """The text of the element at `path` below `element`, without spaces around it; '' if it is absent or empty."""
    if element is not None and path:
        element = element.find(path)
    return "" if element is None else (element.text or "").strip()


def first_text(element: Element, *paths: str) -> str:
    """The first text that is not empty of the elements at these paths; '' if there is none."""
    return next(filter(None, (text_of(element, path) for path in paths)), "")


def number(text: str | None) -> float | None:
    """A finite number in a text, or None."""
    try:
        value = float((text or "").strip())
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def required_number(path: Path, text: str | None, what: str) -> float:
    """A number that a file must state; `what` names it in the message.

    Raises:
        RecordError: the text is not a number.
    """
    value = number(text)
    if value is None:
        stated = quoted_cell((text or "").strip()) if (text or "").strip() else "absent"
        raise RecordError(f"record {path}: {what} is {stated}, not a number; export the file again")
    return value


def count(text: str | None) -> int | None:
    """A whole number in a text, or None."""
    value = number(text)
    return int(value) if value is not None and value == int(value) else None


def decode_base64(path: Path, text: str | None, what: str) -> bytes:
    """The bytes of a base64 text, in which spaces and line breaks do not count.

    Raises:
        RecordError: it is empty, truncated or not base64.
    """
    joined = "".join((text or "").split())
    if not joined:
        raise RecordError(f"record {path}: {what} has no samples; export the file again")
    try:
        return base64.b64decode(joined, validate=True)
    except (binascii.Error, ValueError):
        raise RecordError(
            f"record {path}: the base64 text of {what} is damaged or truncated; export the file again"
        ) from None


def decode_int16(path: Path, raw: bytes, what: str, n_stated: int | None) -> np.ndarray:
    """Little-endian 16-bit integers (T0,); `n_stated` is the number of samples that the file states, if it does.

    Raises:
        RecordError: an odd number of bytes, or another number of samples than stated.
    """
    if len(raw) % 2:
        raise RecordError(
            f"record {path}: {what} has {len(raw)} bytes, not a whole number of samples; export the file again"
        )
    check_count(path, len(raw) // 2, what, n_stated)
    return np.frombuffer(raw, "<i2")


def check_count(path: Path, n_samples: int, what: str, n_stated: int | None) -> None:
    """Check the number of samples of a lead against the one that the file states, if it does.

    Raises:
        RecordError: they differ.
    """
    if n_stated is not None and n_samples != n_stated:
        raise RecordError(
            f"record {path}: {what} has {n_samples} samples and the file states {n_stated}; export the file again"
        )


def decode_numbers(path: Path, text: str | None, what: str) -> np.ndarray:
    """Numbers separated by spaces or commas (T0,), as int64 if all are whole, else float64.

    Raises:
        RecordError: the text is empty, or a part of it is not a number.
    """
    parts = (text or "").strip().strip(",").replace(",", " ").split()
    if not parts:
        raise RecordError(f"record {path}: {what} has no samples; export the file again")
    try:
        values = np.array(parts, dtype=np.float64)
    except ValueError:
        raise RecordError(f"record {path}: the samples of {what} are not all numbers; export the file again") from None
    whole = np.isfinite(values).all() and np.abs(values).max() < 2**53 and (values == np.trunc(values)).all()
    return values.astype(np.int64) if whole else values
