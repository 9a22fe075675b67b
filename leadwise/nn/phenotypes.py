"""Phenotypes as training targets: measured quantities, such as LV volumes, of which a record may miss some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from leadwise.batch import Batch


def mean_and_deviation(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (Q,) of phenotypes (n, Q), NaN where unknown; a deviation of 0 is replaced by 1."""
    known = table.isfinite()
    n = known.sum(0).clamp(min=1)
    mean = table.nan_to_num(0.0).sum(0) / n
    variance = ((table - mean).nan_to_num(0.0)).square().sum(0) / n
    return mean, torch.where(variance > 0, variance, 1.0).sqrt()


def standardised(batch: Batch, names: Sequence[str], mean: Tensor, deviation: Tensor) -> Tensor:
    """Return the standardised phenotypes (B, Q) of a batch, NaN where unknown.

    Raises:
        ValueError: the batch has no phenotypes.
    """
    if batch.phenotype is None:
        raise ValueError(f"the batch has no phenotypes {', '.join(names)}: read Recordings with phenotypes=...")
    return (batch.phenotype - mean) / deviation


def squared_errors(predicted: Tensor, target: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Return each record's mean squared error (B,) over its counted phenotypes, and which records have one, (B,) bool.

    predicted, target: (B, Q); counted: (B, Q) bool, where the target is known and can be predicted.
    """
    error = torch.where(counted, predicted.float() - target.nan_to_num(0.0), 0.0).square()
    n = counted.sum(1)
    return error.sum(1) / n.clamp(min=1), n > 0


class WithPhenotypes(nn.Module):
    """A method that predicts phenotypes, without its objective: the mean and deviation of its training recordings' phenotypes."""

    reads_phenotypes: ClassVar[bool] = True
    phenotype_names: tuple[str, ...]
    phenotype_mean: Tensor
    phenotype_deviation: Tensor

    def register_phenotypes(self, names: Sequence[str]) -> None:
        """Add the buffers of Q phenotypes, which the run folder contains; called once, while the method is built."""
        self.phenotype_names = tuple(names)
        self.register_buffer("phenotype_mean", torch.zeros(len(names)))
        self.register_buffer("phenotype_deviation", torch.ones(len(names)))

    @torch.no_grad()
    def take_phenotypes(self, table: Tensor) -> None:
        """Store the mean and the standard deviation of the training recordings' phenotypes (n, Q), NaN where unknown."""
        mean, deviation = mean_and_deviation(table)
        self.phenotype_mean.copy_(mean)
        self.phenotype_deviation.copy_(deviation)

    def standardised_phenotypes(self, batch: Batch) -> Tensor:
        """Standardised phenotypes (B, Q) of a batch, NaN where unknown.

        Raises:
            ValueError: the batch has no phenotypes.
        """
        return standardised(batch, self.phenotype_names, self.phenotype_mean, self.phenotype_deviation)
