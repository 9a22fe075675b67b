"""Probabilities of zero-shot scores: for each class of a prompt set, a function from cosine to probability.

Platt scaling (1999): p = 1 / (1 + exp(-(slope x cosine + intercept))), the maximum of the likelihood with the targets
(P + 1) / (P + 2) for the P positives and 1 / (N + 2) for the N negatives. Isotonic regression (Zadrozny and Elkan, 2002): the
non-decreasing steps with the least squared error.

A calibration belongs to the weights of one run, to the texts of all classes of one prompt set, and to one window. It holds in
a population like the one that it was fitted on: another share of positives gives other probabilities. In some tasks (PTB-XL's
form) only recordings with one of its labels count; there a probability is that among such recordings.

calibrated_on.json in the run folder has hashes of the patients and signals that calibrations were fitted on, as
`leadwise.trained_on` has, so that `zeroshot` states how many of them it scores. It is not part of a shared run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from leadwise import trained_on
from leadwise.data import reports
from leadwise.evaluate.metrics.score import Floats
from leadwise.evaluate.prompts import ClassPrompts
from leadwise.files import replacing
from leadwise.run import CALIBRATION, Run
from leadwise.trained_on import ScoredRecordings, TrainedOn, TrainingOverlap

log = logging.getLogger(__name__)

CALIBRATED_ON = "calibrated_on.json"
METHODS = ("platt", "isotonic", "best")
MIN_POSITIVES = 5  # and as many negatives: with fewer, a class has no probability
NEARLY_ALL = 0.9  # share of a split that has a label of the task
N_FOLDS = 5  # of the cross-validation by patients that chooses between the two, for "best"
FORMAT = "leadwise calibration 1"


class CalibrationError(ValueError):
    """A calibration that cannot be fitted, written or read; the message names the file, task or class and the remedy."""


@dataclass(frozen=True)
class ClassCalibration:
    """A function from cosine to probability."""

    method: str  # platt or isotonic
    slope: float = 0.0
    intercept: float = 0.0
    cosines: tuple[float, ...] = ()  # isotonic: the ends of the steps, ascending, linear in between
    values: tuple[float, ...] = ()  # isotonic: the probability at each

    def probability(self, cosine: NDArray[np.floating]) -> Floats:
        """Return the probability of each cosine, in the same shape; NaN for NaN."""
        values = np.asarray(cosine, dtype=np.float64)
        if self.method == "platt":
            return np.asarray(expit(self.slope * values + self.intercept))
        return np.asarray(np.interp(values, self.cosines, self.values))

    def to_json(self) -> dict[str, Any]:
        if self.method == "platt":
            return {"method": self.method, "slope": self.slope, "intercept": self.intercept}
        return {"method": self.method, "cosines": list(self.cosines), "values": list(self.values)}


@dataclass(frozen=True)
class PromptSetCalibration:
    """The calibrations of the classes of one prompt set, and what they were fitted on."""

    prompts: str  # `prompt_digest` of the set
    task: str
    prompt_set: str
    prompt_file: str
    source: str  # of the cohort
    cohort: str
    cohort_fingerprint: str
    split: str
    window: str | None
    n_records: int  # of the split, with a label of the task
    n_split: int  # of the split
    n_patients: int
    classes: dict[str, ClassCalibration]
    positives: dict[str, int]  # of every class
    without: dict[str, str]  # class without a probability -> reason
    # of the recordings that it was fitted on; stored beside the calibration, and None for one that was read
    hashes: TrainedOn | None = field(default=None, repr=False, compare=False)

    def probabilities(self, scores: Floats, classes: Sequence[str]) -> Floats:
        """Return probabilities (N, K) of cosines (N, K) to `classes`; NaN for a class without a calibration."""
        result = np.full(np.shape(scores), np.nan)
        for k, code in enumerate(classes):
            if code in self.classes:
                result[:, k] = self.classes[code].probability(scores[:, k])
        return result

    @property
    def fitted_on(self) -> str:
        """What the calibration was fitted on, in one clause."""
        of = "" if self.n_records == self.n_split else f" of {self.n_split}"
        labelled = ", those with a label of the task" if of else ""
        return f"{self.n_records}{of} recordings of {self.cohort} ({self.source}), split {self.split}{labelled}"

    @property
    def _list_key(self) -> str:
        """The key of its recordings in calibrated_on.json: as for `write`, one calibration for prompts and window."""
        return f"{self.prompts} {self.window}"

    def overlap(self, run: Run, scored: ScoredRecordings) -> TrainingOverlap | None:
        """Return how much of the recordings that are scored it was fitted on; None if that is not listed, as in a shared run.

        Raises:
            CalibrationError: the list is damaged.
        """
        fitted = _read_lists(run).get(self._list_key)
        about = {"source": self.source, "fingerprint": self.cohort_fingerprint}
        return None if fitted is None else trained_on.compare(fitted, about, scored)

    @property
    def is_of_all(self) -> bool:
        """Whether nearly every recording of the split has a label of the task, so that probabilities hold for any ECG."""
        return self.n_records >= NEARLY_ALL * self.n_split

    @property
    def sentence(self) -> str:
        """What the probabilities are, and which classes have none."""
        methods = {one.method for one in self.classes.values()}
        how = "isotonic regression" if methods == {"isotonic"} else "Platt scaling"
        how = f"{how} or isotonic regression" if len(methods) > 1 else how
        none = f"; none for {', '.join(self.without)}" if self.without else ""
        return f"Probabilities by {how}, fitted on {self.fitted_on}; they hold in a population like it{none}."

    def about(self) -> dict[str, Any]:
        """Return what results contain: what it was fitted on, and the classes without a probability."""
        names = ("prompts", "task", "prompt_set", "source", "cohort", "cohort_fingerprint", "split")
        table = {name: getattr(self, name) for name in names}
        counts = {"n_records": self.n_records, "n_split": self.n_split, "n_patients": self.n_patients}
        return table | counts | {"without": dict(self.without)}

    def to_json(self) -> dict[str, Any]:
        classes = {code: one.to_json() for code, one in self.classes.items()}
        more = {"prompt_file": self.prompt_file, "window": self.window, "positives": self.positives, "classes": classes}
        return self.about() | more


def prompt_digest(wordings: Mapping[str, ClassPrompts]) -> str:
    """Return the digest of the cleaned texts of each class. The order of classes and of texts does not matter."""
    texts = {code: sorted(reports.clean(text) for text in entry.prompts) for code, entry in wordings.items()}
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------- fitting


def fit_class(
    cosine: NDArray[np.floating], labels: NDArray[Any], patients: Sequence[str], method: str = "platt"
) -> ClassCalibration | str:
    """Return the calibration of one class from cosines (N,) and labels (N,), or the reason why there is none.

    Args:
        method: platt, isotonic, or best: the one with the lower Brier score in a cross-validation by patients.
    """
    # too few labels, or cosines that do not rise with the label
    values, truth = np.asarray(cosine, dtype=np.float64), np.asarray(labels).astype(bool)
    n_positive = int(truth.sum())
    if min(n_positive, len(truth) - n_positive) < MIN_POSITIVES:
        kind = "positives" if n_positive <= len(truth) - n_positive else "negatives"
        return f"{min(n_positive, len(truth) - n_positive)} {kind}; {MIN_POSITIVES} are needed"
    platt = _fit_platt(values, truth)
    if not platt.slope > 0:
        return "the cosine is not higher with the finding"
    if method == "platt":
        return platt
    isotonic = _fit_isotonic(values, truth)
    if method == "isotonic":
        return isotonic
    scores = [_brier_in_folds(fit, values, truth, patients) for fit in (_fit_platt, _fit_isotonic)]
    return isotonic if scores[1] < scores[0] else platt


def _fit_platt(cosine: Floats, truth: NDArray[np.bool_]) -> ClassCalibration:
    """Return Platt scaling; a slope of 0 if all cosines are equal."""
    from sklearn.linear_model import LogisticRegression

    # a target between 0 and 1 is a positive and a negative example that share the weight
    mean, spread = float(cosine.mean()), float(cosine.std())
    n_positive, n_negative = int(truth.sum()), int((~truth).sum())
    if spread < 1e-12:
        return ClassCalibration("platt", 0.0, float(np.log((n_positive + 1) / (n_negative + 1))))
    target = np.where(truth, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    scaled = ((cosine - mean) / spread)[:, None]
    both, weight = np.concatenate([scaled, scaled]), np.concatenate([target, 1 - target])
    is_positive = np.repeat([1, 0], len(cosine))
    model = LogisticRegression(C=1e10, tol=1e-10, max_iter=1000).fit(both, is_positive, sample_weight=weight)
    slope = float(model.coef_[0, 0]) / spread
    return ClassCalibration("platt", slope, float(model.intercept_[0]) - slope * mean)


def _fit_isotonic(cosine: Floats, truth: NDArray[np.bool_]) -> ClassCalibration:
    """Return isotonic regression within [1 / (n + 2), (n + 1) / (n + 2)]: n recordings never show that p is 0 or 1."""
    from sklearn.isotonic import IsotonicRegression

    lowest = 1 / (len(truth) + 2)
    model = IsotonicRegression(y_min=lowest, y_max=1 - lowest, out_of_bounds="clip").fit(cosine, truth.astype(float))
    return ClassCalibration(
        "isotonic", cosines=tuple(model.X_thresholds_.tolist()), values=tuple(model.y_thresholds_.tolist())
    )


def _brier_in_folds(fit: Any, cosine: Floats, truth: NDArray[np.bool_], patients: Sequence[str]) -> float:
    """Return the Brier score of probabilities that are fitted on the other folds; infinite if a fold cannot be fitted."""
    from sklearn.model_selection import StratifiedGroupKFold

    names = np.unique(np.asarray(patients), return_inverse=True)[1]
    if len(np.unique(names)) < N_FOLDS:
        return np.inf
    errors = np.full(len(truth), np.inf)
    for train, test in StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=0).split(cosine, truth, names):
        if truth[train].any() and not truth[train].all():
            errors[test] = (fit(cosine[train], truth[train]).probability(cosine[test]) - truth[test]) ** 2
    return float(errors.mean())


# ---------------------------------------------------------------------------------------------------------------- file


def read(run: Run) -> list[PromptSetCalibration]:
    """Return the calibrations of a run's folder; none, with a warning, if they were fitted on other weights.

    Raises:
        CalibrationError: the file is damaged.
    """
    path = run.folder / CALIBRATION if run.folder else None
    if path is None or not path.is_file():
        return []
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["format"] != FORMAT:
            raise ValueError(f"its format is {table['format']!r}")
        calibrations = [_from_json(line) for line in table["sets"]]
        digest = table["weights"]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CalibrationError(
            f"{path} is damaged ({reason}); delete it: scores are then cosines alone, until leadwise calibrate fits it again"
        ) from None
    if digest != run.weights_digest:
        log.warning("%s was fitted on other weights and is not used; fit it again with leadwise calibrate", path)
        return []
    return calibrations


def _from_json(line: Mapping[str, Any]) -> PromptSetCalibration:
    classes = {}
    for code, one in line["classes"].items():
        if one["method"] == "platt":
            slope, intercept = float(one["slope"]), float(one["intercept"])
            if not np.isfinite([slope, intercept]).all():
                raise ValueError(f"class {code} has no finite slope and intercept")
            classes[code] = ClassCalibration("platt", slope, intercept)
            continue
        cosines, values = tuple(map(float, one["cosines"])), tuple(map(float, one["values"]))
        if one["method"] != "isotonic" or len(cosines) != len(values) or not values:
            raise ValueError(f"class {code} has no steps")
        if not (np.isfinite(cosines).all() and (np.diff(cosines) >= 0).all() and all(0 <= p <= 1 for p in values)):
            raise ValueError(f"the steps of class {code} do not ascend, or are no probabilities")
        classes[code] = ClassCalibration("isotonic", cosines=cosines, values=values)
    texts = ("prompts", "task", "prompt_set", "prompt_file", "source", "cohort", "cohort_fingerprint", "split")
    return PromptSetCalibration(
        **{name: str(line[name]) for name in texts},
        window=line["window"],
        n_records=int(line["n_records"]),
        n_split=int(line["n_split"]),
        n_patients=int(line["n_patients"]),
        classes=classes,
        positives={code: int(n) for code, n in line["positives"].items()},
        without={code: str(reason) for code, reason in line["without"].items()},
        hashes=None,
    )


def find(run: Run, wordings: Mapping[str, ClassPrompts], window: str | None = None) -> PromptSetCalibration | None:
    """Return the calibration of a run for exactly these texts and this window; None if there is none."""
    calibrations = read(run)
    if not calibrations:
        return None
    digest = prompt_digest(wordings)
    return next((one for one in calibrations if (one.prompts, one.window) == (digest, window)), None)


def _read_lists(run: Run) -> dict[str, TrainedOn]:
    path = run.folder / CALIBRATED_ON if run.folder else None
    if path is None or not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table, dict):
            raise ValueError("it is no JSON object")
        return {str(key): TrainedOn.from_json(one) for key, one in table.items()}
    except ValueError as error:  # also TrainedOnError
        raise CalibrationError(
            f"{path} is damaged ({error}); delete it, and fit the calibration again with leadwise calibrate"
        ) from None


def check_writable(run: Run) -> Path:
    """Return the file in which a run's calibration is stored.

    Raises:
        CalibrationError: the run has no folder, or ships with the package, or a file of an earlier calibration is damaged.
    """
    if run.folder is None:
        raise CalibrationError(f"run {run.name} has no folder, so a calibration cannot be stored")
    if run.is_shipped:
        raise CalibrationError(
            f"{run.name} ships with leadwise and is not changed; calibrate a copy: "
            f'leadwise.load("{run.name}").save_pretrained("runs/{run.name}")'
        )
    read(run)
    _read_lists(run)
    return run.folder / CALIBRATION


def write(run: Run, calibrations: Sequence[PromptSetCalibration]) -> Path:
    """Write calibrations to the run folder, atomically, and return the file. Those of other prompts and windows stay.

    Raises:
        CalibrationError: as `check_writable`.
    """
    path = check_writable(run)
    new = {(one.prompts, one.window) for one in calibrations}
    earlier = [one for one in read(run) if (one.prompts, one.window) not in new]

    # first the lists, so that no calibration is without its own; those of calibrations that are replaced do not stay
    stored = _read_lists(run)
    lists = {one._list_key: stored[one._list_key] for one in earlier if one._list_key in stored}
    lists |= {one._list_key: one.hashes for one in calibrations if one.hashes is not None}
    with replacing(path.with_name(CALIBRATED_ON)) as temporary:
        temporary.write_text(json.dumps({key: one.to_json() for key, one in lists.items()}) + "\n", encoding="utf-8")
    table = {
        "format": FORMAT,
        "weights": run.weights_digest,
        "sets": [one.to_json() for one in [*earlier, *calibrations]],
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(table, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path
