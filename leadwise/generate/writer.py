"""What every writer of reports has in common: embeddings of ECGs in, one text per ECG out.

A writer gets no file, no record and no label of the ECG, only embeddings by a frozen run and, if there are any, measured
intervals. Patients are passed so that a report of the same patient is not returned as the report of an ECG.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

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

    def __len__(self) -> int:
        return len(self.features)

    def with_features(self, features: Features) -> WriterInput:
        """Return the same ECGs with other embeddings (N, D), without what was measured."""
        return replace(self, features=np.asarray(features), measurements=None)


class Writer(ABC):
    """Writes one report for each ECG."""

    name: str  # in tables
    part: str = "backbone"  # the embedding of the run that it reads; several joined by "+"

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
