"""Scores of a generator of ECGs, by an encoder that was trained without it (the judge) and by heart rates.

label recovery   a probe of the judge, fitted on recorded ECGs, scores generated ones: AUROC of the findings of their prompts.
                 With the labels of other prompts (shuffled) it must be 0.5; of recorded test ECGs it is the upper line
heart rate       measured in the generated ECG against that of the prompt, in bpm
Frechet distance of the judge's embeddings to those of recorded training ECGs, for sets of one size: generated, recorded test
                 ECGs, and these with white noise 10 dB below the signal
copies           distance to the nearest training ECG in the judge's space: of generated ECGs it must not be smaller than of
                 recorded test ECGs
rare class       F1 on recorded test ECGs of a probe whose training ECGs are joined by generated ones of a rare class, against
                 the same probe with the rare class oversampled

All ECGs are read in the generator's signal, recorded ones too: the judge sees the same leads, rate and duration of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import LEADS, Batch, Signal
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.data.recordings.twelve_leads import conform
from leadwise.data.usable_rows import usable_rows
from leadwise.evaluate import logistic_regression
from leadwise.evaluate.embed import Features, embed_batch
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.bootstrap import percentile_interval, permute_across_patients, resample_patients
from leadwise.evaluate.metrics.f1 import best_thresholds, f1, weighted_f1
from leadwise.evaluate.metrics.score import Score
from leadwise.progress import Progress
from leadwise.run import Run
from leadwise.synthesis.generation import Ecgs, GenerationError, Prompt, generate, prompts_of_cohort, rates_of

NOISE_DB = 10.0  # of the noisy recorded ECGs: the signal's power is so far above that of the noise
LARGEST_F1 = 0.95  # F1 on validation, below which a class can gain from generated ECGs
_AT_ONCE = 64
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EcgSet:
    """N ECGs in the generator's signal."""

    ecg: Ecgs  # (N, L, T) mV
    observed: NDArray[np.bool_]  # (N, L, T)

    def __len__(self) -> int:
        return len(self.ecg)

    def with_noise(self, db: float, seed: int) -> EcgSet:
        """Return the same with white noise `db` below the power of each lead."""
        rng = np.random.default_rng(seed)
        power = np.square(self.ecg).mean(axis=-1, keepdims=True) / 10 ** (db / 10)
        noise = rng.standard_normal(self.ecg.shape).astype(np.float32) * np.sqrt(power)
        return EcgSet(np.where(self.observed, self.ecg + noise, 0.0).astype(np.float32), self.observed)


def read_set(cohort: Cohort, signal: Signal, rows: NDArray[np.integer]) -> EcgSet:
    """Return recorded ECGs of a cohort in a signal; each lead's median is 0, as in generated ECGs."""
    import torch

    from leadwise.nn.normalize import normalize

    batches = list(Recordings(cohort, signal, np.asarray(rows)).batches(_AT_ONCE))
    ecg = torch.cat([normalize(batch.ecg, batch.observed, "mv") for batch in batches])
    return EcgSet(ecg.numpy(), torch.cat([batch.observed for batch in batches]).numpy())


def embed_set(judge: Run, ecgs: EcgSet, signal: Signal, progress: Progress | None = None) -> Features:
    """Return embeddings (N, D) by the judge; what its window has beyond the ECG's duration is not observed."""
    import torch

    columns = [LEADS.index(lead) for lead in signal.leads]
    pieces = []
    for begin in range(0, len(ecgs), _AT_ONCE):
        pairs = []
        for ecg, observed in zip(ecgs.ecg[begin : begin + _AT_ONCE], ecgs.observed[begin : begin + _AT_ONCE]):
            twelve = np.full((ecg.shape[1], len(LEADS)), np.nan, dtype=np.float32)
            twelve[:, columns] = np.where(observed, ecg, np.nan).T
            pairs.append(conform(twelve, signal.rate_hz, judge.config.signal))
        names = tuple(f"{begin + number}" for number in range(len(pairs)))
        batch = Batch(
            torch.from_numpy(np.stack([ecg for ecg, _ in pairs])),
            torch.from_numpy(np.stack([observed for _, observed in pairs])), names, names, ("",) * len(names),
        )  # fmt: skip
        pieces.append(embed_batch(judge, batch, ["backbone"]))
        if progress is not None:
            progress("judge", begin + len(names), len(ecgs))
    return np.concatenate(pieces)


# --------------------------------------------------------------------------------------------------- single measures


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the squared Frechet distance of Gaussians fitted to features (N, D) and (M, D).

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)). It has a bias that grows with D / N: compare sets of one size.
    """
    mean_a, mean_b = a.mean(axis=0, dtype=np.float64), b.mean(axis=0, dtype=np.float64)
    cov_a, cov_b = np.cov(a.T.astype(np.float64)), np.cov(b.T.astype(np.float64))
    cov_a, cov_b = np.atleast_2d(cov_a), np.atleast_2d(cov_b)
    # tr((S_a S_b)^(1/2)) by the symmetric S_a^(1/2) S_b S_a^(1/2), which has the same eigenvalues
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared)


def nearest_distance(features: NDArray[np.floating], bank: NDArray[np.floating]) -> Floats:
    """Return the Euclidean distance (N,) of each row of `features` to the nearest row of `bank`."""
    a, b = np.asarray(features, dtype=np.float64), np.asarray(bank, dtype=np.float64)
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return np.asarray(np.sqrt(squares.min(axis=1).clip(min=0)))


# ----------------------------------------------------------------------------------------------------- all together


@dataclass(frozen=True)
class GenerationScores:
    """The scores of one generator on one task."""

    run: str
    judge: str
    task: str
    n: int  # generated ECGs, one for each recorded test ECG
    recovery: Score  # AUROC on generated ECGs
    shuffled: Score  # the same with the labels of other prompts
    recorded: Score  # the same on the recorded ECGs of the prompts
    rate_errors: Floats  # (N,) |measured - prompted| in bpm, NaN where either is unknown
    frechet: dict[str, float]
    nearest: dict[str, float]  # median distance to the nearest training ECG
    rare: list[dict[str, Any]] = field(default_factory=list)

    @property
    def median_rate_error(self) -> float:
        """Median |measured - prompted| heart rate in bpm."""
        return float(np.nanmedian(self.rate_errors))

    @property
    def mean_rate_error(self) -> float:
        """Mean |measured - prompted| heart rate in bpm."""
        return float(np.nanmean(self.rate_errors))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each acceptance line: the measure, the value, what it is compared with, and whether it holds."""
        f, d = self.frechet, self.nearest
        low, high = self.recovery.interval
        s_low, s_high = self.shuffled.interval
        noisy = f[f"recorded, noise {NOISE_DB:g} dB below"]
        return [
            {
                "measure": "label recovery, macro AUROC",
                "value": f"{self.recovery.macro:.3f} [{low:.3f}, {high:.3f}]",
                "compared with": f"> 0.8; recorded ECGs {self.recorded.macro:.3f}",
                "holds": self.recovery.macro > 0.8,
            },
            {
                "measure": "label recovery, shuffled prompts",
                "value": f"{self.shuffled.macro:.3f} [{s_low:.3f}, {s_high:.3f}]",
                "compared with": "0.5 in its interval",
                "holds": s_low <= 0.5 <= s_high,
            },
            {
                "measure": "heart rate, mean error in bpm",
                "value": f"{self.mean_rate_error:.1f} (median {self.median_rate_error:.1f})",
                "compared with": "< 10",
                "holds": self.mean_rate_error < 10,
            },
            {
                "measure": "Frechet distance to training ECGs",
                "value": f"{f['generated']:.3g}",
                "compared with": f"< {noisy:.3g}, recorded with noise; recorded without {f['recorded']:.3g}",
                "holds": f["generated"] < noisy,
            },
            {
                "measure": "median distance to the nearest training ECG",
                "value": f"{d['generated']:.3g}",
                "compared with": f">= {d['recorded']:.3g}, recorded test ECGs",
                "holds": d["generated"] >= d["recorded"],
            },
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all scores as one JSON object."""
        return {
            "run": self.run,
            "judge": self.judge,
            "task": self.task,
            "n": self.n,
            **{
                name: {"macro": score.macro, "low": score.interval[0], "high": score.interval[1], **_classes(score)}
                for name, score in (
                    ("recovery", self.recovery), ("shuffled", self.shuffled), ("recorded", self.recorded),
                )
            },
            "heart_rate_error_bpm": {"mean": self.mean_rate_error, "median": self.median_rate_error},
            "frechet": self.frechet,
            "nearest": self.nearest,
            "rare": self.rare,
            "acceptance": self.rows(),
        }  # fmt: skip


def _classes(score: Score) -> dict[str, Any]:
    return {"per_class": score.per_class}


@dataclass(frozen=True)
class Judged:
    """What a generator is scored with: recorded ECGs of a task, embedded by the judge, and the probe."""

    judge: Run
    signal: Signal  # the generator's
    cohort: Cohort
    task: str
    rows: dict[str, NDArray[np.int64]]  # by split
    features: dict[str, Features]
    labels: dict[str, NDArray[np.int8]]
    probe: logistic_regression.LogisticModel

    @classmethod
    def of(cls, judge: Run, signal: Signal, cohort: Cohort, task: str, progress: Progress | None = None) -> Judged:
        """Embed the recorded ECGs of a task and fit the probe.

        Raises:
            GenerationError: the cohort does not have the task.
        """
        if task not in cohort.tasks:
            raise GenerationError(
                f"cohort {cohort.name} has no task '{task}'; it has {', '.join(cohort.tasks) or 'none'}"
            )
        rows, features, labels = {}, {}, {}
        for split in ("train", "val", "test"):
            wanted = np.intersect1d(cohort.rows(split=split, task=task), cohort.rows(min_report_words=1))
            rows[split] = usable_rows(cohort, signal, wanted)[0]
            features[split] = embed_set(judge, read_set(cohort, signal, rows[split]), signal, progress)
            labels[split] = cohort.labels(task, rows[split])
        probe = logistic_regression.fit(features["train"], labels["train"], features["val"], labels["val"])
        return cls(judge, signal, cohort, task, rows, features, labels, probe)


def score_generator(
    run: Run, judged: Judged, seed: int = 0, most: int | None = None, progress: Progress | None = None
) -> tuple[GenerationScores, list[Prompt], Ecgs]:
    """Generate one ECG for each report of the test split, and return the scores with prompts and ECGs.

    Args:
        most: so many test reports at most, drawn at random.
    """
    # the prompts: the test split's reports, with age, sex and heart rate
    cohort, test = judged.cohort, np.arange(len(judged.rows["test"]))
    if most is not None and most < len(test):
        test = np.sort(np.random.default_rng(seed).permutation(len(test))[:most])
    prompts = prompts_of_cohort(cohort, judged.signal, rows=judged.rows["test"][test])
    ecgs = generate(run, prompts, seed, progress)
    generated = EcgSet(ecgs, np.ones(ecgs.shape, dtype=bool))
    features = embed_set(judged.judge, generated, judged.signal, progress)

    # label recovery, with labels of other patients' prompts, and on the recorded ECGs
    labels, classes = judged.labels["test"][test], cohort.tasks[judged.task]
    patients = np.asarray(cohort.patients.take(judged.rows["test"][test]))
    other = permute_across_patients(np.unique(patients, return_inverse=True)[1], np.random.default_rng(seed))
    recorded = judged.features["test"][test]

    # distances: to the training ECGs, for sets of one size
    noisy = read_set(cohort, judged.signal, judged.rows["test"][test]).with_noise(NOISE_DB, seed)
    sets = {
        "recorded": recorded,
        f"recorded, noise {NOISE_DB:g} dB below": embed_set(judged.judge, noisy, judged.signal, progress),
        "generated": features,
    }
    train = judged.features["train"]
    half = np.random.default_rng(seed).permutation(len(train))
    frechet = {name: frechet_distance(one, train) for name, one in sets.items()}
    size = min(len(test), len(train) // 2)
    frechet["training ECGs in halves"] = frechet_distance(train[half[:size]], train[half[size : 2 * size]])
    wanted = np.array([prompt.conditions.heart_rate_bpm or np.nan for prompt in prompts])
    scores = GenerationScores(
        run.name, judged.judge.name, judged.task, len(prompts),
        auroc_score(labels, judged.probe.scores(features), patients, classes),
        auroc_score(labels[other], judged.probe.scores(features), patients, classes),
        auroc_score(labels, judged.probe.scores(recorded), patients, classes),
        np.abs(rates_of(ecgs, judged.signal) - wanted),
        frechet,
        {name: float(np.median(nearest_distance(one, train))) for name, one in sets.items()},
    )  # fmt: skip
    return scores, prompts, ecgs


# -------------------------------------------------------------------------------------------------------- rare class


def rarest_class(judged: Judged, share: float = 0.05) -> str:
    """Return the class whose share of the training ECGs is nearest to `share`, among those that can gain.

    These have 5 or more test ECGs, and an F1 of the probe below LARGEST_F1 on validation, or any F1 if no class has one below it.

    Raises:
        GenerationError: no class has 5 test ECGs.
    """
    classes = judged.cohort.tasks[judged.task]
    shares = judged.labels["train"].mean(axis=0)
    enough = judged.labels["test"].sum(axis=0) >= 5
    labels, scores = judged.labels["val"], judged.probe.scores(judged.features["val"])
    improvable = enough & (f1(labels, scores, best_thresholds(labels, scores)) < LARGEST_F1)
    distance = np.where(improvable if improvable.any() else enough, np.abs(shares - share), np.inf)
    if not np.isfinite(distance).any():
        raise GenerationError(f"task '{judged.task}' has no class with 5 test ECGs; score a larger cohort")
    return classes[int(distance.argmin())]


def rare_class_rows(
    run: Run, judged: Judged, name: str, n_each: int = 3, seed: int = 0, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Return F1 on recorded test ECGs of probes for a rare class: as it is, oversampled, and with generated ECGs.

    `n_each` ECGs are generated from the report of each training ECG of the class; oversampling repeats the class as often, so
    that the classes have equal shares in both. Strength and threshold are chosen on validation. Intervals are over patients.
    """
    column = judged.cohort.tasks[judged.task].index(name)
    labels = {split: table[:, column : column + 1] for split, table in judged.labels.items()}
    positive = np.flatnonzero(labels["train"][:, 0])
    prompts = prompts_of_cohort(judged.cohort, judged.signal, rows=judged.rows["train"][positive])
    ecgs = generate(run, [prompt for prompt in prompts for _ in range(n_each)], seed, progress)
    generated = embed_set(judged.judge, EcgSet(ecgs, np.ones(ecgs.shape, dtype=bool)), judged.signal, progress)

    # the three training sets
    own, extra = judged.features["train"], np.repeat(judged.features["train"][positive], n_each, axis=0)
    sets: dict[str, Sequence[Features]] = {
        "training ECGs alone": (own,), "rare class oversampled": (own, extra), "with generated ECGs": (own, generated),
    }  # fmt: skip
    patients = judged.cohort.patients.take(judged.rows["test"])
    weights = resample_patients(patients, 1000, seed)
    values, replicates = {}, {}
    for title, parts in sets.items():
        truth = np.concatenate([labels["train"], *(np.ones((len(part), 1), np.int8) for part in parts[1:])])
        model = logistic_regression.fit(np.concatenate(parts), truth, judged.features["val"], labels["val"])
        threshold = best_thresholds(labels["val"], model.scores(judged.features["val"]))
        test = model.scores(judged.features["test"])
        values[title] = float(f1(labels["test"], test, threshold)[0])
        replicates[title] = weighted_f1(labels["test"], test, threshold, weights)[:, 0]
    baseline = replicates["rare class oversampled"]
    out = []
    for title in sets:
        low, high = percentile_interval(replicates[title] - baseline)
        out.append(
            {
                "class": name, "training": title, "f1": values[title],
                "difference": values[title] - values["rare class oversampled"], "low": low, "high": high,
            }
        )  # fmt: skip
    return out
