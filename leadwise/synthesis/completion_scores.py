"""Score completed leads beside linear maps, on the test split of a cohort.

Rows: the linear map of the training recordings, the same with lags of 40 ms in either direction, the best map of each
recording itself (`linear_leads`), and one or more runs. Every row completes the same recordings from the same leads.

Measures of each synthetic lead, after its median is removed: mean squared and mean absolute error, Pearson's r over time, and
the error of the QRS amplitude (peak to peak within 60 ms of the middle of each beat, median over the beats). Limb leads that
follow from the given ones are not scored. Intervals resample patients. A probe that was fitted on true twelve leads scores
the labels from completed ones: what is lost for a reader of the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.evaluate.classifiers import Classifier, probe_classifier
from leadwise.evaluate.embed import Features, embed_batch, embed_cohort, training_overlap, usable
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.bootstrap import (
    N_REPLICATES,
    gain,
    mean_of_defined,
    percentile_interval,
    resample_patients,
)
from leadwise.evaluate.metrics.score import Floats, Interval, Score
from leadwise.evaluate.probe import make_probe_task
from leadwise.nn.completion import given_part
from leadwise.progress import Progress
from leadwise.run import Run
from leadwise.synthesis.completion import (
    CompletionError,
    LeadCompleter,
    MapCompleter,
    band_of,
    derived_leads,
    run_draws,
    with_draw,
)
from leadwise.synthesis.lead_errors import MEASURES, UNITS, LeadErrors, beats_of, centred, measure_errors
from leadwise.synthesis.linear_leads import LAG_S, LinearLeads
from leadwise.trained_on import TrainingOverlap

LINEAR, LAGS, PATIENT = "linear map", "linear map, 40 ms lags", "per patient (upper line)"
TRUE, GIVEN_ONLY = "true twelve leads", "given leads only"
INFARCT = frozenset({"MI", "IMI", "AMI", "LMI", "PMI", "ASMI", "ALMI", "ILMI", "IPMI", "IPLMI"})
BLOCK = frozenset({"CLBBB", "CRBBB", "ILBBB", "IRBBB", "LBBB", "RBBB"})
SUBSETS = {"infarct": INFARCT, "bundle branch block": BLOCK}

_BATCH = 32
_N_BAND = 100  # recordings whose bands are drawn
_BAND_DRAWS = 21


@dataclass(frozen=True)
class CompletionReport:
    """Scores of all rows on the test split of a cohort."""

    cohort: str
    given: tuple[str, ...]
    synthetic: tuple[str, ...]
    task: str
    encoder: str
    errors: dict[str, LeadErrors]  # by row
    subsets: dict[str, NDArray[np.bool_]]  # name -> (N,) recordings
    utility: dict[str, Score]  # AUROC of the labels, by row, of TRUE and of GIVEN_ONLY
    patients: NDArray[Any] = field(repr=False)
    n_fitted: int = 0  # recordings of the linear maps
    n_left_out: int = 0  # test recordings with a sample that is missing in any lead
    overlaps: dict[str, TrainingOverlap] = field(default_factory=dict)

    @property
    def draw_weights(self) -> NDArray[np.int32]:
        """How often each recording is drawn in each resampling of patients, (R, N)."""
        return resample_patients(self.patients, N_REPLICATES, 0)

    def against_linear(self, name: str, measure: str, some: NDArray[np.bool_] | None = None) -> tuple[float, Interval]:
        """Return a row's measure minus that of the linear map, mean over leads, with its paired interval."""
        mine, base, weights = self.errors[name], self.errors[LINEAR], self.draw_weights
        value = float(np.nanmean(mine.mean(measure, some=some)) - np.nanmean(base.mean(measure, some=some)))
        of_mine, of_base = (mean_of_defined(one.mean(measure, weights, some)) for one in (mine, base))
        differences = of_mine - of_base
        return value, percentile_interval(differences)

    def relative_to_linear(self, name: str, some: NDArray[np.bool_] | None = None) -> tuple[float, Interval]:
        """Return a row's MSE relative to that of the linear map, minus 1, with its interval: -0.1 is an error 10 % lower."""
        mine, base, weights = self.errors[name], self.errors[LINEAR], self.draw_weights
        value = float(np.nanmean(mine.mean("mse", some=some)) / np.nanmean(base.mean("mse", some=some))) - 1
        of_mine, of_base = (mean_of_defined(one.mean("mse", weights, some)) for one in (mine, base))
        return value, percentile_interval(of_mine / of_base - 1)

    def rows(self, some: NDArray[np.bool_] | None = None) -> list[dict[str, Any]]:
        """Return one line per row: mean over the synthetic leads, intervals, and the difference in MSE to the linear map."""
        weights, lines = self.draw_weights, []
        for name, one in self.errors.items():
            line: dict[str, Any] = {"row": name}
            for measure in MEASURES:
                value = float(np.nanmean(one.mean(measure, some=some)))
                low, high = percentile_interval(mean_of_defined(one.mean(measure, weights, some)))
                digits = 5 if measure == "mse" else 3
                line[_column(measure)] = f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
            if name != LINEAR:
                value, (low, high) = self.against_linear(name, "mse", some)
                line["MSE - linear map"] = f"{value:+.5f} [{low:+.5f}, {high:+.5f}]"
            else:
                line["MSE - linear map"] = ""
            if some is None:
                line["in the 80 % band"] = "" if one.coverage is None else f"{one.coverage:.0%}"
            lines.append(line)
        return lines

    def lead_rows(self, measure: str) -> list[dict[str, Any]]:
        """Return one line per row with a measure of each synthetic lead."""
        digits = 5 if measure == "mse" else 3
        return [
            {"row": name, **{lead: f"{value:.{digits}f}" for lead, value in zip(self.synthetic, one.mean(measure))}}
            for name, one in self.errors.items()
        ]

    def utility_rows(self) -> list[dict[str, Any]]:
        """Return one line per input of the probe: macro AUROC, interval, and the loss against true twelve leads."""
        lines = []
        for name, score in self.utility.items():
            low, high = score.interval
            line: dict[str, Any] = {"leads": name, "AUROC": f"{score.macro:.3f} [{low:.3f}, {high:.3f}]"}
            if name == TRUE:
                line["- true"] = ""
            else:
                value, (low, high) = gain(score, self.utility[TRUE])
                line["- true"] = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
            lines.append(line)
        return lines

    def verdicts(self) -> list[str]:
        """Return a sentence for each run: whether its error is below that of the linear map, for all and for each subset."""
        sentences = []
        for name in self.errors:
            if name in (LINEAR, LAGS, PATIENT):
                continue
            for what, some in {"all": None, **self.subsets}.items():
                value, (low, high) = self.relative_to_linear(name, some)
                verdict = "lower than" if high < 0 else "higher than" if low > 0 else "not distinguishable from"
                interval = f"[{low:+.0%}, {high:+.0%}]"
                sentences.append(f"{name}, {what}: MSE {value:+.0%} {interval}, {verdict} the linear map's.")
        return sentences

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as one JSON object."""
        weights = self.draw_weights
        rows: dict[str, Any] = {}
        for name, one in self.errors.items():
            measures: dict[str, Any] = {}
            for measure in MEASURES:
                means, replicates = one.mean(measure), one.mean(measure, weights)
                each = {
                    lead: {"value": _number(means[k]), "interval": _interval(replicates[:, k])}
                    for k, lead in enumerate(self.synthetic)
                }
                overall = {"value": _number(np.nanmean(means)), "interval": _interval(mean_of_defined(replicates))}
                measures[measure] = {"unit": UNITS[measure], "mean": overall, "leads": each}
            subsets = {}
            for what, some in self.subsets.items():
                value, interval = self.against_linear(name, "mse", some)
                mse = _number(np.nanmean(one.mean("mse", some=some)))
                subsets[what] = {"n": int(some.sum()), "mse": mse, "minus_linear": value, "interval": list(interval)}
                share, interval = self.relative_to_linear(name, some)
                subsets[what]["relative_to_linear"] = [share, *interval]
            value, interval = self.against_linear(name, "mse")
            rows[name] = {"measures": measures, "subsets": subsets, "minus_linear": value, "interval": list(interval)}
            share, interval = self.relative_to_linear(name)
            rows[name] |= {"relative_to_linear": [share, *interval], "coverage": one.coverage}
        utility = {name: {"auroc": one.macro, "interval": list(one.interval)} for name, one in self.utility.items()}
        about = {
            "command": "complete",
            "cohort": self.cohort,
            "given": list(self.given),
            "synthetic": list(self.synthetic),
        }
        counts = {"recordings": len(self.patients), "fitted": self.n_fitted, "left_out": self.n_left_out}
        return {**about, **counts, "rows": rows, "task": self.task, "encoder": self.encoder, "utility": utility}


def score_completion(
    completers: Sequence[LeadCompleter],
    cohort: Cohort,
    given: Sequence[str],
    encoder: Run | None = None,
    task: str | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> CompletionReport:
    """Complete the test recordings of a cohort from some leads and score every row.

    Args:
        completers: runs; all read the same signal.
        encoder: run whose embedding a probe of the labels uses; default: without this table.
        task: the labels; default: the cohort's first task.
        limit: number of test recordings, evenly spread over the split; default: all.

    Raises:
        CompletionError: runs with different signals, or no test recording with twelve complete leads.
    """
    # the recordings
    signal = completers[0].signal
    for other in completers[1:]:
        if other.signal != signal:
            raise CompletionError(f"{other.name} reads another signal than {completers[0].name}; score it alone")
    chosen = cohort.rows("test", task=task)
    if limit is not None and limit < len(chosen):
        chosen = chosen[np.linspace(0, len(chosen) - 1, limit).round().astype(int)]
    test = complete_rows(cohort, completers[0], chosen)
    if not len(test):
        raise CompletionError(f"cohort {cohort.name}: no test recording has all leads observed; choose another cohort")

    # the linear maps, fitted on training recordings
    fits = {}
    for name, lag_s in ((LINEAR, 0.0), (LAGS, LAG_S)):
        batches = Recordings(cohort, signal, cohort.rows("train")).batches(128)
        fits[name] = LinearLeads.fit(batches, signal.leads, given, signal.rate_hz, lag_s)
        if progress is not None:
            progress("fit linear maps", len(fits), 2)
    maps = [MapCompleter(name, signal, one) for name, one in fits.items()]
    rows: list[LeadCompleter] = [*maps, MapCompleter(PATIENT, signal, is_per_patient=True), *completers]

    # complete, measure and embed a batch at a time
    derived = derived_leads(given, signal.leads)
    synthetic = tuple(lead for lead in signal.leads if lead not in given and lead not in derived)
    columns = [signal.leads.index(lead) for lead in synthetic]
    measured: dict[str, list[dict[str, Floats]]] = {row.name: [] for row in rows}
    within: dict[str, list[float]] = {row.name: [] for row in rows}
    features: dict[str, list[Features]] = {name: [] for name in (TRUE, GIVEN_ONLY, *measured)}
    recordings, done = Recordings(cohort, signal, test), 0
    for batch in recordings.batches(_BATCH):
        mask = torch.tensor([[lead in given for lead in signal.leads]]).expand(len(batch), -1)
        truth, beats = centred(batch.ecg.numpy()), beats_of(batch, signal.rate_hz, signal.leads)
        if encoder is not None:
            features[TRUE].append(embed_batch(encoder, batch, ["backbone"]))
            features[GIVEN_ONLY].append(embed_batch(encoder, given_part(batch, mask)[0], ["backbone"]))
        for row in rows:
            n_draws = _BAND_DRAWS if row.bands and done < _N_BAND else 1
            draws = run_draws(row, batch, mask, n_draws, done)
            errors = measure_errors(centred(draws[0])[:, columns], truth[:, columns], beats, signal.rate_hz)
            measured[row.name].append(errors)
            if len(draws) > 1:
                low, high = band_of(draws[:, :, columns] - np.median(draws[:1, :, columns], axis=-1, keepdims=True))
                within[row.name].append(float(np.mean((truth[:, columns] >= low) & (truth[:, columns] <= high))))
            if encoder is not None:
                features[row.name].append(embed_batch(encoder, with_draw(batch, draws[0]), ["backbone"]))
        done += len(batch)
        if progress is not None:
            progress("complete test recordings", done, len(test))

    # the report
    errors_of = {
        name: LeadErrors(
            name,
            {measure: np.concatenate([piece[measure] for piece in pieces]) for measure in MEASURES},
            float(np.mean(within[name])) if within[name] else None,
        )
        for name, pieces in measured.items()
    }
    chosen_task = task or next(iter(cohort.tasks), "")
    utility = {}
    if encoder is not None and chosen_task:
        stacked = {name: np.concatenate(pieces) for name, pieces in features.items()}
        utility = _utility(encoder, cohort, chosen_task, test, stacked, progress)
    return CompletionReport(
        cohort=cohort.name,
        given=tuple(given),
        synthetic=synthetic,
        task=chosen_task,
        encoder="" if encoder is None else encoder.name,
        errors=errors_of,
        subsets=subset_masks(cohort, test),
        utility=utility,
        patients=np.array(cohort.patients.take(test)),
        n_fitted=fits[LINEAR].n_records,
        n_left_out=len(chosen) - len(test),
        overlaps={row.name: training_overlap(row.run, cohort, test) for row in completers if hasattr(row, "run")},
    )


def complete_rows(cohort: Cohort, completer: LeadCompleter, rows: NDArray[Any]) -> NDArray[np.int64]:
    """Return those of the rows whose recordings have every sample of every lead in the window."""
    recordings = Recordings(cohort, completer.signal, rows)
    whole = [batch.observed.flatten(1).all(-1).numpy() for batch in recordings.batches(256)]
    return np.asarray(rows, dtype=np.int64)[np.concatenate(whole)] if whole else np.empty(0, dtype=np.int64)


def subset_masks(cohort: Cohort, rows: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Return the recordings (N,) with an infarct, and with a bundle branch block, by any task; without rare ones."""
    masks = {name: np.zeros(len(rows), dtype=bool) for name in SUBSETS}
    for task, classes in cohort.tasks.items():
        inside = np.isin(rows, cohort.rows(task=task))
        labels = cohort.labels(task, np.asarray(rows)[inside]) if inside.any() else None
        for name, codes in SUBSETS.items():
            columns = [k for k, one in enumerate(classes) if one in codes]
            if labels is not None and columns:
                masks[name][inside] |= labels[:, columns].any(axis=1)
    return {name: mask for name, mask in masks.items() if mask.sum() >= 2}


def _utility(
    encoder: Run,
    cohort: Cohort,
    task: str,
    test: NDArray[np.int64],
    features: dict[str, Features],
    progress: Progress | None,
) -> dict[str, Score]:
    """Return the AUROC of a probe that was fitted on true twelve leads, for each kind of test features (N, D)."""
    outside = cohort.rows(task=task)
    fit, _ = usable(encoder, cohort, outside[cohort.splits(outside) != "test"])
    inside = np.isin(test, outside)
    every = np.concatenate([fit, test[inside]])
    probe_task = make_probe_task(cohort, task, every)
    fitted = embed_cohort(encoder, cohort, "backbone", fit, progress)
    padding = np.zeros((int(inside.sum()), fitted.shape[1]), dtype=np.float32)
    classifier: Classifier = probe_classifier(np.concatenate([fitted, padding]), probe_task)
    rows = probe_task.rows("test")
    labels, patients = probe_task.labels[rows], probe_task.patient[rows]
    return {
        name: auroc_score(labels, classifier.scores(each[inside]), patients, classifier.classes)
        for name, each in features.items()
    }


def _column(measure: str) -> str:
    names = {"mse": "MSE, mV²", "mae": "MAE, mV", "r": "r", "qrs": "QRS amplitude error, mV"}
    return names[measure]


def _number(value: float | np.floating[Any]) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(values: Floats) -> list[float | None]:
    return [None, None] if not np.isfinite(values).any() else [*map(float, percentile_interval(values))]
