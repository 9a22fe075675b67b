"""Draws of phenotypes or heart images given an ECG, judged against the truth, always beside draws of another person's ECG.

A method that draws targets (`draws_targets`, such as ecg_flow_cmr) can give good values without any use of the ECG: it starts at
the mean of the training targets. So the same draws are scored a second time with the ECGs of the test people exchanged, and
beside them draws without an ECG and the mean alone.

Phenotypes are judged directly. Of drawn images, the blood of the left ventricle is counted (`blood_pool`) in both phases: EDV,
ESV and EF. Counts of the true images of the validation people are fitted to the true values by a line, because a stack of
slices covers a part of the heart; the same line converts all counts.

    r2         squared correlation of the mean of the draws with the truth; the bound of a simulated cohort limits it
    explained  1 - squared error / variance of the mean of the draws: also its scale and level count
    one_draw   squared correlation of a single draw: about the square of `r2`, if draws are those of the posterior
    coverage   share of the truths within the central 80 % of the draws: 0.8, if draws are those of the posterior
    crps       continuous ranked probability score in the target's unit, lower is better; of one value, the absolute error
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leadwise.batch import Batch, Volume
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.data.usable_rows import LeftOut
from leadwise.evaluate import speed
from leadwise.evaluate.blood_pool import left_blood_ml
from leadwise.evaluate.embed import frozen, training_overlap, usable
from leadwise.evaluate.metrics.bootstrap import (
    N_REPLICATES,
    percentile_interval,
    permute_across_patients,
    resample_patients,
)
from leadwise.evaluate.metrics.regression import weighted_measures
from leadwise.evaluate.metrics.score import Floats
from leadwise.evaluate.regress import IntervalEstimate, target_values
from leadwise.evaluate.volume_retrieval import has_phases
from leadwise.methods.catalogue import phenotype_setting, volume_setting
from leadwise.progress import Progress, relabel
from leadwise.run import Run
from leadwise.trained_on import TrainingOverlap

ECG, SHUFFLED, WITHOUT, TEMPLATE = "ECG", "another person's ECG", "no ECG", "mean template"
TRUE_IMAGES, REBUILT_IMAGES = "true images", "true images through the autoencoder"
COUNTED = ("lvedv", "lvesv", "lvef")
"""What is counted in images, by the names of the phenotypes."""

MEASURES = ("r2", "explained", "one_draw", "coverage", "crps")
LEVEL = 0.8  # of the interval of the draws
_BATCH = 32
_LEAST_TEST = 3  # recordings

Reduce = Callable[[NDArray[np.float32]], Floats]


class FlowScoreError(ValueError):
    """Draws that cannot be judged; the message names the run, cohort or column and the remedy."""


@dataclass(frozen=True)
class PosteriorScores:
    """Scores of one kind of draws against the truth of the test recordings, for Q targets."""

    name: str
    targets: tuple[str, ...]
    n_draws: int
    scores: dict[str, dict[str, IntervalEstimate]]  # target -> measure -> estimate, NaN where undefined
    draws: Floats = field(repr=False, compare=False)  # (S, N, Q)

    def to_json(self) -> dict[str, Any]:
        targets = {name: {m: one.to_json() for m, one in each.items()} for name, each in self.scores.items()}
        return {"n_draws": self.n_draws, "targets": targets}


@dataclass(frozen=True)
class PosteriorReport:
    """How well a run's draws fit the truth on one split of a cohort, row by row."""

    cohort: str
    run: str
    split: str
    target: str  # "phenotype" or "volume"
    targets: tuple[str, ...]
    bounds: dict[str, float]  # target -> largest R² that is possible from the ECG, where it is known
    fingerprints: dict[str, str]
    overlap: TrainingOverlap
    settings: dict[str, Any]  # of the draws
    results: dict[str, PosteriorScores]
    truth: Floats = field(repr=False, compare=False)  # (N, Q)
    left_out: LeftOut = field(default_factory=LeftOut)

    def value(self, row: str, target: str, measure: str) -> float:
        """Return one score."""
        return self.results[row].scores[target][measure].value

    def to_json(self) -> dict[str, Any]:
        return {
            "cohort": self.cohort,
            "run": self.run,
            "split": self.split,
            "target": self.target,
            "bounds": self.bounds,
            "fingerprints": dict(self.fingerprints),
            **self.overlap.to_json(),
            "n_recordings": len(self.truth),
            "settings": self.settings,
            "rows": {name: one.to_json() for name, one in self.results.items()},
            **self.left_out.to_json(),
        }

    def rows(self) -> list[dict[str, str]]:
        """Return one line per kind of draws and target, with 95 % intervals of r²."""
        lines = []
        for name, result in self.results.items():
            for target in self.targets:
                scores = result.scores[target]
                low, high = scores["r2"].interval
                cells = {m: "" if np.isnan(scores[m].value) else f"{scores[m].value:.2f}" for m in MEASURES}
                if cells["r2"]:
                    cells["r2"] += f" ({low:.2f}–{high:.2f})"
                bound = f"{self.bounds[target]:.2f}" if target in self.bounds else ""
                lines.append({"draws": name, "target": target, **cells, "bound": bound})
        return lines


def judge_draws(
    run: Run,
    cohort: Cohort,
    n_draws: int = 19,
    seed: int = 0,
    split: str = "test",
    further: Mapping[str, Mapping[str, float]] | None = None,
    progress: Progress | None = None,
) -> PosteriorReport:
    """Judge a run's draws on a split of a cohort, beside those with exchanged ECGs, without ECG, and the mean template.

    Args:
        n_draws: draws of each recording.
        seed: of the noise and of the exchange of ECGs.
        further: rows by name with other settings of `draw`, such as {"paper's": {"guidance": 2.0, "alpha": 0.6}}.

    Raises:
        FlowScoreError: the method draws no targets, or the cohort lacks the columns or images that they are compared with.
    """
    # the recordings with all that is compared
    if not run.method.draws_targets:
        raise FlowScoreError(
            f"run {run.name} ({run.config.method['name']}) draws no targets; choose a run of a method that does, such as "
            "ecg_flow_cmr"
        )
    volume = volume_setting(run.config)
    targets = phenotype_setting(run.config) if volume is None else _counted_targets(cohort, volume)
    rows, truth, left_out = _judged_rows(run, cohort, split, targets, volume)
    patients = np.array(cohort.patients.take(rows))

    # the draws of each row of the table, as values (S, N, Q)
    reduce = None if volume is None else _counter(cohort, run, volume, targets)
    drawn: dict[str, Floats] = {}
    for name, options in {ECG: {}, **(further or {}), WITHOUT: {"guidance": 0.0}}.items():
        drawn[name] = draw_targets(run, cohort, rows, n_draws, seed, options, reduce, relabel(progress, name))
    template = {"guidance": 0.0, "alpha": 0.0}
    drawn[TEMPLATE] = draw_targets(run, cohort, rows[:1], 1, seed, template, reduce).repeat(len(rows), axis=1)
    partner = permute_across_patients(np.unique(patients, return_inverse=True)[1], np.random.default_rng(seed))
    draws = {ECG: drawn.pop(ECG)}
    draws |= {SHUFFLED: draws[ECG][:, partner], **drawn}
    if volume is not None and reduce is not None:
        draws |= _true_images(run, cohort, rows, volume, reduce)
    return PosteriorReport(
        cohort=cohort.name,
        run=run.name,
        split=split,
        target="phenotype" if volume is None else "volume",
        targets=targets,
        bounds={name: bound for name, bound in cohort.bounds.items() if name in targets},
        fingerprints={"cohort": cohort.fingerprint, "run": run.fingerprint},
        overlap=training_overlap(run, cohort, rows, split),
        settings={"n_draws": n_draws, "seed": seed},
        results={name: score_draws(name, each, truth, patients, targets) for name, each in draws.items()},
        truth=truth,
        left_out=left_out,
    )


def draw_targets(
    run: Run,
    cohort: Cohort,
    rows: NDArray[np.int64],
    n_draws: int,
    seed: int = 0,
    options: Mapping[str, float] | None = None,
    reduce: Reduce | None = None,
    progress: Progress | None = None,
) -> Floats:
    """Return draws (S, N, ...) of a run's target given the ECGs of a cohort's rows.

    Args:
        options: further arguments of `draw`, such as guidance.
        reduce: what is retained of the draws (S, B, ...) of a batch; default: all.
    """
    recordings, generator = Recordings(cohort, run.config.signal, rows), torch.Generator().manual_seed(seed)
    pieces: list[Floats] = []
    done = 0
    for batch in recordings.batches(_BATCH):
        with frozen(run.method), speed.embedding_precision(run), speed.threads_for_processors():
            drawn = run.method.draw(batch.to(speed.device_of(run)), n_draws, generator, **(options or {}))
        values = drawn.float().cpu().numpy()
        pieces.append(np.asarray(values, dtype=np.float64) if reduce is None else reduce(values))
        done += len(batch)
        if progress is not None:
            progress("draw", done, len(recordings))
    return np.concatenate(pieces, axis=1)


def counted(images: NDArray[Any], volume: Volume) -> Floats:
    """Return EDV and ESV in mL and EF in % (..., 3) of images (..., P, D, H, W), counted by brightness."""
    phases = [volume.phases.index(phase) for phase in ("ed", "es")]
    flat = images.reshape(-1, *volume.shape)[:, phases]
    ml = np.array([[left_blood_ml(one, volume.voxel_ml) for one in heart] for heart in flat])  # (n, 2)
    return _with_ejection(ml).reshape(*images.shape[:-4], 3)


def score_draws(
    name: str, draws: Floats, truth: Floats, patients: NDArray[Any], targets: Sequence[str]
) -> PosteriorScores:
    """Score draws (S, N, Q) against the truth (N, Q), with 95 % intervals over patients; see the module for the measures."""
    weights = np.concatenate([np.ones((1, len(truth)), dtype=np.int32), resample_patients(patients, N_REPLICATES, 0)])
    of_mean = weighted_measures(truth, draws.mean(axis=0), weights)
    of_one = weighted_measures(truth, draws[0], weights)
    share, total = weights / weights.sum(axis=1, keepdims=True), len(draws)
    values = {
        "r2": of_mean["r"] ** 2,
        "explained": of_mean["r2"],
        "one_draw": of_one["r"] ** 2,
        "coverage": share @ covered(draws, truth) if total > 1 else np.full(of_mean["r"].shape, np.nan),
        "crps": share @ crps(draws, truth),
    }
    scores = {
        target: {
            measure: IntervalEstimate(float(each[0, q]), _interval(each[1:, q])) for measure, each in values.items()
        }
        for q, target in enumerate(targets)
    }
    return PosteriorScores(name, tuple(targets), total, scores, draws)


def covered(draws: Floats, truth: Floats, level: float = LEVEL) -> Floats:
    """Return (N, Q) 1 where the truth is within the central interval of the draws (S, N, Q), else 0.

    The quantile p is at rank p (S + 1) of the draws: a further draw is then below it with probability p, whatever S is. At the
    usual rank, the interval of 16 draws of the posterior covers 71 % in place of 80 %.
    """
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
    return np.asarray((truth >= low) & (truth <= high), dtype=np.float64)


def crps(draws: Floats, truth: Floats) -> Floats:
    """Return the continuous ranked probability score (N, Q) of draws (S, N, Q), lower is better.

    E|x - y| - E|x - x'| / 2, with the mean over different pairs of draws, so that it does not depend on their number in
    expectation (Gneiting and Raftery 2007). Of one draw, the absolute error.
    """
    error = np.abs(draws - truth).mean(axis=0)
    n = len(draws)
    if n == 1:
        return np.asarray(error)
    # the sum of |x_i - x_j| over pairs by the ranks of the sorted draws
    ordered = np.sort(draws, axis=0)
    rank = (2 * np.arange(n) - n + 1).reshape(-1, *(1,) * (draws.ndim - 1))
    return np.asarray(error - (rank * ordered).sum(axis=0) / (n * (n - 1)))


# ---------------------------------------------------------------------------------------------------------- parts


def _counted_targets(cohort: Cohort, volume: Volume) -> tuple[str, ...]:
    missing = [phase for phase in ("ed", "es") if phase not in volume.phases]
    columns = [name for name in COUNTED if name not in cohort.targets]
    if missing or columns:
        raise FlowScoreError(
            f"cohort {cohort.name}: counting needs the phases ed and es and the targets {', '.join(COUNTED)}; there is no "
            f"{(missing + columns)[0]}"
        )
    return COUNTED


def _judged_rows(
    run: Run, cohort: Cohort, split: str, targets: Sequence[str], volume: Volume | None
) -> tuple[NDArray[np.int64], Floats, LeftOut]:
    """The rows of a split with all targets, and images if they are drawn, that the run can embed; and their true values."""
    unknown = [name for name in targets if name not in cohort.targets]
    if unknown:
        raise FlowScoreError(
            f"cohort {cohort.name} has no target {unknown[0]!r}; it has {', '.join(cohort.targets) or 'none'}"
        )
    rows = np.sort(cohort.rows(split))
    if volume is not None:
        rows = rows[has_phases(cohort, rows, volume)]
    rows = rows[np.isfinite(target_values(cohort, targets, rows)).all(axis=1)] if len(rows) else rows
    n_people = len(set(cohort.patients.take(rows)))
    if n_people < _LEAST_TEST:
        raise FlowScoreError(
            f"cohort {cohort.name}: {n_people} patients of split '{split}' have all of {', '.join(targets)}; {_LEAST_TEST} are "
            "needed: choose another split"
        )
    rows, left_out = usable(run, cohort, rows)
    return rows, target_values(cohort, targets, rows), left_out


def _counter(cohort: Cohort, run: Run, volume: Volume, targets: Sequence[str]) -> Reduce:
    """A function of images (..., P, D, H, W) that returns EDV, ESV and EF, in mL and % of the true values.

    EDV and ESV are converted by a line for each, fitted to the true images of the validation people.
    """
    rows = cohort.rows("val")
    rows = rows[has_phases(cohort, rows, volume)]
    truth = target_values(cohort, targets[:2], rows)
    rows, truth = rows[np.isfinite(truth).all(axis=1)], truth[np.isfinite(truth).all(axis=1)]
    if len(rows) < _LEAST_TEST:
        raise FlowScoreError(
            f"cohort {cohort.name}: {len(rows)} recordings of split 'val' have images and true volumes, to convert counts to "
            f"mL; {_LEAST_TEST} are needed: prepare the cohort with that split"
        )
    counts = np.concatenate([counted(images, volume) for _, images in _images(run, cohort, rows, volume)])
    lines = [np.polyfit(counts[:, phase], truth[:, phase], 1) for phase in (0, 1)]

    def reduce(images: NDArray[np.float32]) -> Floats:
        counts = counted(images, volume)
        return _with_ejection(np.stack([np.polyval(lines[phase], counts[..., phase]) for phase in (0, 1)], axis=-1))

    return reduce


def _true_images(
    run: Run, cohort: Cohort, rows: NDArray[np.int64], volume: Volume, reduce: Reduce
) -> dict[str, Floats]:
    """The values (1, N, Q) counted in the true images themselves, and after the method's autoencoder, if it has one."""
    true, rebuilt = [], []
    for batch, images in _images(run, cohort, rows, volume):
        true.append(reduce(images))
        with frozen(run.method), speed.embedding_precision(run):
            again = run.method.rebuild_volume(batch.to(speed.device_of(run)))
        rebuilt.append(reduce(again.float().cpu().numpy()))
    return {TRUE_IMAGES: np.concatenate(true)[None], REBUILT_IMAGES: np.concatenate(rebuilt)[None]}


def _images(
    run: Run, cohort: Cohort, rows: NDArray[np.int64], volume: Volume
) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
    """Batches of rows and their true images (B, P, D, H, W)."""
    for batch in Recordings(cohort, run.config.signal, rows, volume=volume).batches(_BATCH):
        assert batch.volume is not None
        yield batch, batch.volume.numpy()


def _with_ejection(ml: Floats) -> Floats:
    """EDV and ESV (..., 2) -> EDV, ESV and EF in % (..., 3); EF is 0 without an EDV."""
    edv, esv = ml[..., 0], ml[..., 1]
    ef = 100 * (1 - np.divide(esv, edv, out=np.ones_like(edv), where=edv > 0))
    return np.stack([edv, esv, ef], axis=-1)


def _interval(replicates: Floats) -> tuple[float, float]:
    return percentile_interval(replicates) if np.isfinite(replicates).any() else (float("nan"), float("nan"))
