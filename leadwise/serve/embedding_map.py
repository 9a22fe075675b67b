"""The embeddings of a cohort in two dimensions, with what its points can be coloured by. Positions are stored in its folder."""

from __future__ import annotations

import base64
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.embed import project
from leadwise.evaluate.search import positive_classes
from leadwise.files import DamagedNpzError, read_npz, replacing

log = logging.getLogger(__name__)

MOST_POINTS = 20_000
COLUMNS = ("age", "sex", "site")  # of the index, if it has them
_MOST_NAMES = 200  # of a column; more become _OTHER
_NONE, _UNKNOWN, _OTHER = "none", "unknown", "other"
_MOST_BY_NEIGHBOURS = 3_000  # points that t-SNE places within seconds
_COMPONENTS = 50  # of the outlier score
_VARIANCE = 0.95  # of the components of the outlier score

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EmbeddingMap:
    """Positions of n recordings, and how unusual each is."""

    places: NDArray[np.int64]  # (n,) positions among the recordings of the bank, ascending
    positions: NDArray[np.float32]  # (n, 2)
    outlier: NDArray[np.float32]  # (n,)
    method: str


def stored_map(path: Path, vectors: NDArray[np.floating]) -> EmbeddingMap:
    """Return the map of embeddings (M, D), read from `path` or computed and written there.

    The file belongs to one state of the embeddings by its name, which the caller chooses.
    """
    try:
        file = read_npz(path)
        read = EmbeddingMap(file["place"], file["position"], file["outlier"], str(file["method"]))
        n = min(len(vectors), MOST_POINTS)
        if (
            read.places.shape == read.outlier.shape == (n,)
            and read.positions.shape == (n, 2)
            and read.places.max() < len(vectors)
        ):
            return read
        log.warning("map %s has another size than its cohort: computing it again", path)
    except FileNotFoundError:
        pass
    except (DamagedNpzError, KeyError):
        log.warning("map %s cannot be read: computing it again", path)
    computed = compute_map(vectors)
    try:
        with replacing(path) as temporary, temporary.open("wb") as target:
            np.savez(
                target,
                place=computed.places,
                position=computed.positions,
                outlier=computed.outlier,
                method=computed.method,
            )
    except OSError as error:  # the cohort is on read-only storage
        log.warning("the map is not stored: %s", error)
    return computed


def compute_map(vectors: NDArray[np.floating]) -> EmbeddingMap:
    """Return the map of embeddings (M, D): by t-SNE, or for many recordings the first two principal components.

    Of more than MOST_POINTS recordings, a sample that is always the same.
    """
    places = np.arange(len(vectors))
    if len(vectors) > MOST_POINTS:
        places = np.sort(np.random.default_rng(0).choice(len(vectors), MOST_POINTS, replace=False))
    components, variances = principal_components(np.asarray(vectors[places], dtype=np.float64))
    if len(places) <= _MOST_BY_NEIGHBOURS:
        positions, method = project(vectors[places]), "t-SNE"
    else:
        positions, method = np.zeros((len(places), 2)), "PCA"
        positions[:, : components.shape[1]] = components[:, :2]
    return EmbeddingMap(places, positions.astype(np.float32), outlier_scores(components, variances), method)


def principal_components(vectors: Floats) -> tuple[Floats, Floats]:
    """Return the principal components (n, C) of vectors (n, D), largest first, and their variances (C,); none of variance 0."""
    centred = vectors - vectors.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / max(1, len(vectors) - 1))
    order = [k for k in range(len(variances) - 1, -1, -1) if variances[k] > 1e-10 * max(variances[-1], 1e-30)]
    axes = axes[:, order]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])  # the same on every machine
    return centred @ (axes * signs), variances[order]


def outlier_scores(components: Floats, variances: Floats) -> NDArray[np.float32]:
    """Return how far each recording is from the mean (n,), in standard deviations of the components with most variance.

    The root of the mean over these components of (component / standard deviation) squared: near 1 for a usual recording.
    """
    if not len(variances):
        return np.zeros(len(components), dtype=np.float32)
    enough = int(np.searchsorted(np.cumsum(variances) / variances.sum(), _VARIANCE)) + 1
    n = min(enough, _COMPONENTS, len(variances))
    scores: NDArray[np.float32] = np.sqrt((components[:, :n] ** 2 / variances[:n]).mean(axis=1)).astype(np.float32)
    return scores


def map_answer(cohort: Cohort, rows: NDArray[np.integer], mapped: EmbeddingMap) -> dict[str, Any]:
    """Return the answer of /api/map; `rows` (M,) are the rows of the cohort that the bank has."""
    chosen = rows[mapped.places]
    columns: dict[str, Any] = {}
    labels = positive_classes(cohort, chosen)
    for task, classes in cohort.main_tasks.items():
        counts = Counter(name for one in labels for name in one.get(task) or ())
        columns[task] = _category([_label(one.get(task), counts) for one in labels], [*classes, _NONE, _UNKNOWN])
    columns["split"] = _category(cohort.splits(chosen).tolist(), [])
    for name in (name for name in COLUMNS if name in cohort.column_names):
        values = cohort.column(name, chosen)
        if name == "age":
            columns[name] = _number(values.to_numpy(dtype=np.float64, na_value=np.nan))
            continue
        texts = ["" if value is None or value != value else str(value).strip() for value in values.tolist()]
        columns[name] = _category([text or _UNKNOWN for text in texts], [])
    columns["outlier"] = _number(mapped.outlier)
    n = len(chosen)
    sampled = f"{n:,} of {len(rows):,} recordings, drawn at random. " if n < len(rows) else ""
    return {
        "n": n,
        "x": _packed(mapped.positions[:, 0], "<f4"),
        "y": _packed(mapped.positions[:, 1], "<f4"),
        "rows": _packed(chosen, "<i4"),
        "records": [cohort.records[int(row)] for row in chosen],
        "columns": columns,
        "method": mapped.method,
        "remark": f"{sampled}A recording with several classes counts as its rarest. "
        "Distances on a map are only roughly those of the embeddings.",
    }


def _label(positive: tuple[str, ...] | None, counts: Mapping[str, int]) -> str:
    """Return the one class of a recording that its point is coloured by: of several, the rarest of the map."""
    if positive is None:
        return _UNKNOWN
    return min(positive, key=lambda name: (counts[name], name), default=_NONE)


def _category(values: Sequence[str], order: Sequence[str]) -> dict[str, Any]:
    """Return a column of names: those in `order` first, else the most frequent first; rare names of very many become one.

    `grouped` is the number of names that became one.
    """
    names, counts = np.unique(np.array(values, dtype=np.str_), return_counts=True)
    count_of = dict(zip(names.tolist(), counts.tolist()))
    ranked = [name for name in order if name in count_of]
    ranked += sorted(count_of.keys() - set(ranked), key=lambda name: (-count_of[name], name))
    grouped = 0
    if len(ranked) > _MOST_NAMES:
        most = set(sorted(ranked, key=lambda name: -count_of[name])[: _MOST_NAMES - 1])
        ranked = [name for name in ranked if name in most and name != _OTHER] + [_OTHER]
        grouped = len(count_of) - len(ranked) + 1
    code_of = {name: code for code, name in enumerate(ranked)}
    codes = np.array([code_of.get(value, len(ranked) - 1) for value in values], dtype=np.uint8)
    return {"kind": "category", "names": ranked, "grouped": grouped, "codes": _packed(codes, "u1")}


def _number(values: NDArray[np.floating]) -> dict[str, Any]:
    return {"kind": "number", "values": _packed(values, "<f4")}


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()
