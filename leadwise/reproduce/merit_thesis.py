"""MERIT's thesis as a test that can fail, on simulated ECGs whose reports state no measurement.

    R   the findings that reports state: macro AUROC of a probe, trained on the training split, over the findings that at
        least MIN_POSITIVES test recordings have
    U   QRS duration, frontal axis, PR, QTc and T amplitude, which no report states: mean R² of a ridge regression

The thesis: reconstruction and contrast together lose neither. MERIT is above mask-only on R, and above contrast-only on U. Each
part holds here if the 95 % interval of the paired difference, over resamplings of the test patients, is above 0.

U are the true values behind each simulated ECG, not measurements of it. The axis is an angle, so its cosine and sine are
predicted. PR is missing where no P wave is conducted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.simulator.findings import FINDINGS
from leadwise.data.simulator.reports import MEASURED, mentions_measurement
from leadwise.evaluate.logistic_regression import fit, standardisation
from leadwise.evaluate.metrics.auroc import auroc, auroc_score
from leadwise.evaluate.metrics.bootstrap import (
    N_REPLICATES,
    gain,
    mean_of_defined,
    percentile_interval,
    resample_patients,
)
from leadwise.evaluate.metrics.score import Floats, Interval, Score

Line = dict[str, Any]

MASK_ONLY, CONTRAST_ONLY, MERIT = "mask-only", "contrast-only", "MERIT"
SHUFFLED, RANDOM_ENCODER, STATED = "shuffled pairs", "random encoder", "stated findings alone"

STATED_FINDINGS = tuple(code for code in FINDINGS if code not in MEASURED)  # R
MIN_POSITIVES = 10  # test recordings with a finding; with fewer, it is left out of R
QUANTITIES: dict[str, tuple[int, ...]] = {  # U: name -> its columns in `unstated_values`
    "QRS duration": (0,),
    "frontal axis": (1, 2),
    "PR": (3,),
    "QTc": (4,),
    "T amplitude": (5,),
}

_PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0)  # in units of the number of recordings
_MAX_FEATURE = 5.0  # standard deviations: a feature that is nearly constant in training may be huge elsewhere


@dataclass(frozen=True)
class ThesisData:
    """The simulated recordings, all splits: what is predicted, N recordings."""

    split: NDArray[Any]  # (N,) "train", "val" or "test"
    patient: NDArray[Any]  # (N,)
    labels: NDArray[np.int8]  # (N, K) of STATED_FINDINGS
    values: Floats  # (N, 6), NaN where undefined: the columns of QUANTITIES

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the indices of a split's recordings."""
        return np.flatnonzero(self.split == split)

    @property
    def scored(self) -> NDArray[np.int64]:
        """The columns of the findings that R is computed over."""
        return np.flatnonzero(self.labels[self.rows("test")].sum(axis=0) >= MIN_POSITIVES)

    @property
    def left_out(self) -> dict[str, int]:
        """The findings that R leaves out, with the number of test recordings that have them."""
        counts = self.labels[self.rows("test")].sum(axis=0)
        return {name: int(n) for name, n in zip(STATED_FINDINGS, counts) if n < MIN_POSITIVES}


@dataclass(frozen=True)
class Predictions:
    """What the probes of one run give for the M test recordings."""

    logits: Floats  # (M, K)
    values: Floats  # (M, 6)


@dataclass(frozen=True)
class ArmScore:
    """Scores of one arm: means over its seeds, with resamplings of the test patients."""

    stated: Score  # R
    unstated: float  # U: mean R² over the quantities
    unstated_replicates: Floats = field(repr=False, compare=False)  # (R,)
    by_quantity: dict[str, float] = field(default_factory=dict)
    stated_seeds: tuple[float, ...] = ()
    unstated_seeds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One difference between two arms, with its interval."""

    arm: str
    other: str
    target: str  # "R" or "U"
    difference: float
    interval: Interval
    is_criterion: bool  # part of the thesis; else printed for information

    @property
    def holds(self) -> bool:
        """Whether the interval is above 0."""
        return self.interval[0] > 0

    @property
    def sentence(self) -> str:
        """The claim with its numbers and its verdict."""
        low, high = (100 * bound for bound in self.interval)
        unit = "macro AUROC x 100" if self.target == "R" else "mean R² x 100"
        verdict = "holds" if self.holds else "does not hold here"
        return (
            f"{self.arm} above {self.other} on {self.target} ({unit}): difference {100 * self.difference:+.2f}, "
            f"95 % interval {low:+.2f} to {high:+.2f}: {verdict}."
        )


# --------------------------------------------------------------------------------------------------- the data


def load_data(cohort: Cohort, truth: Path, rows: NDArray[np.int64]) -> ThesisData:
    """Return what is predicted for these rows of a simulated cohort, with the true values of its truth.csv.

    Raises:
        CohortError: a report mentions a quantity of U, or a recording has no true values.
    """
    # no report may state what only the ECG has
    n_mentions = sum(map(mentions_measurement, cohort.reports.take(rows)))
    if n_mentions:
        raise CohortError(
            f"{cohort.folder}: {n_mentions} reports mention an interval, the axis or the T wave; delete the folder, so that it "
            "is simulated again"
        )

    # the true values, in the order of the cohort
    table = pd.read_csv(truth).set_index("record")
    records = cohort.records.take(rows)
    missing = sorted(set(records) - set(table.index))
    if missing:
        raise CohortError(f"{truth}: no row for recording {missing[0]}; delete it, so that it is simulated again")
    table = table.loc[records]
    axis = np.deg2rad(table["axis_deg"].to_numpy(dtype=np.float64))
    plain = {name: table[name].to_numpy(dtype=np.float64) for name in ("qrs_ms", "pr_ms", "qtc_ms", "t_mv")}
    columns = [plain["qrs_ms"], np.cos(axis), np.sin(axis), plain["pr_ms"], plain["qtc_ms"], plain["t_mv"]]

    # the labels of R
    classes = cohort.tasks["findings"]
    labels = cohort.labels("findings", rows)[:, [classes.index(code) for code in STATED_FINDINGS]]
    return ThesisData(cohort.splits(rows), np.array(cohort.patients.take(rows)), labels, np.stack(columns, axis=1))


# --------------------------------------------------------------------------------------------------- the probes


def predict(features: NDArray[np.floating], data: ThesisData) -> Predictions:
    """Fit the probes on the training split and return their predictions for the test split.

    Penalties are chosen on the validation split: of the logistic regressions together, of the ridge for each quantity.

    Args:
        features: (N, D) of the recordings of `data`.
    """
    train, val, test = (data.rows(split) for split in ("train", "val", "test"))
    model = fit(features[train], data.labels[train], features[val], data.labels[val])
    return Predictions(model.scores(features[test]), predict_values(features, data))


def predict_values(features: NDArray[Any], data: ThesisData) -> Floats:
    """Return the ridge's predictions (M, 6) of the quantities for the test split; see `predict`."""
    train, val, test = (data.rows(split) for split in ("train", "val", "test"))
    mean, inverse_std = standardisation(np.asarray(features[train], dtype=np.float64))
    inputs = np.clip((np.asarray(features, dtype=np.float64) - mean) * inverse_std, -_MAX_FEATURE, _MAX_FEATURE)
    predicted = np.full((len(test), data.values.shape[1]), np.nan)
    for columns in map(list, QUANTITIES.values()):
        # the recordings in which the quantity is defined
        known = _known(data.values, columns)
        fitted, checked = train[known[train]], val[known[val]]
        values = data.values[:, columns]
        center, level = inputs[fitted].mean(axis=0), values[fitted].mean(axis=0)
        x, y = inputs[fitted] - center, values[fitted] - level
        variances, axes = np.linalg.eigh(x.T @ x)
        projected = axes.T @ (x.T @ y)

        # the penalty with the smallest error on validation
        errors, weights = [], []
        for penalty in _PENALTIES:
            weights.append(axes @ (projected / (variances + penalty * len(x))[:, None]))
            residual = values[checked] - level - (inputs[checked] - center) @ weights[-1]
            errors.append(float(np.square(residual).mean()) if len(checked) else 0.0)
        predicted[:, columns] = level + (inputs[test] - center) @ weights[int(np.argmin(errors))]
    return predicted


def r_squared(truth: Floats, predicted: Floats, weights: NDArray[Any]) -> Floats:
    """Return (R, Q) the R² of each quantity where recording m counts weights[r, m] times; NaN where it has no variance.

    The columns of a quantity (cosine and sine) are pooled. R² is relative to the weighted mean of the truth.

    Args:
        truth, predicted: (M, 6); recordings in which the truth is NaN are left out.
        weights: (R, M).
    """
    result = np.full((len(weights), len(QUANTITIES)), np.nan)
    for k, columns in enumerate(map(list, QUANTITIES.values())):
        known = _known(truth, columns)
        weight = np.asarray(weights, dtype=np.float64)[:, known]
        values, estimates = truth[known][:, columns], predicted[known][:, columns]
        error = weight @ np.square(values - estimates).sum(axis=1)
        y = values - values.mean(axis=0)  # for precision
        total = weight.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = weight @ np.square(y).sum(axis=1) - (np.square(weight @ y).sum(axis=1) / total)
            result[:, k] = np.where(spread > 1e-9 * total, 1 - error / spread, np.nan)
    return result


def _known(values: Floats, columns: list[int]) -> NDArray[np.bool_]:
    """Return (N,) whether all of these columns are defined."""
    return np.asarray(np.isfinite(values[:, columns]).all(axis=1))


# --------------------------------------------------------------------------------------------------- the scores


def score_arm(predictions: Sequence[Predictions], data: ThesisData, n_replicates: int = N_REPLICATES) -> ArmScore:
    """Return the scores of an arm from the predictions of its seeds, all on the same resamplings of test patients."""
    test = data.rows("test")
    values, patients = data.values[test], data.patient[test]

    # R
    labels, names = data.labels[test][:, data.scored], [STATED_FINDINGS[k] for k in data.scored]
    logits = np.stack([one.logits[:, data.scored] for one in predictions])
    stated = auroc_score(labels, logits, patients, names, n_replicates)
    stated_seeds = tuple(float(np.nanmean(auroc(labels, one))) for one in logits)

    # U
    ones, weights = np.ones((1, len(test))), resample_patients(patients, n_replicates, 0)
    each = np.array([r_squared(values, one.values, ones)[0] for one in predictions])  # (S, Q)
    replicates = np.mean([r_squared(values, one.values, weights) for one in predictions], axis=0)
    by_quantity = dict(zip(QUANTITIES, each.mean(axis=0).tolist()))
    return ArmScore(
        stated, float(np.nanmean(each)), mean_of_defined(replicates), by_quantity, stated_seeds,
        tuple(np.nanmean(each, axis=1).tolist()),
    )  # fmt: skip


def claims(arms: Mapping[str, ArmScore]) -> list[Claim]:
    """Return the two criteria of the thesis, then, for information, the other target and the control with shuffled pairs."""
    merit = arms[MERIT]
    out: list[Claim] = []
    compared = [
        (MASK_ONLY, "R", True),
        (CONTRAST_ONLY, "U", True),
        (CONTRAST_ONLY, "R", False),
        (MASK_ONLY, "U", False),
    ]
    compared += [(SHUFFLED, target, False) for target in ("R", "U") if SHUFFLED in arms]
    for other, target, is_criterion in compared:
        reference = arms[other]
        if target == "R":
            difference, interval = gain(merit.stated, reference.stated)
        else:
            difference = merit.unstated - reference.unstated
            interval = percentile_interval(merit.unstated_replicates - reference.unstated_replicates)
        out.append(Claim(MERIT, other, target, difference, interval, is_criterion))
    return out


def verdict(compared: Sequence[Claim]) -> str:
    """Return whether the thesis holds, and the sentence of each of its two criteria."""
    criteria = [claim for claim in compared if claim.is_criterion]
    whole = "holds" if all(claim.holds for claim in criteria) else "does not hold here"
    return " ".join([f"MERIT's thesis {whole}.", *(claim.sentence for claim in criteria)])


def arm_lines(arms: Mapping[str, ArmScore], stated_alone: Floats) -> list[Line]:
    """Return a table row for each arm, and one for what the stated findings alone predict of U (Q,) R²."""
    lines: list[Line] = []
    for name, arm in arms.items():
        low, high = arm.stated.interval
        u_low, u_high = percentile_interval(arm.unstated_replicates)
        lines.append(
            {
                "arm": name,
                "R: macro AUROC x 100": f"{100 * arm.stated.macro:.2f} ({100 * low:.1f}-{100 * high:.1f})",
                "R, seeds": _span(arm.stated_seeds),
                "U: mean R² x 100": f"{100 * arm.unstated:.2f} ({100 * u_low:.1f}-{100 * u_high:.1f})",
                "U, seeds": _span(arm.unstated_seeds),
                **{f"R² {quantity}": f"{100 * value:.1f}" for quantity, value in arm.by_quantity.items()},
            }
        )
    lines.append(
        {
            "arm": STATED,
            "R: macro AUROC x 100": "",
            "R, seeds": "",
            "U: mean R² x 100": f"{100 * float(np.nanmean(stated_alone)):.2f}",
            "U, seeds": "",
            **{f"R² {quantity}": f"{100 * value:.1f}" for quantity, value in zip(QUANTITIES, stated_alone)},
        }
    )
    return lines


def claim_lines(compared: Sequence[Claim]) -> list[Line]:
    """Return a table row for each difference; a verdict only for the criteria."""
    return [
        {
            "difference": f"{claim.arm} - {claim.other}",
            "on": claim.target,
            "x 100": f"{100 * claim.difference:+.2f}",
            "95 % interval": f"{100 * claim.interval[0]:+.2f} to {100 * claim.interval[1]:+.2f}",
            "criterion": "yes" if claim.is_criterion else "no, for information",
            "verdict": ("holds" if claim.holds else "does not hold here") if claim.is_criterion else "",
        }
        for claim in compared
    ]


def _span(values: Sequence[float]) -> str:
    return f"{100 * min(values):.1f} to {100 * max(values):.1f}" if len(values) > 1 else ""
