"""Label-preserving views of a batch of ECGs, on its device. ecg (B, L, T) mV, observed (B, L, T) bool."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shift(ecg: Tensor, observed: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """The batch moved by one random number of samples below `largest`, either way; what falls off is unobserved.

    One shift for the whole batch, so that every record keeps the same number of whole patches.
    """
    by = int(torch.randint(1 - largest, largest, ()))
    if by < 0:  # later: the end falls off
        return F.pad(ecg[..., :by], (-by, 0)), F.pad(observed[..., :by], (-by, 0))
    return F.pad(ecg[..., by:], (0, by)), F.pad(observed[..., by:], (0, by))


def gain(ecg: Tensor, spread: float) -> Tensor:
    """Each record times exp(N(0, spread)), one factor for all leads so that their algebra holds."""
    return ecg * (spread * torch.randn(len(ecg), 1, 1, device=ecg.device)).exp()


def noise(ecg: Tensor, largest: float) -> Tensor:
    """White noise on an ECG (B, ...), whole or in patches, its standard deviation drawn for each record below `largest`."""
    level = largest * torch.rand(len(ecg), *(1,) * (ecg.ndim - 1), device=ecg.device)
    return ecg + level * torch.randn_like(ecg)


def drop_leads(ecg: Tensor, observed: Tensor, whole: Tensor, chance: float) -> tuple[Tensor, Tensor]:
    """Each lead taken away with `chance`; a record keeps at least one of the leads that `whole` (B, L) says can serve."""
    draw = torch.rand(whole.shape, device=ecg.device)
    spared = draw.masked_fill(~whole, -1.0).argmax(-1, keepdim=True)
    kept = (draw >= chance).scatter(1, spared, True)[..., None]
    return ecg * kept, observed & kept
