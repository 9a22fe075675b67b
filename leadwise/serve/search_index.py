"""The nearest of many embeddings: by an exact product, or above LARGE through an index of faiss that is stored in a file.

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
        """Use an index above `large` vectors if faiss is installed; `path` is its file."""
        self.vectors = vectors
        self._index: Any = None
        if len(vectors) <= large:
            return
        if importlib.util.find_spec("faiss") is None:
            log.warning("%d recordings are searched exactly; faster with: pip install 'leadwise[index]'", len(vectors))
            return
        self._index = stored_index(vectors, path)

    @property
    def name(self) -> str:
        """The name of the search in answers."""
        return "exact" if self._index is None else "faiss HNSW, candidates scored exactly"

    def nearest(self, query: Vectors, top: int) -> tuple[NDArray[np.int64], Vectors]:
        """Return the positions of the `top` vectors nearest to a unit vector (D,), nearest first, and their cosines."""
        if self._index is None:
            candidates = np.arange(len(self.vectors))
            scores = self.vectors @ query
        else:
            count = min(len(self.vectors), max(_LEAST_CANDIDATES, _CANDIDATES * top))
            candidates = np.sort(self._index.search(query[None], count)[1][0])
            candidates = candidates[candidates >= 0]  # -1: fewer were reached
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
    """Return the index of unit vectors (M, D): a graph of neighbours (HNSW) by inner product."""
    import faiss

    index = faiss.IndexHNSWFlat(vectors.shape[1], _CONNECTIVITY, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = index.hnsw.efSearch = _EXPANSION
    index.add(np.ascontiguousarray(vectors))
    return index


def write_index(path: Path, index: Any, vectors: Vectors) -> None:
    """Write an index with the digests of its vectors and of itself, whole."""
    import faiss

    content = faiss.serialize_index(index).tobytes()
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_MAGIC + _digest(vectors) + hashlib.sha256(content).digest() + content)


def read_index(path: Path, vectors: Vectors) -> Any:
    """Return the index in a file.

    Raises:
        IndexFileError: the file is damaged, or the index is of other embeddings.
    """
    import faiss

    file = path.read_bytes()
    begin, middle, end = (len(_MAGIC) + k * _DIGEST_BYTES for k in range(3))
    if not file.startswith(_MAGIC) or len(file) <= end:
        raise IndexFileError(f"{path} is no index of leadwise")
    if file[begin:middle] != _digest(vectors):
        raise IndexFileError(f"{path} is the index of other embeddings")
    content = file[end:]
    if hashlib.sha256(content).digest() != file[middle:end]:
        raise IndexFileError(f"{path} is damaged")
    return faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8))


def _digest(vectors: Vectors) -> bytes:
    digest = hashlib.sha256(repr(vectors.shape).encode())
    digest.update(np.ascontiguousarray(vectors, dtype="<f4").data)
    return digest.digest()
