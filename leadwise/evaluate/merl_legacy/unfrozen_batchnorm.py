"""A "frozen" backbone whose BatchNorm moves: the features of the legacy protocol's fault `moving_batchnorm`.

MERL calls `.train()` on the whole model while its probe learns. Its weights stay, but each batch is normalised by its own
statistics, and the running ones, by which validation and test are normalised after each epoch, move. Here only the
BatchNorm is in training mode, so that a method's augmentations and dropout have no part in it. Every epoch is a pass
through the backbone. Afterwards the method is what it was, bit for bit.

One departure: where a last batch of one recording would give a BatchNorm one value a channel (in a head, not in a ResNet),
that BatchNorm goes by its running statistics, which stay as they are. MERL's code would stop there.
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
from leadwise.evaluate.embed import embed, split_parts, training_precision
from leadwise.run import Run

_HELD_OUT_BATCH = 256


def find_batchnorms(method: nn.Module) -> list[nn.Module]:
    """Every BatchNorm with running statistics."""
    return [module for module in method.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


class UnfrozenFeatures:
    """Features of a cohort's rows by a backbone whose BatchNorm is in training mode; use it inside `restored`."""

    def __init__(self, run: Run, cohort: Cohort, rows: dict[str, np.ndarray], part: str, window: str | None) -> None:
        """`rows` are the cohort's row numbers of the drawn training recordings ("train"), of "val" and of "test"."""
        self._run, self._part, self._names = run, part, split_parts(run, part)
        self._device = next((weight.device for weight in run.method.parameters()), torch.device("cpu"))
        self._recordings = {
            split: crop_recordings(cohort, run.config.signal, at, window)[0] for split, at in rows.items()
        }
        self.n_train = len(rows["train"])

    def train(self, positions: Tensor) -> Tensor:
        """(B, D) features by the batch's own statistics; the running ones move."""
        batch = self._recordings["train"].batch(positions.numpy()).to(self._device)
        self._run.method.eval()
        with (
            torch.no_grad(),
            training_precision(self._run),
            _pre_hooks(find_batchnorms(self._run.method), _train_if_possible),
        ):
            pieces = [self._run.method.embed_ecg(batch, name) for name in self._names]
        return torch.cat(pieces, dim=1).float().cpu()

    def held_out(self) -> tuple[Tensor, Tensor]:
        """(n_val, D) and (n_test, D) features by the running statistics as they are now."""
        val, test = (
            torch.from_numpy(embed(self._run, self._recordings[split], self._part, _HELD_OUT_BATCH))
            for split in ("val", "test")
        )
        return val, test


def _train_if_possible(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Training mode where each channel of x (B, D) or (B, D, T) has more than one value, else eval mode."""
    x = inputs[0]
    norm.train(x.numel() > x.shape[1])


@contextlib.contextmanager
def _pre_hooks(norms: Sequence[nn.Module], told: Callable[[nn.Module, tuple[Tensor, ...]], None]) -> Iterator[None]:
    """In the block, each of these modules tells before it runs: (itself, its inputs)."""
    hooks = [norm.register_forward_pre_hook(told) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def embedding_uses_batchnorm(run: Run, cohort: Cohort, row: int, part: str, window: str | None) -> bool:
    """Whether a part of the method is made through a BatchNorm with running statistics: found out on one recording."""
    ran: list[nn.Module] = []
    recordings, _ = crop_recordings(cohort, run.config.signal, np.array([row]), window)
    with _pre_hooks(find_batchnorms(run.method), lambda norm, _: ran.append(norm)):
        embed(run, recordings, part)
    return bool(ran)


@contextlib.contextmanager
def restored_state(method: nn.Module) -> Iterator[None]:
    """After the block every weight, buffer and mode of the method is as it was before, whatever happened in it."""
    kept = [(tensor, tensor.detach().clone()) for tensor in (*method.parameters(), *method.buffers())]
    modes = [(module, module.training) for module in method.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)
        for module, mode in modes:
            module.training = mode
