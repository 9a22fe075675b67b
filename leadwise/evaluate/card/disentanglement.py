"""Disentanglement: whether the shared and specific parts of an embedding contain different information.

CG-DMER's claim: the shared part contains what the report describes too, the specific part what only the ECG contains. A
cosine of zero alone does not prove it: a specific head without a task of its own can reach it with any vector at right
angles. So several measures are reported beside the cosine: how much of one part a linear map predicts from the other, how
well a probe classifies from each, how many directions each uses, and whether reports are retrieved when the specific part is
another patient's.
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
from leadwise.evaluate.card.acquisition import acquisition_facts
from leadwise.evaluate.classifiers import has_part, has_text_encoder, probe_classifier
from leadwise.evaluate.embed import Features, embed_cohort, frozen, usable
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.bootstrap import gain, permute_across_patients
from leadwise.evaluate.metrics.score import Floats, Score
from leadwise.evaluate.probe import make_probe_task
from leadwise.evaluate.retrieve import rank_matches
from leadwise.evaluate.ridge import N_FOLDS, patient_folds
from leadwise.evaluate.text_embeddings import embed_texts, unit
from leadwise.progress import Progress, relabel
from leadwise.run import Run, isolated_random_state

PARTS = ("backbone", "shared", "specific", "both")
KS = (1, 5, 10)

_STRENGTHS = tuple(
    float(10.0**power) for power in range(-2, 5)
)  # ridge penalties, in units of the mean variance of the inputs
_MAX_REPORTS = 2000  # training reports for the map from an ECG's parts to its report
_N_RECONSTRUCTED = 64
_N_TWIN_TRAIN = 1000


@dataclass(frozen=True)
class Retrieval:
    """How often an ECG retrieves its report among the distinct reports of the test split."""

    query: str  # what is compared with the reports
    recall: dict[int, float]  # at k, in [0, 1]
    median_rank: float
    n_reports: int

    def row(self) -> dict[str, Any]:
        """Return a table row."""
        recalls = {f"recall@{k}": value for k, value in self.recall.items()}
        return {"report found by": self.query, **recalls, "median rank": self.median_rank, "among": self.n_reports}


@dataclass(frozen=True)
class PartOverlap:
    """How much information two parts have in common, on the test split. The field names are JSON keys."""

    cosine: float  # mean |cosine| of shared and specific
    by_chance: float  # of two random vectors of that width
    specific_from_shared: float  # fraction of variance that a linear map, fitted on the training split, predicts
    shared_from_specific: float

    @classmethod
    def of(
        cls,
        shared: Features,
        specific: Features,
        train: NDArray[Any],
        test: NDArray[Any],
        patients: Sequence[str] | NDArray[Any],
    ) -> PartOverlap:
        """Measure the parts (N, D) of N records.

        Args:
            train: rows on which the linear maps are fitted.
            test: rows on which everything is measured.
            patients: of the N records.
        """
        of_train = np.asarray(patients)[train]

        def predict(source: Features, target: Features) -> float:
            predicted = LinearMap.fit(source[train], target[train], of_train)(source[test])
            return explained_variance(predicted, target[test], target[train].mean(axis=0))

        chance = float(np.sqrt(2 / (np.pi * shared.shape[1])))
        cosine = mean_abs_cosine(shared[test], specific[test])
        return cls(cosine, chance, predict(shared, specific), predict(specific, shared))


@dataclass(frozen=True)
class Disentanglement:
    """The measures of a run's parts on the test split of a task."""

    task: str
    n_records: int
    width: dict[str, int]  # by part
    rank: dict[str, float]  # effective rank by part
    probes: dict[str, Score]  # of the task, by part
    overlap: PartOverlap | None  # None without a specific part
    untrained_overlap: PartOverlap | None  # of the untrained twin; None if not requested
    retrieval: list[Retrieval]
    reconstruction: dict[str, float]  # mV squared: with the own specific part, and with another patient's
    acquisition: dict[str, dict[str, float]]  # part -> fact -> variance of it that a linear map of the part predicts

    def rows(self) -> list[dict[str, Any]]:
        """Return a table row for each part: width, effective rank and its probe."""
        return [
            {
                "part": part,
                "width": self.width[part],
                "effective rank": self.rank[part],
                "macro": score.macro,
                "low": score.interval[0],
                "high": score.interval[1],
            }
            for part, score in self.probes.items()
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "n_records": self.n_records,
            "parts": self.rows(),
            "apart": vars(self.overlap) if self.overlap else None,
            "apart_untrained": vars(self.untrained_overlap) if self.untrained_overlap else None,
            "retrieval": [retrieval.row() for retrieval in self.retrieval],
            "reconstruction_mv2": dict(self.reconstruction),
            "acquisition": self.acquisition,
        }


def measure_disentanglement(
    run: Run,
    cohort: Cohort,
    task: str,
    max_train: int | None = None,
    twin: Run | None = None,
    progress: Progress | None = None,
    rows: NDArray[np.int64] | None = None,
) -> Disentanglement:
    """Measure the parts of a run on one task; a run without a specific part is measured on the parts that it has.

    Args:
        max_train: fit probes and maps on this many training recordings, drawn at random; default all.
        twin: the same run untrained, whose parts are compared too.
        rows: recordings of the task; default: those that the run can embed.
    """
    # The recordings: those of the task, with the training recordings reduced to `max_train`.
    rows = usable(run, cohort, cohort.rows(task=task))[0] if rows is None else rows
    if max_train is not None:
        train_rows = cohort.rows("train", task)
        unused = np.random.default_rng(0).permutation(train_rows[np.isin(train_rows, rows)])[max_train:]
        rows = np.setdiff1d(rows, unused)
    probe_task = make_probe_task(cohort, task, rows)
    train, test = probe_task.rows("train"), probe_task.rows("test")

    # The embeddings; "both" is shared and specific side by side and needs no pass of its own.
    parts = [part for part in PARTS if has_part(run, part)]
    features = {
        part: embed_cohort(run, cohort, part, rows, relabel(progress, f"embed, {part}"))
        for part in parts
        if part != "both" or "shared" not in parts
    }
    if "both" in parts and "both" not in features:
        features["both"] = np.hstack([features["shared"], features["specific"]])

    # A probe of each part.
    probes = {}
    for done, part in enumerate(parts, start=1):
        scores = probe_classifier(features[part], probe_task, part).scores(features[part][test])
        probes[part] = auroc_score(probe_task.labels[test], scores, probe_task.patient[test], probe_task.classes)
        if progress is not None:
            progress("probe of each part", done, len(parts))

    # Overlap of the parts, retrieval and reconstruction, as far as the run has the parts for them.
    overlap = untrained_overlap = None
    if "specific" in features:
        overlap = PartOverlap.of(features["shared"], features["specific"], train, test, probe_task.patient)
    retrieval: list[Retrieval] = []
    if has_text_encoder(run) and "shared" in features:
        retrieval = _retrieval(run, cohort, rows, train, test, features, progress)
    reconstruction = {} if "specific" not in features else reconstruction_errors(run, cohort, rows[test])
    acquisition = _acquisition(run, cohort, rows, train, test, features)
    width = {part: features[part].shape[1] for part in parts}
    rank = {part: effective_rank(features[part][test]) for part in parts}
    if twin and overlap:
        untrained_overlap = _untrained_overlap(run, twin, cohort, rows, train, test, progress)
    return Disentanglement(
        task, len(test), width, rank, probes, overlap, untrained_overlap, retrieval, reconstruction, acquisition
    )


def _acquisition(
    run: Run, cohort: Cohort, rows: NDArray[Any], train: NDArray[Any], test: NDArray[Any], features: dict[str, Features]
) -> dict[str, dict[str, float]]:
    """Return how much of each acquisition fact a linear map predicts from each part, on the test split."""
    chosen = np.concatenate([train, test])
    facts = acquisition_facts(Recordings(cohort, run.config.signal, rows[chosen]))
    n, patients = len(train), np.asarray(cohort.patients.take(rows[train]))
    shares: dict[str, dict[str, float]] = {}
    for part, values in features.items():
        standard = _standardize(values, train)
        shares[part] = {}
        for fact, true in facts.items():
            predicted = LinearMap.fit(standard[train], true[:n], patients)(standard[test])
            shares[part][fact] = explained_variance(predicted, true[n:], true[:n].mean(axis=0))
    return shares


def _untrained_overlap(
    run: Run, twin: Run, cohort: Cohort, rows: NDArray[Any], train: NDArray[Any], test: NDArray[Any],
    progress: Progress | None,
) -> PartOverlap:  # fmt: skip
    """Return the overlap of two untrained heads on the same encoder, measured on at most 1,000 training rows."""
    fitted = np.sort(np.random.default_rng(0).permutation(train)[:_N_TWIN_TRAIN])
    chosen = np.concatenate([fitted, test])
    cache = run.cache_folder
    shared, specific = (
        embed_cohort(twin, cohort, part, rows[chosen], relabel(progress, f"embed {part}, untrained"), cache)
        for part in ("shared", "specific")
    )
    n, patients = len(fitted), cohort.patients.take(rows[chosen])
    return PartOverlap.of(shared, specific, np.arange(n), np.arange(n, len(chosen)), patients)


def mean_abs_cosine(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return the mean |cosine| of the rows of two (N, D)."""
    return float(np.abs((unit(one) * unit(other)).sum(axis=1)).mean())


def effective_rank(x: NDArray[np.floating]) -> float:
    """Return exp of the entropy of the normalised singular values of centred x (N, D): the number of directions used."""
    doubles = np.asarray(x, dtype=np.float64)
    singular_values = np.linalg.svd(doubles - doubles.mean(axis=0), compute_uv=False)
    weights = singular_values / max(singular_values.sum(), 1e-12)
    return float(np.exp(-(weights * np.log(np.maximum(weights, 1e-12))).sum()))


@dataclass(frozen=True)
class LinearMap:
    """A ridge regression from one embedding to another."""

    mean: Floats  # (D,) of the inputs
    weights: Floats  # (D, E)
    offset: Floats  # (E,)

    def __call__(self, source: NDArray[np.floating]) -> Floats:
        return np.asarray((np.asarray(source, np.float64) - self.mean) @ self.weights + self.offset)

    @classmethod
    def fit(cls, source: NDArray[np.floating], target: NDArray[np.floating], patients: NDArray[Any]) -> LinearMap:
        """Fit from (N, D) to (N, E) with the penalty of the smallest squared error in a cross-validation over `patients` (N,).

        The order of the rows has no influence.
        """
        x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
        folds = patient_folds(patients, N_FOLDS)
        errors = np.zeros(len(_STRENGTHS))
        for fold in np.unique(folds):
            held_out = folds == fold
            if held_out.all():
                continue
            for number, strength in enumerate(_STRENGTHS):
                fitted = cls._solve(x[~held_out], y[~held_out], strength)
                errors[number] += ((fitted(x[held_out]) - y[held_out]) ** 2).sum()
        # the strongest of equally good ones: with one patient there is nothing to choose by
        return cls._solve(x, y, _STRENGTHS[len(errors) - 1 - int(np.argmin(errors[::-1]))])

    @classmethod
    def _solve(cls, x: Floats, y: Floats, strength: float) -> LinearMap:
        mean, offset = x.mean(axis=0), y.mean(axis=0)
        gram = (x - mean).T @ (x - mean)
        penalty = strength * max(float(np.trace(gram)) / len(gram) / len(x), 1e-12)
        return cls(mean, np.linalg.solve(gram + penalty * np.eye(len(gram)), (x - mean).T @ (y - offset)), offset)


def explained_variance(predicted: Floats, true: NDArray[np.floating], mean: NDArray[np.floating]) -> float:
    """Return 1 - squared error / squared error of the training mean, over all dimensions; 1 is a perfect prediction."""
    doubles = np.asarray(true, np.float64)
    return float(1 - ((predicted - doubles) ** 2).sum() / max(float(((doubles - mean) ** 2).sum()), 1e-12))


def measure_recall(
    query: str, queries: NDArray[np.floating], gallery: NDArray[np.floating], own: NDArray[Any]
) -> Retrieval:
    """Return how well queries (N, D) retrieve their own rows of a gallery (M, D) by cosine; ties count by chance.

    Args:
        query: name of the queries in tables.
        own: (N,) gallery row of each query.
    """
    n = np.arange(len(own), dtype=np.int64)
    matches = rank_matches(queries, gallery, [(n, own.astype(np.int64))])[0]
    recall = {k: float(matches.hits(k).mean()) for k in KS}
    return Retrieval(query, recall, float(np.median(matches.ranks())), len(gallery))


def other_patients(patients: Sequence[str] | NDArray[Any], seed: int = 0) -> NDArray[np.int64] | None:
    """Return a random permutation that maps each of N records to another patient's; None if one patient has over half."""
    patient_of_record = np.unique(np.asarray(patients), return_inverse=True)[1]
    if 2 * int(np.bincount(patient_of_record).max()) > len(patient_of_record):
        return None
    return permute_across_patients(patient_of_record, np.random.default_rng(seed))


def _retrieval(
    run: Run, cohort: Cohort, rows: NDArray[Any], train: NDArray[Any], test: NDArray[Any], features: dict[str, Features],
    progress: Progress | None,
) -> list[Retrieval]:  # fmt: skip
    """Return retrieval by the shared part as trained, and by linear maps from the parts to the report's embedding."""
    # Only recordings with a report, and at most _MAX_REPORTS of the training split.
    reports = cohort.reports.take(rows)
    has_report = np.array([bool(text) for text in reports])
    train, test = train[has_report[train]], test[has_report[test]]
    if len(test) < 2 or len(train) < 2:
        return []
    train = np.sort(np.random.default_rng(0).permutation(train)[:_MAX_REPORTS])

    # Embed each distinct report once; the gallery consists of the distinct reports of the test split.
    texts = sorted({reports[row] for row in np.concatenate([train, test])})
    number_of_text = {text: number for number, text in enumerate(texts)}
    vectors = embed_texts(run, texts, progress)
    text_of_record = np.array([number_of_text.get(text, -1) for text in reports])
    gallery_texts = np.unique(text_of_record[test])
    gallery, own = vectors[gallery_texts], np.searchsorted(gallery_texts, text_of_record[test])
    results = [measure_recall("shared (as trained)", features["shared"][test], gallery, own)]
    if "specific" not in features:
        return results

    # Linear maps from each part and from both to the report's embedding.
    shared, specific = _standardize(features["shared"], train), _standardize(features["specific"], train)
    target, patients = vectors[text_of_record[train]], np.asarray(cohort.patients.take(rows))
    for name, part in (("shared", shared), ("specific", specific)):
        predicted = LinearMap.fit(part[train], target, patients[train])(part[test])
        results.append(measure_recall(f"linear map of {name}", predicted, gallery, own))
    both = LinearMap.fit(np.hstack([shared, specific])[train], target, patients[train])
    results.append(measure_recall("linear map of both", both(np.hstack([shared, specific])[test]), gallery, own))

    # The map of both parts with one part of another patient.
    other = other_patients(patients[test])
    if other is None:
        return results
    swapped = np.hstack([shared[test], specific[test][other]])
    results.append(measure_recall("... specific part of another patient", both(swapped), gallery, own))
    swapped = np.hstack([shared[test][other], specific[test]])
    results.append(measure_recall("... shared part of another patient", both(swapped), gallery, own))
    return results


def reconstruction_errors(run: Run, cohort: Cohort, rows: NDArray[Any]) -> dict[str, float]:
    """Return the mean squared error (mV squared) of hidden patches with the own and with another patient's specific part.

    Empty for a run whose decoder does not use the specific part: then the exchange has no effect.
    """
    if not run.method.decodes_specific or len(rows) < 2:
        return {}
    drawn = np.sort(np.random.default_rng(0).permutation(rows)[:_N_RECONSTRUCTED])
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
            with isolated_random_state():
                torch.manual_seed(0)  # hides the same patches
                samples, hidden = run.method.reconstruct_with_specific(batch, specific_of)
            errors[name] = float((samples - batch.ecg).square()[hidden].mean())
    return errors


def probe_gain(parts: Disentanglement, one: str, other: str) -> tuple[float, tuple[float, float]]:
    """Return the macro AUROC of a probe of one part minus that of another, with its paired 95 % interval."""
    return gain(parts.probes[one], parts.probes[other])


def _standardize(values: Features, rows: NDArray[Any]) -> Floats:
    """Return values (N, D) with mean 0 and standard deviation 1 over `rows`."""
    doubles = np.asarray(values, np.float64)
    return np.asarray((doubles - doubles[rows].mean(axis=0)) / np.maximum(doubles[rows].std(axis=0), 1e-9))
