"""Robustness: scores after the test ECGs are changed by fewer leads, another sampling rate, noise, or recording mistakes.

Every change is a pure function of a batch: a record gets the same noise in every batch. Probe and prompts are fitted on clean
ECGs; only the ECGs that are classified change. Differences are paired: the same patients are resampled for the changed and
the unchanged ECGs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leadwise.batch import LEADS, Batch, Signal
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.data.recordings.twelve_leads import conform
from leadwise.evaluate.classifiers import Classifier
from leadwise.evaluate.embed import EmbedError, Features, embed
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.bootstrap import gain
from leadwise.evaluate.metrics.score import Score
from leadwise.progress import Progress
from leadwise.run import Run

LEAD_SETS = (
    ("I",),
    ("II",),
    ("I", "II"),
    ("I", "II", "V2"),
    ("I", "II", "III", "aVR", "aVL", "aVF"),
    ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"),
)
RATES_HZ = (100, 125, 250, 360, 500)
NOISE_DB = (20, 10, 5, 0)
MAINS_HZ = 50.0
UNITS = {"read 1000 times too large": 1000.0, "read 1000 times too small": 0.001}

_RECORDER_HZ = 500  # rate at which mains hum is added, before the filter that resamples the ECG too
_WANDER_HZ = (0.05, 0.5)
MUSCLE_HZ = (20.0, 120.0)
_MIN_OBSERVED_S = (
    2.0  # seconds without a gap that every recorded lead must have, so that no change leaves a record empty
)


@dataclass(frozen=True)
class Change:
    """A change of ECGs before they are embedded."""

    kind: str  # leads, rate, noise, mistake
    name: str
    apply: Callable[[Batch], Batch]


def make_changes(signal: Signal, quick: bool = False, recorded: Sequence[str] | None = None) -> list[Change]:
    """Return every change that is possible for a run's signal; `quick` leaves out the milder ones.

    Args:
        recorded: the signal's leads that the ECGs contain; default: all of them.
    """
    # Fewer leads: the usual subsets, then all recorded leads.
    leads_recorded = signal.leads if recorded is None else tuple(recorded)
    changes = [
        Change("leads", f"{len(leads)} lead{'s' if len(leads) > 1 else ''}: {_span(leads)}",
               partial(keep_leads, leads=leads, signal=signal))
        for leads in LEAD_SETS
        if set(leads) < set(leads_recorded)
    ]  # fmt: skip
    n = len(leads_recorded)
    changes.append(
        Change(
            "leads", f"{n} lead{'s' if n > 1 else ''}: all", partial(keep_leads, leads=leads_recorded, signal=signal)
        )
    )

    # Other sampling rates, and noise of each kind at each level.
    for rate_hz in (100, 500) if quick else RATES_HZ:
        changes.append(
            Change("rate", f"recorded at {rate_hz} Hz", partial(resample_through, rate_hz=rate_hz, signal=signal))
        )
    for what, add in (
        ("white noise", add_white_noise),
        ("baseline wander", add_baseline_wander),
        (f"{MAINS_HZ:g} Hz mains", add_mains_hum),
    ):
        for snr_db in (10, 0) if quick else NOISE_DB:
            changes.append(Change("noise", f"{what}, {snr_db} dB", partial(add, snr_db=snr_db, signal=signal)))

    # Mistakes: electrodes and units.
    if {"I", "II"} <= set(leads_recorded):
        changes.append(Change("mistake", "arm electrodes swapped", partial(swap_arms, signal=signal)))
    changes += [Change("mistake", name, partial(scale_amplitude, factor=factor)) for name, factor in UNITS.items()]
    return changes


def _span(leads: Sequence[str]) -> str:
    text = ", ".join(leads)
    return text.replace("V1, V2, V3, V4, V5, V6", "V1-V6")


def keep_leads(batch: Batch, leads: Sequence[str], signal: Signal) -> Batch:
    """Return the batch with only these leads observed; the others are marked as not observed, not as zero signal."""
    retained = torch.tensor([lead in leads for lead in signal.leads], device=batch.ecg.device)[None, :, None]
    return replace(batch, ecg=batch.ecg * retained, observed=batch.observed & retained)


def resample_through(batch: Batch, rate_hz: int, signal: Signal) -> Batch:
    """Return the batch as if recorded at `rate_hz`: resampled to it and, as any file is, back to the signal's rate."""
    if rate_hz == signal.rate_hz:
        return batch
    recorded = replace(signal, rate_hz=rate_hz)
    ecg, observed = batch.ecg.cpu().numpy(), batch.observed.cpu().numpy()
    resampled = [
        conform(_columns(*conform(_columns(e, o, signal), signal.rate_hz, recorded), recorded), rate_hz, signal)
        for e, o in zip(ecg, observed)
    ]
    new_ecg, new_observed = (torch.from_numpy(np.stack(part)).to(batch.ecg.device) for part in zip(*resampled))
    return replace(batch, ecg=new_ecg, observed=new_observed)


def _columns(ecg: NDArray[Any], observed: NDArray[Any], signal: Signal) -> NDArray[np.float64]:
    """Return (T, 12) mV in the order of LEADS, NaN = missing, from ecg and observed (L, T)."""
    table = np.full((ecg.shape[1], len(LEADS)), np.nan)
    table[:, [LEADS.index(lead) for lead in signal.leads]] = np.where(observed, ecg, np.nan).T
    return table


def add_white_noise(batch: Batch, snr_db: float, signal: Signal) -> Batch:
    """Add noise of equal power at all frequencies, independent in each lead."""
    return _add_noise(batch, snr_db, "white", lambda draw: draw.standard_normal((len(signal.leads), signal.n_samples)))


def add_baseline_wander(batch: Batch, snr_db: float, signal: Signal) -> Batch:
    """Add baseline wander: four slow waves in each lead, as breathing and moving electrodes cause them."""
    time_s = np.arange(signal.n_samples) / signal.rate_hz

    def noise(draw: np.random.Generator) -> NDArray[np.float64]:
        shape = (len(signal.leads), 4, 1)
        rate_hz, phase = draw.uniform(*_WANDER_HZ, shape), draw.uniform(0, 2 * np.pi, shape)
        waves: NDArray[np.float64] = np.sin(2 * np.pi * rate_hz * time_s + phase).sum(axis=1)
        return np.asarray(waves / np.sqrt(2))  # four waves of power 1/2 each

    return _add_noise(batch, snr_db, "wander", noise)


def add_muscle_noise(batch: Batch, snr_db: float, signal: Signal) -> Batch:
    """Add muscle noise: independent in each lead, of equal power from 20 to 120 Hz, in bursts of half a second or longer."""
    n, rate_hz = signal.n_samples, signal.rate_hz
    hz = np.fft.rfftfreq(n, 1 / rate_hz)
    in_band = (hz >= min(MUSCLE_HZ[0], rate_hz / 4)) & (hz <= MUSCLE_HZ[1])

    def noise(draw: np.random.Generator) -> NDArray[np.float64]:
        shape = (len(signal.leads), n)
        fast = np.fft.irfft(np.where(in_band, np.fft.rfft(draw.standard_normal(shape)), 0), n=n)
        knots = max(2, round(2 * signal.duration_s))
        strength = np.interp(np.linspace(0, knots - 1, n), np.arange(knots), draw.uniform(0.2, 1.0, knots))
        bursts = fast * strength
        return np.asarray(bursts / np.sqrt((bursts**2).mean()))

    return _add_noise(batch, snr_db, "muscle", noise)


def add_mains_hum(batch: Batch, snr_db: float, signal: Signal, mains_hz: float = MAINS_HZ) -> Batch:
    """Add mains hum as a 500 Hz recorder measures it; at a lower rate of the signal, resampling removes most of it."""
    recorder_hz = max(_RECORDER_HZ, signal.rate_hz)
    time_s = np.arange(int(signal.duration_s * recorder_hz)) / recorder_hz

    def noise(draw: np.random.Generator) -> NDArray[np.float64]:
        phase = draw.uniform(0, 2 * np.pi)  # one phase for all leads; its amplitude differs between them
        size = draw.uniform(0.5, 1.5, len(LEADS)) / np.sqrt(13 / 12)  # mean square 1
        hum = np.sqrt(2) * np.sin(2 * np.pi * mains_hz * time_s + phase)
        return conform(hum[:, None] * size, recorder_hz, signal)[0].astype(np.float64)

    return _add_noise(batch, snr_db, "mains", noise)


def _add_noise(
    batch: Batch, snr_db: float, kind: str, noise: Callable[[np.random.Generator], NDArray[np.float64]]
) -> Batch:
    """Return the batch with noise of power 1 scaled to `snr_db` below the record's own power about its leads' means."""
    real = batch.observed
    n = real.sum(-1, keepdim=True).clamp(min=1)
    centred = (batch.ecg - (batch.ecg * real).sum(-1, keepdim=True) / n) * real
    power = centred.square().sum((1, 2)) / real.sum((1, 2)).clamp(min=1)  # (B,) mV squared
    samples = np.stack(
        [noise(np.random.default_rng([zlib.crc32(kind.encode()), _seed(name)])) for name in batch.record]
    )
    unit = torch.from_numpy(samples).to(batch.ecg)
    size = (power * 10 ** (-snr_db / 10)).sqrt()[:, None, None]
    return replace(batch, ecg=batch.ecg + size * unit * real)


def _seed(record: str) -> int:
    return zlib.crc32(record.encode())


def swap_arms(batch: Batch, signal: Signal) -> Batch:
    """Return the batch with right and left arm exchanged: I negated, II and III exchanged, aVR and aVL exchanged.

    The other leads do not change. A lead whose partner is not in the signal is computed from I and II.

    Raises:
        ValueError: the signal does not have leads I and II.
    """
    column = {lead: number for number, lead in enumerate(signal.leads)}
    if not {"I", "II"} <= column.keys():
        raise ValueError(f"swapped arms need leads I and II; the signal has {', '.join(signal.leads)}")

    def lead(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a lead as it was recorded: ecg (B, T) and observed (B, T)."""
        if name in column:
            return batch.ecg[:, column[name]], batch.observed[:, column[name]]
        (one, observed_one), (two, observed_two) = lead("I"), lead("II")
        derived = {"III": two - one, "aVL": one - two / 2, "aVR": -(one + two) / 2}[name]
        return derived, observed_one & observed_two

    ecg, observed = batch.ecg.clone(), batch.observed.clone()
    ecg[:, column["I"]] = -batch.ecg[:, column["I"]]
    for name, source in (("II", "III"), ("III", "II"), ("aVR", "aVL"), ("aVL", "aVR")):
        if name in column:
            ecg[:, column[name]], observed[:, column[name]] = lead(source)
    return replace(batch, ecg=ecg * observed, observed=observed)


def scale_amplitude(batch: Batch, factor: float) -> Batch:
    """Multiply every sample by `factor`: microvolts read as millivolts, or the reverse."""
    return replace(batch, ecg=batch.ecg * factor)


class ChangedRecordings(Recordings):
    """Rows of a cohort with a change applied to every batch."""

    def __init__(self, cohort: Cohort, signal: Signal, rows: NDArray[Any], change: Change) -> None:
        super().__init__(cohort, signal, rows)
        self.change = change

    def batch(self, positions: Sequence[int] | NDArray[Any]) -> Batch:
        """Return the changed recordings at these positions."""
        return self.change.apply(super().batch(positions))


def complete_rows(
    cohort: Cohort, signal: Signal, rows: NDArray[np.integer]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the rows whose recorded leads are all observed for two seconds without a gap, and the recorded leads.

    No change leaves such a row empty. The recorded leads are those of the signal that any row has for that long.

    Args:
        rows: (n,) of the cohort.
    """
    # Which leads of which rows are observed for long enough: a window sum equals its width.
    recordings = Recordings(cohort, signal, rows)
    width = round(min(_MIN_OBSERVED_S, signal.duration_s / 2) * signal.rate_hz)
    parts = []
    for batch in recordings.batches(64):
        total = torch.nn.functional.pad(batch.observed.cumsum(-1), (1, 0))
        parts.append(((total[..., width:] - total[..., :-width]) == width).any(-1).numpy())
    long = np.concatenate(parts) if parts else np.empty((0, len(signal.leads)), dtype=bool)  # (N, L)

    # The leads that any row has, and the rows that have all of these.
    recorded: NDArray[np.bool_] = np.asarray(long.any(axis=0))
    is_complete = long[:, recorded].all(axis=1) & long.any(axis=1)
    complete: NDArray[np.int64] = np.asarray(rows, dtype=np.int64)[is_complete]
    return complete, tuple(lead for lead, is_recorded in zip(signal.leads, recorded) if is_recorded)


@dataclass(frozen=True)
class Robustness:
    """Scores of one task by change and classifier, on the same records."""

    task: str
    n_records: int
    n_left_out: int  # test records without two seconds of every recorded lead
    not_recorded: tuple[str, ...]  # leads of the signal that no test record has: no change uses them
    clean: dict[str, Score]  # by classifier
    changed: list[tuple[Change, dict[str, Score] | None]]  # None: an embedding was not finite

    def rows(self) -> list[dict[str, Any]]:
        """Return a table row for each change and classifier, unchanged first; AUROCs in [0, 1]."""
        lines = [_line("", "unchanged", name, score, score) for name, score in self.clean.items()]
        for change, scores in self.changed:
            for name, clean in self.clean.items():
                lines.append(_line(change.kind, change.name, name, scores[name] if scores else None, clean))
        return lines

    def to_json(self) -> dict[str, Any]:
        about = {"task": self.task, "n_records": self.n_records, "n_left_out": self.n_left_out}
        return {**about, "not_recorded": list(self.not_recorded), "rows": self.rows()}


def _line(kind: str, name: str, classifier: str, score: Score | None, clean: Score) -> dict[str, Any]:
    """Return one table row; only the names without a score, and no difference for the unchanged ECGs."""
    line: dict[str, Any] = {"kind": kind, "change": name, "reader": classifier, "macro": None}
    if score is None:
        return line
    line |= {"macro": score.macro, "low": score.interval[0], "high": score.interval[1]}
    if kind:
        line["gain"], (line["gain_low"], line["gain_high"]) = gain(score, clean)
    return line


def measure_robustness(
    run: Run,
    cohort: Cohort,
    task: str,
    classifiers: Sequence[Classifier],
    n_records: int = 500,
    quick: bool = False,
    progress: Progress | None = None,
) -> Robustness:
    """Score each classifier by macro AUROC on at most `n_records` test records, unchanged and after every change.

    Raises:
        ScoreError: no class has both label values among the records drawn.
        EmbedError: no record has two seconds of every recorded lead, or an unchanged one has no finite embedding.
    """
    # Draw the records that every change leaves something of.
    test, signal = cohort.rows("test", task), run.config.signal
    complete, recorded = complete_rows(cohort, signal, test)
    if not len(complete):
        raise EmbedError(
            f"cohort {cohort.name}: no test recording of task {task} is observed in every recorded lead for "
            f"{min(_MIN_OBSERVED_S, signal.duration_s / 2):g} s without a gap, so none can be changed; use another cohort"
        )
    drawn = np.sort(np.random.default_rng(0).permutation(complete)[:n_records])
    labels, patients = cohort.labels(task, drawn), cohort.patients.take(drawn)
    parts = list(dict.fromkeys(classifier.part for classifier in classifiers))

    def score_all(features: dict[str, Features]) -> dict[str, Score]:
        return {
            classifier.name: auroc_score(
                labels, classifier.scores(features[classifier.part]), patients, classifier.classes
            )
            for classifier in classifiers
        }

    # Embed the unchanged records.
    unchanged = {part: embed(run, Recordings(cohort, signal, drawn), part) for part in parts}
    ends = np.cumsum([features.shape[1] for features in unchanged.values()])[:-1]

    # Embed and score after each change, all parts in one pass, so that each ECG is read and changed once.
    changes = make_changes(signal, quick, recorded)
    changed: list[tuple[Change, dict[str, Score] | None]] = []
    for done, change in enumerate(changes, start=1):
        try:
            stacked = embed(run, ChangedRecordings(cohort, signal, drawn, change), "+".join(parts))
        except EmbedError:  # the unchanged records have finite embeddings, so the change is the cause: a result
            changed.append((change, None))
        else:
            changed.append((change, score_all(dict(zip(parts, np.split(stacked, ends, axis=1))))))
        if progress is not None:
            progress(f"robustness|{change.name}", done, len(changes))
    absent = tuple(lead for lead in signal.leads if lead not in recorded)
    return Robustness(task, len(drawn), len(test) - len(complete), absent, score_all(unchanged), changed)
