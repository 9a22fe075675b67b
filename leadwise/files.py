"""Write files atomically: under a temporary name first, then renamed, so that an incomplete file never has the final name.

Also the errors that a damaged .npz raises.
"""

from __future__ import annotations

import secrets
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAMAGED_NPZ = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What numpy raises for a damaged .npz: RuntimeError for an unknown compression or an encrypted member."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is renamed to `path` if the block succeeds and deleted if it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")  # unique, also among processes on other machines
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
