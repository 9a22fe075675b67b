"""Which parts of one ECG a text's score depends on: an occlusion map with its picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from leadwise.batch import Batch, Signal
from leadwise.evaluate.card.occlusion import OcclusionMap, occlude_batch
from leadwise.evaluate.classifiers import ZERO_SHOT, Classifier
from leadwise.evaluate.text_embeddings import class_vector, cosines, embed_texts
from leadwise.progress import Progress
from leadwise.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Explanation:
    """How far the cosine to a text falls when a window of one lead is hidden from the model."""

    map: OcclusionMap
    batch: Batch  # of one ECG, as the model reads it
    signal: Signal

    @property
    def score(self) -> float:
        """The cosine of the whole ECG."""
        return self.map.score

    @property
    def drops(self) -> pd.DataFrame:
        """The drop of each lead (rows) and window (columns: its start in seconds); NaN where nothing was observed."""
        starts_s = np.round(np.arange(self.map.drop.shape[1]) * self.map.window_s, 6)
        return pd.DataFrame(self.map.drop, index=list(self.signal.leads), columns=starts_s)

    @property
    def leads(self) -> pd.Series:
        """The drop when a whole lead is hidden, by lead."""
        return pd.Series(self.map.without_lead, index=list(self.signal.leads), name="drop")

    @property
    def is_reliable(self) -> bool:
        """Whether hiding the strongest tenth of the windows lowers the cosine more than hiding a random tenth."""
        return self.map.without_top > max(0.0, self.map.without_random)

    def plot(self, path: Path | str | None = None) -> Figure:
        """Return the ECG on paper grid, coloured by the drop; with a path (.png or .svg), also write it there."""
        from leadwise.pictures import ink, paper

        one = self.map
        notes = [
            f"cosine {one.score:.3f}; the strongest tenth hidden {one.without_top:+.4f}, a random tenth "
            f"{one.without_random:+.4f}"
        ]
        figure = paper.draw(
            self.batch.ecg[0].numpy(), self.signal.rate_hz, self.signal.leads, title=f"{one.record}: {one.name}",
            notes=notes, observed=self.batch.observed[0].numpy(), heat=one.heat(self.signal.n_samples, self.signal.rate_hz),
        )  # fmt: skip
        if path is not None:
            ink.save(figure, Path(path))
        return figure


def explain(run: Run, batch: Batch, texts: Sequence[str], progress: Progress | None = None) -> Explanation:
    """Return the explanation of one ECG's cosine to the mean direction of `texts`; the first text is its title.

    Raises:
        NoTextEncoderError: the run has no text encoder.
        EmbedError: too little of the ECG was observed to hide any of it.
    """
    vectors, name = [class_vector(embed_texts(run, texts))], texts[0]
    classifier = Classifier(ZERO_SHOT, "shared", (name,), lambda ecg: cosines(ecg, vectors), "cosine")
    return Explanation(occlude_batch(run, batch, 0, classifier, name, progress), batch, run.config.signal)
