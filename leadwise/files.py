"""Files written whole: another name first, then a rename. Every room may stand on this stone."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the name `path` if the block ends well, and vanishes if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")  # two writers never share one, on any machine
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
