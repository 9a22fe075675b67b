"""Label-preserving views of a batch of ECGs, on its device. ecg (B, L, T) mV, observed (B, L, T) bool."""

from __future__ import annotations

import torch
from torch import Tensor


def shift(ecg: Tensor, observed: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """The batch begun at one random sample below `largest`; what falls off the end is unobserved.

    One shift for the whole batch, so that every record keeps the same number of whole patches.
    """
    by = int(torch.randint(largest, ()))
    if by == 0:
        return ecg, observed
    return torch.nn.functional.pad(ecg[..., by:], (0, by)), torch.nn.functional.pad(observed[..., by:], (0, by))


def gain_and_noise(ecg: Tensor, observed: Tensor, gain: float, noise_mv: float) -> Tensor:
    """Each record times exp(N(0, gain)), one factor for all leads so that their algebra holds, plus white noise.

    The noise's standard deviation is drawn for each record below `noise_mv`.
    """
    b = len(ecg)
    out = ecg
    if gain:
        out = out * (gain * torch.randn(b, 1, 1, device=ecg.device)).exp()
    if noise_mv:
        out = out + noise_mv * torch.rand(b, 1, 1, device=ecg.device) * torch.randn_like(ecg)
    return out.masked_fill(~observed, 0.0)


def drop_leads(ecg: Tensor, observed: Tensor, chance: float) -> tuple[Tensor, Tensor]:
    """Each lead taken away with `chance`; a record keeps at least one lead that was observed."""
    there = observed.any(-1)  # (B, L)
    noise = torch.rand(there.shape, device=ecg.device)
    spared = noise.masked_fill(~there, -1.0).argmax(-1, keepdim=True)
    kept = (noise >= chance).scatter(1, spared, True)[..., None]
    return ecg * kept, observed & kept
