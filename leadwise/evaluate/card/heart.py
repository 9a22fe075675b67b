"""What a card has where a cohort has numbers of the heart or heart images: regressions with controls, and retrieval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.embed import EmbedError
from leadwise.evaluate.regress import RegressError, RegressReport, run_regress
from leadwise.evaluate.retrieve import RetrievalError
from leadwise.evaluate.volume_retrieval import POOLS, VolumeRetrievalReport, run_volume_retrieval
from leadwise.progress import Progress
from leadwise.run import Run


@dataclass(frozen=True)
class HeartSection:
    """Scores of a run on numbers of the heart, and on heart images."""

    numbers: RegressReport | None  # None: the cohort has no targets, or too few values
    retrieval: VolumeRetrievalReport | None  # None: the run embeds no heart images, or the cohort has none

    def to_json(self) -> dict[str, Any]:
        return {
            "regress": self.numbers.to_json() if self.numbers else None,
            "retrieve": self.retrieval.to_json() if self.retrieval else None,
        }


def measure_heart(
    run: Run, cohort: Cohort, remarks: list[str], progress: Progress | None = None
) -> HeartSection | None:
    """Return the scores; None for a cohort without targets and heart images. What cannot be scored is added to `remarks`."""
    numbers: RegressReport | None = None
    if cohort.targets:
        try:
            numbers = run_regress(run, cohort, progress=progress)
        except (RegressError, EmbedError) as error:
            remarks.append(f"Numbers of the heart are not predicted: {error}.")
    retrieval: VolumeRetrievalReport | None = None
    if cohort.volumes is not None and run.method.embeds_volume:
        try:
            retrieval = run_volume_retrieval(run, cohort, pools=POOLS, progress=progress)
        except (RetrievalError, EmbedError) as error:
            remarks.append(f"Retrieval of heart images is not scored: {error}.")
    return HeartSection(numbers, retrieval) if numbers or retrieval else None
