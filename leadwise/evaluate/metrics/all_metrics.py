"""The measures beside AUROC, all from one set of scores: AUPRC, F1, calibration error and Brier score.

Which of them there are depends on what is at hand: F1 needs thresholds that another split fixed, calibration needs
probabilities. Each is a `Score`: per class, macro over the classes for which it is defined, intervals over the same
resamplings of patients as AUROC's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.evaluate.metrics import auprc, calibration, f1
from leadwise.evaluate.metrics.auroc import (
    N_REPLICATES,
    Floats,
    Score,
    resample_patients,
    summary,
)

MEASURES = ("auprc", "f1", "ece", "brier")
HIGHER_IS_BETTER = {"auroc": True, "auprc": True, "f1": True, "ece": False, "brier": False}

_Weighted = Callable[[int, NDArray[Any]], Floats]  # (repeat, weights (R, N)) -> (R, K)


def measures(
    labels: NDArray[Any],
    scores: Floats,
    patients: Sequence[str] | NDArray[Any],
    classes: Sequence[str],
    thresholds: Floats | None = None,
    probabilities: Floats | None = None,
    n_replicates: int = N_REPLICATES,
) -> dict[str, Score]:
    """The measures by name; one for which no class is defined is left out.

    Args:
        labels: (N, K) in {0, 1}.
        scores: (S, N, K) for S repeats of one experiment, over which measures are averaged.
        patients: N patient names.
        classes: K class names.
        thresholds: (S, K) from validation, nan where there is none; without them there is no F1.
        probabilities: (S, N, K) in [0, 1]; without them there is no calibration.
    """
    truth = np.asarray(labels).astype(bool)
    weights = resample_patients(patients, n_replicates, 0)
    asked: dict[str, _Weighted] = {
        "auprc": lambda s, weight: auprc.weighted_average_precision(truth, scores[s], weight)
    }
    if thresholds is not None:
        asked["f1"] = lambda s, weight: f1.weighted_f1(truth, scores[s], thresholds[s], weight)
    if probabilities is not None:
        asked["ece"] = lambda s, weight: calibration.weighted_calibration_error(truth, probabilities[s], weight)
        asked["brier"] = lambda s, weight: calibration.weighted_brier(truth, probabilities[s], weight)
    once = np.ones((1, len(truth)))
    found: dict[str, Score] = {}
    for name, weighted in asked.items():
        estimate = np.mean([weighted(s, once)[0] for s in range(len(scores))], axis=0)
        if not np.isfinite(estimate).any():
            continue
        replicates = np.mean([weighted(s, weights) for s in range(len(scores))], axis=0)
        if name == "ece":  # a resampling's own chance gaps come on top: without them, or the interval misses the error
            replicates = np.maximum(0, replicates - np.mean(replicates, axis=0) + estimate)
        found[name] = summary(estimate, replicates, truth, patients, classes)
    return found


def chance(score: Score) -> dict[str, Any]:
    """What a random ranking's AUPRC would be: each class's share of positives, and their macro mean."""
    shares = {name: count / score.n_records for name, count in score.positives.items() if name not in score.skipped}
    return {"macro": float(np.mean(list(shares.values()))), "per_class": shares}


def to_json(found: Mapping[str, Score]) -> dict[str, Any]:
    """Each measure as plain JSON values, AUPRC with its chance."""
    told: dict[str, Any] = {name: score.to_json() for name, score in found.items()}
    if "auprc" in found:
        told["auprc"]["chance"] = chance(found["auprc"])
    return told


def cells(found: Mapping[str, Score], names: Sequence[str] = MEASURES) -> dict[str, float | None]:
    """The macro measures as cells of a table's line, AUPRC's chance after it; None where there is none."""
    line: dict[str, float | None] = {}
    for name in names:
        line[name] = found[name].macro if name in found else None
        if name == "auprc":
            line["chance"] = chance(found[name])["macro"] if name in found else None
    return line


def class_cells(found: Mapping[str, Score], of_class: str, names: Sequence[str] = MEASURES) -> dict[str, float | None]:
    """The measures of one class as cells of a table's line; None where undefined."""
    return {name: found[name].per_class[of_class] if name in found else None for name in names}


def long_rows(found: Mapping[str, Score], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each measure and class, "macro" first: for files that other programs read."""
    lines = []
    for measure, score in found.items():
        low, high = score.interval
        shares = chance(score) if measure == "auprc" else None
        base: dict[str, Any] = {**about, "measure": measure}
        chances = {} if shares is None else {"macro": shares["macro"], **shares["per_class"]}
        guess = 0.5 if measure == "auroc" else None
        lines.append(
            {**base, "class": "macro", "positives": None, "value": score.macro, "low": low, "high": high}
            | {"chance": chances.get("macro", guess), "n_records": score.n_records, "n_patients": score.n_patients}
        )
        for name, value in score.per_class.items():
            between = score.class_interval[name]
            low_high = {"low": None, "high": None} if between is None else {"low": between[0], "high": between[1]}
            lines.append(
                {**base, "class": name, "positives": score.positives[name], "value": value, **low_high}
                | {"chance": chances.get(name, None if value is None else guess)}
                | {"n_records": score.n_records, "n_patients": score.n_patients}
            )
    return lines
