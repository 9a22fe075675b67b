"""Batch norm over the rows of all processes, and of each lead over its observed samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leadwise import distributed


class BatchNorm(nn.BatchNorm1d):
    """Batch norm with the statistics of all processes' rows: the result of one process with the whole batch.

    Processes exchange only means and variances, never features.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, D) or (B, D, T) -> the same shape. Eval mode uses the running statistics and does not change them."""
        if not self.training or distributed.n_ranks() == 1:
            return super().forward(x)
        wide, over, along = x.float(), (0, *range(2, x.ndim)), (-1,) + (1,) * (x.ndim - 2)
        mean = distributed.gather(wide.mean(over)[None]).mean(
            0
        )  # (D,): shares are equal, so a mean of means is the mean
        centred = wide - mean.reshape(along)
        variance = distributed.gather(centred.square().mean(over)[None]).mean(0)  # (D,)
        self._update_running(mean.detach(), variance.detach(), distributed.n_ranks() * x.numel() // x.shape[1])
        normed = centred * (variance + self.eps).rsqrt().reshape(along)
        if not self.affine:
            return normed.to(x.dtype)
        return (normed * self.weight.reshape(along) + self.bias.reshape(along)).to(x.dtype)

    def _update_running(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """Update the running statistics as BatchNorm1d does, with the unbiased variance of n values."""
        rate: float = self.momentum  # type: ignore[assignment]
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean.lerp_(mean.to(self.running_mean), rate)  # type: ignore[union-attr]
            self.running_var.lerp_((variance * n / (n - 1)).to(self.running_var), rate)  # type: ignore[union-attr]


class LeadNorm(nn.Module):
    """Batch norm of each lead of an ECG: mean and variance are those of the observed samples of all processes' records.

    In eval mode it is one linear map for each lead, the same for every record, so that amplitudes keep their meaning. A lead
    that no record of a batch has uses its running statistics and does not change them.
    """

    momentum = 0.1  # of the running statistics, as in torch
    eps = 1e-5
    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, n_leads: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(n_leads)), nn.Parameter(torch.zeros(n_leads))
        self.register_buffer("running_mean", torch.zeros(n_leads))
        self.register_buffer("running_variance", torch.ones(n_leads))

    def forward(self, ecg: Tensor, observed: Tensor) -> Tensor:
        """ecg: (B, L, T), 0 where not observed; observed: (B, L, T) bool -> (B, L, T), 0 where not observed."""
        mean, variance = self.running_mean, self.running_variance
        if self.training:
            mean, variance = self._of_batch(ecg.float(), observed)
        scale = self.weight * (variance + self.eps).rsqrt()
        return ((ecg - mean[:, None]) * scale[:, None] + self.bias[:, None]).masked_fill(~observed, 0.0)

    @torch.no_grad()
    def _of_batch(self, ecg: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (L,) of the observed samples of each lead; updates the running ones."""
        count, total = distributed.gather(torch.stack([observed.sum((0, 2)).float(), ecg.sum((0, 2))])[None]).sum(0)
        mean = total / count.clamp(min=1)
        centred = (ecg - mean[:, None]).masked_fill(~observed, 0.0)
        squares = distributed.gather(centred.square().sum((0, 2))[None]).sum(0)
        variance, is_there = squares / count.clamp(min=1), count > 1
        unbiased = squares / (count - 1).clamp(min=1)
        for running, value in ((self.running_mean, mean), (self.running_variance, unbiased)):
            running.copy_(torch.where(is_there, running.lerp(value, self.momentum), running))
        return torch.where(is_there, mean, self.running_mean), torch.where(is_there, variance, self.running_variance)
