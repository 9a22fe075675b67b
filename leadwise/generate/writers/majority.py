"""The writer `majority`: the most frequent training report for every ECG. Every table of reports has this row."""

from __future__ import annotations

from collections import Counter

from leadwise.data.cohort.cohort import Cohort
from leadwise.generate.bank import training_reports
from leadwise.generate.writer import Writer, WriterInput
from leadwise.progress import Progress


class MajorityWriter(Writer):
    """Writes the most frequent training report of a cohort; of several, the first in alphabetical order."""

    name = "majority"

    def __init__(self, cohort: Cohort) -> None:
        """Count the training reports.

        Raises:
            WriterError: the cohort has none.
        """
        counts = Counter(training_reports(cohort)[1])
        self.report = min(counts, key=lambda text: (-counts[text], text))

    def write(self, ecgs: WriterInput, progress: Progress | None = None) -> list[str]:
        """Return the same report N times."""
        return [self.report] * len(ecgs)
