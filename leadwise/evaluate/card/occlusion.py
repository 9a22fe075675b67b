"""Occlusion maps: how far the score of a class falls when a window of one lead is hidden from the model.

Hidden means marked as not observed, not set to zero: the model embeds the rest as it would with a lead that fell off.
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
)
from leadwise.evaluate.metrics.auroc import auroc
from leadwise.evaluate.metrics.score import Floats
from leadwise.evaluate.speed import device_of, embedding_precision
from leadwise.progress import Progress
from leadwise.run import Run

WINDOW_S = 0.4  # about the width of a beat from P to T

_BATCH_SIZE = 64
_RANDOM_DRAWS = 16


@dataclass(frozen=True)
class OcclusionMap:
    """The drops of one record's score of one class."""

    record: str
    row: int  # of the cohort
    name: str  # class
    classifier: str
    unit: str  # of the score
    score: float  # of the whole ECG
    window_s: float
    drop: Floats  # (L, W): score of the whole ECG minus score without the window; NaN where nothing was observed
    without_lead: Floats  # (L,): drop when the whole lead is hidden
    without_top: float  # drop when the tenth of the windows with the largest drops is hidden at once
    without_random: float  # drop for as many random windows, mean of several draws; a useful map has a smaller one

    def heat(self, n_samples: int, rate_hz: float) -> Floats:
        """Return (L, T) the drop of the window that contains each sample."""
        window = np.minimum((np.arange(n_samples) / rate_hz / self.window_s + 1e-9).astype(int), self.drop.shape[1] - 1)
        return np.asarray(self.drop[:, window])


def window_s(run: Run) -> float:
    """Return the window in seconds: whole patches if the run's settings have `n_patches`, else WINDOW_S."""
    n_patches, duration_s = run.config.method.get("n_patches"), run.config.signal.duration_s
    if not isinstance(n_patches, int) or n_patches < 1:
        return WINDOW_S
    patch_s = duration_s / n_patches
    return patch_s * max(1, round(WINDOW_S / patch_s))


def choose_examples(
    labels: NDArray[np.int8], scores: Floats, classes: Sequence[str], n: int, min_positives: int = 5
) -> list[tuple[int, int]]:
    """Return (record, class) pairs: for the `n` classes of highest AUROC, the positive of highest score.

    No record is chosen twice. Classes with fewer than `min_positives` positives are left out.
    """
    class_aurocs = auroc(labels, scores)
    class_aurocs[labels.sum(axis=0) < min_positives] = np.nan
    ranked = [int(k) for k in np.argsort(-class_aurocs, kind="stable") if np.isfinite(class_aurocs[k])]
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
    run: Run, cohort: Cohort, row: int, classifier: Classifier, name: str, progress: Progress | None = None
) -> OcclusionMap:
    """Return the map of one record of a cohort and one class.

    Raises:
        EmbedError: nothing of the record can be hidden, or a score is not finite.
    """
    recording = Recordings(cohort, run.config.signal, np.array([row])).batch([0])
    return occlude_batch(run, recording, row, classifier, name, progress)


def occlude_batch(
    run: Run, recording: Batch, row: int, classifier: Classifier, name: str, progress: Progress | None = None
) -> OcclusionMap:
    """Return the map of a batch of one record, and of one class; `row` numbers the record.

    Raises:
        EmbedError: nothing of the record can be hidden, or a score is not finite.
    """
    # The masks: the whole ECG, without each window, without each lead. Skip those that hide nothing or leave too little.
    signal, width_s = run.config.signal, window_s(run)
    window_masks = _window_masks(recording, signal, width_s)
    n_windows = len(window_masks) // len(signal.leads)
    whole = [~torch.zeros_like(recording.observed[0])]
    lead_masks = [_lead_mask(recording, number) for number in range(len(signal.leads))]
    masks = whole + window_masks + lead_masks
    scored = [number for number, mask in enumerate(masks) if number == 0 or _is_informative(recording, mask)]
    k = classifier.classes.index(name)

    def score_masked(masks: list[torch.Tensor], what: str) -> Floats:
        batches: list[Floats] = []
        for start in range(0, len(masks), _BATCH_SIZE):
            features = _embed(run, _masked(recording, masks[start : start + _BATCH_SIZE]), classifier.part)
            batches.append(classifier.scores(features)[:, k])
            if progress is not None:
                progress(f"{what}|{name}", min(start + _BATCH_SIZE, len(masks)), len(masks))
        scores = np.concatenate(batches)
        if not np.isfinite(scores).all():
            raise EmbedError(
                f"record {recording.record[0]}: a score by {run.name} is not finite when a window is hidden; "
                "look for non-finite embeddings"
            )
        return scores

    # The drop of each window and lead.
    scores = np.full(len(masks), np.nan)
    scores[scored] = score_masked([masks[number] for number in scored], "occlusion")
    drops = scores[0] - scores[1:]
    windows = np.array([number for number in range(len(window_masks)) if np.isfinite(drops[number])])
    if not len(windows):
        raise EmbedError(
            f"record {recording.record[0]}: too little was observed to hide any of it; choose another record"
        )

    # Hide the strongest tenth of the windows at once, and as many random windows several times.
    n_hidden = max(1, len(windows) // 10)
    rng = np.random.default_rng(0)
    window_sets = [windows[np.argsort(-drops[windows], kind="stable")[:n_hidden]]]
    window_sets += [rng.choice(windows, n_hidden, replace=False) for _ in range(_RANDOM_DRAWS)]
    joint_masks = [torch.stack([window_masks[number] for number in numbers]).all(0) for numbers in window_sets]
    joint_drops = scores[0] - score_masked(joint_masks, "a tenth hidden")
    return OcclusionMap(
        recording.record[0], int(row), name, classifier.name, classifier.unit, float(scores[0]), width_s,
        drops[: len(window_masks)].reshape(len(signal.leads), n_windows), drops[len(window_masks) :],
        float(joint_drops[0]), float(joint_drops[1:].mean()),
    )  # fmt: skip


def _window_masks(recording: Batch, signal: Signal, width_s: float) -> list[torch.Tensor]:
    """Return a mask (L, T) of the samples that remain, for each lead and window, lead by lead."""
    n_windows = max(1, int(np.ceil(signal.duration_s / width_s - 1e-9)))
    edges = np.minimum(np.rint(np.arange(n_windows + 1) * width_s * signal.rate_hz).astype(int), signal.n_samples)
    masks = []
    for lead in range(len(signal.leads)):
        for start, end in pairwise(edges):
            mask = torch.ones_like(recording.observed[0])
            mask[lead, start:end] = False
            masks.append(mask)
    return masks


def _lead_mask(recording: Batch, lead: int) -> torch.Tensor:
    """Return a mask (L, T) without one lead."""
    mask = torch.ones_like(recording.observed[0])
    mask[lead] = False
    return mask


def _is_informative(recording: Batch, mask: torch.Tensor) -> bool:
    """Return whether the mask hides something that was observed, and leaves at least half of some lead."""
    left = recording.observed[0] & mask
    return bool((recording.observed[0] & ~mask).any()) and bool((left.float().mean(-1) >= 0.5).any())


def _masked(recording: Batch, masks: list[torch.Tensor]) -> Batch:
    """Return the record once for each mask (L, T), with the samples outside the mask not observed."""
    observed, n = recording.observed & torch.stack(masks), len(masks)
    ecg = torch.where(observed, recording.ecg, torch.zeros_like(recording.ecg))
    return replace(
        recording,
        ecg=ecg,
        observed=observed,
        record=recording.record * n,
        patient=recording.patient * n,
        report=recording.report * n,
    )


def _embed(run: Run, batch: Batch, part: str) -> Features:
    with frozen(run.method), embedding_precision(run):
        embedding: torch.Tensor = run.method.embed_ecg(batch.to(device_of(run)), part)
    return embedding.float().cpu().numpy()
