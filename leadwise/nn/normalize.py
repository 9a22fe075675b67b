"""Normalisation of ECGs, on the batch, over observed samples only."""

from __future__ import annotations

import torch
from torch import Tensor

from leadwise.batch import Normalize


def normalize(ecg: Tensor, observed: Tensor, how: Normalize) -> Tensor:
    """Normalise an ECG; unobserved samples become 0. ecg, observed: (B, L, T); ecg in mV.

    mv: millivolts minus each lead's median, so that amplitude keeps its meaning (hypertrophy, low voltage).
    record_zscore / lead_zscore: mean 0 and standard deviation 1 over the record / over each lead.
    merl_minmax: the whole record scaled to [0, 1], as MERL does; one spike compresses every lead.
    """
    missing = ~observed
    if how == "mv":
        # the median, not the mean: a tall R wave must not move the baseline
        present = ecg.masked_fill(missing, torch.nan)
        centre = present.nanmedian(dim=-1, keepdim=True).values.nan_to_num(0.0)  # (B, L, 1)
        return (ecg - centre).masked_fill(missing, 0.0)
    over = (1, 2) if how in ("record_zscore", "merl_minmax") else (2,)
    if how == "merl_minmax":
        low = ecg.masked_fill(missing, torch.inf).amin(dim=over, keepdim=True)
        high = ecg.masked_fill(missing, -torch.inf).amax(dim=over, keepdim=True)
        return ((ecg - low) / (high - low + 1e-8)).masked_fill(missing, 0.0)
    count = observed.sum(dim=over, keepdim=True).clamp(min=1)
    mean = ecg.masked_fill(missing, 0.0).sum(dim=over, keepdim=True) / count
    centred = (ecg - mean).masked_fill(missing, 0.0)
    std = (centred.square().sum(dim=over, keepdim=True) / count).sqrt()
    return centred / std.clamp(min=1e-3)  # 1 uV: a lead with less is flat, and its noise must not be amplified
