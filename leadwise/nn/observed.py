"""Which patches and records were observed, on the device of a batch and on the host.

The host decides shapes by it: how many tokens a record has, and whether attention needs a mask. Reading that from a GPU
would wait for all that is queued there. A batch with `Batch.common` needs no reading; of others, one small tensor is read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leadwise.batch import Batch
from leadwise.nn.patches import patchify


def usable_patches(batch: Batch, n_patches: int) -> tuple[Tensor, Tensor]:
    """(B, L, N) bool, True where every sample of a patch was observed: on the batch's device, and on the host.

    While a graph is exported, both are the first.
    """
    usable = patchify(batch.observed, n_patches).all(-1)
    if torch.compiler.is_exporting():
        return usable, usable
    if batch.common is None:
        return usable, usable.cpu()
    return usable, patchify(batch.common[None, None], n_patches).all(-1).expand(usable.shape)


def observed_records(batch: Batch) -> Tensor:
    """(B,) bool, True for records with an observed sample; on the host if that needs no reading, else on the batch's device."""
    if batch.common is None:
        return batch.observed.flatten(1).any(-1)
    return batch.common.any().expand(len(batch))
