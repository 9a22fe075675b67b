"""Missing leads by linear maps of the given ones: what a model of leads must exceed, and a line above such maps.

population    least squares over training recordings, one weight per given lead
lags          the same with the given leads at several times, from -40 to +40 ms
per patient   least squares on the very recording that is completed: no map with one weight per given lead is better
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leadwise.batch import Batch
from leadwise.nn.normalize import normalize

LAG_S = 0.04
_RIDGE = 1e-5  # share of the mean variance that is added to each variance


@dataclass(frozen=True)
class LinearLeads:
    """A fitted map from given leads, at several times, to all leads."""

    leads: tuple[str, ...]
    given: tuple[str, ...]
    lags: int  # samples in either direction
    coefficients: Tensor  # (L, G (2 lags + 1)) float64
    n_records: int

    @classmethod
    def fit(
        cls, batches: Iterable[Batch], leads: Sequence[str], given: Sequence[str], rate_hz: float, lag_s: float = 0.0
    ) -> LinearLeads:
        """Fit by least squares over all samples of the completely observed recordings of `batches`.

        Raises:
            ValueError: no recording is observed completely.
        """
        lags = round(lag_s * rate_hz)
        rows = [list(leads).index(lead) for lead in given]
        width = len(rows) * (2 * lags + 1)
        products = torch.zeros(width, width, dtype=torch.float64)
        targets = torch.zeros(len(leads), width, dtype=torch.float64)
        n = 0
        for batch in batches:
            whole = batch.observed.flatten(1).all(-1)
            if not bool(whole.any()):
                continue
            ecg = normalize(batch.ecg, batch.observed, "mv")[whole].double()
            inputs = _shifted(ecg[:, rows], lags)
            products += torch.einsum("bit,bjt->ij", inputs, inputs) / ecg.shape[-1]
            targets += torch.einsum("blt,bjt->lj", ecg, inputs) / ecg.shape[-1]
            n += len(ecg)
        if not n:
            raise ValueError(
                "no recording has all leads observed, so no linear map can be fitted; choose another split"
            )
        return cls(tuple(leads), tuple(given), lags, _solve(products, targets), n)

    def estimate(self, ecg: Tensor) -> Tensor:
        """All leads (B, L, T) of ecg (B, L, T) on the scale "mv", from the given ones."""
        rows = [self.leads.index(lead) for lead in self.given]
        return (self.coefficients @ _shifted(ecg[:, rows].double(), self.lags)).to(ecg.dtype)


def per_patient(ecg: Tensor, given: Tensor) -> Tensor:
    """All leads (B, L, T) by the best map of each recording itself; ecg (B, L, T) on the scale "mv", given (B, L) bool."""
    out = []
    for one, flags in zip(ecg.double(), given.tolist()):
        inputs = one[[row for row, is_given in enumerate(flags) if is_given]]
        out.append(_solve(inputs @ inputs.T, one @ inputs.T) @ inputs)
    return torch.stack(out).to(ecg.dtype)


def _shifted(inputs: Tensor, lags: int) -> Tensor:
    """The rows (B, G, T) at 2 lags + 1 times: (B, G (2 lags + 1), T); samples beyond the ends are 0."""
    if not lags:
        return inputs
    padded = torch.nn.functional.pad(inputs, (lags, lags))
    return torch.cat([padded[..., k : k + inputs.shape[-1]] for k in range(2 * lags + 1)], dim=1)


def _solve(products: Tensor, targets: Tensor) -> Tensor:
    """Coefficients (L, F) of the normal equations, with a small ridge for leads that follow from others."""
    ridge = _RIDGE * products.diagonal().mean().clamp(min=1e-12)
    matrix = products + ridge * torch.eye(len(products), dtype=products.dtype)
    out: Tensor = torch.linalg.solve(matrix, targets.T).T
    return out
