"""What becomes of a score when the same test ECGs are changed: fewer leads, another rate, noise, a mistake at the bedside.

Every change is a pure function of a batch: the same record gets the same noise whatever stands beside it. Probe and
words stay as they were learnt on clean ECGs; only the ECGs that they judge are changed. Losses are paired: the same
patients are drawn for the changed and the unchanged ECGs.
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

_RECORDER_HZ = 500  # at which mains hum is added, before it goes through the same filter as the ECG
_WANDER_HZ = (0.05, 0.5)
_MIN_OBSERVED_S = (
    2.0  # every recorded lead of a record must be observed for so long on end, or some change leaves it nothing
)


@dataclass(frozen=True)
class Change:
    """Something that happens to an ECG before the model sees it."""

    kind: str  # leads, rate, noise, mistake
    name: str
    of: Callable[[Batch], Batch]


def make_changes(signal: Signal, quick: bool = False, recorded: Sequence[str] | None = None) -> list[Change]:
    """Every change that makes sense for a promised signal; `quick` leaves out the milder ones.

    Args:
        recorded: the promised leads that the ECGs have at all; default: all of them.
    """
    there = signal.leads if recorded is None else tuple(recorded)
    found = [
        Change("leads", f"{len(leads)} lead{'s' if len(leads) > 1 else ''}: {_span(leads)}",
               partial(keep_leads, leads=leads, signal=signal))
        for leads in LEAD_SETS
        if set(leads) < set(there)
    ]  # fmt: skip
    n = len(there)
    found.append(
        Change("leads", f"{n} lead{'s' if n > 1 else ''}: all", partial(keep_leads, leads=there, signal=signal))
    )
    for rate_hz in (100, 500) if quick else RATES_HZ:
        found.append(
            Change("rate", f"recorded at {rate_hz} Hz", partial(resample_through, rate_hz=rate_hz, signal=signal))
        )
    for what, add in (
        ("white noise", add_white_noise),
        ("baseline wander", add_baseline_wander),
        (f"{MAINS_HZ:g} Hz mains", add_mains_hum),
    ):
        for snr_db in (10, 0) if quick else NOISE_DB:
            found.append(Change("noise", f"{what}, {snr_db} dB", partial(add, snr_db=snr_db, signal=signal)))
    if {"I", "II"} <= set(there):
        found.append(Change("mistake", "arm electrodes swapped", partial(swap_arms, signal=signal)))
    found += [Change("mistake", name, partial(scale_amplitude, factor=factor)) for name, factor in UNITS.items()]
    return found


def _span(leads: Sequence[str]) -> str:
    text = ", ".join(leads)
    return text.replace("V1, V2, V3, V4, V5, V6", "V1-V6")


def keep_leads(batch: Batch, leads: Sequence[str], signal: Signal) -> Batch:
    """Only these leads are observed; the others are neither zero nor invented, but not there."""
    kept = torch.tensor([lead in leads for lead in signal.leads], device=batch.ecg.device)[None, :, None]
    return replace(batch, ecg=batch.ecg * kept, observed=batch.observed & kept)


def resample_through(batch: Batch, rate_hz: int, signal: Signal) -> Batch:
    """As if it had been recorded at `rate_hz`: resampled to it, and from there to the promised rate as any file is."""
    if rate_hz == signal.rate_hz:
        return batch
    recorded = replace(signal, rate_hz=rate_hz)
    ecg, observed = batch.ecg.cpu().numpy(), batch.observed.cpu().numpy()
    made = [
        conform(_columns(*conform(_columns(e, o, signal), signal.rate_hz, recorded), recorded), rate_hz, signal)
        for e, o in zip(ecg, observed)
    ]
    new, seen = (torch.from_numpy(np.stack(part)).to(batch.ecg.device) for part in zip(*made))
    return replace(batch, ecg=new, observed=seen)


def _columns(ecg: NDArray[Any], observed: NDArray[Any], signal: Signal) -> NDArray[np.float64]:
    """(T, 12) mV in LEADS order, NaN = missing, of ecg and observed (L, T)."""
    table = np.full((ecg.shape[1], len(LEADS)), np.nan)
    table[:, [LEADS.index(lead) for lead in signal.leads]] = np.where(observed, ecg, np.nan).T
    return table


def add_white_noise(batch: Batch, snr_db: float, signal: Signal) -> Batch:
    """Noise of equal power at all frequencies, another in each lead."""
    return _add_noise(batch, snr_db, "white", lambda draw: draw.standard_normal((len(signal.leads), signal.n_samples)))


def add_baseline_wander(batch: Batch, snr_db: float, signal: Signal) -> Batch:
    """Baseline wander: four slow waves in each lead, as breathing and moving electrodes make them."""
    time_s = np.arange(signal.n_samples) / signal.rate_hz

    def noise(draw: np.random.Generator) -> NDArray[np.float64]:
        shape = (len(signal.leads), 4, 1)
        rate_hz, phase = draw.uniform(*_WANDER_HZ, shape), draw.uniform(0, 2 * np.pi, shape)
        waves: NDArray[np.float64] = np.sin(2 * np.pi * rate_hz * time_s + phase).sum(axis=1)
        return np.asarray(waves / np.sqrt(2))  # four waves of power 1/2 each

    return _add_noise(batch, snr_db, "wander", noise)


def add_mains_hum(batch: Batch, snr_db: float, signal: Signal, mains_hz: float = MAINS_HZ) -> Batch:
    """Mains hum as a 500 Hz recorder picks it up; at a lower promised rate our resampling takes most of it away again."""
    recorder_hz = max(_RECORDER_HZ, signal.rate_hz)
    time_s = np.arange(int(signal.duration_s * recorder_hz)) / recorder_hz

    def noise(draw: np.random.Generator) -> NDArray[np.float64]:
        phase = draw.uniform(0, 2 * np.pi)  # one mains, hence one phase; electrodes pick up more or less of it
        size = draw.uniform(0.5, 1.5, len(LEADS)) / np.sqrt(13 / 12)  # mean square 1
        hum = np.sqrt(2) * np.sin(2 * np.pi * mains_hz * time_s + phase)
        return conform(hum[:, None] * size, recorder_hz, signal)[0].astype(np.float64)

    return _add_noise(batch, snr_db, "mains", noise)


def _add_noise(
    batch: Batch, snr_db: float, kind: str, noise: Callable[[np.random.Generator], NDArray[np.float64]]
) -> Batch:
    """The batch with noise of power 1, brought to `snr_db` under the record's own power about its leads' means."""
    real = batch.observed
    n = real.sum(-1, keepdim=True).clamp(min=1)
    centred = (batch.ecg - (batch.ecg * real).sum(-1, keepdim=True) / n) * real
    power = centred.square().sum((1, 2)) / real.sum((1, 2)).clamp(min=1)  # (B,) mV squared
    made = np.stack([noise(np.random.default_rng([zlib.crc32(kind.encode()), _seed(name)])) for name in batch.record])
    unit = torch.from_numpy(made).to(batch.ecg)
    size = (power * 10 ** (-snr_db / 10)).sqrt()[:, None, None]
    return replace(batch, ecg=batch.ecg + size * unit * real)


def _seed(record: str) -> int:
    return zlib.crc32(record.encode())


def swap_arms(batch: Batch, signal: Signal) -> Batch:
    """Right and left arm exchanged: I turned over, II and III exchanged, aVR and aVL exchanged, the rest as it was.

    A lead whose partner was not promised is worked out from I and II.
    """
    place = {lead: number for number, lead in enumerate(signal.leads)}
    if not {"I", "II"} <= place.keys():
        raise ValueError(f"swapped arms need leads I and II; the signal has {', '.join(signal.leads)}")

    def lead(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A lead as it was recorded: ecg (B, T) and observed (B, T)."""
        if name in place:
            return batch.ecg[:, place[name]], batch.observed[:, place[name]]
        (one, seen_one), (two, seen_two) = lead("I"), lead("II")
        of = {"III": two - one, "aVL": one - two / 2, "aVR": -(one + two) / 2}[name]
        return of, seen_one & seen_two

    ecg, observed = batch.ecg.clone(), batch.observed.clone()
    ecg[:, place["I"]] = -batch.ecg[:, place["I"]]
    for name, source in (("II", "III"), ("III", "II"), ("aVR", "aVL"), ("aVL", "aVR")):
        if name in place:
            ecg[:, place[name]], observed[:, place[name]] = lead(source)
    return replace(batch, ecg=ecg * observed, observed=observed)


def scale_amplitude(batch: Batch, factor: float) -> Batch:
    """Every sample times `factor`: microvolts taken for millivolts, or the other way round."""
    return replace(batch, ecg=batch.ecg * factor)


class ChangedRecordings(Recordings):
    """Rows of a cohort, changed on their way to the model."""

    def __init__(self, cohort: Cohort, signal: Signal, rows: NDArray[Any], change: Change) -> None:
        super().__init__(cohort, signal, rows)
        self.change = change

    def batch(self, positions: Sequence[int] | NDArray[Any]) -> Batch:
        """The recordings at these positions, changed."""
        return self.change.of(super().batch(positions))


def complete_rows(
    cohort: Cohort, signal: Signal, rows: NDArray[np.integer]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Rows (n,) whose every recorded lead is observed for two seconds on end, so that each change leaves them something.

    Beside them the recorded leads: those promised that any of the rows has for so long.
    """
    recordings = Recordings(cohort, signal, rows)
    width = round(min(_MIN_OBSERVED_S, signal.duration_s / 2) * signal.rate_hz)
    kept = []
    for batch in recordings.batches(64):
        seen = torch.nn.functional.pad(batch.observed.cumsum(-1), (1, 0))
        kept.append(((seen[..., width:] - seen[..., :-width]) == width).any(-1).numpy())
    long = np.concatenate(kept) if kept else np.empty((0, len(signal.leads)), dtype=bool)  # (N, L)
    recorded: NDArray[np.bool_] = np.asarray(long.any(axis=0))
    whole = long[:, recorded].all(axis=1) & long.any(axis=1)
    kept_rows: NDArray[np.int64] = np.asarray(rows, dtype=np.int64)[whole]
    return kept_rows, tuple(lead for lead, there in zip(signal.leads, recorded) if there)


@dataclass(frozen=True)
class Robustness:
    """Scores of one task by change and reader, on the same records."""

    task: str
    n_records: int
    n_left_out: int  # test records without two seconds of every lead that is recorded
    not_recorded: tuple[str, ...]  # promised leads that no test record has: they are in no change
    clean: dict[str, Score]  # by reader
    changed: list[tuple[Change, dict[str, Score] | None]]  # None: an embedding was not finite

    def rows(self) -> list[dict[str, Any]]:
        """A line for each change and reader, unchanged first; AUROCs in [0, 1]."""
        lines = [_line("", "unchanged", name, at, at) for name, at in self.clean.items()]
        for change, scores in self.changed:
            for name, clean in self.clean.items():
                lines.append(_line(change.kind, change.name, name, scores[name] if scores else None, clean))
        return lines

    def to_json(self) -> dict[str, Any]:
        told = {"task": self.task, "n_records": self.n_records, "n_left_out": self.n_left_out}
        return {**told, "not_recorded": list(self.not_recorded), "rows": self.rows()}


def _line(kind: str, name: str, reader: str, at: Score | None, clean: Score) -> dict[str, Any]:
    line: dict[str, Any] = {"kind": kind, "change": name, "reader": reader, "macro": None}
    if at is None:
        return line
    line |= {"macro": at.macro, "low": at.interval[0], "high": at.interval[1]}
    if kind:
        line["gain"], (line["gain_low"], line["gain_high"]) = gain(at, clean)
    return line


def measure_robustness(
    run: Run,
    cohort: Cohort,
    task: str,
    readers: Sequence[Classifier],
    n_records: int = 500,
    quick: bool = False,
    progress: Progress | None = None,
) -> Robustness:
    """Each reader's macro AUROC on at most `n_records` test records, unchanged and after every change.

    Raises:
        ScoreError: no class has both label values among the records drawn.
        EmbedError: no record has two seconds of every recorded lead, or an unchanged one has no finite embedding.
    """
    test, signal = cohort.rows("test", task), run.config.signal
    whole, recorded = complete_rows(cohort, signal, test)
    if not len(whole):
        raise EmbedError(
            f"cohort {cohort.name}: no test recording of task {task} is long and whole enough to be changed"
        )
    drawn = np.sort(np.random.default_rng(0).permutation(whole)[:n_records])
    labels, patients = cohort.labels(task, drawn), cohort.patients.take(drawn)

    parts = list(dict.fromkeys(reader.part for reader in readers))

    def judged(found: dict[str, Features]) -> dict[str, Score]:
        return {
            reader.name: auroc_score(labels, reader.scores(found[reader.part]), patients, reader.classes)
            for reader in readers
        }

    unchanged = {part: embed(run, Recordings(cohort, signal, drawn), part) for part in parts}
    ends = np.cumsum([features.shape[1] for features in unchanged.values()])[:-1]

    asked = make_changes(signal, quick, recorded)
    changed: list[tuple[Change, dict[str, Score] | None]] = []
    for done, change in enumerate(asked, start=1):
        try:  # all parts in one pass, so that each ECG is read and changed once
            beside = embed(run, ChangedRecordings(cohort, signal, drawn, change), "+".join(parts))
        except EmbedError:  # the same records embedded well unchanged: what the change does is the result
            changed.append((change, None))
        else:
            changed.append((change, judged(dict(zip(parts, np.split(beside, ends, axis=1))))))
        if progress is not None:
            progress(f"robustness|{change.name}", done, len(asked))
    absent = tuple(lead for lead in signal.leads if lead not in recorded)
    return Robustness(task, len(drawn), len(test) - len(whole), absent, judged(unchanged), changed)
