"""Rectified flow: a velocity that carries a starting point z0 to a sample z1 along a straight line (Liu et al. 2022,
arXiv 2209.03003).

    x_t = (1 - t) z0 + t z1        v = z1 - z0        t in [0, 1]
    L   = |v_model(x_t, t) - v|^2

A sample is the solution at t = 1 of dx/dt = v_model(x, t) from x = z0. Conditions and guidance belong to the caller's velocity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]  # x (B, ...), t (B,) -> dx/dt (B, ...)
Solver = Literal["euler", "midpoint"]


def interpolate(z0: Tensor, z1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points x_t on the lines from z0 to z1 at times t (B,), and the velocity there; all others are (B, ...)."""
    weight = t.reshape(-1, *(1,) * (z1.dim() - 1))
    return (1 - weight) * z0 + weight * z1, z1 - z0


def time_features(t: Tensor, width: int, fastest: float = 100.0) -> Tensor:
    """Return sines and cosines (B, width) of times t (B,) in [0, 1].

    The angles are t times width / 2 frequencies, from 1 to `fastest` radians per unit of time in equal ratios. The usual
    frequencies, from 1 down to 1/10000, are made for step numbers up to 1000: with t in [0, 1] most of their sines are 0 and
    their cosines 1 at all times, so that a model cannot distinguish the times.

    Raises:
        ValueError: the width is odd or below 4.
    """
    if width % 2 or width < 4:
        raise ValueError(f"width = {width}: the features of a time need an even width of 4 or more")
    frequency = torch.logspace(0, math.log10(fastest), width // 2, device=t.device)
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def sample(velocity: Velocity, z0: Tensor, n_steps: int, method: Solver = "midpoint") -> Tensor:
    """Return x at t = 1 of dx/dt = velocity(x, t), from x = z0 (B, ...) at t = 0, in `n_steps` equal steps.

    euler: one evaluation of the velocity for each step. midpoint: two, with an error of second order.

    Raises:
        ValueError: fewer than one step, or an unknown method.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps = {n_steps}: must be 1 or more")
    if method not in ("euler", "midpoint"):
        raise ValueError(f"method = '{method}': choose from euler, midpoint")
    x, step = z0, 1 / n_steps
    for number in range(n_steps):
        t = torch.full((len(z0),), number * step, device=z0.device)
        if method == "euler":
            x = x + step * velocity(x, t)
        else:
            x = x + step * velocity(x + step / 2 * velocity(x, t), t + step / 2)
    return x
