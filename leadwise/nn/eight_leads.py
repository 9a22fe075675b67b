"""The eight leads that are independent, and the limb leads that follow from them.

III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
_DERIVED = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}  # weights of I and II


def from_eight(leads: Sequence[str]) -> Tensor:
    """Return the matrix (L, 8) that maps EIGHT to `leads`, so that the limb-lead law holds for its result."""
    out = torch.zeros(len(leads), len(EIGHT))
    for row, lead in enumerate(leads):
        if lead in EIGHT:
            out[row, EIGHT.index(lead)] = 1.0
        else:
            out[row, :2] = torch.tensor(_DERIVED[lead])
    return out


def limb_residual(ecg: Tensor, leads: Sequence[str]) -> Tensor:
    """Return by how much III, aVR, aVL and aVF (B, 4, T) of an ECG (B, L, T) with all twelve `leads` violate the law."""
    place = {lead: number for number, lead in enumerate(leads)}
    one, two = ecg[:, place["I"]], ecg[:, place["II"]]
    return torch.stack([ecg[:, place[lead]] - (a * one + b * two) for lead, (a, b) in _DERIVED.items()], dim=1)
