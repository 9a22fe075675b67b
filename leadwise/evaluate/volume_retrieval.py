"""Retrieval between ECGs and heart images in the shared space, in pools of fixed size, in both directions.

Recall depends on the number of items, so that scores of different cohorts are comparable only in pools of one size. A pool
has one recording of each of so many test patients, drawn with a fixed seed; scores are means over pools. The images of one
phase are searched, or those of all phases together: then the similarity is the sum over the phases. The rank counts from 1,
and ties are broken at random, in expectation. The references are the chance level, the same model with random weights and,
where a simulation knows it, the likelihood oracle, which no method exceeds. Intervals are 95 %, by bootstrap over patients.
A method whose embeddings are Gaussians ranks by their expected squared distance, see `uncertainty.py`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from leadwise.batch import Batch, Volume
from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.data.usable_rows import LeftOut
from leadwise.evaluate import speed, uncertainty
from leadwise.evaluate.embed import Features, embed_cohort, frozen, training_overlap, usable
from leadwise.evaluate.metrics.bootstrap import N_REPLICATES, percentile_interval, resample_patients
from leadwise.evaluate.metrics.score import Floats, Interval
from leadwise.evaluate.retrieve import KS, Ints, RetrievalError, rank_matches
from leadwise.evaluate.text_embeddings import unit
from leadwise.evaluate.uncertainty import ThirdScores
from leadwise.methods.catalogue import volume_setting
from leadwise.progress import Progress, relabel
from leadwise.run import Run
from leadwise.trained_on import TrainingOverlap

log = logging.getLogger(__name__)

POOLS = (64, 256)
N_POOLS = 20
_BATCH = 64

Oracle = dict[int, dict[int, float]]  # pool size -> k -> recall of the likelihood oracle, ECG to image


@dataclass(frozen=True)
class PoolScores:
    """Scores of one direction in pools of one size."""

    size: int
    n_pools: int
    n_queries: int  # distinct recordings in the pools
    recall: dict[int, float]  # by k
    recall_interval: dict[int, Interval]
    median_rank: float  # mean over the pools
    replicates: dict[int, Floats] = field(repr=False, compare=False)  # k -> (R,)
    by_uncertainty: tuple[ThirdScores, ...] = ()  # if the run ranks by distance

    @property
    def chance(self) -> dict[int, float]:
        """Recall of a random order, by k."""
        return {k: min(1.0, k / self.size) for k in self.recall}

    def to_json(self) -> dict[str, Any]:
        return {
            "pool": self.size,
            "n_pools": self.n_pools,
            "n_queries": self.n_queries,
            "recall": {str(k): value for k, value in self.recall.items()},
            "recall_interval": {str(k): list(interval) for k, interval in self.recall_interval.items()},
            "median_rank": self.median_rank,
            "chance_recall": {str(k): value for k, value in self.chance.items()},
            "chance_median_rank": (self.size + 1) / 2,
            **({"by_uncertainty": [third.to_json() for third in self.by_uncertainty]} if self.by_uncertainty else {}),
        }


@dataclass(frozen=True)
class VolumeRetrievalReport:
    """A run's retrieval scores between ECGs and heart images on one split of a cohort."""

    cohort: str
    run: str
    split: str
    fingerprints: dict[str, str]
    overlap: TrainingOverlap
    n_records: int
    trained: dict[str, dict[int, PoolScores]]  # direction -> pool size -> scores
    untrained: dict[str, dict[int, PoolScores]]
    without_pool: tuple[int, ...]  # sizes above the number of patients
    oracle: Oracle = field(default_factory=dict)
    window: str | None = None
    left_out: LeftOut = field(default_factory=LeftOut)
    by_distance: bool = False  # ranked by the distance of Gaussians instead of the cosine

    @property
    def remark(self) -> str:
        """A line on pools that could not be drawn; '' without any."""
        if not self.without_pool:
            return ""
        sizes = " or ".join(map(str, self.without_pool))
        return f"No pool of {sizes}: split '{self.split}' has too few patients with a heart image."

    def to_json(self) -> dict[str, Any]:
        return {
            "command": "retrieve",
            "to": "volume",
            "cohort": self.cohort,
            "run": self.run,
            "split": self.split,
            "window": self.window,
            **({"ranked_by": uncertainty.DISTANCE} if self.by_distance else {}),
            "fingerprints": dict(self.fingerprints),
            **self.overlap.to_json(),
            "n_records": self.n_records,
            "directions": {
                name: {
                    str(size): {**scores.to_json(), "untrained_recall": _by_text(self.untrained[name][size].recall)}
                    for size, scores in pools.items()
                }
                for name, pools in self.trained.items()
            },
            "oracle": {str(size): _by_text(recall) for size, recall in self.oracle.items()},
            "without_pool": list(self.without_pool),
            **self.left_out.to_json(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per pool size, direction and reference."""
        rows = []
        for size in dict.fromkeys(size for pools in self.trained.values() for size in pools):
            for name, pools in self.trained.items():
                for features, scores in (("trained", pools[size]), ("untrained", self.untrained[name][size])):
                    cells: dict[str, Any] = {f"recall@{k}": f"{value:.3f}" for k, value in scores.recall.items()}
                    if features == "trained":
                        for k, (low, high) in scores.recall_interval.items():
                            cells[f"recall@{k}"] += f" ({low:.3f}-{high:.3f})"
                    rows.append({"pool": size, "direction": name, "features": features, **cells,
                                 "median rank": f"{scores.median_rank:.1f}"})  # fmt: skip
            chance = next(iter(self.trained.values()))[size].chance
            rows.append({"pool": size, "direction": "all", "features": "chance",
                         **{f"recall@{k}": f"{value:.3f}" for k, value in chance.items()},
                         "median rank": f"{(size + 1) / 2:.1f}"})  # fmt: skip
            if size in self.oracle:
                recall = {f"recall@{k}": f"{self.oracle[size][k]:.3f}" if k in self.oracle[size] else "" for k in KS}
                rows.append(
                    {"pool": size, "direction": "ECG → images", "features": "oracle", **recall, "median rank": ""}
                )
        return rows

    def uncertainty_rows(self) -> list[dict[str, Any]]:
        """Return the table of recall in thirds of the queries' uncertainty; empty for a run that ranks by cosine."""
        return [
            {"pool": size, "direction": name, **third.row()}
            for name, pools in self.trained.items()
            for size, scores in pools.items()
            for third in scores.by_uncertainty
        ]


def run_volume_retrieval(
    run: Run,
    cohort: Cohort,
    split: str = "test",
    pools: Sequence[int] = POOLS,
    oracle: Oracle | None = None,
    progress: Progress | None = None,
    window: str | None = None,
) -> VolumeRetrievalReport:
    """Score retrieval between ECGs and heart images, with the untrained model and the chance level.

    Args:
        pools: sizes of the pools; a size above the number of patients is left out.
        oracle: recall of the likelihood oracle, see `read_oracle`.
        window: part of each recording that is embedded, see `data/crops.py`; default: the run's own setting.

    Raises:
        RetrievalError: the run embeds no heart images, or the split has too few patients with them.
    """
    # recordings with an image of every phase that the run can embed
    crops.check_strict(window)
    volume = check_embeds_volume(run)
    split_rows = cohort.rows(split)
    rows, left_out = usable(run, cohort, split_rows[has_phases(cohort, split_rows, volume)], window)
    patients = np.array(cohort.patients.take(rows))
    n_patients = len(np.unique(patients))
    sizes = [size for size in dict.fromkeys(pools) if 1 < size <= n_patients]
    if not sizes:
        raise RetrievalError(
            f"cohort {cohort.name}: {n_patients} patients of split '{split}' have heart images, fewer than a pool of "
            f"{min(pools)}; choose a smaller pool"
        )

    # embed both sides by the trained and the untrained model, and score the same pools
    scores: dict[str, dict[str, dict[int, PoolScores]]] = {}
    drawn = {size: draw_pools(patients, size) for size in sizes}
    for name, encoder in (("trained", run), ("untrained", run.untrained())):
        ecgs = embed_cohort(
            encoder, cohort, "shared", rows, relabel(progress, f"embed, {name}"), run.cache_folder, window
        )
        images = embed_volumes(encoder, cohort, rows, relabel(progress, f"embed images, {name}"))
        variances: Mapping[str, tuple[Floats, Floats]] = {}
        if run.method.ranks_by_distance:
            of_ecgs = uncertainty.ecg_uncertainties(encoder, cohort, rows, None, window)
            variances = uncertainties_of_directions(of_ecgs, volume_uncertainties(encoder, cohort, rows))
        scores[name] = {
            direction: {
                size: score_pools(queries, items, pool, patients, variances.get(direction))
                for size, pool in drawn.items()
            }
            for direction, (queries, items) in directions(ecgs, images).items()
        }
    return VolumeRetrievalReport(
        cohort=cohort.name,
        run=run.name,
        split=split,
        fingerprints={"cohort": cohort.fingerprint, "run": run.fingerprint},
        overlap=training_overlap(run, cohort, rows, split),
        n_records=len(rows),
        trained=scores["trained"],
        untrained=scores["untrained"],
        without_pool=tuple(size for size in dict.fromkeys(pools) if size not in sizes),
        oracle=oracle or {},
        window=window,
        left_out=left_out,
        by_distance=run.method.ranks_by_distance,
    )


def read_oracle(path: Path) -> Oracle:
    """Return the recall of the likelihood oracle from the oracle.json of a simulated cohort.

    Raises:
        RetrievalError: the file is no such table.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        oracle = {
            int(size): {int(key.removeprefix("r_at_")): float(value) for key, value in recall.items()}
            for size, recall in content["retrieval"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RetrievalError(
            f"{path} has no recall of an oracle; give the oracle.json that `leadwise simulate --paired` writes"
        ) from None
    if "note" in content:
        log.warning("%s: %s", path, content["note"])
    return oracle


def check_embeds_volume(run: Run) -> Volume:
    """Return the images that a run reads.

    Raises:
        RetrievalError: it embeds none.
    """
    volume = volume_setting(run.config) if run.method.embeds_volume else None
    if volume is None or "shared" not in run.method.parts:
        raise RetrievalError(
            f"run {run.name} ({run.config.method['name']}) does not embed ECGs and heart images in one space; choose a run of a "
            "method that does, such as dual_phase_cmr"
        )
    return volume


def has_phases(cohort: Cohort, rows: NDArray[np.int64], volume: Volume) -> NDArray[np.bool_]:
    """Return (n,) whether each row has an image of every phase of `volume`."""
    if cohort.volumes is None:
        raise RetrievalError(f"cohort {cohort.name} has no heart images; prepare one with `leadwise prepare ecg_cmr`")
    missing = [phase for phase in volume.phases if phase not in cohort.volumes.phases]
    if missing:
        raise RetrievalError(
            f"cohort {cohort.name} has no images of phase {missing[0]!r}; it has {', '.join(cohort.volumes.phases)}"
        )
    columns = cohort.volume_store.places(volume)  # also an error for another shape or spacing
    return np.asarray(cohort.has_volume(rows)[:, columns].all(axis=1))


def embed_volumes(
    run: Run,
    cohort: Cohort,
    rows: NDArray[np.int64],
    progress: Progress | None = None,
    parts: Sequence[str] | None = None,
) -> dict[str, Features]:
    """Return the embeddings (n, D) of the images of a cohort's rows by part.

    Args:
        parts: of `method.volume_parts`; default: one for each phase, or the only one that there is.
    """
    names = list(parts or image_parts(run.method.volume_parts))
    return _of_volumes(run, cohort, rows, names, run.method.embed_volume, progress)


def volume_uncertainties(run: Run, cohort: Cohort, rows: NDArray[np.int64]) -> dict[str, Floats]:
    """Return the uncertainties (n,) of the images of a cohort's rows by part, of a method that ranks by distance."""
    names = image_parts(run.method.volume_parts)
    values = _of_volumes(run, cohort, rows, names, run.method.volume_uncertainty, None)
    return {name: each.astype(np.float64) for name, each in values.items()}


def _of_volumes(
    run: Run,
    cohort: Cohort,
    rows: NDArray[np.int64],
    names: Sequence[str],
    compute: Callable[[Batch, str], Tensor],
    progress: Progress | None,
) -> dict[str, Features]:
    """Return what `compute` returns of the images of a cohort's rows, by part, (n, ...)."""
    volume = volume_setting(run.config)
    pieces: dict[str, list[Features]] = {name: [] for name in names}
    recordings, done = Recordings(cohort, run.config.signal, rows, volume=volume), 0
    with frozen(run.method), speed.embedding_precision(run), speed.threads_for_processors():
        for batch in recordings.batches(_BATCH):
            on_device = batch.to(speed.device_of(run))
            for name in names:
                pieces[name].append(compute(on_device, name).float().cpu().numpy())
            done += len(batch)
            if progress is not None:
                progress("embed images", done, len(recordings))
    return {name: np.concatenate(some) for name, some in pieces.items()}


def image_parts(parts: Sequence[str]) -> tuple[str, ...]:
    """Return the parts to search: one for each phase. "both" is their sum, which is computed here."""
    return tuple(name for name in parts if name != "both") or tuple(parts) or ("shared",)


def directions(ecgs: Features, images: Mapping[str, Features]) -> dict[str, tuple[Floats, Floats]]:
    """Return queries and items (n, D) of each direction: each part of the images, and all of them by summed similarity."""
    query = unit(ecgs)
    sides = {name.upper(): (query, unit(embedding)) for name, embedding in images.items()}
    if len(images) > 1:
        # the cosine of concatenated unit vectors is the mean of the cosines
        together = np.concatenate([unit(embedding) for embedding in images.values()], axis=1)
        sides[" + ".join(sides)] = (np.concatenate([query] * len(images), axis=1), together)
    result = {}
    for name, (one, other) in sides.items():
        result[f"ECG → {name}"] = (one, other)
        result[f"{name} → ECG"] = (other, one)
    return result


def uncertainties_of_directions(ecgs: Floats, images: Mapping[str, Floats]) -> dict[str, tuple[Floats, Floats]]:
    """Return the uncertainties (n,) of queries and items of each of `directions`; of summed distances, the mean over parts."""
    sides = {name.upper(): values for name, values in images.items()}
    if len(images) > 1:
        sides[" + ".join(sides)] = np.mean(list(images.values()), axis=0)
    result = {}
    for name, values in sides.items():
        result[f"ECG → {name}"] = (ecgs, values)
        result[f"{name} → ECG"] = (values, ecgs)
    return result


def draw_pools(patients: NDArray[Any], size: int, n_pools: int = N_POOLS, seed: int = 0) -> Ints:
    """Return pools (n_pools, size) of positions: one recording each of `size` patients, drawn with a fixed seed.

    Patients are taken in random order, and in another one when the rest is smaller than a pool: they occur about equally often.
    """
    rng = np.random.default_rng([seed, size])
    names, patient_of = np.unique(patients, return_inverse=True)
    recordings = [np.flatnonzero(np.ravel(patient_of) == k) for k in range(len(names))]
    pools: list[Ints] = []
    order: Ints = np.empty(0, dtype=np.int64)
    while len(pools) < n_pools:
        if len(order) < size:
            order = rng.permutation(len(names))
        pools.append(np.array([rng.choice(recordings[k]) for k in order[:size]], dtype=np.int64))
        order = order[size:]
    return np.stack(pools)


def score_pools(
    queries: Floats,
    items: Floats,
    pools: Ints,
    patients: NDArray[Any],
    variances: tuple[Floats, Floats] | None = None,
) -> PoolScores:
    """Return the scores of queries (n, D) and items (n, D), where item i is the correct one of query i.

    `variances` are the uncertainties (n,) of queries and items: the ranking is by distance, with recall in thirds.
    """
    # hits of each recording, summed over the pools that it is in
    n, size = len(queries), pools.shape[1]
    each = np.arange(size)
    hits, counts, medians = {k: np.zeros(n) for k in KS}, np.zeros(n), []
    rank_sums = np.zeros(n)
    for pool in pools:
        of_items = None if variances is None else variances[1][pool]
        (ranks,) = rank_matches(
            queries[pool].astype(np.float32), items[pool].astype(np.float32), [(each, each)], of_items
        )
        medians.append(float(np.median(ranks.ranks())))
        counts[pool] += 1
        rank_sums[pool] += ranks.ranks()
        for k in KS:
            hits[k][pool] += ranks.hits(k)

    # means, and the same over resampled patients
    weights = resample_patients(patients, N_REPLICATES, 0).astype(np.float64)
    replicates = {k: weights @ hits[k] / np.maximum(weights @ counts, 1e-12) for k in KS}
    thirds: tuple[ThirdScores, ...] = ()
    if variances is not None:
        used = np.flatnonzero(counts)
        of_used = {k: values[used] for k, values in hits.items()}
        thirds = uncertainty.by_thirds(
            variances[0][used], of_used, rank_sums[used] / counts[used], weights[:, used], counts[used]
        )
    return PoolScores(
        size=size,
        n_pools=len(pools),
        n_queries=int((counts > 0).sum()),
        recall={k: float(hits[k].sum() / counts.sum()) for k in KS},
        recall_interval={k: percentile_interval(replicates[k]) for k in KS},
        median_rank=float(np.mean(medians)),
        replicates=replicates,
        by_uncertainty=thirds,
    )


def _by_text(recall: Mapping[int, float]) -> dict[str, float]:
    return {str(k): value for k, value in recall.items()}
