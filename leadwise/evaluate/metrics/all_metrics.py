"""The metrics reported beside AUROC, all from one set of scores: AUPRC, F1 in three variants, calibration error, Brier score.

F1 needs thresholds from another split, and calibration needs probabilities; without them these metrics are left out. Each
metric is a `Score`: per class, macro over the classes for which it is defined, with intervals over the same resamplings of
patients as AUROC's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.evaluate.metrics import auprc, calibration, f1
from leadwise.evaluate.metrics.bootstrap import N_REPLICATES, resample_patients, summarize
from leadwise.evaluate.metrics.score import Floats, Score

RANKING = ("auprc",)
AT_THRESHOLDS = ("f1_val", "f1_max", "f2_val")
OF_PROBABILITIES = ("ece", "brier")
METRICS = (*RANKING, *AT_THRESHOLDS, *OF_PROBABILITIES)
HIGHER_IS_BETTER = {"auroc": True} | {name: name not in OF_PROBABILITIES for name in METRICS}
F1_VARIANTS = (
    "f1_val: thresholds with the best F1 on validation; f1_max: thresholds chosen on the scored recordings, optimistic; f2_val: "
    "F2, thresholds from validation"
)

_WeightedMetric = Callable[[int, NDArray[Any]], Floats]  # (repeat, weights (R, N)) -> (R, K)


def compute_metrics(
    labels: NDArray[Any],
    scores: Floats,
    patients: Sequence[str] | NDArray[Any],
    classes: Sequence[str],
    thresholds: f1.Thresholds | None = None,
    probabilities: Floats | None = None,
    n_replicates: int = N_REPLICATES,
) -> dict[str, Score]:
    """Return the metrics by name; a metric that is defined for no class is left out.

    Args:
        labels: (N, K) in {0, 1}.
        scores: (S, N, K) for S repeats of one experiment; metrics are means over the repeats.
        patients: N patient names.
        classes: K class names.
        thresholds: from validation; None leaves F1 out. A class without one has no F1 in any variant.
        probabilities: (S, N, K) in [0, 1]; None leaves the calibration metrics out.
    """
    # The metrics that the given inputs allow, as functions of the weights of the records.
    truth = np.asarray(labels).astype(bool)
    weights = resample_patients(patients, n_replicates, 0)
    weighted_metrics: dict[str, _WeightedMetric] = {
        "auprc": lambda s, weight: auprc.weighted_average_precision(truth, scores[s], weight)
    }
    if thresholds is not None:
        best = [np.where(np.isnan(val), np.nan, f1.best_thresholds(truth, s)) for val, s in zip(thresholds.f1, scores)]
        weighted_metrics["f1_val"] = lambda s, weight: f1.weighted_f1(truth, scores[s], thresholds.f1[s], weight)
        weighted_metrics["f1_max"] = lambda s, weight: f1.weighted_f1(truth, scores[s], best[s], weight)
        weighted_metrics["f2_val"] = lambda s, weight: f1.weighted_f1(truth, scores[s], thresholds.f2[s], weight, 2)
    if probabilities is not None:
        weighted_metrics["ece"] = lambda s, weight: calibration.weighted_calibration_error(
            truth, probabilities[s], weight
        )
        weighted_metrics["brier"] = lambda s, weight: calibration.weighted_brier(truth, probabilities[s], weight)

    # Each metric on the records themselves (all weights 1) and in every resampling.
    ones = np.ones((1, len(truth)))
    metrics: dict[str, Score] = {}
    for name, weighted in weighted_metrics.items():
        estimate = np.mean([weighted(s, ones)[0] for s in range(len(scores))], axis=0)
        if not np.isfinite(estimate).any():
            continue
        replicates = np.mean([weighted(s, weights) for s in range(len(scores))], axis=0)
        if name == "ece":  # resampling adds random gaps; without this correction the interval would miss the estimate
            replicates = np.maximum(0, replicates - np.mean(replicates, axis=0) + estimate)
        metrics[name] = summarize(estimate, replicates, truth, patients, classes)
    return metrics


def auprc_chance(score: Score) -> dict[str, Any]:
    """Return the AUPRC of a random ranking: the prevalence of each class, and their macro mean."""
    prevalence = {name: count / score.n_records for name, count in score.positives.items() if name not in score.skipped}
    return {"macro": float(np.mean(list(prevalence.values()))), "per_class": prevalence}


def to_json(metrics: Mapping[str, Score]) -> dict[str, Any]:
    """Return each metric as plain JSON values, AUPRC with its chance level."""
    values: dict[str, Any] = {name: score.to_json() for name, score in metrics.items()}
    if "auprc" in metrics:
        values["auprc"]["chance"] = auprc_chance(metrics["auprc"])
    return values


def table_cells(metrics: Mapping[str, Score], names: Sequence[str] = METRICS) -> dict[str, float | None]:
    """Return the macro metrics as cells of a table row, the chance level after AUPRC; None for a missing metric."""
    row: dict[str, float | None] = {}
    for name in names:
        row[name] = metrics[name].macro if name in metrics else None
        if name == "auprc":
            row["chance"] = auprc_chance(metrics[name])["macro"] if name in metrics else None
    return row


def class_cells(
    metrics: Mapping[str, Score], class_name: str, names: Sequence[str] = METRICS
) -> dict[str, float | None]:
    """Return the metrics of one class as cells of a table row; None where undefined."""
    return {name: metrics[name].per_class[class_name] if name in metrics else None for name in names}


def long_rows(metrics: Mapping[str, Score], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each metric and class, "macro" first: the long format for files that other programs read.

    Args:
        about: columns that every row begins with.
    """
    rows = []
    for measure, score in metrics.items():
        # The chance level: the prevalence for AUPRC, 0.5 for AUROC, none for the others.
        low, high = score.interval
        prevalence = auprc_chance(score) if measure == "auprc" else None
        chances = {} if prevalence is None else {"macro": prevalence["macro"], **prevalence["per_class"]}
        default_chance = 0.5 if measure == "auroc" else None

        # The macro row, then one row for each class.
        base: dict[str, Any] = {**about, "measure": measure}
        rows.append(
            {**base, "class": "macro", "positives": None, "value": score.macro, "low": low, "high": high}
            | {"chance": chances.get("macro", default_chance)}
            | {"n_records": score.n_records, "n_patients": score.n_patients}
        )
        for name, value in score.per_class.items():
            interval = score.class_interval[name]
            low_high = {"low": None, "high": None} if interval is None else {"low": interval[0], "high": interval[1]}
            rows.append(
                {**base, "class": name, "positives": score.positives[name], "value": value, **low_high}
                | {"chance": chances.get(name, None if value is None else default_chance)}
                | {"n_records": score.n_records, "n_patients": score.n_patients}
            )
    return rows
