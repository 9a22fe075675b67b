"""How much the wording matters: the same ECGs scored with every set of a prompt file, and with single prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.evaluate.embed import Features
from leadwise.evaluate.metrics.auroc import auroc, auroc_score
from leadwise.evaluate.metrics.bootstrap import gain
from leadwise.evaluate.metrics.score import Score
from leadwise.evaluate.text_embeddings import class_vector, cosines, unit


@dataclass(frozen=True)
class PromptSetScore:
    """One set of prompts: all of them together, and one at a time."""

    score: Score
    single: tuple[float, ...]  # macro AUROC when each class has its first, second ... prompt only
    n_prompts: int


@dataclass(frozen=True)
class PromptSensitivity:
    """Macro AUROC by set of prompts; a spread is the largest less the smallest."""

    chosen: str  # the set that the reported score is of
    of_set: dict[str, PromptSetScore]

    @property
    def over_sets(self) -> float:
        """Spread of the sets' macro AUROC."""
        return _spread([at.score.macro for at in self.of_set.values()])

    @property
    def over_single_prompts(self) -> float:
        """Spread of the macro AUROC of single prompts, whatever set they are of."""
        return _spread([macro for at in self.of_set.values() for macro in at.single])

    def to_json(self) -> dict[str, Any]:
        """Every figure, by set, and the two spreads."""
        sets = {}
        for which, at in self.of_set.items():
            above, interval = gain(at.score, self.of_set[self.chosen].score)
            sets[which] = {
                "macro": at.score.macro,
                "interval": list(at.score.interval),
                "above_chosen": {"macro": above, "interval": list(interval)},
                "per_class": dict(at.score.per_class),
                "single_prompts": {"macro": list(at.single), "spread": _spread(at.single)},
                "n_prompts": at.n_prompts,
            }
        spread = {"over_sets": self.over_sets, "over_single_prompts": self.over_single_prompts}
        return {"chosen": self.chosen, "sets": sets, "spread": spread}

    def rows(self) -> list[dict[str, Any]]:
        """A line for each set; AUROCs in [0, 1]."""
        return [
            {
                "set": which + (" *" if which == self.chosen else ""),
                "prompts": at.n_prompts,
                "macro": at.score.macro,
                "low": at.score.interval[0],
                "high": at.score.interval[1],
                "worst single": min(at.single),
                "best single": max(at.single),
            }
            for which, at in self.of_set.items()
        ]

    def class_rows(self) -> list[dict[str, Any]]:
        """A line for each class that the split defines: its AUROC by set, and their spread."""
        defined = self.of_set[self.chosen].score.per_class
        rows = []
        for code in defined:
            by_set = {which: at.score.per_class[code] for which, at in self.of_set.items()}
            there = [value for value in by_set.values() if value is not None]
            rows.append({"class": code, **by_set, "spread": _spread(there) if there else None})
        return rows

    def line(self) -> str:
        """The whole finding in one line for a person."""
        sets = ", ".join(f"{which} {at.score.macro:.3f}" for which, at in self.of_set.items())
        spread = f"single prompts differ by {self.over_single_prompts:.3f}"
        if len(self.of_set) > 1:
            spread = f"sets differ by {self.over_sets:.3f}, {spread}"
        return f"wording: {sets}; {spread}"


def measure_sensitivity(
    labels: NDArray[np.int8],
    ecg: Features,
    texts: Mapping[str, Sequence[Features]],
    patients: NDArray[Any],
    classes: Sequence[str],
    chosen: str,
) -> PromptSensitivity:
    """The sensitivity of one task's scores.

    Args:
        labels: (N, K) in {0, 1}; ecg: (N, D); patients: N names.
        texts: set -> for each of K classes the (P, D) embeddings of its prompts.
        chosen: the set that the reported score is of.
    """
    of_set = {
        which: PromptSetScore(
            auroc_score(labels, cosines(ecg, [class_vector(vectors) for vectors in of_class]), patients, classes),
            score_single_prompts(labels, ecg, of_class),
            sum(len(vectors) for vectors in of_class),
        )
        for which, of_class in texts.items()
    }
    return PromptSensitivity(chosen, of_set)


def score_single_prompts(labels: NDArray[np.int8], ecg: Features, texts: Sequence[Features]) -> tuple[float, ...]:
    """Macro AUROC with each class's first prompt alone, its second and so on; shorter lists start again."""
    macros = []
    for at in range(max(len(vectors) for vectors in texts)):
        each = auroc(labels, cosines(ecg, [unit(vectors)[at % len(vectors)] for vectors in texts]))
        macros.append(float(np.nanmean(each)))
    return tuple(macros)


def _spread(macros: Sequence[float]) -> float:
    return max(macros) - min(macros)
