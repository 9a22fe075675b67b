"""Targets of a patch decoder: each patch relative to a level and a spread, and the conversion back to millivolts."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from leadwise.batch import Batch, Normalize
from leadwise.nn.normalize import normalize

Target = Literal["patch", "record", "raw"]


def level_and_spread(patches: Tensor, real: Tensor, how: Target, floor: float = 0.01) -> tuple[Tensor, Tensor]:
    """The level and spread that a target is relative to, on the scale of `patches`: (B, L, N, 1) each, or broadcastable to it.

    patches: (B, L, N, P), 0 where not observed; real: (B, L, N, P) bool, observed samples.
    patch: each patch's own mean and standard deviation; `floor` x the record's variance is added to the patch's variance, so
    that the target of an isoelectric patch is not its noise. record: the record's mean and deviation. raw: 0 and 1.
    """
    n = real.sum((1, 2, 3), keepdim=True).clamp(min=1)
    mean = (patches * real).sum((1, 2, 3), keepdim=True) / n
    record = ((patches - mean).square() * real).sum((1, 2, 3), keepdim=True) / n  # (B, 1, 1, 1) variance
    if how == "raw":
        return mean.new_zeros(mean.shape), mean.new_ones(mean.shape)
    if how == "record":
        return mean, (record + 1e-6).sqrt()
    own = patches.var(-1, correction=0, keepdim=True)
    return patches.mean(-1, keepdim=True), (own + floor * record + 1e-6).sqrt()


def refuse_other_scales(how: Normalize) -> None:
    """Raise ValueError unless a model's scale can be converted back to mV."""
    if how != "mv":
        raise ValueError(f"signal.normalize = '{how}' cannot be converted back to mV; use a run with 'mv'")


def in_mv(predicted: Tensor, level: Tensor, spread: Tensor, batch: Batch) -> Tensor:
    """Predicted targets (B, L, N, P) as an ECG (B, L, T) in mV, for a model whose scale is "mv".

    Level and spread are those of the true patches: only the shape is predicted.
    """
    samples = (predicted * spread + level).flatten(2)  # (B, L, T), the model's scale
    offset = batch.ecg - normalize(batch.ecg, batch.observed, "mv")  # each lead's median, where observed
    return samples + offset
