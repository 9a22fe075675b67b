"""Steps of published pre-processing: filters of scipy, run forwards and backwards, and windows of equal length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal
from torch import Tensor

from leadwise.batch import LEADS

Kind = Literal["highpass", "lowpass", "bandpass"]

MIMIC_LEADS = (*LEADS[:4], "aVF", "aVL", *LEADS[6:])
"""The order of the leads in the files of MIMIC-IV-ECG, from which some published models were trained."""


def with_numpy(x: Tensor, change: Callable[[NDArray[np.float64]], NDArray[np.floating[Any]]]) -> Tensor:
    """Return `change` of the values of x, computed in float64 on the CPU, with the type and device of x."""
    changed = change(x.detach().cpu().numpy().astype(np.float64))
    return torch.from_numpy(np.ascontiguousarray(changed)).to(x)


@cache
def _butterworth(order: int, edges: tuple[float, ...], kind: Kind, rate_hz: float) -> NDArray[np.float64]:
    return signal.butter(order, edges if len(edges) > 1 else edges[0], kind, output="sos", fs=rate_hz)


def butterworth(
    x: NDArray[np.float64],
    order: int,
    edges_hz: Sequence[float],
    kind: Kind,
    rate_hz: float,
) -> NDArray[np.float64]:
    """Return x (..., T) through a Butterworth filter, forwards and backwards, so that its phase does not change."""
    filtered: NDArray[np.float64] = signal.sosfiltfilt(_butterworth(order, tuple(edges_hz), kind, rate_hz), x, axis=-1)
    return filtered


def windows(x: Tensor, n_samples: int, starts: Sequence[int]) -> Tensor:
    """Return the windows (B W, L, n_samples) of x (B, L, T) that begin at `starts`, those of a record after each other."""
    return torch.stack([x[..., start : start + n_samples] for start in starts], dim=1).flatten(0, 1)


def mean_of_windows(embedding: Tensor, n_windows: int) -> Tensor:
    """Return the mean (B, D) over the windows of each record, from (B W, D)."""
    return embedding.reshape(-1, n_windows, embedding.shape[1]).mean(1)
