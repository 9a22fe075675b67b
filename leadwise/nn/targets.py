"""What a decoder of patches is asked for: each patch relative to a level and a spread, and the way back to millivolts."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from leadwise.batch import Batch, Normalize
from leadwise.nn.normalize import normalize

Target = Literal["patch", "record", "raw"]


def level_and_spread(patches: Tensor, real: Tensor, how: Target, floor: float = 0.01) -> tuple[Tensor, Tensor]:
    """What a target is relative to, on the scale of `patches`: (B, L, N, 1) each, or what broadcasts to it.

    patches: (B, L, N, P), 0 where not observed; real: (B, L, N, P) bool, observed samples.
    patch: each patch's own mean and deviation, whose variance gets `floor` x the record's added, so that a silent patch does
    not ask for its noise. record: the record's. raw: 0 and 1.
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
    """Nothing, if a model's scale has a way back to mV.

    Raises:
        ValueError: it has none.
    """
    if how != "mv":
        raise ValueError(f"signal.normalize = '{how}' has no way back to mV; look at a run with 'mv'")


def in_mv(predicted: Tensor, level: Tensor, spread: Tensor, batch: Batch) -> Tensor:
    """Predicted targets (B, L, N, P) as an ECG (B, L, T) in mV, where the model's scale is "mv".

    The level and spread that the target took away are the true ones: it is the shape that was predicted.
    """
    samples = (predicted * spread + level).flatten(2)  # (B, L, T), the model's scale
    offset = batch.ecg - normalize(batch.ecg, batch.observed, "mv")  # each lead's median, where it was observed
    return samples + offset
