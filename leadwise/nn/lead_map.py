"""Leads from other leads without training: the linear map of a population, and the law of the limb leads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# the limb leads as weights of leads I and II
LIMB_WEIGHTS = {
    "I": (1.0, 0.0), "II": (0.0, 1.0), "III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0),
}  # fmt: skip

_INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
# Mean product of two leads in mV^2, each minus its median: 17,169 ECGs of the training folds 1-8 of PTB-XL, at 100 Hz.
_POPULATION = (
    (0.0244, 0.0127, -0.0195, -0.0089, 0.0048, 0.0197, 0.0255, 0.0218),
    (0.0127, 0.0269, -0.0134, -0.0060, 0.0117, 0.0260, 0.0274, 0.0223),
    (-0.0195, -0.0134, 0.0492, 0.0484, 0.0282, -0.0031, -0.0218, -0.0233),
    (-0.0089, -0.0060, 0.0484, 0.1062, 0.0785, 0.0321, -0.0043, -0.0153),
    (0.0048, 0.0117, 0.0282, 0.0785, 0.1027, 0.0639, 0.0257, 0.0072),
    (0.0197, 0.0260, -0.0031, 0.0321, 0.0639, 0.0857, 0.0551, 0.0336),
    (0.0255, 0.0274, -0.0218, -0.0043, 0.0257, 0.0551, 0.0696, 0.0445),
    (0.0218, 0.0223, -0.0233, -0.0153, 0.0072, 0.0336, 0.0445, 0.0537),
)
_SMALLEST = 1e-6  # singular values below this share of the largest are those of leads that follow from others


def population_covariance(leads: Sequence[str]) -> Tensor:
    """The mean product of each two of L leads in mV^2, (L, L) float64, of the population of PTB-XL."""
    weights = torch.zeros(len(leads), len(_INDEPENDENT), dtype=torch.float64)
    for row, lead in enumerate(leads):
        if lead in LIMB_WEIGHTS:
            weights[row, :2] = torch.tensor(LIMB_WEIGHTS[lead], dtype=torch.float64)
        else:
            weights[row, _INDEPENDENT.index(lead)] = 1.0
    return weights @ torch.tensor(_POPULATION, dtype=torch.float64) @ weights.T


def linear_map(given: Tensor, covariance: Tensor) -> Tensor:
    """(B, L, L) maps from the given leads to all: least squares for a population with this `covariance` (L, L).

    given: (B, L) bool. Rows of given leads select them, columns of other leads are 0.
    """
    sets, of_record = torch.unique(given.cpu(), dim=0, return_inverse=True)
    maps = torch.zeros(len(sets), given.shape[1], given.shape[1], dtype=torch.float64)
    covariance = covariance.double().cpu()
    for number, one in enumerate(sets):
        columns = one.nonzero().flatten()
        inverse = torch.linalg.pinv(covariance[columns][:, columns], rtol=_SMALLEST, hermitian=True)
        maps[number][:, columns] = covariance[:, columns] @ inverse
        maps[number, columns] = torch.eye(len(one), dtype=torch.float64)[columns]
    return maps[of_record].float().to(given.device)


def linear_estimate(ecg: Tensor, given: Tensor, covariance: Tensor) -> Tensor:
    """All leads (B, L, S) from the given ones by `linear_map`; ecg (B, L, S) on the scale "mv", 0 where not observed."""
    return linear_map(given, covariance).to(ecg.dtype) @ ecg


def obey_limb_law(ecg: Tensor, given: Tensor, leads: Sequence[str]) -> Tensor:
    """The same ECG (..., B, L, S) in mV with limb leads that satisfy III = II - I, and so on; given leads do not change.

    With two given limb leads or more, the others follow from them alone. Otherwise leads I and II are fitted to all limb
    leads by least squares, the given one exactly. given: (B, L) bool.
    """
    rows = [row for row, lead in enumerate(leads) if lead in LIMB_WEIGHTS]
    if len(rows) < 3:
        return ecg
    weights = torch.tensor([LIMB_WEIGHTS[leads[row]] for row in rows], dtype=torch.float64)  # (M, 2)
    trust = torch.where(given[:, rows].cpu(), 1e8, 1.0).double()  # (B, M): a given lead outweighs the others
    weighted = trust[:, None] * weights.T  # (B, 2, M)
    fit = weights @ torch.linalg.solve(weighted @ weights, weighted)  # (B, M, M)
    limb = ecg[..., rows, :]
    fitted = (fit.to(ecg.device) @ limb.double()).to(ecg.dtype)
    out = ecg.clone()
    out[..., rows, :] = torch.where(given[:, rows, None], limb, fitted)
    return out
