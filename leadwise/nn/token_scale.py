"""The scale at which tokens and position embeddings start.

An ECG in mV has a root mean square of 0.25, and torch's linear maps start at 1 / sqrt(3) of it, so that tokens without a
norm start at 0.14. Under position embeddings of 1.0 they would be lost: the norms of a Transformer's blocks divide both by
the size of their sum, and a short training does not recover the difference (NOTES.md).
"""

from __future__ import annotations

import math

import torch
from torch import nn

from leadwise.batch import Normalize

POSITION_RMS = 0.4
"""Root mean square of the position embeddings of tokens that start at 1: smaller, but of the same order."""

_SIGNAL_RMS: dict[Normalize, float] = {
    "mv": 0.25, "record_zscore": 1.0, "lead_zscore": 1.0, "merl_minmax": 0.5,
}  # fmt: skip


def signal_rms(normalize: Normalize) -> float:
    """Return the root mean square of normalised ECGs: measured on PTB-XL for mv and merl_minmax, 1 for the others."""
    return _SIGNAL_RMS[normalize]


def start_at_unit_scale(layer: nn.Linear | nn.Conv1d, input_rms: float) -> None:
    """Scale the fresh weights of a layer so that its output starts at a root mean square of about 1.

    torch draws weights of variance 1 / (3 n) for n inputs, so the output would start at input_rms / sqrt(3).
    """
    with torch.no_grad():
        layer.weight.mul_(math.sqrt(3) / input_rms)
