"""Batch norm over the rows of all processes."""

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
