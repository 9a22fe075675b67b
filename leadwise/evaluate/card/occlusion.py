"""Where in an ECG a class is seen: how far its score falls when a window of one lead is hidden from the model.

Hidden means not observed, not zero: the model looks at the rest, as it would at a lead that fell off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from leadwise.batch import Batch, Signal
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.evaluate.classifiers import Classifier
from leadwise.evaluate.embed import (
    EmbedError,
    Features,
    frozen,
    training_precision,
)
from leadwise.evaluate.metrics.auroc import auroc
from leadwise.evaluate.metrics.score import Floats
from leadwise.progress import Progress
from leadwise.run import Run

WINDOW_S = 0.4  # about a beat's width from P to T

_BATCH_SIZE = 64
_RANDOM_DRAWS = 16


@dataclass(frozen=True)
class OcclusionMap:
    """Where one record's class was seen."""

    record: str
    row: int  # of the cohort
    name: str  # class
    reader: str
    unit: str  # of the score
    score: float  # of the whole ECG
    window_s: float
    drop: Floats  # (L, W): score of the whole less score without the window; NaN where nothing was observed
    without_lead: Floats  # (L,): drop when the whole lead is hidden
    without_top: float  # drop when the tenth of the windows that count most is hidden at once ...
    without_random: float  # ... and as many random ones, mean of several draws: a map worth looking at tells them apart

    def heat(self, n_samples: int, rate_hz: float) -> Floats:
        """(L, T) drop of the window in which each sample lies."""
        window = np.minimum((np.arange(n_samples) / rate_hz / self.window_s + 1e-9).astype(int), self.drop.shape[1] - 1)
        return np.asarray(self.drop[:, window])


def window_s(run: Run) -> float:
    """A window of whole patches where the run's settings name their number, else WINDOW_S; seconds."""
    n_patches, duration_s = run.config.method.get("n_patches"), run.config.signal.duration_s
    if not isinstance(n_patches, int) or n_patches < 1:
        return WINDOW_S
    patch_s = duration_s / n_patches
    return patch_s * max(1, round(WINDOW_S / patch_s))


def choose_examples(
    labels: NDArray[np.int8], scores: Floats, classes: Sequence[str], n: int, least_positives: int = 5
) -> list[tuple[int, int]]:
    """(record, class) pairs: for the `n` classes of highest AUROC the positive of highest score, no record twice."""
    each = auroc(labels, scores)
    each[labels.sum(axis=0) < least_positives] = np.nan
    ranked = [int(k) for k in np.argsort(-each, kind="stable") if np.isfinite(each[k])]
    chosen: list[tuple[int, int]] = []
    for k in ranked:
        positives = [int(i) for i in np.argsort(-scores[:, k], kind="stable") if labels[i, k] == 1]
        free = [i for i in positives if i not in {record for record, _ in chosen}]
        if free:
            chosen.append((free[0], k))
        if len(chosen) == n:
            break
    return chosen


def occlude(
    run: Run, cohort: Cohort, row: int, reader: Classifier, name: str, progress: Progress | None = None
) -> OcclusionMap:
    """The map of one record and class.

    Raises:
        EmbedError: nothing of the record can be hidden, or a score is not finite.
    """
    signal, width_s = run.config.signal, window_s(run)
    one = Recordings(cohort, signal, np.array([row])).batch([0])
    hides = _windows(one, signal, width_s)
    n_windows = len(hides) // len(signal.leads)
    whole = [~torch.zeros_like(one.observed[0])]
    alone = [_without_lead(one, number) for number in range(len(signal.leads))]
    kept = whole + hides + alone
    # what changes nothing, or leaves nothing, is not asked
    asked = [number for number, keep in enumerate(kept) if number == 0 or _is_informative(one, keep)]
    k = reader.classes.index(name)

    def judged(keeps: list[torch.Tensor], what: str) -> Floats:
        values: list[Floats] = []
        for start in range(0, len(keeps), _BATCH_SIZE):
            part = _embed(run, _hidden(one, keeps[start : start + _BATCH_SIZE]), reader.part)
            values.append(reader.scores(part)[:, k])
            if progress is not None:
                progress(f"{what}|{name}", min(start + _BATCH_SIZE, len(keeps)), len(keeps))
        found = np.concatenate(values)
        if not np.isfinite(found).all():
            raise EmbedError(f"record {one.record[0]}: a score by {run.name} is not finite when a window is hidden")
        return found

    values = np.full(len(kept), np.nan)
    values[asked] = judged([kept[number] for number in asked], "occlusion")
    lost = values[0] - values[1:]
    windows = np.array([number for number in range(len(hides)) if np.isfinite(lost[number])])
    if not len(windows):
        raise EmbedError(f"record {one.record[0]}: too little was observed to hide any of it")
    n_hidden = max(1, len(windows) // 10)
    draw = np.random.default_rng(0)
    chosen = [windows[np.argsort(-lost[windows], kind="stable")[:n_hidden]]]
    chosen += [draw.choice(windows, n_hidden, replace=False) for _ in range(_RANDOM_DRAWS)]
    together = values[0] - judged(
        [torch.stack([hides[number] for number in at]).all(0) for at in chosen], "a tenth hidden"
    )
    return OcclusionMap(
        one.record[0], int(row), name, reader.name, reader.unit, float(values[0]), width_s,
        lost[: len(hides)].reshape(len(signal.leads), n_windows), lost[len(hides) :],
        float(together[0]), float(together[1:].mean()),
    )  # fmt: skip


def _windows(one: Batch, signal: Signal, width_s: float) -> list[torch.Tensor]:
    """For each lead and window, lead by lead, what stays to be seen (L, T)."""
    n_windows = max(1, int(np.ceil(signal.duration_s / width_s - 1e-9)))
    edges = np.minimum(np.rint(np.arange(n_windows + 1) * width_s * signal.rate_hz).astype(int), signal.n_samples)
    found = []
    for lead in range(len(signal.leads)):
        for first, past in pairwise(edges):
            keep = torch.ones_like(one.observed[0])
            keep[lead, first:past] = False
            found.append(keep)
    return found


def _without_lead(one: Batch, lead: int) -> torch.Tensor:
    keep = torch.ones_like(one.observed[0])
    keep[lead] = False
    return keep


def _is_informative(one: Batch, keep: torch.Tensor) -> bool:
    """Whether something observed gets hidden, and half of some lead is left to look at."""
    left = one.observed[0] & keep
    return bool((one.observed[0] & ~keep).any()) and bool((left.float().mean(-1) >= 0.5).any())


def _hidden(one: Batch, kept: list[torch.Tensor]) -> Batch:
    """The record once for each of `kept` (L, T), with the rest hidden."""
    observed, n = one.observed & torch.stack(kept), len(kept)
    ecg = torch.where(observed, one.ecg, torch.zeros_like(one.ecg))
    return replace(
        one, ecg=ecg, observed=observed, record=one.record * n, patient=one.patient * n, report=one.report * n
    )


def _embed(run: Run, batch: Batch, part: str) -> Features:
    device = next((weight.device for weight in run.method.parameters()), torch.device("cpu"))
    with frozen(run.method), training_precision(run):
        embedding = run.method.embed_ecg(batch.to(device), part)
    return embedding.float().cpu().numpy()
