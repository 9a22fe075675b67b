"""Normalisation of ECGs, on the batch, over observed samples only."""

from __future__ import annotations

import numpy as np
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
        return (ecg - median(ecg, observed)).masked_fill(missing, 0.0)
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


def median(ecg: Tensor, observed: Tensor) -> Tensor:
    """Lower median (B, L, 1) of each lead's observed samples; 0 for a lead without any. ecg, observed: (B, L, T)."""
    # ONNX has no nanmedian, and torch no deterministic one for a GPU, because of the indices that it returns too
    if torch.compiler.is_exporting() or (ecg.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return sorted_median(ecg, observed)
    if ecg.device.type != "cpu" or ecg.dtype != torch.float32 or ecg.requires_grad:
        return _nanmedian(ecg, observed)
    # on a CPU, a partition takes a fifth of the time; most leads are observed completely
    whole = observed.all(-1)
    if bool(whole.all()):
        return _partition_median(ecg)
    out = _nanmedian(ecg, observed) if not bool(whole.any()) else ecg.new_empty(*ecg.shape[:-1], 1)
    if bool(whole.any()):
        out[whole] = _partition_median(ecg[whole])
        out[~whole] = _nanmedian(ecg[~whole], observed[~whole])
    return out


def _partition_median(ecg: Tensor) -> Tensor:
    """Lower median along the last axis, kept as an axis of length 1. A value that is not finite gives nan or that value."""
    middle = (ecg.shape[-1] - 1) // 2
    lower: np.ndarray = np.partition(ecg.numpy(), middle, axis=-1)[..., middle : middle + 1]
    return torch.from_numpy(np.ascontiguousarray(lower))


def _nanmedian(ecg: Tensor, observed: Tensor) -> Tensor:
    return ecg.masked_fill(~observed, torch.nan).nanmedian(dim=-1, keepdim=True).values.nan_to_num(0.0)


def sorted_median(ecg: Tensor, observed: Tensor) -> Tensor:
    """The result of `median` by a sort, which takes longer."""
    count = observed.sum(dim=-1, keepdim=True)  # (B, L, 1)
    ascending = ecg.masked_fill(~observed, torch.inf).sort(dim=-1).values  # unobserved samples come last
    middle = ascending.gather(-1, (count - 1).clamp(min=0) // 2)
    return middle.masked_fill(count == 0, 0.0)
