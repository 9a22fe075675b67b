"""Convert the package's docstrings, which are plain text, to reStructuredText or Markdown.

The docstrings use single backticks for code, dashes for lists, four spaces of indentation for equations, and Google-style
sections such as `Raises:`. Every other character is meant as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_SECTION = re.compile(r"(Args|Raises|Returns|Yields|Attributes):$")
_CODE = re.compile(r"(`[^`]+`)")


def convert(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Handler of Sphinx's `autodoc-process-docstring`; it runs before napoleon, which reads the sections."""
    lines[:] = to_rest("\n".join(lines)).splitlines()


def to_rest(text: str) -> str:
    """reStructuredText of a docstring; sections are left to napoleon."""
    return _convert(text, _escape_rest, "``", ".. code-block:: text\n\n")


def to_markdown(text: str) -> str:
    """Markdown of a docstring."""
    return _convert(text, _escape_markdown, "`", "")


def _escape_rest(text: str) -> str:
    return re.sub(r"_(?![A-Za-z0-9])", r"\\_", re.sub(r"([\\*|])", r"\\\1", text))


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\*<>\[\]])", r"\\\1", text)


def _convert(text: str, escape: Callable[[str], str], tick: str, literal: str) -> str:
    def inline(block: str) -> str:
        parts = _CODE.split(block)  # every second part is code
        return "".join(tick + p.strip("`") + tick if n % 2 else escape(p) for n, p in enumerate(parts))

    blocks, in_section = [], False
    for block in filter(str.strip, re.split(r"\n(?:[ \t]*\n)+", text.strip("\n"))):
        lines = block.splitlines()
        in_section = bool(_SECTION.match(lines[0])) or (in_section and lines[0].startswith("    "))
        if in_section:
            blocks.append(inline(block))
        elif all(line.startswith("    ") or not line.strip() for line in lines):
            blocks.append(literal + block)
        else:
            blocks += [inline(part) for part in _split_lists(lines)]
    return "\n\n".join(blocks) + "\n"


def _split_lists(lines: list[str]) -> list[str]:
    """A paragraph as one or more blocks: a list that follows a sentence without a blank line begins a new one."""
    first = next((n for n, line in enumerate(lines) if line.startswith("- ")), None)
    if first is None:
        return ["\n".join(line.strip() for line in lines)]
    before = "\n".join(line.strip() for line in lines[:first])
    return [part for part in (before, "\n".join(lines[first:])) if part]
