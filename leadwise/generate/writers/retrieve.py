"""The writer `retrieve`: the report of the training ECG nearest to an ECG. Every table of reports has this row.

The nearest is that of the highest cosine between embeddings of ECGs in the run's shared space (ECG to ECG). The other way,
from the ECG to embedded report texts, compares two clouds of vectors that contrastive training leaves apart, prefers the
few texts that are near to everything, and does not exist for a run without a text encoder.
"""

from __future__ import annotations

from leadwise.generate.bank import ReportBank
from leadwise.generate.writer import Writer, WriterError, WriterInput, shared_part
from leadwise.progress import Progress
from leadwise.run import Run


class RetrieveWriter(Writer):
    """Writes the report of the nearest training ECG of another patient."""

    name = "retrieve"

    def __init__(self, run: Run, bank: ReportBank) -> None:
        self.part, self.bank = shared_part(run), bank

    def write(self, ecgs: WriterInput, progress: Progress | None = None) -> list[str]:
        """Return the report of the nearest training ECG for each of N ECGs.

        Raises:
            WriterError: all training recordings are of the ECG's own patient.
        """
        nearest = self.bank.nearest(ecgs, 1)
        if not all(nearest):
            raise WriterError(
                f"cohort {self.bank.cohort.name}: all training reports are of the patient whose ECG is read; pass a cohort with "
                "training reports of other patients (--bank COHORT)"
            )
        return [texts[0] for texts in nearest]
