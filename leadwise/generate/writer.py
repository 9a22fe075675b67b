"""What every writer of reports has in common: embeddings of ECGs in, one text per ECG out.

A writer gets no file, no record and no label of the ECG, only embeddings by a frozen run and, if there are any, measured
intervals. Patients and checksums of samples are passed so that a report of the same patient, or of a copy of the ECG, is not
returned as the report of an ECG.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leadwise.evaluate.embed import Features
from leadwise.progress import Progress
from leadwise.run import Run

NOTE = "machine-written, research use only"
"""The line on everything that contains written reports or their scores."""


class WriterError(ValueError):
    """A report that cannot be written, or a writer that cannot be used; the message names the remedy, and no report text."""


@dataclass(frozen=True)
class WriterInput:
    """N ECGs that reports are written for."""

    features: Features  # (N, D) embeddings of the part that the writer reads, all finite
    source: str = ""  # the data set that names the patients
    patients: Sequence[str] | None = None  # N names; None: not known
    measurements: Sequence[Mapping[str, float]] | None = (
        None  # N tables of measured intervals, NaN where not measurable
    )
    checksums: Sequence[str] | None = None  # N checksums of samples as a cohort stores them; None: not known

    def __len__(self) -> int:
        return len(self.features)

    def without_ecg(self, features: Features) -> WriterInput:
        """Return the same patients with other embeddings (N, D), and nothing measured."""
        return replace(self, features=np.asarray(features), measurements=None, checksums=None)

    def with_ecgs_of(self, others: NDArray[np.integer]) -> WriterInput:
        """Return the same patients, each with the ECG of another of the N: embedding, measurements and checksum."""
        checksums = None if self.checksums is None else [self.checksums[int(k)] for k in others]
        measured = None if self.measurements is None else [self.measurements[int(k)] for k in others]
        return replace(self, features=self.features[others], measurements=measured, checksums=checksums)


class Writer(ABC):
    """Writes one report for each ECG."""

    name: str  # in tables
    part: str = "backbone"  # the embedding of the run that it reads; several joined by "+"
    reads_measurements: bool = False  # whether `WriterInput.measurements` is used
    no_report: str = ""  # why it writes '' for an ECG; "" if that is what it has written

    def encoder(self, run: Run) -> Run:
        """Return the run whose embeddings the writer reads: `run`, or one with other weights of the same settings.

        Raises:
            WriterError: the writer belongs to another run.
        """
        return run

    @abstractmethod
    def write(self, ecgs: WriterInput, progress: Progress | None = None) -> list[str]:
        """Return N reports in the style of `leadwise.data.reports.clean`; '' if the writer writes none.

        Raises:
            WriterError: a report cannot be written.
        """


def shared_part(run: Run) -> str:
    """Return the part in which recordings with similar reports are near: "shared", or "backbone" if the run has no such part."""
    return "shared" if "shared" in run.method.parts else "backbone"
