"""MERL's linear probe as its code runs it, with a switch for each of its faults. Its numbers are not comparable with strict ones.

Without faults: one linear layer on the frozen features as they are (not standardised), sigmoid and binary cross-entropy,
Adam with L2 in the gradient (rate 1e-3, weight 1e-4), batches of 16 in a new order each epoch, 100 epochs, a tenth of the
rate after 40, seed 42, the epoch chosen on validation, the test split scored once. Four more properties of MERL's code have
no switch (NOT_REPRODUCED): thresholds of F1 and accuracy tuned on the test split, training in fp16, the min-max scale, and a
backbone that is trained too unless the run's name contains "linear". So these numbers approximate MERL's and do not equal them.

The source is MERL's code, not its paper (arXiv 2403.06659). Its published splits, read by `data/published_splits.py`, cause
two of the faults.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leadwise.evaluate.logistic_regression import ProbeError
from leadwise.evaluate.metrics.auroc import auroc

Labels = NDArray[np.int8]
EpochProgress = Callable[[int, int], None]


class Fault(StrEnum):
    """A fault of MERL's probe; the values are the names on the command line."""

    POSITIONAL_COLUMNS = "positional_columns"
    BEST_TEST_EPOCH = "best_test_epoch"
    MOVING_BATCHNORM = "moving_batchnorm"
    EARLY_LR_DROP = "early_lr_drop"
    SUBSTRING_LABELS = "substring_labels"
    FIVE_SECOND_WINDOW = "five_second_window"


FAULT_DESCRIPTIONS = {
    Fault.POSITIONAL_COLUMNS: "Label columns are taken by position, though validation and test files order them differently "
    "from the train file: the scores of one class are evaluated against the labels of another.",
    Fault.BEST_TEST_EPOCH: "The test split is scored after every epoch and the highest macro AUROC is reported, instead of "
    "that of the epoch chosen on validation.",
    Fault.MOVING_BATCHNORM: "The model is in training mode while the probe is trained, so BatchNorm uses each batch's "
    "statistics and its running statistics change: the backbone is not frozen.",
    Fault.EARLY_LR_DROP: "The schedule is stepped after every batch and again after every epoch, so the rate falls to a "
    "tenth after 40 batches instead of 40 epochs.",
    Fault.SUBSTRING_LABELS: "CSN's labels are assigned by substring, so that 7 of 38 columns contain other findings: 1AVB "
    "counts as VB, STTC as ST.",
    Fault.FIVE_SECOND_WINDOW: "CPSC2018's recordings are cut to their first 5 s and padded with zeros that count as signal.",
}

NOT_REPRODUCED = {
    "test_tuned_thresholds": "F1 and accuracy with thresholds tuned on the test split are not reported: AUROC needs no threshold",
    "fp16": "training under fp16 autocast has no counterpart on a CPU: everything is float32",
    "min_max_scale": "the scale is the one that the run was trained with (signal.normalize); the probe cannot change it",
    "trained_backbone": "MERL's code trains the backbone too unless the run's name contains 'linear': that is fine-tuning",
}
"""Properties of MERL's code that have no switch here, each with the reason."""


@dataclass(frozen=True)
class TrainerSettings:
    """The training settings of MERL's probe."""

    epochs: int = 100
    batch_size: int = 16
    lr: float = 1e-3
    weight_decay: float = 1e-4  # L2, added to the gradient
    milestone: int = 40  # steps of the schedule until the rate drops
    drop: float = 0.1
    seed: int = 42

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ProbeError(f"{self.epochs} epochs train nothing; pass at least 1 (MERL uses 100)")

    def rate(self, epoch: int, batch: int, n_batches: int, early_drop: bool) -> float:
        """Return the learning rate of a batch; epochs and batches count from 0."""
        steps = epoch * (n_batches + 1) + batch if early_drop else epoch
        return self.lr * (self.drop if steps >= self.milestone else 1.0)


class FeatureSource(Protocol):
    """A source of features: fixed ones, or a backbone that runs again for each batch."""

    n_train: int

    def train(self, positions: Tensor) -> Tensor:
        """Return (B, D) features of training recordings."""

    def held_out(self) -> tuple[Tensor, Tensor]:
        """Return (n_val, D) and (n_test, D) features as they are after this epoch."""


class FrozenFeatures:
    """Features computed once by a backbone that does not change."""

    def __init__(self, train: NDArray[np.floating], val: NDArray[np.floating], test: NDArray[np.floating]) -> None:
        """(n, D) each."""
        self._train, self._val, self._test = (torch.from_numpy(np.asarray(f, np.float32)) for f in (train, val, test))
        self.n_train = len(self._train)

    def train(self, positions: Tensor) -> Tensor:
        return self._train[positions]

    def held_out(self) -> tuple[Tensor, Tensor]:
        return self._val, self._test


@dataclass(frozen=True)
class EpochLogits:
    """The logits of one head on val (E, n_val, K) and test (E, n_test, K) after each of E epochs."""

    val: NDArray[np.float32]
    test: NDArray[np.float32]


@dataclass(frozen=True)
class HeadSettings:
    """What one head is trained on: labels (n_train, K) in {0, 1}, and whether its learning rate drops too early."""

    labels: Labels
    early_lr_drop: bool = False


def train_heads(
    features: FeatureSource,
    heads: Sequence[HeadSettings],
    trainer: TrainerSettings,
    progress: EpochProgress | None = None,
) -> tuple[EpochLogits, ...]:
    """Train one linear layer for each of `heads` as MERL does, and return its logits after each epoch.

    The layers begin with the same weights and are trained on the same batches, so that one pass through an unfrozen
    backbone serves all of them.

    Args:
        progress: called with (epochs done, epochs in total).

    Raises:
        ProbeError: labels of another number of recordings than the features.
    """
    if any(len(head.labels) != features.n_train for head in heads):
        raise ProbeError(
            f"labels for other than the {features.n_train} training recordings; pass one row of labels for each"
        )
    truths = [torch.from_numpy(np.asarray(head.labels, np.float32)) for head in heads]  # (n, K) each
    n_batches = -(-features.n_train // trainer.batch_size)
    order = torch.Generator().manual_seed(trainer.seed)
    layers: list[_LinearLayer] = []
    logits: list[tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]] = [([], []) for _ in heads]
    for epoch in range(trainer.epochs):
        # Train every layer on each batch; the first batch gives the width of the features.
        for batch, positions in enumerate(
            torch.split(torch.randperm(features.n_train, generator=order), trainer.batch_size)
        ):
            x = _with_ones(features.train(positions))  # (B, D + 1)
            if not layers:
                layers = [
                    _LinearLayer(initial_weights(x.shape[1] - 1, t.shape[1], trainer.seed), trainer) for t in truths
                ]
            for layer, truth, head in zip(layers, truths, heads):
                layer.step(x, truth[positions], trainer.rate(epoch, batch, n_batches, head.early_lr_drop))

        # Store the logits of both held-out splits.
        val, test = (_with_ones(split) for split in features.held_out())
        for layer, (val_logits, test_logits) in zip(layers, logits):
            val_logits.append((val @ layer.weights.T).numpy())
            test_logits.append((test @ layer.weights.T).numpy())
        if progress is not None:
            progress(epoch + 1, trainer.epochs)
    return tuple(EpochLogits(np.stack(val), np.stack(test)) for val, test in logits)


def initial_weights(width: int, n_classes: int, seed: int) -> Tensor:
    """Return (K, D + 1) the weights of a new torch.nn.Linear, with its bias as the last column."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(width, n_classes)
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().clone()


def _with_ones(features: Tensor) -> Tensor:
    """Return features (n, D) with a last column of ones for the bias."""
    return torch.nn.functional.pad(features, (0, 1), value=1.0)


class _LinearLayer:
    """A linear layer and its Adam with L2 in the gradient; the bias is the last column of the weights.

    The gradient is written out: ten small products a step. A module with its graph and optimiser takes several times as
    long for the same numbers.
    """

    def __init__(self, weights: Tensor, trainer: TrainerSettings) -> None:
        """Begin at `weights` (K, D + 1)."""
        self.weights, self._weight_decay, self._n_steps = weights, trainer.weight_decay, 0
        self._mean, self._square = torch.zeros_like(weights), torch.zeros_like(weights)

    def step(self, x: Tensor, truth: Tensor, lr: float) -> None:
        """Take one step of mean binary cross-entropy on features (B, D + 1) and labels (B, K)."""
        error = torch.sigmoid(x @ self.weights.T).sub_(truth).div_(truth.numel())  # (B, K)
        gradient = (error.T @ x).add_(self.weights, alpha=self._weight_decay)
        self._n_steps += 1
        self._mean.lerp_(gradient, 0.1)
        self._square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = (self._square / (1 - 0.999**self._n_steps)).sqrt_().add_(1e-8)
        self.weights.addcdiv_(self._mean, scale, value=-lr / (1 - 0.9**self._n_steps))


def best_epoch(logits: EpochLogits, val: Labels, test: Labels, on_test: bool) -> int:
    """Return the epoch with the highest macro AUROC on validation, or on test with the fault; the first of equals.

    Raises:
        ProbeError: no class has both label values in that split.
    """
    labels, scores = (test, logits.test) if on_test else (val, logits.val)
    defined = (labels.min(axis=0) < labels.max(axis=0)).nonzero()[0]
    if not len(defined):
        raise ProbeError(
            f"no class has both label values in split '{'test' if on_test else 'val'}'; no epoch to choose"
        )
    macros = [float(auroc(labels[:, defined], epoch[:, defined]).mean()) for epoch in scores]
    return int(np.argmax(macros))


def labels_by_position(
    labels: Labels, classes: Sequence[str], train_order: Sequence[str], scored_order: Sequence[str]
) -> Labels:
    """Return (n, K) the labels that each class's scores are compared with if columns are matched by position.

    Args:
        labels: (n, K) true labels, columns in the order of `classes`.
        train_order: the classes in the column order of the train file.
        scored_order: the classes in the column order of the file that is scored.
    """
    compared_with = dict(zip(train_order, scored_order, strict=True))
    return labels[:, [list(classes).index(compared_with[name]) for name in classes]]


_ROTATED = {"AVB": "ISC", "RAO/RAE": "AVB", "ISC": "RAO/RAE"}  # PTB-XL's published sub-classes: trained -> scored class


def known_column_orders(source: str, task: str, classes: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    """Return the column order of each split of PTB-XL's sub-classes; None for other tasks, which need the files."""
    if source != "ptbxl" or task != "sub" or not set(_ROTATED) <= set(classes):
        return None
    rotated = tuple(_ROTATED.get(name, name) for name in classes)
    return {"train": tuple(classes), "val": rotated, "test": rotated}


def parse_faults(names: Collection[str]) -> tuple[Fault, ...]:
    """Return the faults of these names, in the order of `Fault`.

    Raises:
        ProbeError: no such fault; the message lists all faults.
    """
    unknown = sorted(set(names) - set(Fault))
    if unknown:
        raise ProbeError(f"no fault '{unknown[0]}'; choose from {', '.join(Fault)}")
    return tuple(fault for fault in Fault if fault in names)


def describe_faults(faults: Collection[Fault]) -> Mapping[str, str]:
    """Return one sentence on each fault."""
    return {fault.value: FAULT_DESCRIPTIONS[fault] for fault in faults}
