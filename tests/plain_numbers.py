"""Random cases of every number that the library computes, against the slow versions and, where they have it, other libraries.

A quantity has a function that draws one case: pairs of values, ours and the expected one. The case is drawn from the quantity's
name and a number, so that a number reproduces it: `disagreements("auroc", 17)`.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plain_losses
import plain_metrics
import torch
from evidence import Row
from scipy import stats
from sklearn import metrics as sklearn_metrics
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from leadwise.batch import LEADS, Signal
from leadwise.data.recordings import lead_algebra, twelve_leads
from leadwise.data.recordings.quality import SHORT_GAP_MS
from leadwise.evaluate import compare, flow_scores, regress, retrieve, ridge, uncertainty, volume_retrieval
from leadwise.evaluate.metrics import all_metrics, auprc, auroc, bootstrap, calibration, f1, regression
from leadwise.evaluate.metrics.score import ScoreError
from leadwise.evaluate.prompt_calibration import ClassCalibration, fit_class
from leadwise.methods import wear_ecg
from leadwise.nn import ecg_vae, local_alignment, phenotypes, volume_vae
from leadwise.nn.losses import (
    anchors,
    beat_ode,
    distillation,
    gaussian,
    masked,
    multimodal,
    pairwise,
    series,
    view_agreement,
)
from leadwise.synthesis.generation_scores import frechet_distance, nearest_distance

MOST_FAULTS = 5  # lines of each quantity
Pairs = Iterator[tuple[str, Any, Any]]  # what, ours, expected


@dataclass(frozen=True)
class Quantity:
    """A number of the library, and how cases of it are drawn."""

    name: str
    draw: Callable[[np.random.Generator], Pairs]
    rtol: float = 1e-9
    atol: float = 1e-12
    share: float = 1.0  # of the cases: a slow one has fewer


def disagreements(name: str, number: int) -> list[str]:
    """What differs in one case; empty where all is equal within the tolerance."""
    quantity = next(each for each in QUANTITIES if each.name == name)
    faults = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other libraries, where a metric is undefined
            for what, ours, expected in quantity.draw(_generator(name, number)):
                one, other = _array(ours), _array(expected)
                if one.shape != other.shape or not np.allclose(
                    one, other, quantity.rtol, quantity.atol, equal_nan=True
                ):
                    faults.append(f"case {number}: {what} is {ours!r}, not {expected!r}"[:300])
    except Exception as error:
        faults.append(f"case {number}: {type(error).__name__}: {error}"[:300])
    return faults


def names() -> list[str]:
    return [quantity.name for quantity in QUANTITIES]


def rows(n_cases: int, only: Sequence[str] | None = None) -> list[Row]:
    """Run `n_cases` cases of each quantity (default: of all); one row for each."""
    result = []
    for quantity in QUANTITIES:
        if only is not None and quantity.name not in only:
            continue
        n, faults, n_wrong = max(1, int(n_cases * quantity.share)), [], 0
        for number in range(n):
            lines = disagreements(quantity.name, number)
            n_wrong += bool(lines)
            faults += lines[: max(0, MOST_FAULTS - len(faults))]
        tolerance = f"relative {quantity.rtol:g}, absolute {quantity.atol:g}"
        result.append(Row(quantity.name, n, tuple(faults), f"{n - n_wrong} of {n} agree within {tolerance}"))
    return result


def _generator(name: str, number: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(name.encode()), number])


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().double() if isinstance(value, Tensor) else value, dtype=np.float64)


# ------------------------------------------------------------------------------------------------ classes


def draw_labels(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    """Labels (n, k) of any prevalence; classes with one label value are common."""
    return (rng.random((n, k)) < rng.choice([0.0, 0.1, 0.3, 0.5, 0.9, 1.0], k)).astype(int)


def draw_scores(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Scores with any number of ties, of any size; higher for positives, or not."""
    scores = rng.normal(size=labels.shape) + rng.choice([-1.0, 0.0, 1.0, 5.0]) * labels
    kind = rng.integers(6)
    if kind == 0:
        scores = scores.round()
    elif kind == 1:
        scores = scores.round(1)
    elif kind == 2:
        scores = np.full(labels.shape, scores.flat[0])
    elif kind == 3:
        scores = scores * 10.0 ** rng.integers(-300, 300)
    elif kind == 4:
        scores = 1e9 + scores.round(1)
    return scores


def draw_patients(rng: np.random.Generator, n: int) -> np.ndarray:
    """Names of n records' patients, whose order is not that of their numbers."""
    names = np.array([f"p{number}" for number in rng.permutation(n)])
    return names[rng.integers(max(1, int(rng.integers(1, n + 1))), size=n)]


def _n(rng: np.random.Generator, most: int = 30) -> int:
    return int(rng.integers(4, most)) if rng.random() < 0.7 else int(rng.integers(1, 4))


def _columns(function: Callable[..., float], *tables: Any, **others: Any) -> list[float]:
    return [function(*(column.tolist() for column in columns), **others) for columns in zip(*(t.T for t in tables))]


def _ranking(
    of: Callable[..., Any], weighted: Callable[..., Any], plain: Callable[..., float], third: Callable[..., float]
) -> Callable[[np.random.Generator], Pairs]:
    def draw(rng: np.random.Generator) -> Pairs:
        n = _n(rng)
        labels = draw_labels(rng, n, 2)
        scores = draw_scores(rng, labels)
        ours = of(labels, scores)
        yield "the metric", ours, _columns(plain, labels, scores)
        for k in range(2):
            if 0 < labels[:, k].sum() < n:
                yield "scikit-learn's", ours[k], third(labels[:, k], stats.rankdata(scores[:, k]))
        weights = rng.integers(0, 3, (3, n))
        expected = [_columns(plain, labels, scores, weights=row.tolist()) for row in weights]
        yield "with weights", weighted(labels, scores, weights), expected
        yield from _refusals(rng, of, labels, scores)

    return draw


def _refusals(rng: np.random.Generator, of: Callable[..., Any], labels: np.ndarray, scores: np.ndarray) -> Pairs:
    """A label or a score that is no number is refused, not scored."""
    for name, at in (("labels", 0), ("scores", 1)):
        tables = [labels.astype(float), scores.astype(float)]
        tables[at].flat[int(rng.integers(labels.size))] = rng.choice([np.nan, np.inf, -np.inf])
        yield f"refused {name}", _is_refused(of, *tables), True


def _is_refused(of: Callable[..., Any], *arguments: Any) -> bool:
    try:
        of(*arguments)
    except ScoreError:
        return True
    return False


def _thresholds(rng: np.random.Generator) -> Pairs:
    n, beta = _n(rng), float(rng.choice([1.0, 2.0]))
    labels = draw_labels(rng, n, 2)
    scores = draw_scores(rng, labels)
    best = f1.best_thresholds(labels, scores, beta)
    yield "best threshold", best, _columns(plain_metrics.best_threshold, labels, scores, beta=beta)
    others = np.where(rng.random(2) < 0.2, np.nan, scores[rng.integers(n, size=2), [0, 1]])
    for at in (best, others):
        expected = [plain_metrics.f_beta(labels[:, k], scores[:, k], at[k], beta) for k in range(2)]
        ours = f1.f1(labels, scores, at, beta)
        yield "F", ours, expected
        for k in range(2):
            if 0 < labels[:, k].sum() < n and not np.isnan(at[k]):
                reached = scores[:, k] >= at[k]
                yield "scikit-learn's", ours[k], sklearn_metrics.fbeta_score(labels[:, k], reached, beta=beta)
        weights = rng.integers(0, 3, (3, n))
        yield (
            "with weights",
            f1.weighted_f1(labels, scores, at, weights, beta),
            [
                [plain_metrics.f_beta(labels[:, k], scores[:, k], at[k], beta, row.tolist()) for k in range(2)]
                for row in weights
            ],
        )
    yield from _refusals(rng, lambda y, s: f1.best_thresholds(y, s, beta), labels, scores)
    yield from _refusals(rng, lambda y, s: f1.f1(y, s, np.zeros(2), beta), labels, scores)


def draw_probabilities(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Probabilities, with ties, zeros and ones."""
    kind = rng.integers(4)
    values = rng.random(shape)
    if kind == 0:
        return values.round(1)
    if kind == 1:
        return np.full(shape, values.flat[0])
    return values ** float(rng.choice([1, 50])) if kind == 2 else values


def _calibration(rng: np.random.Generator) -> Pairs:
    n, n_bins = _n(rng, 40), int(rng.integers(1, 20))
    labels = draw_labels(rng, n, 2)
    chances = draw_probabilities(rng, labels.shape)
    ours = calibration.calibration_error(labels, chances, n_bins)
    yield "ECE", ours, _columns(plain_metrics.calibration_error, labels, chances, n_bins=n_bins)
    squared = calibration.brier(labels, chances)
    yield "Brier", squared, _columns(plain_metrics.brier, labels, chances)
    for k in range(2):
        if 0 < labels[:, k].sum() < n:
            yield "scikit-learn's Brier", squared[k], sklearn_metrics.brier_score_loss(labels[:, k], chances[:, k])
    weights = rng.integers(0, 3, (3, n))
    weights[:, 0] += weights.sum(axis=1) == 0
    yield (
        "ECE with weights",
        calibration.weighted_calibration_error(labels, chances, weights, n_bins),
        [
            _columns(plain_metrics.calibration_error, labels, chances, n_bins=n_bins, weights=row.tolist())
            for row in weights
        ],
    )
    yield (
        "Brier with weights",
        calibration.weighted_brier(labels, chances, weights),
        [_columns(plain_metrics.brier, labels, chances, weights=row.tolist()) for row in weights],
    )
    for of in (calibration.calibration_error, calibration.brier):
        yield from _refusals(rng, of, labels, chances)
        outside = chances.copy()
        outside.flat[0] = rng.choice([-1e-3, 1.001])
        yield "refused outside of [0, 1]", _is_refused(of, labels, outside), True


def _reliability(rng: np.random.Generator) -> Pairs:
    n, n_bins = int(rng.integers(2, 25)), int(rng.integers(1, 6))
    labels = draw_labels(rng, n, 1)
    chances, patients = draw_probabilities(rng, labels.shape), draw_patients(rng, n)
    patched, calibration.N_REPLICATES = calibration.N_REPLICATES, 30
    try:
        curves = calibration.reliability(labels, chances, patients, ["a"], n_bins)
    finally:
        calibration.N_REPLICATES = patched
    yield "whether it is defined", bool(curves), 0 < labels.sum() < n
    if not curves:
        return
    parts = plain_metrics.bins_of(chances[:, 0].tolist(), n_bins)
    yield "count", curves["a"].count, [len(part) for part in parts]
    yield "probability", curves["a"].mean_probability, [plain_losses.mean(chances[part, 0]) for part in parts]
    yield "share", curves["a"].positive_share, [plain_losses.mean(labels[part, 0]) for part in parts]
    counts = plain_metrics.drawn_counts(patients.tolist(), 30, 0)
    for part, (low, high) in zip(parts, curves["a"].interval):
        shares = [
            sum(row[i] * labels[i, 0] for i in part) / sum(row[i] for i in part)
            for row in counts
            if sum(row[i] for i in part)
        ]
        ends = [plain_metrics.percentile(shares, q) for q in (0.025, 0.975)] if shares else [math.nan] * 2
        yield "interval", (low, high), ends


def _intervals(rng: np.random.Generator) -> Pairs:
    """Every metric with its interval over resampled patients, in repeats."""
    n, k, n_repeats, n_replicates = int(rng.integers(2, 16)), 2, int(rng.integers(1, 3)), 12
    labels, patients = draw_labels(rng, n, k), draw_patients(rng, n)
    labels[:, 0] = rng.permutation(n) < max(1, n // 3)  # at least one class is defined
    scores = np.stack([draw_scores(rng, labels) for _ in range(n_repeats)])
    chances = draw_probabilities(rng, scores.shape)
    thresholds = f1.Thresholds.of_repeats([f1.Thresholds.choose(labels, one) for one in scores])
    counts = plain_metrics.drawn_counts(patients.tolist(), n_replicates, 0)
    yield "counts", bootstrap.resample_patients(patients, n_replicates, 0), counts

    def at(s: int, c: int, beta: float) -> float:
        return plain_metrics.best_threshold(labels[:, c], scores[s, :, c], beta)

    plain: dict[str, Callable[[int, int, Any], float]] = {
        "auroc": lambda s, c, w: plain_metrics.auroc(labels[:, c], scores[s, :, c], w),
        "auprc": lambda s, c, w: plain_metrics.average_precision(labels[:, c], scores[s, :, c], w),
        "f1_val": lambda s, c, w: plain_metrics.f_beta(labels[:, c], scores[s, :, c], at(s, c, 1), 1, w),
        "f2_val": lambda s, c, w: plain_metrics.f_beta(labels[:, c], scores[s, :, c], at(s, c, 2), 2, w),
        "ece": lambda s, c, w: plain_metrics.calibration_error(labels[:, c].tolist(), chances[s, :, c], 15, w),
        "brier": lambda s, c, w: plain_metrics.brier(labels[:, c].tolist(), chances[s, :, c], w),
    }
    plain["f1_max"] = plain["f1_val"]  # the thresholds are of the same records
    classes = ["a", "b"]
    ours = all_metrics.compute_metrics(labels, scores, patients, classes, thresholds, chances, n_replicates)
    ours["auroc"] = auroc.auroc_score(labels, scores, patients, classes, n_replicates)
    yield "metrics", sorted(ours) == sorted(plain), True
    for name, score in ours.items():
        of = plain[name]
        values = [math.fsum(of(s, c, None) for s in range(n_repeats)) / n_repeats for c in range(k)]
        table = [[math.fsum(of(s, c, w) for s in range(n_repeats)) / n_repeats for c in range(k)] for w in counts]
        if name == "ece":  # recentred on the estimate
            middle = [math.fsum(row[c] for row in table) / len(table) for c in range(k)]
            table = [[max(0.0, row[c] - middle[c] + values[c]) for c in range(k)] for row in table]
            table = [[math.nan if math.isnan(values[c]) else row[c] for c in range(k)] for row in table]
        yield name, [math.nan if v is None else v for v in score.per_class.values()], values
        yield f"macro {name}", score.macro, plain_metrics.mean_of_known(values)
        macro = [plain_metrics.mean_of_known(row) for row in table]
        yield f"resampled {name}", score.replicates, macro
        if any(not math.isnan(x) for x in macro):
            yield f"interval of {name}", score.interval, [plain_metrics.percentile(macro, q) for q in (0.025, 0.975)]
        for c, class_name in enumerate(classes):
            column = [row[c] for row in table]
            interval = score.class_interval[class_name]
            if not math.isnan(values[c]) and any(not math.isnan(x) for x in column):
                yield (
                    f"interval of {name} of a class",
                    interval or (),
                    [plain_metrics.percentile(column, q) for q in (0.025, 0.975)],
                )


def _repeats(rng: np.random.Generator) -> Pairs:
    """Resampled repeats, the gain of one score over another, and recall in thirds of the queries' uncertainty."""
    n_repeats, n_replicates, seed = int(rng.integers(1, 5)), int(rng.integers(1, 9)), int(rng.integers(9))
    values = rng.normal(size=(n_repeats, n_replicates, 2))
    drawn = np.random.default_rng([seed, n_repeats]).integers(n_repeats, size=(n_repeats, n_replicates)).tolist()
    expected = [
        [math.fsum(values[drawn[s][r], r, q] for s in range(n_repeats)) / n_repeats for q in range(2)]
        for r in range(n_replicates)
    ]
    yield "means of drawn repeats", bootstrap.mean_of_drawn_repeats(values, seed), expected

    n = int(rng.integers(6, 20))
    labels, patients = (rng.permutation(n) < n // 2).astype(int)[:, None], draw_patients(rng, n)
    one, other = (auroc.auroc_score(labels, draw_scores(rng, labels), patients, ["a"], 15) for _ in range(2))
    value, interval = bootstrap.gain(one, other)
    yield "gain", value, one.macro - other.macro
    gaps = [x - y for x, y in zip(one.replicates.tolist(), other.replicates.tolist())]
    if not all(math.isnan(gap) for gap in gaps):
        yield "its interval", interval, [plain_metrics.percentile(gaps, q) for q in (0.025, 0.975)]

    doubt, hits, ranks = (
        rng.random(n).round(1),
        (rng.random(n) < 0.5).astype(float),
        rng.integers(1, 9, n).astype(float),
    )
    weights = rng.integers(0, 3, (7, n)).astype(float)
    order, begin = sorted(range(n), key=lambda i: (doubt[i], i)), 0
    for place, third in enumerate(uncertainty.by_thirds(doubt, {1: hits}, ranks, weights)):
        own = order[begin : begin + n // 3 + (place < n % 3)]
        begin += len(own)
        yield "queries of a third", third.n_queries, len(own)
        yield "recall of a third", third.recall[1], plain_losses.mean(hits[own])
        yield "median rank of a third", third.median_rank, np.median(ranks[own])
        yield "uncertainty of a third", third.uncertainty, (min(doubt[own]), max(doubt[own]))


def _shuffled(rng: np.random.Generator) -> Pairs:
    """Every record gets another patient's record, once."""
    patient_of = np.unique(draw_patients(rng, int(rng.integers(2, 40))), return_inverse=True)[1]
    n = len(patient_of)
    if 2 * np.bincount(patient_of).max() > n:
        yield "control", auroc.shuffled_pairs(np.arange(n)[:, None] % 2, np.zeros((n, 1)), patient_of) is None, True
        return
    partner = bootstrap.permute_across_patients(patient_of, rng)
    yield "each once", np.sort(partner), np.arange(n)
    yield "own patients", int((patient_of[partner] == patient_of).sum()), 0


def _p_values(rng: np.random.Generator) -> Pairs:
    p = rng.random(int(rng.integers(1, 12))) ** 3
    if rng.random() < 0.5:
        p = p.round(1)
    yield "Holm", compare.holm(p), plain_metrics.holm(p.tolist())
    gaps = rng.normal(size=int(rng.integers(1, 40))) + rng.choice([-3, 0, 3])
    if rng.random() < 0.5:
        gaps = gaps.round()
    interval, value = compare._interval_and_p(gaps)
    yield "interval", interval, [plain_metrics.percentile(gaps.tolist(), q) for q in (0.025, 0.975)]
    sides = sum(1 for g in gaps if g <= 0), sum(1 for g in gaps if g >= 0)
    yield "p", value, min(1, 2 * (min(sides) + 1) / (len(gaps) + 1))


# ------------------------------------------------------------------------------------------------ probabilities


def _platt(rng: np.random.Generator) -> Pairs:
    n = int(rng.integers(10, 40))
    labels = (rng.permutation(n) < rng.integers(5, n - 4)).astype(int)
    cosine = (rng.normal(size=n) + rng.choice([0.0, 1.0, 5.0]) * labels) * 10.0 ** rng.integers(-4, 3)
    cosine = cosine + rng.choice([0.0, 0.9]) * np.abs(cosine).max()
    if rng.random() < 0.3:
        cosine = np.round(cosine / np.abs(cosine).max(), 1)
    fitted = fit_class(cosine, labels, [f"p{i}" for i in range(n)])
    middle, spread = cosine.mean(), cosine.std() or 1.0
    scaled = (cosine - middle) / spread
    slope, intercept = plain_metrics.fit_platt(scaled.tolist(), labels.tolist())
    if abs(slope) > 1e-4:
        yield "whether there is one", isinstance(fitted, ClassCalibration), slope > 0
    if isinstance(fitted, ClassCalibration):
        yield "probability", fitted.probability(cosine), 1 / (1 + np.exp(-(slope * scaled + intercept)))


def _isotonic(rng: np.random.Generator) -> Pairs:
    n = int(rng.integers(12, 60))
    labels = (rng.permutation(n) < rng.integers(5, n - 4)).astype(int)
    cosine = rng.normal(size=n) + rng.choice([0.3, 1.0, 5.0]) * labels
    if rng.random() < 0.6:
        cosine = cosine.round(int(rng.integers(0, 2)))
    fitted = fit_class(cosine, labels, [f"p{i}" for i in range(n)], "isotonic")
    if not isinstance(fitted, ClassCalibration):
        yield "reason", "not higher" in fitted, True
        return
    levels = sorted(set(cosine.tolist()))
    means = [plain_losses.mean(labels[cosine == at]) for at in levels]
    steps = plain_metrics.fit_isotonic(means, [float((cosine == at).sum()) for at in levels])
    expected = [min(max(step, 1 / (n + 2)), 1 - 1 / (n + 2)) for step in steps]
    yield "probability", fitted.probability(np.array(levels)), expected
    third = IsotonicRegression(y_min=1 / (n + 2), y_max=1 - 1 / (n + 2)).fit(cosine, labels)
    yield "scikit-learn's", fitted.probability(np.array(levels)), third.predict(levels)
    beyond = fitted.probability(np.array([-1e9, 1e9, np.nan]))
    yield "beyond the ends", beyond, [expected[0], expected[-1], np.nan]


# ------------------------------------------------------------------------------------------------ regression, retrieval


def _regression(rng: np.random.Generator) -> Pairs:
    n = _n(rng)
    truth = rng.normal(size=(n, 2))
    kind = rng.integers(6)
    if kind == 0:
        truth = truth.round()
    elif kind == 1:
        truth[:, 0] = truth[0, 0]
    elif kind == 2:
        truth[0, 0] = 1e6  # one wrong unit
    predicted = truth + rng.choice([0.0, 1e-3, 1.0]) * rng.normal(size=truth.shape)
    if kind == 3:
        predicted[:, 1] = predicted[0, 1]
    elif kind == 4:
        predicted = predicted * 1e-7  # shrunken
    scale = 10.0 ** rng.integers(-100, 100) if kind == 5 else 10.0 ** rng.integers(-3, 4)
    truth, predicted = truth * scale, predicted * scale
    if rng.random() < 0.3:
        truth = truth + 1e3 * scale
        predicted = predicted + 1e3 * scale
    truth[rng.random(truth.shape) < rng.choice([0.0, 0.3, 1.0])] = np.nan
    weights = np.concatenate([np.ones((1, n), int), rng.integers(0, 3, (4, n))])
    ours = regression.weighted_measures(truth, predicted, weights)
    for q in range(2):
        for row, counts in enumerate(weights):
            expected = plain_metrics.regression(truth[:, q].tolist(), predicted[:, q].tolist(), counts.tolist())
            for name, value in expected.items():
                if math.isnan(value) or abs(value) < 1e12:  # beyond, R² is a ratio of rounding errors
                    yield name, ours[name][row, q], value
        known = np.isfinite(truth[:, q])
        y, z = truth[known, q] / scale, predicted[known, q] / scale
        if len(np.unique(y)) > 1 and kind != 4:
            yield "scikit-learn's R²", ours["r2"][0, q], sklearn_metrics.r2_score(y, z)
            yield "scikit-learn's error", ours["mae"][0, q] / scale, sklearn_metrics.mean_absolute_error(y, z)
            if len(np.unique(z)) > 1:
                yield "scipy's r", ours["r"][0, q], stats.pearsonr(y, z)[0]


def _regression_intervals(rng: np.random.Generator) -> Pairs:
    n, width = int(rng.integers(6, 14)), 2
    truth, patients = rng.normal(size=(n, 1)), draw_patients(rng, n)
    task = regress.RegressTask(
        ("size",), np.concatenate([rng.normal(size=(20, 1)), truth]), np.concatenate([np.full(20, "other"), patients]),
        np.arange(20), np.arange(20, 20 + n),
    )  # fmt: skip
    predictions = truth + rng.normal(size=(2, n, 1))
    patched, regress.N_REPLICATES = regress.N_REPLICATES, 15
    try:
        ours = regress.score_predictions("x", predictions, task, width)
    finally:
        regress.N_REPLICATES = patched
    counts = plain_metrics.drawn_counts(patients.tolist(), 15, 0)
    for name in ("r2", "mae", "r"):
        values = [plain_metrics.regression(truth[:, 0].tolist(), one[:, 0].tolist())[name] for one in predictions]
        yield name, ours.scores["size"][name].value, sum(values) / 2
        resampled = [
            sum(plain_metrics.regression(truth[:, 0].tolist(), one[:, 0].tolist(), row)[name] for one in predictions)
            / 2
            for row in counts
        ]
        if any(not math.isnan(x) for x in resampled):
            ends = [plain_metrics.percentile(resampled, q) for q in (0.025, 0.975)]
            yield f"interval of {name}", ours.scores["size"][name].interval, ends


def _ridge(rng: np.random.Generator) -> Pairs:
    n, width = int(rng.integers(4, 25)), int(rng.integers(1, 8))
    features, values = rng.normal(size=(n, width)) * 10.0 ** rng.integers(-3, 4), rng.normal(size=(n, 2))
    values[:, 0] += features[:, 0] / features[:, 0].std()
    if rng.random() < 0.4:
        features[:, -1] = features[0, -1]
    values[rng.random(n) < rng.choice([0.0, 0.3]), 1] = np.nan
    values[:2, 1] = rng.normal(size=2)
    model = ridge.fit_ridge(features, values, draw_patients(rng, n))
    deviation = features.std(axis=0)
    scaled = np.divide(features - features.mean(axis=0), deviation, where=deviation > 1e-9 * np.abs(features).max(),
                       out=np.zeros_like(features)).clip(-5, 5)  # fmt: skip
    for q in range(2):
        known = np.isfinite(values[:, q])
        weights, intercept = plain_metrics.ridge(scaled[known], values[known, q], model.penalties[q])
        yield "prediction", model.predict(features)[:, q], scaled @ weights + intercept


def _posterior(rng: np.random.Generator) -> Pairs:
    n_draws = int(rng.integers(1, 12))
    draws, truth = rng.normal(size=(n_draws, 3, 2)) * 10.0 ** rng.integers(-5, 5), rng.normal(size=(3, 2))
    if rng.random() < 0.3:
        draws = draws.round()
    score = flow_scores.crps(draws, truth)
    for i in range(3):
        for q in range(2):
            yield "CRPS", score[i, q], plain_metrics.crps(draws[:, i, q].tolist(), float(truth[i, q]))


def _feature_sets(rng: np.random.Generator) -> Pairs:
    width = int(rng.integers(1, 4))
    a, b = (rng.normal(size=(int(rng.integers(4, 12)), width)) * rng.choice([0.1, 1, 30]) for _ in range(2))
    of_a, of_b = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    eigenvalues = np.linalg.eigvals(of_a @ of_b).astype(complex)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(of_a + of_b) - 2 * np.sqrt(eigenvalues).real.sum()
    yield "Frechet distance", frechet_distance(a, b), expected
    yield "of a set from itself", frechet_distance(a, a), 0.0
    yield "nearest", nearest_distance(a, b), [min(math.dist(x, y) for y in b) for x in a]


def _ranks(rng: np.random.Generator) -> Pairs:
    n_queries, n_items, width = int(rng.integers(1, 6)), int(rng.integers(1, 12)), int(rng.integers(1, 4))
    queries, items = rng.normal(size=(n_queries, width)), rng.normal(size=(n_items, width))
    if rng.random() < 0.5:
        queries, items = queries.round(), items.round()  # many ties, and vectors of length 0
    variance = rng.random(n_items).round(1) if rng.random() < 0.3 else None
    right = [rng.choice(n_items, int(rng.integers(1, n_items + 1)), replace=False).tolist() for _ in range(n_queries)]
    pairs = np.array([(q, i) for q, some in enumerate(right) for i in some])
    (ranks,) = retrieve.rank_matches(queries, items, [(pairs[:, 0], pairs[:, 1])], variance)
    for q in range(n_queries):
        penalty = [0.0] * n_items if variance is None else (variance / 2).tolist()
        scores = [round(plain_losses.cosine(queries[q], items[i]) - penalty[i], 9) for i in range(n_items)]
        shares = plain_metrics.match_ranks(scores, right[q])
        yield "expected rank", ranks.ranks()[q], sum(place * share for place, share in enumerate(shares, 1))
        for k in (1, 2, 5, 10):
            yield f"recall@{k}", ranks.hits(k)[q], sum(shares[:k])
    if n_items <= 5:
        unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (queries, items)]
        table = np.round(unit[0] @ unit[1].T - (0.0 if variance is None else variance / 2), 9)
        hits, places = plain_metrics.all_orders(table, right, 2)
        yield "recall@2 over all orders", ranks.hits(2), hits
        yield "rank over all orders", ranks.ranks(), places


def _medians(rng: np.random.Generator) -> Pairs:
    values = rng.integers(1, 8, int(rng.integers(1, 9))) / rng.choice([1, 2, 3])
    weights = rng.integers(0, 4, (6, len(values))) / rng.choice([1, 3, 7])
    weights[:, 0] += weights.sum(axis=1) == 0
    ours = retrieve._weighted_medians(values, weights)
    yield "weighted median", ours, [plain_metrics.weighted_median(values.tolist(), row.tolist()) for row in weights]
    once = retrieve._weighted_medians(values, np.ones((1, len(values))))
    yield "numpy's median", once, [np.median(values)]


def _pools(rng: np.random.Generator) -> Pairs:
    patients = draw_patients(rng, int(rng.integers(4, 30)))
    n_patients = len(set(patients))
    size = int(rng.integers(1, n_patients + 1))
    pools = volume_retrieval.draw_pools(patients, size, 7, int(rng.integers(9)))
    yield "shape", pools.shape, (7, size)
    yield "patients of a pool", [len(set(patients[pool])) for pool in pools], [size] * 7
    n_of = [sum(name in set(patients[pool]) for pool in pools) for name in sorted(set(patients))]
    yield "even use", max(n_of) - min(n_of) <= 1 or n_patients % size != 0, True


# ------------------------------------------------------------------------------------------------ signals


def _resampling(rng: np.random.Generator) -> Pairs:
    """`conform` against the sum over the windowed sinc, and against the sine that the samples are of."""
    old, new = (int(rate) for rate in rng.choice([50, 100, 125, 128, 180, 200, 250, 257, 360, 500, 1000], 2))
    n = int(rng.choice([1, 2, 7, int(rng.integers(20, 100))]))
    leads = tuple(str(x) for x in rng.permutation(list(LEADS))[: int(rng.integers(1, 3))])
    table = rng.normal(size=(n, 12)) * 10.0 ** rng.integers(-3, 4) + rng.choice([0.0, 300.0])
    for _ in range(int(rng.choice([0, 1, 3]))):  # gaps of some leads or of all, short and long
        begin, size = int(rng.integers(n)), int(rng.choice([1, 5, 30]))
        table[begin : begin + size, : int(rng.choice([4, 12]))] = np.nan
    if rng.random() < 0.2:
        table[:, 5] = np.nan
    window = str(rng.choice(["first", "center"]))
    up, down = new // math.gcd(old, new), old // math.gcd(old, new)
    n_resampled = -(-n * up // down)
    signal = Signal(leads, new, float(max(1, n_resampled + int(rng.integers(-9, 5)))) / new, window=window)
    ecg, observed = twelve_leads.conform(table, float(old), signal)
    n_used = min(signal.n_samples, n_resampled)
    start = (n_resampled - n_used) // 2 if window == "center" else 0
    for row, lead in enumerate(leads):
        values, real = plain_metrics.bridged(table[:, LEADS.index(lead)].tolist(), SHORT_GAP_MS * old / 1000 + 1e-9)
        whole = plain_metrics.resampled(values, up, down) if up != down else values
        expected, mask = [0.0] * signal.n_samples, [False] * signal.n_samples
        for place in range(n_used):
            at = Neighbours.of(start + place, up, down, n)
            mask[place] = real[at.below] and real[at.above]
            expected[place] = whole[start + place] if mask[place] else 0.0
        scale = np.nanmax(np.abs(values)) if n else 1.0
        yield f"observed {lead}", observed[row], mask
        yield f"{lead} at {new} of {old} Hz", ecg[row] / max(scale, 1e-9), np.array(expected) / max(scale, 1e-9)


@dataclass(frozen=True)
class Neighbours:
    """The two samples between which a resampled one is."""

    below: int
    above: int

    @classmethod
    def of(cls, place: int, up: int, down: int, n: int) -> Neighbours:
        at = place * down / up
        return cls(math.floor(at + 1e-9), min(math.ceil(at - 1e-9), n - 1))


def _sines(rng: np.random.Generator) -> Pairs:
    """A sine that both rates can have is the same sine after resampling, away from the ends."""
    old, new = (float(rate) for rate in rng.choice([100, 125, 128.3, 250, 257, 360, 500, 1000, 999.7], 2))
    frequency = float(rng.uniform(0.3, 0.3 * min(old, new)))
    phase, seconds = float(rng.uniform(0, 6)), 4.0
    time = np.arange(round(seconds * old)) / old
    table = np.tile(np.sin(2 * np.pi * frequency * time + phase)[:, None], (1, 12)) + rng.choice([0.0, 50.0])
    signal = Signal(("V3",), round(new), seconds)
    ecg, _ = twelve_leads.conform(table, old, signal)
    at = np.arange(signal.n_samples) / round(new)
    inner = slice(round(0.5 * new), round(3.5 * new))
    drift = abs(frequency) * 2 * np.pi * 0.5 / round(new)  # half a new sample
    exact = float(old).is_integer()
    error = np.abs(ecg[0] - np.sin(2 * np.pi * frequency * at + phase) - table.mean(0)[0].round())[inner].max()
    yield f"error of {frequency:.3g} Hz, {old:g} to {round(new)} Hz", error < 0.02 + (0.0 if exact else drift), True


def _limb_leads(rng: np.random.Generator) -> Pairs:
    leads = {name: rng.normal(size=5) for name in ("I", "II")}
    i, ii = leads["I"], leads["II"]
    leads["III"] = ii - i
    expected = {
        "I": i, "II": ii, "III": ii - i, "aVR": -(i + ii) / 2, "aVL": (i - (ii - i)) / 2, "aVF": (ii + (ii - i)) / 2
    }  # fmt: skip
    for pair in (("I", "II"), ("I", "III"), ("II", "III")):
        for lead, values in expected.items():
            yield f"{lead} of {pair}", lead_algebra.derive(lead, {name: leads[name] for name in pair}), values


# ------------------------------------------------------------------------------------------------ losses


def draw_vectors(rng: np.random.Generator, *shape: int) -> Tensor:
    """Vectors of any length, some equal, in float32."""
    x = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4)
    if rng.random() < 0.2:
        x[0] = x[-1]
    return torch.tensor(x, dtype=torch.float32)


def draw_mask(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.tensor(rng.random(shape) < rng.choice([0.0, 0.3, 0.7, 1.0]))


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x.double(), dim=-1).float()


def _numbers(rng: np.random.Generator) -> tuple[int, int]:
    """The number of records, and the width of a vector."""
    return int(rng.choice([1, 2, 3, 4, 6])), int(rng.integers(1, 6))


def checked(loss: Callable[..., Tensor], inputs: Sequence[Tensor], expected: float, n_rows: int = 0) -> Pairs:
    """The loss of `inputs`, that its gradient is finite, and that the mean over processes is the loss of the batch.

    loss takes the inputs and, if `n_rows` is given, the rows of this process.
    """
    leaves = [x.clone().requires_grad_() for x in inputs]
    value = loss(*leaves, slice(None)) if n_rows else loss(*leaves)
    yield "loss", value, expected
    if value.requires_grad:
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        yield "finite gradient", all(bool(g.isfinite().all()) for g in gradients if g is not None), True
    for n_ranks in (2, 3):
        if n_rows and n_rows % n_ranks == 0:
            size = n_rows // n_ranks
            shares = [loss(*inputs, slice(at, at + size)) for at in range(0, n_rows, size)]
            yield f"mean over {n_ranks} processes", sum(float(x) for x in shares) / n_ranks, expected


def _reports(rng: np.random.Generator, b: int) -> Tensor:
    """Report numbers (b, 2), with equal ones in either column; distinct between the columns."""
    distinct = int(rng.choice([1, max(1, b // 2), 5 * b]))
    return torch.tensor(rng.integers(distinct, size=(b, 2)) + np.array([0, distinct]))


def _contrast(rng: np.random.Generator) -> Pairs:
    b, width = _numbers(rng)
    vectors = unit(draw_vectors(rng, b, width)), unit(draw_vectors(rng, b, width))
    report, scale = _reports(rng, b), float(rng.choice([1.0, 1 / 0.07, 100.0]))
    words = (unit(draw_vectors(rng, b, 3).abs()), 0.8) if rng.random() < 0.3 else None
    of_words = None if words is None else (words[0].tolist(), words[1])
    if of_words and any(abs(plain_losses.dot(x, y) - 0.8) < 1e-5 for x in of_words[0] for y in of_words[0]):
        return
    same = plain_losses.same_report(report.tolist(), of_words)
    listed = [x.tolist() for x in vectors]
    forms = (
        ("standard", "ignore"), ("standard", "positive"), ("standard", "negative"), ("decoupled", "ignore"),
        ("decoupled", "negative"), ("literal", "ignore"), ("literal", "negative"),
    )  # fmt: skip
    form, treat = forms[int(rng.integers(len(forms)))]
    both_ways = bool(rng.random() < 0.7)
    patched, multimodal.BLOCK = multimodal.BLOCK, int(rng.choice([2, 1024]))
    try:
        yield from checked(
            lambda x, y, rows: multimodal.info_nce(x, y, report, scale, treat, form, rows, words, both_ways),
            vectors, plain_losses.info_nce(*listed, same, scale, treat, form, both_ways), b,
        )  # fmt: skip
        bias = float(rng.choice([0.0, -10.0]))
        treat = str(rng.choice(["ignore", "positive", "negative"]))
        yield from checked(
            lambda x, y, rows: multimodal.siglip(x, y, report, scale, bias, treat, rows, words),
            vectors, plain_losses.siglip(*listed, same, scale, bias, treat), b,
        )  # fmt: skip
        longer = [x * float(rng.choice([1e-3, 1.0, 1e3])) for x in vectors]
        yield from checked(
            lambda x, y, rows: multimodal.aligned(x, y, report, scale, treat, rows, "standard", words),
            longer, plain_losses.info_nce(*listed, same, scale, treat, "standard"), b,
        )  # fmt: skip
    finally:
        multimodal.BLOCK = patched


def _reconstruction(rng: np.random.Generator) -> Pairs:
    b, width = _numbers(rng)
    prediction, target = draw_vectors(rng, b, 2, 3, width), draw_vectors(rng, b, 2, 3, width)
    scale = float(prediction.abs().max() + target.abs().max()) ** 2 + 1e-30
    hidden = draw_mask(rng, b, 2, 3)
    repeated = hidden[..., None].expand(prediction.shape)
    flat = [x.flatten(1).tolist() for x in (prediction, target, repeated)]
    expected = plain_losses.selected_error(*flat)
    yield from _relative(
        checked(lambda x: multimodal.patch_reconstruction(x, target, hidden), [prediction], expected), scale
    )
    yield from _relative(checked(lambda x: masked.reconstruction(x, target, repeated), [prediction], expected), scale)
    smooth = plain_losses.selected_error(*flat, plain_losses.huber)
    yield from _relative(checked(lambda x: masked.latent_prediction(x, target, hidden), [prediction], smooth), scale)
    counts = draw_mask(rng, b, 2, 3)
    error, log_variance = torch.tensor(rng.random((b, 2, 3))).float(), torch.tensor(rng.normal(size=(b, 2, 3))).float()
    yield from checked(
        lambda e, s: wear_ecg.negative_log_likelihood(e, s, counts), [error, log_variance],
        plain_losses.negative_log_likelihood(*(x.flatten(1).tolist() for x in (error, log_variance, counts))),
    )  # fmt: skip


def _relative(pairs: Pairs, scale: float) -> Pairs:
    """The losses in units of `scale`."""
    for what, ours, expected in pairs:
        yield (what, ours, expected) if isinstance(expected, bool) else (what, ours / scale, expected / scale)


def _tokens(rng: np.random.Generator) -> Pairs:
    b, n_words = _numbers(rng)
    logits = torch.tensor(rng.normal(size=(b, 3, n_words)) * rng.choice([1, 100])).float()
    tokens, hidden = torch.tensor(rng.integers(n_words, size=(b, 3))), draw_mask(rng, b, 3)
    yield from checked(
        lambda x: multimodal.token_reconstruction(multimodal.token_errors(x, tokens, hidden)), [logits],
        plain_losses.token_errors(logits.tolist(), tokens.tolist(), hidden.tolist()),
    )  # fmt: skip


def _disentangling(rng: np.random.Generator) -> Pairs:
    b, width = _numbers(rng)
    specific, shared = draw_vectors(rng, b, width), draw_vectors(rng, b, width)
    expected = plain_losses.orthogonality(specific.tolist(), shared.tolist())
    yield from checked(multimodal.orthogonality, [specific, shared], expected)
    first, second = (
        torch.tensor(rng.normal(size=(b + 4, width))).float(),
        torch.tensor(rng.normal(size=(b + 4, 2))).float(),
    )
    if rng.random() < 0.3:
        second[:, 1] = 1.0
    table = plain_losses.correlations(first.tolist(), second.tolist())
    yield "correlations", multimodal.cross_correlation(first, second), table
    running, momentum = torch.tensor(rng.normal(size=(width, 2))).float() / 3, float(rng.choice([0.0, 0.9]))
    value, now = multimodal.decorrelation(running, torch.tensor(table).float(), momentum)
    mixed = [[momentum * float(r) + (1 - momentum) * c for r, c in zip(*each)] for each in zip(running, table)]
    yield "running correlations", now, mixed
    yield "their mean square", value, plain_losses.mean(x * x for row in mixed for x in row)
    if b >= 2:
        x = torch.tensor(rng.normal(size=(b, width))).float()
        sizes = np.sqrt(np.linalg.eigvalsh(x.double().numpy().T @ x.double().numpy()).clip(0))
        shares = sizes / sizes.sum()
        expected = math.exp(-math.fsum(p * math.log(p) for p in shares if p > 1e-9))
        yield "rank", abs(multimodal.rankme(x) - expected) < 1e-2, True


def _instances(rng: np.random.Generator) -> Pairs:
    b, width = _numbers(rng)
    before, after, real = draw_vectors(rng, b, 4, width), draw_vectors(rng, b, 4, width), draw_mask(rng, b, 4)
    expected = plain_losses.instance_discrimination(before.tolist(), after.tolist(), real.tolist())
    yield from checked(lambda x, y: masked.instance_discrimination(x, y, real), [before, after], expected)


def _pairs(rng: np.random.Generator) -> Pairs:
    b, width = _numbers(rng)
    own, other = (torch.tensor(rng.normal(size=b) * rng.choice([1, 300])).float() for _ in range(2))
    exists = draw_mask(rng, b)
    listed = own.tolist(), other.tolist()
    yield from checked(
        lambda x, y: pairwise.matching(x, y, exists), [own, other], plain_losses.matching(*listed, exists.tolist())
    )
    yield from checked(pairwise.discriminator_loss, [own, other], plain_losses.discriminator(*listed))
    predicted, target = draw_vectors(rng, b, width), draw_vectors(rng, b, width)
    patient = torch.tensor(rng.integers(max(1, b // 2), size=b))
    yield from checked(
        lambda x, rows: pairwise.patient_agreement(x, target, patient, rows), [predicted],
        plain_losses.patient_agreement(predicted.tolist(), target.tolist(), patient.tolist()), b,
    )  # fmt: skip
    steps, future, there = draw_vectors(rng, b, 3, width), draw_vectors(rng, b, 3, width), draw_mask(rng, b, 3)
    yield from checked(
        lambda x: pairwise.forecast(x, future, there), [steps],
        plain_losses.forecast(steps.tolist(), future.tolist(), there.tolist()),
    )  # fmt: skip
    ids, counted = torch.tensor(rng.integers(6, size=(b, 4))), draw_mask(rng, b, 4)
    bags = [{w for w, real in zip(*row) if real} for row in zip(ids.tolist(), counted.tolist())]
    overlap = [[len(p & q) / math.sqrt(len(p) * len(q)) if p and q else 0.0 for q in bags] for p in bags]
    yield "word overlap", pairwise.word_overlap(ids, counted, 6), overlap
    report = _reports(rng, b)
    torch.manual_seed(int(rng.integers(1000)))
    share = float(rng.choice([0.01, 0.5, 1.0]))
    negative, has_one = pairwise.sample_dissimilar_reports(torch.tensor(overlap).float(), report, share)
    same = plain_losses.same_report(report.tolist())
    yield "a dissimilar report exists", has_one, [not all(row) for row in same]
    for i in range(b):
        others = sorted(overlap[i][j] for j in range(b) if not same[i][j])
        if others:
            j, quota = int(negative[i]), max(1, math.ceil(share * len(others)))
            yield "another report", same[i][j], False
            yield "among the farthest", overlap[i][j] <= others[quota - 1] + 2e-4, True


def _views(rng: np.random.Generator) -> Pairs:
    b, width = _numbers(rng)
    a, z = draw_vectors(rng, b, width), draw_vectors(rng, b, width)
    tau, listed = float(rng.choice([0.05, 0.5, 1.0])), (a.tolist(), z.tolist())
    yield from checked(
        lambda x, y, rows: view_agreement.nt_xent(x, y, tau, rows), [a, z], plain_losses.nt_xent(*listed, tau), b
    )
    yield from checked(view_agreement.bootstrap, [a, z], plain_losses.squared_unit_distance(*listed))
    yield from checked(
        view_agreement.negative_cosine, [a, z], -plain_losses.mean(plain_losses.cosine(x, y) for x, y in zip(*listed))
    )
    yield from checked(
        lambda x, rows: view_agreement.momentum_nce(x[rows], z, tau, rows),
        [a],
        plain_losses.momentum_nce(*listed, tau),
        b,
    )
    one, two = (torch.tensor(rng.normal(size=(b + 3, width))).float() for _ in range(2))
    table = plain_losses.correlations(one.tolist(), two.tolist())
    ours = view_agreement.cross_correlation(one, two)
    yield "correlations", ours, table
    yield "redundancy", view_agreement.redundancy(ours, 0.01), plain_losses.redundancy(table, 0.01)


def _series(rng: np.random.Generator) -> Pairs:
    b, width = _numbers(rng)
    observed, scale = draw_mask(rng, b), float(rng.choice([0.1, 1.0, 10.0]))
    predicted, future = (torch.tensor(scale * rng.normal(size=(b, 3, width))).float() for _ in range(2))
    yield from checked(
        lambda x, y, rows: series.future_contrast(x, y, observed, rows), [predicted, future],
        plain_losses.future_contrast(predicted.tolist(), future.tolist(), observed.tolist()), b,
    )  # fmt: skip
    views, real = draw_vectors(rng, b, 3, width), draw_mask(rng, b, 3)
    patient, tau = torch.tensor(rng.integers(max(1, b // 2), size=b)), float(rng.choice([0.1, 1.0]))
    yield from checked(
        lambda x, rows: series.same_patient(x, real, patient, tau, rows), [views],
        plain_losses.same_patient(views.tolist(), real.tolist(), patient.tolist(), tau), b,
    )  # fmt: skip
    other, present = draw_vectors(rng, b, 3, width), draw_mask(rng, b, 3)
    yield from checked(
        lambda x, y: series.same_time_contrast(x, y, present, 1 / tau), [views, other],
        plain_losses.same_time_contrast(views.tolist(), other.tolist(), present.tolist(), 1 / tau),
    )  # fmt: skip
    n, steps = 5, (1, 3)
    ahead = torch.tensor(scale * rng.normal(size=(b, 2, n, width))).float()
    latents, there = torch.tensor(rng.normal(size=(b, n, width))).float(), draw_mask(rng, b, n)
    more = torch.tensor(rng.normal(size=(int(rng.integers(0, 4)), width))).float()
    is_other = draw_mask(rng, b, len(more))
    yield from checked(
        lambda x, y: series.predictive_contrast(x, y, there, steps, tau, more, is_other), [ahead, latents],
        plain_losses.predictive_contrast(
            ahead.tolist(), latents.tolist(), there.tolist(), steps, tau, more.tolist(), is_other.tolist()
        ),
    )  # fmt: skip


def _anchors(rng: np.random.Generator) -> Pairs:
    b, width = _numbers(rng)
    a, z, present = draw_vectors(rng, b, width), draw_vectors(rng, b, width), draw_mask(rng, b)
    scale, listed = float(rng.choice([1.0, 14.0, 100.0])), (a.tolist(), z.tolist(), present.tolist())
    person = torch.tensor(rng.integers(max(1, b // 2), size=b)) if rng.random() < 0.5 else None
    yield from checked(
        lambda x, y, rows: anchors.pair_contrast(x, y, present, scale, person, rows), [a, z],
        plain_losses.pair_contrast(*listed, scale, None if person is None else person.tolist()), b,
    )  # fmt: skip
    f = torch.tensor(rng.normal(size=(b, 3))).float()
    f[draw_mask(rng, b, 3)] = torch.nan
    tau = float(rng.choice([0.1, 1.0, 10.0]))
    yield from checked(
        lambda x, y, rows: anchors.relational_contrast(x, y, present, f, scale, tau, rows), [a, z],
        plain_losses.relational_contrast(*listed, f.tolist(), scale, tau), b,
    )  # fmt: skip
    distance, comparable = anchors.phenotype_distances(f)
    for i in range(b):
        for j in range(b):
            expected = plain_losses.phenotype_distance(f.tolist(), i, j)
            yield "comparable", comparable[i, j], expected is not None
            if expected is not None:
                yield "distance of phenotypes", distance[i, j], expected
    one, two = draw_vectors(rng, b, 3, width), draw_vectors(rng, b, 3, width)
    each = [plain_losses.pair_contrast(x, y, [True] * 3, scale) for x, y in zip(one.tolist(), two.tolist())]
    yield "contrast within", anchors.contrast_within(one, two, scale), each
    yield (
        "over present ones",
        anchors.mean_over_present(torch.tensor(each), present),
        plain_losses.mean(x for x, there in zip(each, present.tolist()) if there),
    )
    predicted, target = torch.tensor(rng.normal(size=(b, 3))).float(), f
    counted = target.isfinite() & draw_mask(rng, b, 3)
    errors, has = phenotypes.squared_errors(predicted, target, counted)
    yield (
        "errors of phenotypes",
        errors,
        [
            plain_losses.mean((x - y) ** 2 for x, y, c in zip(*row) if c)
            for row in zip(predicted.tolist(), target.tolist(), counted.tolist())
        ],
    )
    yield "has one", has, [any(row) for row in counted.tolist()]


def _gaussians(rng: np.random.Generator) -> Pairs:
    b, width = _numbers(rng)
    mu, nu = (unit(draw_vectors(rng, b, width)) for _ in range(2))
    s, t = (torch.tensor(rng.normal(size=(b, width)) * rng.choice([1, 5])).float().clamp(max=3) for _ in range(2))
    listed = [x.tolist() for x in (mu, s, nu, t)]
    table = plain_losses.gaussian_distances(*listed)
    distance = gaussian.distances(mu, s, nu, t)
    yield "distances", distance, table
    match, counted = torch.eye(b, dtype=torch.bool) | draw_mask(rng, b, b), draw_mask(rng, b, b)
    scale, bias = float(rng.choice([0.1, 1.0, 10.0])), float(rng.choice([0.0, 5.0]))
    for balance in ("pairs", "equal"):
        yield from checked(
            lambda x, y, rows, balance=balance: gaussian.matching(
                gaussian.distances(x, s, y, t), match, scale, bias, balance, counted, rows
            ),
            [mu, nu],
            plain_losses.gaussian_matching(table, match.tolist(), scale, bias, balance, counted.tolist()), b,
        )  # fmt: skip
    exact = torch.tensor(table)
    near = [[bool(match[i, j]) or table[i][j] <= table[i][i] for j in range(b)] for i in range(b)]
    yield "pseudo-matches", gaussian.pseudo_matches(exact, match), near
    each = plain_losses.divergence(listed[0], listed[1])
    yield from checked(gaussian.divergence, [mu, s], plain_losses.mean(each))
    yield "of latents", ecg_vae.divergence(mu[..., None], s[..., None]), plain_losses.mean(each)
    yield "of images", volume_vae.kl_to_standard_normal(mu, s), each


def _teachers(rng: np.random.Generator) -> Pairs:
    b, width = _numbers(rng)
    student, teacher = unit(draw_vectors(rng, b, width)), unit(draw_vectors(rng, b, width))
    variance, listed = torch.tensor(float(rng.choice([0.01, 1.0]))), (student.tolist(), teacher.tolist())
    expected = plain_losses.unexplained(*listed, float(variance))
    yield from checked(lambda x: distillation.unexplained(x, teacher, variance), [student], expected)
    yield from checked(
        lambda x, rows: distillation.relations(x, teacher, variance, rows), [student],
        plain_losses.relations(*listed, float(variance)), b,
    )  # fmt: skip


def _statements(rng: np.random.Generator) -> Pairs:
    b, width = _numbers(rng)
    statements, beats = (torch.tensor(rng.normal(size=(b, n, width))) for n in (3, 4))  # in double: beats may cancel
    counts = torch.tensor(rng.integers(1, 4, size=b))
    table = [
        [plain_losses.local_similarity(statements[i, : counts[i]].tolist(), beats[j].tolist()) for j in range(b)]
        for i in range(b)
    ]
    yield "similarity", local_alignment.local_similarity(statements, counts, beats), table
    report, treat = _reports(rng, b), str(rng.choice(["ignore", "positive", "negative"]))
    ours = local_alignment.local_nce(torch.tensor(table).float(), report, 2.0, treat)
    yield "contrast", ours, plain_losses.local_nce(table, report.tolist(), 2.0, treat)


def _beats(rng: np.random.Generator) -> Pairs:
    """Beats that solve the equation have no departure; of others it is the squared residual of their steps."""
    b, n_leads, n, step_s = 2, 2, 24, 0.02
    theta = torch.linspace(-math.pi, math.pi, n, dtype=torch.float64).expand(b, n)
    angle = torch.tensor(rng.uniform(-2, 2, (b, 3)))
    width, present = torch.tensor(rng.uniform(0.2, 0.6, (b, 3))), draw_mask(rng, b, 3)
    amplitude, base = torch.tensor(rng.normal(size=(b, n_leads, 3))), torch.tensor(rng.normal(size=(b, n_leads)))
    pulls = beat_ode.BeatWaves(angle, width, present).pulls(theta)

    def rate(i: int, lead: int, t: int, z: float) -> float:
        total = -(z - float(base[i, lead]))
        for k in range(3):
            if present[i, k]:
                d = (float(theta[i, t] - angle[i, k]) + math.pi) % (2 * math.pi) - math.pi
                total -= float(amplitude[i, lead, k]) * d * math.exp(-(d**2) / (2 * float(width[i, k]) ** 2))
        return total

    dynamics = beat_ode.Dynamics(pulls, amplitude, base)
    start = torch.tensor(rng.normal(size=(b, n_leads)))
    solution = beat_ode.integrate(start, dynamics, step_s)
    expected = [[[float(start[i, le])] for le in range(n_leads)] for i in range(b)]
    for i in range(b):
        for lead in range(n_leads):
            z = expected[i][lead]
            for t in range(n - 1):
                z.append(z[-1] + step_s * rate(i, lead, t, z[-1]))
    yield "solution", solution, expected
    yield "its departure", beat_ode.departure(solution, dynamics, step_s), [0.0] * b
    beat = solution + torch.tensor(rng.normal(size=solution.shape))
    steps = [
        [[(beat[i, le, t + 1] - beat[i, le, t]).item() for t in range(n - 1)] for le in range(n_leads)]
        for i in range(b)
    ]
    errors = [
        plain_losses.mean(
            (steps[i][le][t] - step_s * rate(i, le, t, float(beat[i, le, t]))) ** 2
            for le in range(n_leads)
            for t in range(n - 1)
        )
        for i in range(b)
    ]
    sizes = [plain_losses.mean(x * x for row in steps[i] for x in row) for i in range(b)]
    yield "departure", beat_ode.departure(beat, dynamics, step_s), [e / s for e, s in zip(errors, sizes)]
    fitted = beat_ode.departure(solution, beat_ode.fit(solution, pulls, step_s), step_s)
    yield "departure of a fit", bool((fitted < 1e-6).all()), True


def _einthoven(rng: np.random.Generator) -> Pairs:
    ecg = torch.tensor(rng.normal(size=(2, 12, 5))).float()
    row = {lead: ecg[:, k].double() for k, lead in enumerate(LEADS)}
    residuals = [
        row["III"] - row["II"] + row["I"], row["aVR"] + (row["I"] + row["II"]) / 2,
        row["aVL"] - row["I"] + row["II"] / 2, row["aVF"] - row["II"] + row["I"] / 2,
    ]  # fmt: skip
    expected = plain_losses.mean(float(x) ** 2 for r in residuals for x in (r - r.mean(-1, keepdim=True)).flatten())
    yield from checked(lambda x: wear_ecg.einthoven(x, LEADS), [ecg], expected)


_AUROC = _ranking(auroc.auroc, auroc.weighted_auroc, plain_metrics.auroc, sklearn_metrics.roc_auc_score)
_AUPRC = _ranking(
    auprc.average_precision,
    auprc.weighted_average_precision,
    plain_metrics.average_precision,
    sklearn_metrics.average_precision_score,
)
QUANTITIES = (
    Quantity("AUROC", _AUROC),
    Quantity("average precision", _AUPRC),
    Quantity("F1, F2 and their thresholds", _thresholds),
    Quantity("ECE and Brier score", _calibration),
    Quantity("reliability curve", _reliability, share=0.3),
    Quantity("intervals of all metrics over patients", _intervals, share=0.3),
    Quantity("repeats, gains and thirds by uncertainty", _repeats),
    Quantity("shuffled pairs", _shuffled),
    Quantity("paired tests", _p_values),
    Quantity("Platt scaling", _platt, rtol=1e-4, atol=1e-4, share=0.2),
    Quantity("isotonic regression", _isotonic),
    Quantity("R², absolute error and r", _regression, rtol=1e-6, atol=1e-9),
    Quantity("intervals of R²", _regression_intervals, rtol=1e-7),
    Quantity("ridge regression", _ridge, rtol=1e-6, atol=1e-8),
    Quantity("CRPS", _posterior, atol=1e-8),
    Quantity("Frechet and nearest distance", _feature_sets, rtol=1e-6, atol=1e-5),
    Quantity("ranks and recall", _ranks),
    Quantity("weighted medians", _medians),
    Quantity("pools", _pools),
    Quantity("resampling of signals", _resampling, rtol=1e-5, atol=1e-6, share=0.3),
    Quantity("resampled sines", _sines),
    Quantity("limb leads", _limb_leads, atol=1e-9),
    Quantity("InfoNCE and SigLIP", _contrast, rtol=1e-4, atol=1e-4),
    Quantity("reconstruction losses", _reconstruction, rtol=1e-4, atol=1e-6),
    Quantity("cross-entropy of tokens", _tokens, rtol=1e-4, atol=1e-5),
    Quantity("orthogonality and decorrelation", _disentangling, rtol=1e-4, atol=1e-5),
    Quantity("instance discrimination", _instances, rtol=1e-4, atol=1e-5),
    Quantity("losses of pairs", _pairs, rtol=1e-4, atol=1e-5),
    Quantity("losses of two views", _views, rtol=1e-4, atol=1e-4),
    Quantity("losses of series", _series, rtol=1e-4, atol=1e-4),
    Quantity("losses of anchors", _anchors, rtol=1e-4, atol=1e-4),
    Quantity("losses of Gaussians", _gaussians, rtol=1e-4, atol=1e-4),
    Quantity("losses of students", _teachers, rtol=1e-4, atol=1e-4),
    Quantity("statements and beats", _statements, rtol=1e-4, atol=1e-5),
    Quantity("heartbeat equation", _beats, rtol=1e-6, atol=1e-8),
    Quantity("Einthoven's equations", _einthoven, rtol=1e-4, atol=1e-6),
)
