"""A small network on frozen features, D -> D/2 -> D/4 -> 1, for each target; the read-out of ECG and CMR papers.

The number of epochs is chosen on a fifth of the patients that the network is fitted on. Features are standardised and clipped
as for the ridge.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leadwise.evaluate.metrics.score import Floats
from leadwise.evaluate.ridge import N_FOLDS, Standardised, patient_folds
from leadwise.run import isolated_random_state

_EPOCHS, _PATIENCE = 200, 20
_BATCH = 128
_LEARNING_RATE, _WEIGHT_DECAY, _DROPOUT = 1e-3, 1e-2, 0.1


def predict_mlp(
    features: NDArray[np.floating], values: Floats, patients: NDArray[Any], others: NDArray[np.floating], seed: int
) -> tuple[Floats, list[int]]:
    """Fit a network for each target and return its predictions (M, Q) of `others` (M, D), and its epochs.

    Args:
        features: (n, D); values (n, Q), NaN where there is none; patients (n,).
    """
    standardise = Standardised.of(features)
    inputs, targets = (torch.from_numpy(standardise(part).astype(np.float32)) for part in (features, others))
    held_out = patient_folds(patients, N_FOLDS) == 0
    predicted, epochs = np.zeros((len(others), values.shape[1])), []
    for q in range(values.shape[1]):
        known = np.isfinite(values[:, q])
        level, spread = float(values[known, q].mean()), float(values[known, q].std()) or 1.0
        y = torch.from_numpy(((values[:, q] - level) / spread).astype(np.float32))
        with isolated_random_state():
            torch.manual_seed(seed)
            fitted, checked = (torch.from_numpy(np.flatnonzero(known & part)) for part in (~held_out, held_out))
            network, epoch = _fit(inputs, y, fitted, checked if len(checked) else fitted)
        with torch.no_grad():
            predicted[:, q] = level + spread * network(targets)[:, 0].double().numpy()
        epochs.append(epoch)
    return predicted, epochs


def _network(width: int) -> nn.Sequential:
    first, second = max(8, width // 2), max(8, width // 4)
    return nn.Sequential(
        nn.Linear(width, first), nn.ReLU(), nn.Dropout(_DROPOUT),
        nn.Linear(first, second), nn.ReLU(), nn.Dropout(_DROPOUT), nn.Linear(second, 1),
    )  # fmt: skip


def _fit(x: Tensor, y: Tensor, fitted: Tensor, checked: Tensor) -> tuple[nn.Sequential, int]:
    """Return the network of the best epoch on the rows `checked`, trained on the rows `fitted`, and that epoch."""
    network = _network(x.shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    best, best_state, best_epoch = float("inf"), copy.deepcopy(network.state_dict()), 0
    for epoch in range(1, _EPOCHS + 1):
        # one pass over the rows, in random order
        network.train()
        for rows in torch.split(fitted[torch.randperm(len(fitted))], _BATCH):
            optimizer.zero_grad()
            nn.functional.mse_loss(network(x[rows])[:, 0], y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        # the error on the patients that are held out
        network.eval()
        with torch.no_grad():
            error = float(nn.functional.mse_loss(network(x[checked])[:, 0], y[checked]))
        if error < best:
            best, best_state, best_epoch = error, copy.deepcopy(network.state_dict()), epoch
        elif epoch - best_epoch >= _PATIENCE:
            break
    network.load_state_dict(best_state)
    return network.eval(), best_epoch
