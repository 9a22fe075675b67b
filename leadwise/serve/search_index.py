"""The nearest of many embeddings: by an exact product, or above LARGE through an index of usearch that is stored in a file.

The candidates of the index are scored again exactly, so its cosines are those of the exact product; it may miss a neighbour.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.files import replacing

log = logging.getLogger(__name__)

LARGE = 50_000  # recordings
_MAGIC = b"leadwise index 1\n"
_DIGEST_BYTES = 32
_CANDIDATES = 4  # times `top`: candidates of the index
_LEAST_CANDIDATES = 64
_CONNECTIVITY, _EXPANSION = 16, 128

Vectors = NDArray[np.float32]


class IndexFileError(ValueError):
    """A stored index that cannot be used; the message names the file and the reason."""


class NearestSearch:
    """Search among unit vectors (M, D)."""

    def __init__(self, vectors: Vectors, path: Path | None = None, large: int = LARGE) -> None:
        """Use an index above `large` vectors if usearch is installed; `path` is its file."""
        self.vectors = vectors
        self._index: Any = None
        if len(vectors) <= large:
            return
        if importlib.util.find_spec("usearch") is None:
            log.warning("%d recordings are searched exactly; faster with: pip install 'leadwise[index]'", len(vectors))
            return
        self._index = stored_index(vectors, path)

    @property
    def name(self) -> str:
        """The name of the search in answers."""
        return "exact" if self._index is None else "usearch HNSW, candidates scored exactly"

    def nearest(self, query: Vectors, top: int) -> tuple[NDArray[np.int64], Vectors]:
        """Return the positions of the `top` vectors nearest to a unit vector (D,), nearest first, and their cosines."""
        if self._index is None:
            candidates = np.arange(len(self.vectors))
            scores = self.vectors @ query
        else:
            count = min(len(self.vectors), max(_LEAST_CANDIDATES, _CANDIDATES * top))
            candidates = np.sort(np.asarray(self._index.search(query, count).keys).astype(np.int64))
            scores = self.vectors[candidates] @ query
        n = min(top, len(candidates))
        best = np.argpartition(-scores, n - 1)[:n]
        best = best[np.lexsort((candidates[best], -scores[best]))]
        return candidates[best], scores[best]


def stored_index(vectors: Vectors, path: Path | None) -> Any:
    """Return the index of vectors: read from `path`, or built and written there, whole."""
    if path is not None and path.is_file():
        try:
            return read_index(path, vectors)
        except IndexFileError as error:
            log.warning("%s: building it again", error)
    index = build_index(vectors)
    if path is not None:
        try:
            write_index(path, index, vectors)
        except OSError as error:  # the cohort is on read-only storage
            log.warning("the index is not stored: %s", error)
    return index


def build_index(vectors: Vectors) -> Any:
    """Return the index of unit vectors (M, D); keys are their positions."""
    index = _empty_index(vectors.shape[1])
    index.add(np.arange(len(vectors), dtype=np.uint64), vectors)
    return index


def _empty_index(width: int) -> Any:
    from usearch.index import Index

    return Index(
        ndim=width, metric="cos", dtype="f32", connectivity=_CONNECTIVITY, expansion_add=_EXPANSION, expansion_search=_EXPANSION
    )  # fmt: skip


def write_index(path: Path, index: Any, vectors: Vectors) -> None:
    """Write an index with the digest of its vectors, whole."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_MAGIC + _digest(vectors))
        file.write(bytes(index.save()))


def read_index(path: Path, vectors: Vectors) -> Any:
    """Return the index in a file.

    Raises:
        IndexFileError: the file is damaged, or the index is of other embeddings.
    """
    content = path.read_bytes()
    head = len(_MAGIC) + _DIGEST_BYTES
    if not content.startswith(_MAGIC) or len(content) <= head:
        raise IndexFileError(f"{path} is no index of leadwise")
    if content[len(_MAGIC) : head] != _digest(vectors):
        raise IndexFileError(f"{path} is the index of other embeddings")
    index = _empty_index(vectors.shape[1])
    try:
        index.load(content[head:])
    except Exception as error:  # the library raises several kinds on damaged bytes
        raise IndexFileError(f"{path} is damaged ({type(error).__name__})") from None
    if len(index) != len(vectors):
        raise IndexFileError(f"{path} is damaged: it has {len(index)} of {len(vectors)} recordings")
    return index


def _digest(vectors: Vectors) -> bytes:
    digest = hashlib.sha256(repr(vectors.shape).encode())
    digest.update(np.ascontiguousarray(vectors, dtype="<f4").data)
    return digest.digest()
