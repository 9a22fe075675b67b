"""MERL's linear probe as its code runs it, each of its faults a switch. Its numbers are not comparable with honest ones.

Without faults: one linear layer on the frozen feature as it is (not standardised), sigmoid and binary cross-entropy,
Adam with L2 in the gradient (rate 1e-3, weight 1e-4), batches of 16 in a fresh order each epoch, 100 epochs, a tenth of
the rate after 40, seed 42, the epoch chosen on validation, the test split scored once. Four more things that MERL's code
does have no switch (LEFT_OUT): thresholds of F1 and accuracy tuned on the test split, training in fp16, the min-max scale,
and a backbone that is trained too unless the run's name says "linear". So these numbers lean towards MERL's; they are not its.

Known of the code, not of the paper (arXiv 2403.06659): its published splits, in `data/published.py`, bring two of the faults.
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
    """What MERL's probe does wrong; the values are the names on the command line."""

    POSITIONAL_COLUMNS = "positional_columns"
    BEST_TEST_EPOCH = "best_test_epoch"
    MOVING_BATCHNORM = "moving_batchnorm"
    EARLY_LR_DROP = "early_lr_drop"
    SUBSTRING_LABELS = "substring_labels"
    FIVE_SECOND_WINDOW = "five_second_window"


FAULT_DESCRIPTIONS = {
    Fault.POSITIONAL_COLUMNS: "Label columns are taken by position, though validation and test files order them otherwise "
    "than the train file: what was learnt for one class is scored against another.",
    Fault.BEST_TEST_EPOCH: "The test split is scored after every epoch and the highest macro AUROC is reported, instead of "
    "the epoch that validation chooses.",
    Fault.MOVING_BATCHNORM: "The model is in training mode while the probe learns, so BatchNorm uses each batch's "
    "statistics and its running ones move: the backbone is not frozen.",
    Fault.EARLY_LR_DROP: "The schedule is stepped after every batch and again after every epoch, so the rate falls to a "
    "tenth after 40 batches instead of 40 epochs.",
    Fault.SUBSTRING_LABELS: "CSN's labels are made by substring, so that 7 of 38 columns hold other findings: 1AVB counts as "
    "VB, STTC as ST.",
    Fault.FIVE_SECOND_WINDOW: "CPSC2018's recordings are cut to their first 5 s and padded with zeros that count as signal.",
}

NOT_REPRODUCED = {
    "test_tuned_thresholds": "F1 and accuracy with thresholds tuned on the test split are not given: AUROC takes no threshold",
    "fp16": "training under fp16 autocast has no counterpart on a CPU: everything is float32",
    "min_max_scale": "the scale is what the run was promised when it was trained (signal.normalize), not the probe's to choose",
    "trained_backbone": "MERL's code trains the backbone too unless the run's name says 'linear': that is fine-tuning, no probe",
}
"""What MERL's code does that has no switch here, and why not."""


@dataclass(frozen=True)
class TrainerSettings:
    """MERL's settings of its probe."""

    epochs: int = 100
    batch_size: int = 16
    lr: float = 1e-3
    weight_decay: float = 1e-4  # L2, added to the gradient
    milestone: int = 40  # steps of the schedule until the rate drops
    drop: float = 0.1
    seed: int = 42

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ProbeError(f"{self.epochs} epochs teach nothing; ask for at least 1 (MERL takes 100)")

    def rate(self, epoch: int, batch: int, n_batches: int, early_drop: bool) -> float:
        """The learning rate of a batch; epochs and batches count from 0."""
        stepped = epoch * (n_batches + 1) + batch if early_drop else epoch
        return self.lr * (self.drop if stepped >= self.milestone else 1.0)


class FeatureSource(Protocol):
    """Where features come from: fixed ones, or a backbone that is run anew for each batch."""

    n_train: int

    def train(self, positions: Tensor) -> Tensor:
        """(B, D) features of training recordings."""

    def held_out(self) -> tuple[Tensor, Tensor]:
        """(n_val, D) and (n_test, D) features as they are after this epoch."""


class FrozenFeatures:
    """Features made once: the backbone does not move."""

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
    """A training: the logits of val (E, n_val, K) and test (E, n_test, K) after each of E epochs."""

    val: NDArray[np.float32]
    test: NDArray[np.float32]


@dataclass(frozen=True)
class HeadSettings:
    """What one head is taught: labels (n_train, K) in {0, 1}, and whether its rate drops too early."""

    labels: Labels
    early_lr_drop: bool = False


def train_heads(
    inputs: FeatureSource, lessons: Sequence[HeadSettings], trainer: TrainerSettings, told: EpochProgress | None = None
) -> tuple[EpochLogits, ...]:
    """For each lesson the logits that a linear layer of its own gives after each epoch of MERL's training.

    The heads begin alike and see the same batches, so that a pass through a moving backbone serves all of them.

    Args:
        told: a callback (epochs done, of how many).
    """
    if any(len(lesson.labels) != inputs.n_train for lesson in lessons):
        raise ProbeError(f"labels for other than the {inputs.n_train} training recordings")
    truths = [torch.from_numpy(np.asarray(lesson.labels, np.float32)) for lesson in lessons]  # (n, K) each
    n_batches = -(-inputs.n_train // trainer.batch_size)
    order = torch.Generator().manual_seed(trainer.seed)
    heads: list[_Head] = []
    kept: list[tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]] = [([], []) for _ in lessons]
    for epoch in range(trainer.epochs):
        for batch, positions in enumerate(
            torch.split(torch.randperm(inputs.n_train, generator=order), trainer.batch_size)
        ):
            x = _with_ones(inputs.train(positions))  # (B, D + 1)
            if not heads:
                heads = [_Head(initial_weights(x.shape[1] - 1, t.shape[1], trainer.seed), trainer) for t in truths]
            for head, truth, lesson in zip(heads, truths, lessons):
                head.learn(x, truth[positions], trainer.rate(epoch, batch, n_batches, lesson.early_lr_drop))
        val, test = (_with_ones(features) for features in inputs.held_out())
        for head, (val_kept, test_kept) in zip(heads, kept):
            val_kept.append((val @ head.weights.T).numpy())
            test_kept.append((test @ head.weights.T).numpy())
        if told is not None:
            told(epoch + 1, trainer.epochs)
    return tuple(EpochLogits(np.stack(val), np.stack(test)) for val, test in kept)


def initial_weights(width: int, n_classes: int, seed: int) -> Tensor:
    """(K, D + 1) of a fresh torch.nn.Linear, its bias as the last column."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(width, n_classes)
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().clone()


def _with_ones(features: Tensor) -> Tensor:
    return torch.nn.functional.pad(features, (0, 1), value=1.0)


class _Head:
    """A linear layer and its Adam with L2 in the gradient, the bias a last column of the weights.

    The gradient is written out: ten small products a step, where a module, its graph and its optimiser take several
    times as long for the same numbers.
    """

    def __init__(self, weights: Tensor, trainer: TrainerSettings) -> None:
        """Begins at `weights` (K, D + 1)."""
        self.weights, self._weight_decay, self._n_steps = weights, trainer.weight_decay, 0
        self._mean, self._square = torch.zeros_like(weights), torch.zeros_like(weights)

    def learn(self, x: Tensor, truth: Tensor, lr: float) -> None:
        """One step of mean binary cross-entropy on features (B, D + 1) and labels (B, K)."""
        wrong = torch.sigmoid(x @ self.weights.T).sub_(truth).div_(truth.numel())  # (B, K)
        gradient = (wrong.T @ x).add_(self.weights, alpha=self._weight_decay)
        self._n_steps += 1
        self._mean.lerp_(gradient, 0.1)
        self._square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = (self._square / (1 - 0.999**self._n_steps)).sqrt_().add_(1e-8)
        self.weights.addcdiv_(self._mean, scale, value=-lr / (1 - 0.9**self._n_steps))


def best_epoch(trace: EpochLogits, val: Labels, test: Labels, on_test: bool) -> int:
    """The epoch with the highest macro AUROC on validation, or with the fault on test; the first of equals.

    Raises:
        ProbeError: no class has both label values there.
    """
    labels, logits = (test, trace.test) if on_test else (val, trace.val)
    defined = (labels.min(axis=0) < labels.max(axis=0)).nonzero()[0]
    if not len(defined):
        raise ProbeError(
            f"no class has both label values in split '{'test' if on_test else 'val'}'; no epoch to choose"
        )
    macros = [float(auroc(labels[:, defined], scores[:, defined]).mean()) for scores in logits]
    return int(np.argmax(macros))


def labels_by_position(labels: Labels, classes: Sequence[str], learnt: Sequence[str], scored: Sequence[str]) -> Labels:
    """(n, K) the labels that each class's score is held against where columns are taken by position.

    Args:
        labels: (n, K) true labels, columns in the order of `classes`.
        learnt: the classes in the order of the train file's columns.
        scored: the classes in the order of the columns of the file that is scored.
    """
    held_against = dict(zip(learnt, scored, strict=True))
    return labels[:, [list(classes).index(held_against[name]) for name in classes]]


_ROTATED = {"AVB": "ISC", "RAO/RAE": "AVB", "ISC": "RAO/RAE"}  # in PTB-XL's published sub-classes: learnt -> scored


def known_column_orders(source: str, task: str, classes: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    """Each split's order of columns as far as known without the files: PTB-XL's sub-classes, else None."""
    if source != "ptbxl" or task != "sub" or not set(_ROTATED) <= set(classes):
        return None
    turned = tuple(_ROTATED.get(name, name) for name in classes)
    return {"train": tuple(classes), "val": turned, "test": turned}


def parse_faults(names: Collection[str]) -> tuple[Fault, ...]:
    """The faults of these names, in the order in which they are always told.

    Raises:
        ProbeError: no such fault; the message names those there are.
    """
    unknown = sorted(set(names) - set(Fault))
    if unknown:
        raise ProbeError(f"no fault '{unknown[0]}'; choose from {', '.join(Fault)}")
    return tuple(fault for fault in Fault if fault in names)


def describe_faults(faults: Collection[Fault]) -> Mapping[str, str]:
    """A sentence on each."""
    return {fault.value: FAULT_DESCRIPTIONS[fault] for fault in faults}
