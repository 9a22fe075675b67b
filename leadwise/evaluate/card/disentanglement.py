"""Does the split into shared and specific hold what it claims? Measured from several sides, since one alone can be empty.

The claim of CG-DMER: the shared part says what the report says too, the specific part what only the ECG says. A cosine
of zero alone does not show it: a specific head without a task of its own can satisfy it with any vector at right
angles. So beside the cosine stand what a linear map reads of one part from the other, what a probe reads from each,
how many directions each uses, and whether reports are found when the specific part is another patient's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.evaluate.classifiers import has_part, has_text_encoder, probe_classifier
from leadwise.evaluate.embed import Features, embed_cohort, frozen
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.bootstrap import gain, permute_across_patients
from leadwise.evaluate.metrics.score import Floats, Score
from leadwise.evaluate.probe import make_probe_task
from leadwise.evaluate.retrieve import rank_matches
from leadwise.evaluate.text_embeddings import embed_texts, unit
from leadwise.progress import Progress, relabel
from leadwise.run import Run, side_random

PARTS = ("backbone", "shared", "specific", "both")
KS = (1, 5, 10)

_STRENGTHS = tuple(float(10.0**power) for power in range(-2, 5))  # of the ridge, times the mean variance of its inputs
_MAX_REPORTS = 2000  # training reports for the map from an ECG's parts to its report
_RECONSTRUCTED = 64
_TWIN_TRAIN = 1000


@dataclass(frozen=True)
class Retrieval:
    """How often an ECG finds its report among the distinct reports of the test split."""

    way: str
    recall: dict[int, float]  # at k, in [0, 1]
    median_rank: float
    n_reports: int

    def row(self) -> dict[str, Any]:
        told = {f"recall@{k}": share for k, share in self.recall.items()}
        return {"report found by": self.way, **told, "median rank": self.median_rank, "among": self.n_reports}


@dataclass(frozen=True)
class PartOverlap:
    """How far two parts are from saying the same, on the test split."""

    cosine: float  # mean |cosine| of shared and specific
    by_chance: float  # of two random vectors of that width
    specific_from_shared: float  # share of variance that a linear map, fitted on the training split, reads
    shared_from_specific: float

    @classmethod
    def of(cls, shared: Features, specific: Features, train: NDArray[Any], test: NDArray[Any]) -> PartOverlap:
        """From the parts (N, D) of N records, and which of them train the maps and test them."""

        def read(source: Features, target: Features) -> float:
            predicted = LinearMap.fit(source[train], target[train])(source[test])
            return explained_variance(predicted, target[test], target[train].mean(axis=0))

        chance = float(np.sqrt(2 / (np.pi * shared.shape[1])))
        cosine = mean_abs_cosine(shared[test], specific[test])
        return cls(cosine, chance, read(shared, specific), read(specific, shared))


@dataclass(frozen=True)
class Disentanglement:
    """What was measured of a run's parts on the test split of a task."""

    task: str
    n_records: int
    width: dict[str, int]  # by part
    rank: dict[str, float]  # effective rank by part
    probes: dict[str, Score]  # of the task, by part
    apart: PartOverlap | None  # None without a specific part
    untrained: PartOverlap | None  # of the twin that never learnt; None if not asked for
    retrieval: list[Retrieval]
    reconstruction: dict[str, float]  # mV squared: with the own specific part, and with another patient's

    def rows(self) -> list[dict[str, Any]]:
        """A line a part: width, effective rank and its probe."""
        return [
            {
                "part": part,
                "width": self.width[part],
                "effective rank": self.rank[part],
                "macro": at.macro,
                "low": at.interval[0],
                "high": at.interval[1],
            }
            for part, at in self.probes.items()
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "n_records": self.n_records,
            "parts": self.rows(),
            "apart": vars(self.apart) if self.apart else None,
            "apart_untrained": vars(self.untrained) if self.untrained else None,
            "retrieval": [found.row() for found in self.retrieval],
            "reconstruction_mv2": dict(self.reconstruction),
        }


def measure_disentanglement(
    run: Run,
    cohort: Cohort,
    task: str,
    most_train: int | None = None,
    twin: Run | None = None,
    progress: Progress | None = None,
) -> Disentanglement:
    """The parts of a run measured on one task; a run without a specific part is measured on those that it has.

    Args:
        most_train: fit probes and maps on so many training recordings, drawn at random; default all.
        twin: the run untrained, whose parts are then set against each other, too.
    """
    rows = cohort.rows(task=task)
    if most_train is not None:
        learnt = cohort.rows("train", task)
        left = np.random.default_rng(0).permutation(learnt)[most_train:]
        rows = np.setdiff1d(rows, left)
    asked = make_probe_task(cohort, task, rows)
    train, test = asked.rows("train"), asked.rows("test")
    parts = [part for part in PARTS if has_part(run, part)]
    found = {
        part: embed_cohort(run, cohort, part, rows, relabel(progress, f"embed, {part}"))
        for part in parts
        if part != "both" or "shared" not in parts
    }
    if "both" in parts and "both" not in found:
        found["both"] = np.hstack([found["shared"], found["specific"]])  # what it is, without another pass
    probes = {}
    for done, part in enumerate(parts, start=1):
        reader = probe_classifier(found[part], asked, part)
        scores = reader.scores(found[part][test])
        probes[part] = auroc_score(asked.labels[test], scores, asked.patient[test], asked.classes)
        if progress is not None:
            progress("probe of each part", done, len(parts))
    apart = PartOverlap.of(found["shared"], found["specific"], train, test) if "specific" in found else None
    retrieval: list[Retrieval] = []
    if has_text_encoder(run) and "shared" in found:
        retrieval = _retrieval(run, cohort, rows, train, test, found, progress)
    reconstruction = {} if "specific" not in found else reconstruction_errors(run, cohort, rows[test])
    return Disentanglement(
        task, len(test), {part: found[part].shape[1] for part in parts},
        {part: effective_rank(found[part][test]) for part in parts}, probes, apart,
        _untrained(run, twin, cohort, rows, train, test, progress) if twin and apart else None, retrieval, reconstruction,
    )  # fmt: skip


def _untrained(
    run: Run, twin: Run, cohort: Cohort, rows: NDArray[Any], train: NDArray[Any], test: NDArray[Any],
    progress: Progress | None,
) -> PartOverlap:  # fmt: skip
    """What two heads that learnt nothing have in common by standing on the same encoder; a share of the rows is enough."""
    kept = np.sort(np.random.default_rng(0).permutation(train)[:_TWIN_TRAIN])
    chosen = np.concatenate([kept, test])
    cache = run.folder / "embeddings" if run.folder else None
    shared, specific = (
        embed_cohort(twin, cohort, part, rows[chosen], relabel(progress, f"embed {part}, untrained"), cache)
        for part in ("shared", "specific")
    )
    n = len(kept)
    return PartOverlap.of(shared, specific, np.arange(n), np.arange(n, len(chosen)))


def mean_abs_cosine(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Mean over N of |cosine| of the rows of two (N, D)."""
    return float(np.abs((unit(one) * unit(other)).sum(axis=1)).mean())


def effective_rank(x: NDArray[np.floating]) -> float:
    """exp of the entropy of the normalised singular values of centred x (N, D): how many directions are used."""
    wide = np.asarray(x, dtype=np.float64)
    sizes = np.linalg.svd(wide - wide.mean(axis=0), compute_uv=False)
    share = sizes / max(sizes.sum(), 1e-12)
    return float(np.exp(-(share * np.log(np.maximum(share, 1e-12))).sum()))


@dataclass(frozen=True)
class LinearMap:
    """A ridge regression from one embedding to another."""

    mean: Floats  # (D,) of the inputs
    weights: Floats  # (D, E)
    level: Floats  # (E,)

    def __call__(self, source: NDArray[np.floating]) -> Floats:
        return np.asarray((np.asarray(source, np.float64) - self.mean) @ self.weights + self.level)

    @classmethod
    def fit(cls, source: NDArray[np.floating], target: NDArray[np.floating]) -> LinearMap:
        """From (N, D) to (N, E); the penalty is the one that best predicts the last fifth of the rows from the others."""
        x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
        held = np.zeros(len(x), dtype=bool)
        held[len(x) - max(1, len(x) // 5) :] = True
        errors = []
        for strength in _STRENGTHS:
            errors.append(float(((cls._solve(x[~held], y[~held], strength)(x[held]) - y[held]) ** 2).mean()))
        return cls._solve(x, y, _STRENGTHS[int(np.argmin(errors))])

    @classmethod
    def _solve(cls, x: Floats, y: Floats, strength: float) -> LinearMap:
        mean, level = x.mean(axis=0), y.mean(axis=0)
        gram = (x - mean).T @ (x - mean)
        penalty = strength * max(float(np.trace(gram)) / len(gram) / len(x), 1e-12)
        return cls(mean, np.linalg.solve(gram + penalty * np.eye(len(gram)), (x - mean).T @ (y - level)), level)


def explained_variance(predicted: Floats, true: NDArray[np.floating], mean: NDArray[np.floating]) -> float:
    """1 - error / error of the training mean, over all dimensions; 0: nothing is read, 1: all."""
    wide = np.asarray(true, np.float64)
    return float(1 - ((predicted - wide) ** 2).sum() / max(float(((wide - mean) ** 2).sum()), 1e-12))


def measure_recall(
    way: str, queries: NDArray[np.floating], gallery: NDArray[np.floating], own: NDArray[Any]
) -> Retrieval:
    """How well queries (N, D) find their own row (N,) of a gallery (M, D) by cosine; ties are broken by chance."""
    n = np.arange(len(own), dtype=np.int64)
    found = rank_matches(queries, gallery, [(n, own.astype(np.int64))])[0]
    return Retrieval(way, {k: float(found.hits(k).mean()) for k in KS}, float(np.median(found.ranks())), len(gallery))


def other_patients(patients: Sequence[str] | NDArray[Any], seed: int = 0) -> NDArray[np.int64] | None:
    """For each of N records the place of one of another patient's, each used once; None where one holds over half."""
    of_record = np.unique(np.asarray(patients), return_inverse=True)[1]
    if 2 * int(np.bincount(of_record).max()) > len(of_record):
        return None
    return permute_across_patients(of_record, np.random.default_rng(seed))


def _retrieval(
    run: Run, cohort: Cohort, rows: NDArray[Any], train: NDArray[Any], test: NDArray[Any], found: dict[str, Features],
    progress: Progress | None,
) -> list[Retrieval]:  # fmt: skip
    """By the shared part as it was trained; then by linear maps from the parts to the report's embedding."""
    said = cohort.reports.take(rows)
    spoken = np.array([bool(text) for text in said])
    train, test = train[spoken[train]], test[spoken[test]]
    if len(test) < 2 or len(train) < 2:
        return []
    train = np.sort(np.random.default_rng(0).permutation(train)[:_MAX_REPORTS])
    texts = sorted({said[place] for place in np.concatenate([train, test])})
    place_of = {text: number for number, text in enumerate(texts)}
    vectors = embed_texts(run, texts, progress)
    of_record = np.array([place_of.get(text, -1) for text in said])
    shown = np.unique(of_record[test])  # the distinct reports of the test split
    gallery, own = vectors[shown], np.searchsorted(shown, of_record[test])
    ways = [measure_recall("shared (as trained)", found["shared"][test], gallery, own)]
    if "specific" not in found:
        return ways
    shared, specific = _standardize(found["shared"], train), _standardize(found["specific"], train)
    target = vectors[of_record[train]]
    for name, of in (("shared", shared), ("specific", specific)):
        ways.append(measure_recall(f"linear map of {name}", LinearMap.fit(of[train], target)(of[test]), gallery, own))
    both = LinearMap.fit(np.hstack([shared, specific])[train], target)
    ways.append(measure_recall("linear map of both", both(np.hstack([shared, specific])[test]), gallery, own))
    other = other_patients(cohort.patients.take(rows[test]))
    if other is None:
        return ways
    theirs = np.hstack([shared[test], specific[test][other]])
    ways.append(measure_recall("... specific part of another patient", both(theirs), gallery, own))
    theirs = np.hstack([shared[test][other], specific[test]])
    ways.append(measure_recall("... shared part of another patient", both(theirs), gallery, own))
    return ways


def reconstruction_errors(run: Run, cohort: Cohort, rows: NDArray[Any]) -> dict[str, float]:
    """Mean squared error (mV squared) of hidden patches with the own specific part and with another patient's.

    Empty for a run whose decoder is not given the specific part: there it cannot matter.
    """
    if not run.method.decodes_specific or len(rows) < 2:
        return {}
    drawn = np.sort(np.random.default_rng(0).permutation(rows)[:_RECONSTRUCTED])
    recordings = Recordings(cohort, run.config.signal, drawn)
    device = next(run.method.parameters()).device
    batch = recordings.batch(np.arange(len(drawn))).to(device)
    other = other_patients(batch.patient)
    if other is None:
        return {}
    errors = {}
    with frozen(run.method):
        own = torch.arange(len(batch), device=device)
        for name, specific_of in (("own", own), ("of another patient", torch.from_numpy(other).to(device))):
            with side_random():
                torch.manual_seed(0)  # the same patches are hidden
                samples, hidden = run.method.reconstruct_with_specific(batch, specific_of)
            errors[name] = float((samples - batch.ecg).square()[hidden].mean())
    return errors


def probe_gain(of: Disentanglement, one: str, other: str) -> tuple[float, tuple[float, float]]:
    """How much more a probe reads from one part than from another, with its paired 95 % interval."""
    return gain(of.probes[one], of.probes[other])


def _standardize(values: Features, rows: NDArray[Any]) -> Floats:
    wide = np.asarray(values, np.float64)
    return np.asarray((wide - wide[rows].mean(axis=0)) / np.maximum(wide[rows].std(axis=0), 1e-9))
