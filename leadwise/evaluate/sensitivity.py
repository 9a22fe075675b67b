"""Sensitivity to the wording: zero-shot scores of the same ECGs with every prompt set of a file, and with single prompts."""

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
    """Scores of one prompt set: with all prompts, and with one prompt per class."""

    score: Score
    single: tuple[float, ...]  # macro AUROC with only the first, the second ... prompt of each class
    n_prompts: int


@dataclass(frozen=True)
class PromptSensitivity:
    """Macro AUROC by prompt set. A spread is the largest minus the smallest value."""

    chosen: str  # the set of the reported score
    by_set: dict[str, PromptSetScore]

    @property
    def over_sets(self) -> float:
        """Spread of the sets' macro AUROC."""
        return _spread([entry.score.macro for entry in self.by_set.values()])

    @property
    def over_single_prompts(self) -> float:
        """Spread of the macro AUROC of single prompts, over all sets."""
        return _spread([macro for entry in self.by_set.values() for macro in entry.single])

    def to_json(self) -> dict[str, Any]:
        """Return every score by set, and the two spreads."""
        sets = {}
        for name, entry in self.by_set.items():
            above, interval = gain(entry.score, self.by_set[self.chosen].score)
            sets[name] = {
                "macro": entry.score.macro,
                "interval": list(entry.score.interval),
                "above_chosen": {"macro": above, "interval": list(interval)},
                "per_class": dict(entry.score.per_class),
                "single_prompts": {"macro": list(entry.single), "spread": _spread(entry.single)},
                "n_prompts": entry.n_prompts,
            }
        spread = {"over_sets": self.over_sets, "over_single_prompts": self.over_single_prompts}
        return {"chosen": self.chosen, "sets": sets, "spread": spread}

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per set; AUROCs in [0, 1]."""
        return [
            {
                "set": name + (" *" if name == self.chosen else ""),
                "prompts": entry.n_prompts,
                "macro": entry.score.macro,
                "low": entry.score.interval[0],
                "high": entry.score.interval[1],
                "worst single": min(entry.single),
                "best single": max(entry.single),
            }
            for name, entry in self.by_set.items()
        ]

    def class_rows(self) -> list[dict[str, Any]]:
        """Return one row per class of the task: its AUROC by set, and their spread."""
        defined = self.by_set[self.chosen].score.per_class
        rows = []
        for code in defined:
            by_set = {name: entry.score.per_class[code] for name, entry in self.by_set.items()}
            defined_values = [value for value in by_set.values() if value is not None]
            rows.append({"class": code, **by_set, "spread": _spread(defined_values) if defined_values else None})
        return rows

    def line(self) -> str:
        """Return a one-line summary."""
        sets = ", ".join(f"{name} {entry.score.macro:.3f}" for name, entry in self.by_set.items())
        spread = f"single prompts differ by {self.over_single_prompts:.3f}"
        if len(self.by_set) > 1:
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
    """Score one task with every prompt set and with single prompts.

    Args:
        labels: (N, K) in {0, 1}; ecg: (N, D); patients: N names.
        texts: set -> the prompt embeddings (P, D) of each of K classes.
        chosen: the set of the reported score.
    """
    by_set = {
        name: PromptSetScore(
            auroc_score(labels, cosines(ecg, [class_vector(vectors) for vectors in class_texts]), patients, classes),
            score_single_prompts(labels, ecg, class_texts),
            sum(len(vectors) for vectors in class_texts),
        )
        for name, class_texts in texts.items()
    }
    return PromptSensitivity(chosen, by_set)


def score_single_prompts(labels: NDArray[np.int8], ecg: Features, class_texts: Sequence[Features]) -> tuple[float, ...]:
    """Return macro AUROC with only the first, the second ... prompt of each class; shorter lists repeat."""
    macros = []
    for number in range(max(len(vectors) for vectors in class_texts)):
        single = [unit(vectors)[number % len(vectors)] for vectors in class_texts]
        macros.append(float(np.nanmean(auroc(labels, cosines(ecg, single)))))
    return tuple(macros)


def _spread(macros: Sequence[float]) -> float:
    return max(macros) - min(macros)
