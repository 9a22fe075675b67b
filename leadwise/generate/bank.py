"""The training reports of a cohort: the most frequent ones, and those of the ECGs nearest to another ECG."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadwise.data import reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.embed import Features, embed_cohort, usable
from leadwise.evaluate.text_embeddings import unit
from leadwise.generate.writer import WriterError, WriterInput, shared_part
from leadwise.progress import Progress, relabel
from leadwise.run import Run

log = logging.getLogger(__name__)

SPLIT = "train"
_QUERIES_AT_ONCE = 256


def training_reports(cohort: Cohort) -> tuple[NDArray[np.int64], list[str]]:
    """Return the rows of the training split that have a report, and their cleaned reports.

    Raises:
        WriterError: there are none.
    """
    rows = cohort.rows(SPLIT, min_report_words=1)
    texts = [reports.clean(text) for text in cohort.reports.take(rows)]
    has_text = np.array([bool(text) for text in texts], dtype=bool)
    if not has_text.any():
        raise WriterError(
            f"cohort {cohort.name} has no report in split '{SPLIT}'; pass a cohort with training reports (--bank COHORT)"
        )
    return rows[has_text], [text for text in texts if text]


@dataclass(frozen=True)
class ReportBank:
    """The training reports of a cohort with the embeddings of their ECGs."""

    cohort: Cohort
    texts: list[str]  # M cleaned reports
    vectors: NDArray[np.float64]  # (M, D) unit vectors
    patient_of: NDArray[np.int64]  # (M,) number of each recording's patient
    patients: dict[str, int]  # number of each patient
    checksums: NDArray[np.str_]  # (M,) of the samples

    @classmethod
    def open(cls, run: Run, cohort: Cohort, progress: Progress | None = None) -> ReportBank:
        """Embed the training recordings of a cohort; the run folder caches the embeddings.

        Raises:
            WriterError: the cohort has no training report.
            EmbedError: the run can embed none of the recordings.
        """
        rows, texts = training_reports(cohort)
        chosen, _ = usable(run, cohort, rows)
        places = np.searchsorted(rows, chosen)
        features = embed_cohort(run, cohort, shared_part(run), chosen, relabel(progress, "embed training ECGs"))
        names, numbers = np.unique(np.array(cohort.patients.take(chosen), dtype=np.str_), return_inverse=True)
        patients = {str(name): number for number, name in enumerate(names)}
        chosen_texts, checksums = [texts[k] for k in places], np.array(cohort.checksums(chosen), dtype=np.str_)
        return cls(cohort, chosen_texts, unit(features), numbers.astype(np.int64), patients, checksums)

    def nearest(self, ecgs: WriterInput, k: int, allowed: Callable[[str], bool] | None = None) -> list[list[str]]:
        """Return for each ECG at most `k` distinct reports, of the training ECGs nearest to it by cosine, nearest first.

        Recordings of the ECG's own patient do not count, where both are of one data set, nor do recordings with the same
        samples under another name; their number is logged.

        Args:
            allowed: whether a report may be returned.
        """
        own = self._own_patients(ecgs)
        copies = self._copies(ecgs)
        nearest: list[list[str]] = []
        for begin in range(0, len(ecgs), _QUERIES_AT_ONCE):
            cosines = unit(ecgs.features[begin : begin + _QUERIES_AT_ONCE]) @ self.vectors.T
            for number, row in enumerate(cosines):
                row[self.patient_of == own[begin + number]] = -np.inf
                row[copies.get(begin + number, [])] = -np.inf
                nearest.append(self._distinct(row, k, allowed))
        return nearest

    def _own_patients(self, ecgs: WriterInput) -> list[int]:
        """Return the number of each ECG's patient in the bank; -1 if the bank has none of that name."""
        if ecgs.patients is None or ecgs.source != self.cohort.source:
            return [-1] * len(ecgs)
        return [self.patients.get(name, -1) for name in ecgs.patients]

    def _copies(self, ecgs: WriterInput) -> dict[int, list[int]]:
        """Return the recordings of the bank with the samples of an ECG, by the number of the ECG; a warning has their number."""
        if ecgs.checksums is None:
            return {}
        places: dict[str, list[int]] = {}
        for place, checksum in enumerate(self.checksums.tolist()):
            places.setdefault(checksum, []).append(place)
        own = self._own_patients(ecgs)
        copies = {number: places[one] for number, one in enumerate(ecgs.checksums) if one in places}
        others = sum(any(self.patient_of[place] != own[k] for place in of) for k, of in copies.items())
        if others:
            log.warning(
                "%d of the %d ECGs are in the training split of %s under another patient; their reports there are not used",
                others, len(ecgs), self.cohort.name,
            )  # fmt: skip
        return copies

    def _distinct(self, cosines: Features, k: int, allowed: Callable[[str], bool] | None) -> list[str]:
        texts: dict[str, None] = {}
        for place in np.argsort(-cosines, kind="stable"):
            if len(texts) == k or cosines[place] == -np.inf:
                break
            text = self.texts[place]
            if text not in texts and (allowed is None or allowed(text)):
                texts[text] = None
        return list(texts)
