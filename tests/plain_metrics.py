"""Slow, plain versions of the metrics, of the calibration and of the resampling of signals, from the textbook formulas.

Tests compare the library with them on small inputs, and `plain_numbers` on many random ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.optimize import minimize

Numbers = Sequence[float]

# ------------------------------------------------------------------------------------------------ classes


def auroc(labels: Sequence[int], scores: Numbers, weights: Numbers | None = None) -> float:
    """The share of pairs of a positive and a negative record in which the positive has the higher score; ties count half."""
    counts = [1.0] * len(labels) if weights is None else weights
    won = pairs = 0.0
    for i, j in itertools.product(range(len(labels)), repeat=2):
        if labels[i] and not labels[j]:
            pairs += counts[i] * counts[j]
            won += counts[i] * counts[j] * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    return won / pairs if pairs else math.nan


def average_precision(labels: Sequence[int], scores: Numbers, weights: Numbers | None = None) -> float:
    """Precision at each score, weighted by the share of the positives that have it; NaN with one label value only."""
    counts = [1.0] * len(labels) if weights is None else weights
    positive = sum(c for c, y in zip(counts, labels) if y)
    if not 0 < positive < sum(counts):
        return math.nan
    total = 0.0
    for at in sorted(set(scores)):
        listed = sum(c for c, s in zip(counts, scores) if s >= at)
        hits = sum(c for c, y, s in zip(counts, labels, scores) if y and s >= at)
        gained = sum(c for c, y, s in zip(counts, labels, scores) if y and s == at)
        total += hits / listed * gained / positive if gained else 0.0
    return total


def f_beta(
    labels: Sequence[int], scores: Numbers, threshold: float, beta: float = 1.0, weights: Numbers | None = None
) -> float:
    """(1 + beta^2) precision recall / (beta^2 precision + recall) by counts; NaN without a positive record or a threshold."""
    counts = [1.0] * len(labels) if weights is None else weights
    hit = sum(c for c, y, s in zip(counts, labels, scores) if y and s >= threshold)
    missed = sum(c for c, y, s in zip(counts, labels, scores) if y and not s >= threshold)
    false = sum(c for c, y, s in zip(counts, labels, scores) if not y and s >= threshold)
    if math.isnan(threshold) or not hit + missed or all(labels):
        return math.nan
    return (1 + beta**2) * hit / ((1 + beta**2) * hit + beta**2 * missed + false)


def best_threshold(labels: Sequence[int], scores: Numbers, beta: float = 1.0) -> float:
    """The score with the highest F-beta, the highest one of several; NaN without a positive record."""
    if not any(labels):
        return math.nan
    best, chosen = Fraction(-1), math.nan
    for at in sorted(set(scores), reverse=True):
        hit = sum(1 for y, s in zip(labels, scores) if y and s >= at)
        reached = sum(1 for s in scores if s >= at)
        squared = Fraction(beta) ** 2
        value = (1 + squared) * hit / (reached + squared * sum(labels))
        if value > best:
            best, chosen = value, at
    return chosen


def bins_of(probabilities: Numbers, n_bins: int) -> list[list[int]]:
    """Records sorted by probability and cut into bins of equal count; ties go into the bin of the first of them."""
    order = sorted(range(len(probabilities)), key=lambda n: probabilities[n])
    of_bin: dict[int, list[int]] = {}
    for place, n in enumerate(order):
        first = next(p for p in range(place + 1) if probabilities[order[p]] == probabilities[n])
        of_bin.setdefault(first * n_bins // len(probabilities), []).append(n)
    return list(of_bin.values())


def calibration_error(
    labels: Sequence[int], probabilities: Numbers, n_bins: int = 15, weights: Numbers | None = None
) -> float:
    """ECE in the bins of the records without weights; NaN where all have one label."""
    if len(set(labels)) < 2:
        return math.nan
    counts = [1.0] * len(labels) if weights is None else weights
    gaps = [
        abs(math.fsum(counts[n] * (probabilities[n] - labels[n]) for n in part))
        for part in bins_of(probabilities, n_bins)
    ]
    return math.fsum(gaps) / sum(counts)


def brier(labels: Sequence[int], probabilities: Numbers, weights: Numbers | None = None) -> float:
    counts = [1.0] * len(labels) if weights is None else weights
    if len(set(labels)) < 2:
        return math.nan
    return math.fsum(c * (p - y) ** 2 for c, p, y in zip(counts, probabilities, labels)) / sum(counts)


# ------------------------------------------------------------------------------------------------ intervals


def percentile(values: Numbers, share: float) -> float:
    """Linear between the order statistics; NaN values are left out."""
    ordered = sorted(v for v in values if not math.isnan(v))
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def drawn_counts(patients: Sequence[str], n_replicates: int, seed: int) -> list[list[int]]:
    """How often each record is drawn in each resampling, patient by patient, from the same random numbers as the library's."""
    names = sorted(set(patients))
    rng = np.random.default_rng(seed)
    rows = []
    for drawn in rng.integers(len(names), size=(n_replicates, len(names))).tolist():
        rows.append([sum(1 for number in drawn if names[number] == patient) for patient in patients])
    return rows


def mean_of_known(values: Numbers) -> float:
    """The mean of the values that are numbers; NaN of none."""
    known = [v for v in values if not math.isnan(v)]
    return math.fsum(known) / len(known) if known else math.nan


def holm(p_values: Numbers) -> list[float]:
    """The largest of the steps (K - number of smaller ones) p over p itself and all smaller ones, at most 1."""
    corrected = []
    for k, p in enumerate(p_values):
        before = [(q, i) for i, q in enumerate(p_values) if (q, i) <= (p, k)]
        steps = [q * (len(p_values) - sum(1 for j, r in enumerate(p_values) if (r, j) < (q, i))) for q, i in before]
        corrected.append(min(1.0, max(steps)))
    return corrected


def weighted_median(values: Numbers, weights: Numbers) -> float:
    """The middle of all values m that have at most half of the weight below and at most half above them."""
    half = math.fsum(weights) / 2
    near = 1e-9 * half
    middle = [
        v
        for v, w in zip(values, weights)
        if w > 0
        and math.fsum(u for x, u in zip(values, weights) if x < v) <= half + near
        and math.fsum(u for x, u in zip(values, weights) if x > v) <= half + near
    ]
    return (min(middle) + max(middle)) / 2


# ------------------------------------------------------------------------------------------------ regression


def regression(truth: Numbers, predicted: Numbers, weights: Numbers | None = None) -> dict[str, float]:
    """R^2, mean absolute error and Pearson's r over the records with a value; NaN where undefined."""
    counts = [1.0] * len(truth) if weights is None else weights
    known = [(y, z, c) for y, z, c in zip(truth, predicted, counts) if not math.isnan(y) and c > 0]
    if not known:
        return dict.fromkeys(("r2", "mae", "r"), math.nan)
    total = math.fsum(c for _, _, c in known)
    mean_y, mean_z = (math.fsum(c * pair[k] for *pair, c in known) / total for k in (0, 1))
    of_y = math.fsum(c * (y - mean_y) ** 2 for y, _, c in known)
    of_z = math.fsum(c * (z - mean_z) ** 2 for _, z, c in known)
    both = math.fsum(c * (y - mean_y) * (z - mean_z) for y, z, c in known)
    error = math.fsum(c * (y - z) ** 2 for y, z, c in known)
    varies = len({y for y, _, _ in known}) > 1
    # predictions that are equal within the precision of float32 have no correlation
    predicted_varies = math.sqrt(of_z / total) > 1e-7 * max(abs(z) for z in predicted)
    return {
        "r2": 1 - error / of_y if varies else math.nan,
        "mae": math.fsum(c * abs(y - z) for y, z, c in known) / total,
        "r": both / math.sqrt(of_y) / math.sqrt(of_z) if varies and predicted_varies else math.nan,
    }


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Coefficients and intercept that minimise the squared error plus penalty x n x |w|^2, by the normal equations."""
    center, level = x.mean(axis=0), y.mean()
    matrix = (x - center).T @ (x - center) + penalty * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(matrix, (x - center).T @ (y - level))
    return weights, float(level - center @ weights)


def crps(draws: Numbers, truth: float) -> float:
    """E|x - y| - E|x - x'| / 2 over different draws."""
    error = math.fsum(abs(x - truth) for x in draws) / len(draws)
    pairs = [abs(x - y) for (i, x), (j, y) in itertools.product(enumerate(draws), repeat=2) if i != j]
    return error - (math.fsum(pairs) / len(pairs) / 2 if pairs else 0.0)


# ------------------------------------------------------------------------------------------------ retrieval


def match_ranks(row: Numbers, right: Sequence[int]) -> list[float]:
    """Probability that the first correct item of one query is at rank 1, 2, ... over the random order of ties."""
    best = max(row[item] for item in right)
    above = sum(1 for score in row if score > best)
    correct = sum(1 for item in set(right) if row[item] == best)
    tied = sum(1 for score in row if score == best)
    shares = [0.0] * len(row)
    for place in range(tied - correct + 1):  # so many wrong ones come first
        chance = Fraction(1)
        for before in range(place):
            chance *= Fraction(tied - correct - before, tied - before)
        shares[above + place] = float(chance * Fraction(correct, tied - place))
    return shares


def all_orders(scores: Sequence[Numbers], right: Sequence[Sequence[int]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """(recall@k, ranks) of each query, the mean over every order of the items with higher scores first."""
    hits, ranks = [], []
    for query, row in enumerate(scores):
        orders = [
            order
            for order in itertools.permutations(range(len(row)))
            if all(row[a] >= row[b] for a, b in itertools.pairwise(order))
        ]
        places = [next(at for at, item in enumerate(order, 1) if item in right[query]) for order in orders]
        hits.append(np.mean([place <= k for place in places]))
        ranks.append(np.mean(places))
    return np.array(hits), np.array(ranks)


# ------------------------------------------------------------------------------------------------ calibration


def platt_loss(cosine: Numbers, labels: Sequence[int]) -> Callable[[Any], float]:
    """The negative log-likelihood with Platt's targets as a function of (slope, intercept), one record at a time."""
    n_positive = sum(labels)
    n_negative = len(labels) - n_positive
    targets = [(n_positive + 1) / (n_positive + 2) if y else 1 / (n_negative + 2) for y in labels]

    def loss(parameters: Any) -> float:
        total = 0.0
        for s, target in zip(cosine, targets):
            z = parameters[0] * s + parameters[1]
            total += float(np.logaddexp(0, z)) - target * z
        return total

    return loss


def fit_platt(cosine: Numbers, labels: Sequence[int]) -> np.ndarray:
    """Slope and intercept by a general minimiser."""
    loss = platt_loss(cosine, labels)
    return np.asarray(
        minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}).x
    )


def fit_isotonic(labels_in_order: Numbers, weights: Numbers | None = None) -> list[float]:
    """Pool adjacent violators: the non-decreasing values with the least squared error to values sorted by cosine."""
    counts = [1.0] * len(labels_in_order) if weights is None else weights
    blocks: list[tuple[float, float, int]] = []
    for label, count in zip(labels_in_order, counts):
        blocks.append((label * count, count, 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count, n = blocks.pop()
            blocks[-1] = (blocks[-1][0] + total, blocks[-1][1] + count, blocks[-1][2] + n)
    return [total / count for total, count, n in blocks for _ in range(n)]


# ------------------------------------------------------------------------------------------------ signals


def bridged(lead: Numbers, longest: float) -> tuple[list[float], list[bool]]:
    """A lead with each gap filled by a line, or by the nearest sample at an end; and which samples count as observed.

    Gaps of at most `longest` samples that have a sample on both sides count as observed.
    """
    n, known = len(lead), [t for t, x in enumerate(lead) if not math.isnan(x)]
    if not known:
        return [0.0] * n, [False] * n
    values, observed = [], []
    for t in range(n):
        before, after = max((k for k in known if k <= t), default=None), min((k for k in known if k >= t), default=None)
        if before is None or after is None:
            values.append(lead[known[0] if before is None else known[-1]])
            observed.append(False)
        elif before == after:
            values.append(lead[t])
            observed.append(True)
        else:
            values.append(lead[before] + (lead[after] - lead[before]) * (t - before) / (after - before))
            observed.append(after - before - 1 <= longest)
    return values, observed


def resampled(lead: Numbers, up: int, down: int) -> list[float]:
    """A lead at `up / down` times its rate: a windowed sinc, summed sample by sample.

    The low pass is at the lower of the two Nyquist rates, over ten samples of the lower rate on each side, under a Kaiser window
    with beta 5, with a gain of 1 at 0 Hz. Beyond its ends the lead goes on along the line from its first to its last sample. Its
    median is not filtered.
    """
    n, widest = len(lead), max(up, down)
    middle = float(np.median(lead))
    half = 10 * widest
    slope = (lead[-1] - lead[0]) / (n - 1) if n > 1 else 0.0
    taps = []
    for k in range(-half, half + 1):
        sinc = 1.0 if k == 0 else math.sin(math.pi * k / widest) / (math.pi * k / widest)
        taps.append(sinc * float(np.i0(5.0 * math.sqrt(1 - (k / half) ** 2)) / np.i0(5.0)))
    gain = up / math.fsum(taps)
    out = []
    for place in range(-(-n * up // down)):
        total = 0.0
        for t in range(-(-(place * down - half) // up), (place * down + half) // up + 1):
            value = lead[t] if 0 <= t < n else lead[0] + slope * t
            total += (value - middle) * taps[place * down - t * up + half]
        out.append(total * gain + middle)
    return out
