"""Write an ECG of which some or all leads are synthetic: a WFDB record, an .npz file and a picture.

Each of them states what is synthetic: the name of every file contains "synthetic", the header has it in a comment, the .npz
file has it per lead, and the picture draws it in another colour. Anything read from these leads is read from a model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leadwise.data.formats.wfdb_writer import write_wfdb
from leadwise.data.recordings.recording import RecordError, Recording
from leadwise.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".hea", ".dat", ".npz", ".png")
NOTE = "synthetic leads are made by a model and were not recorded; research use only"
_UNSAFE = re.compile(r"[^\w\-]")


@dataclass(frozen=True)
class MadeEcg:
    """An ECG of which some or all leads were made."""

    name: str  # of the recording, or of the generated ECG
    signal: NDArray[np.floating]  # (L, T) mV, NaN where nothing was recorded or made
    rate_hz: float
    leads: tuple[str, ...]
    synthetic: tuple[str, ...]  # the leads that a model made
    model: str  # what made them, such as "run wear-0 (wear_ecg)"
    derived: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # lead -> the recorded ones that it follows from
    low: NDArray[np.floating] | None = None  # (L, T) lower and upper edge of a band over several draws
    high: NDArray[np.floating] | None = None
    facts: Mapping[str, str | float] = field(default_factory=dict)  # further lines of the header, such as the prompt

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is synthetic, derived and by what, one sentence each."""
        lines = [f"synthetic leads: {', '.join(self.synthetic)}", f"made by: {self.model}", f"note: {NOTE}"]
        sources = sorted({", ".join(pair) for pair in self.derived.values()})
        if self.derived:
            lines.insert(1, f"derived leads: {', '.join(self.derived)} from {'; '.join(sources)}")
        return (*lines, *(f"{key}: {value}" for key, value in self.facts.items()))


def file_stem(name: str) -> str:
    """Return the name without suffix of the files of an ECG: it ends in "_synthetic"."""
    return f"{_UNSAFE.sub('_', name)}_synthetic"


def check_free(names: Sequence[str], folder: Path, overwrite: bool = False) -> None:
    """Check before the work that the files of ECGs can be written.

    Raises:
        RecordError: two ECGs would have the same files, or a file exists and `overwrite` is False.
    """
    stems = [file_stem(name) for name in names]
    for stem, name in zip(stems, names):
        if stems.count(stem) > 1:
            raise RecordError(f"two ECGs would be written as {stem} (one is {name}); complete them into two folders")
        for suffix in SUFFIXES:
            if (folder / f"{stem}{suffix}").exists() and not overwrite:
                raise RecordError(
                    f"{folder / f'{stem}{suffix}'} exists already; pass --overwrite, or choose another folder"
                )


def write_made(ecg: MadeEcg, folder: Path, overwrite: bool = False, picture: bool = True) -> list[Path]:
    """Write an ECG to `folder` and return the paths of its header, its .npz file and its picture.

    The record is NAME_synthetic.hea and .dat in format 16, rounded to 1 uV. NAME_synthetic.npz has `signal`, `low` and `high`
    (L, T) in mV, `leads`, `synthetic` (L,) bool, `rate_hz` and `remarks`.

    Raises:
        RecordError: a file exists and `overwrite` is False.
    """
    check_free([ecg.name], folder, overwrite)
    stem = file_stem(ecg.name)
    signal = np.asarray(ecg.signal, dtype=np.float64)

    # the numbers, then the record
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / f"{stem}.npz"
    nothing = np.full(signal.shape, np.nan)
    with replacing(table) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            signal=signal.astype(np.float32),
            low=np.asarray(nothing if ecg.low is None else ecg.low, dtype=np.float32),
            high=np.asarray(nothing if ecg.high is None else ecg.high, dtype=np.float32),
            leads=np.array(ecg.leads),
            synthetic=np.array([lead in ecg.synthetic for lead in ecg.leads]),
            rate_hz=np.float64(ecg.rate_hz),
            remarks=np.array(ecg.remarks),
        )
    recording = Recording(
        stem, signal.T, ecg.leads, ecg.rate_hz, format="leadwise, with synthetic leads", remarks=ecg.remarks
    )
    written = [write_wfdb(recording, folder, stem, overwrite), table]

    # the picture
    if picture:
        from leadwise.pictures import ink

        path = folder / f"{stem}.png"
        ink.save(draw_made(ecg), path, dpi=120)
        written.append(path)
    return written


def draw_made(ecg: MadeEcg) -> Figure:
    """Return a figure of the ECG on paper grid: recorded leads in black, synthetic ones in another colour with their band."""
    from leadwise.pictures import paper

    band = None if ecg.low is None or ecg.high is None else (np.asarray(ecg.low), np.asarray(ecg.high))
    title = f"{ecg.name}: {_title(ecg)}"
    return paper.draw(
        np.asarray(ecg.signal),
        ecg.rate_hz,
        ecg.leads,
        title=title,
        notes=ecg.remarks,
        synthetic=ecg.synthetic,
        band=band,
    )


def _title(ecg: MadeEcg) -> str:
    if set(ecg.synthetic) == set(ecg.leads):
        return "a synthetic ECG"
    return f"{', '.join(ecg.synthetic)} are synthetic"
