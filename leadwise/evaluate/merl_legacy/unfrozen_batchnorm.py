"""Features of a backbone whose BatchNorm is in training mode: the legacy protocol's fault `moving_batchnorm`.

MERL calls `.train()` on the whole model while its probe is trained. The weights do not change, but each batch is normalised
by its own statistics, and the running statistics, which normalise validation and test after each epoch, change. Here only
BatchNorm is in training mode, so that a method's augmentations and dropout are not active. Every epoch is a pass through the
backbone. Afterwards the method is restored, bit for bit.

One departure: where a last batch of one recording would give a BatchNorm one value a channel (in a head, not in a ResNet),
that BatchNorm uses its running statistics and does not update them. MERL's code would raise an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.crops import crop_recordings
from leadwise.evaluate.embed import embed, split_parts
from leadwise.evaluate.speed import device_of, embedding_precision
from leadwise.run import Run

_HELD_OUT_BATCH = 256


def find_batchnorms(method: nn.Module) -> list[nn.Module]:
    """Return every BatchNorm of the method that has running statistics."""
    return [module for module in method.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


class UnfrozenFeatures:
    """Features of a cohort's rows from a backbone whose BatchNorm is in training mode; use it inside `restored_state`."""

    def __init__(self, run: Run, cohort: Cohort, rows: dict[str, np.ndarray], part: str, window: str | None) -> None:
        """`rows` are the cohort's row numbers of the drawn training recordings ("train"), of "val" and of "test"."""
        self._run, self._part, self._names = run, part, split_parts(run, part)
        self._device = device_of(run)
        self._recordings = {
            split: crop_recordings(cohort, run.config.signal, split_rows, window)[0]
            for split, split_rows in rows.items()
        }
        self.n_train = len(rows["train"])

    def train(self, positions: Tensor) -> Tensor:
        """Return (B, D) features normalised by the batch's own statistics; updates the running statistics."""
        batch = self._recordings["train"].batch(positions.numpy()).to(self._device)
        self._run.method.eval()
        norms = find_batchnorms(self._run.method)
        with torch.no_grad(), embedding_precision(self._run), _pre_hooks(norms, _train_if_possible):
            pieces = self._run.method.embed_parts(batch, self._names)
        return torch.cat(pieces, dim=1).float().cpu()

    def held_out(self) -> tuple[Tensor, Tensor]:
        """Return (n_val, D) and (n_test, D) features normalised by the current running statistics."""
        val, test = (
            torch.from_numpy(embed(self._run, self._recordings[split], self._part, _HELD_OUT_BATCH))
            for split in ("val", "test")
        )
        return val, test


def _train_if_possible(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Set training mode if each channel of x (B, D) or (B, D, T) has more than one value, else eval mode."""
    x = inputs[0]
    norm.train(x.numel() > x.shape[1])


@contextlib.contextmanager
def _pre_hooks(norms: Sequence[nn.Module], hook: Callable[[nn.Module, tuple[Tensor, ...]], None]) -> Iterator[None]:
    """Inside the block, call hook(module, inputs) before each of these modules runs."""
    handles = [norm.register_forward_pre_hook(hook) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def embedding_uses_batchnorm(run: Run, cohort: Cohort, row: int, part: str, window: str | None) -> bool:
    """Return whether an embedding passes through a BatchNorm with running statistics, by embedding one recording."""
    used: list[nn.Module] = []
    recordings, _ = crop_recordings(cohort, run.config.signal, np.array([row]), window)
    with _pre_hooks(find_batchnorms(run.method), lambda norm, _: used.append(norm)):
        embed(run, recordings, part)
    return bool(used)


@contextlib.contextmanager
def restored_state(method: nn.Module) -> Iterator[None]:
    """Restore every weight, buffer and mode of the method after the block, also if the block raises."""
    tensors = [(tensor, tensor.detach().clone()) for tensor in (*method.parameters(), *method.buffers())]
    modes = [(module, module.training) for module in method.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, saved in tensors:
                tensor.copy_(saved)
        for module, mode in modes:
            module.training = mode
