"""The heartbeat as a differential equation (McSharry et al., IEEE TBME 50(3), 2003), and how far a beat departs from it.

    dz/dt = -sum_k a_k d_k exp(-d_k^2 / 2 b_k^2) - (z - z_base)        d_k = theta - theta_k, in (-pi, pi]

z is one lead in mV, theta the phase with the R peak at 0, and k the waves P, Q, R, S, T. The published system also moves a point
(x, y) on the unit circle, whose angle is theta; on the circle, theta rises by omega = 2 pi / RR per second, so that z alone is
left. BeatWaves enter linearly with their amplitudes a_k: those of a given beat follow by least squares.

Shapes: B beats, L leads, N samples of a beat, K waves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_RIDGE = 1e-9  # of the least squares, as a share of the mean diagonal


@dataclass(frozen=True)
class BeatWaves:
    """Where the waves of B beats are, and how wide; a wave that is not `present` has no amplitude."""

    angle: Tensor  # (B, K) rad
    width: Tensor  # (B, K) rad
    present: Tensor  # (B, K) bool

    def pulls(self, theta: Tensor) -> Tensor:
        """Return (B, K, N): what each wave of amplitude 1 adds to dz/dt at the phases theta (B, N)."""
        away = theta[:, None] - self.angle[..., None]
        away = torch.remainder(away + math.pi, 2 * math.pi) - math.pi
        pull = -away * torch.exp(-away.square() / (2 * self.width[..., None].square()))
        return pull * self.present[..., None]


@dataclass(frozen=True)
class Dynamics:
    """The right side of the equation for B beats of L leads."""

    pulls: Tensor  # (B, K, N)
    amplitude: Tensor  # (B, L, K)
    base_mv: Tensor  # (B, L)

    def rate(self, beat: Tensor) -> Tensor:
        """Return dz/dt (B, L, N) in mV/s at each sample of beats (B, L, N) in mV."""
        return self.amplitude @ self.pulls - (beat - self.base_mv[..., None])


def fit(beat: Tensor, pulls: Tensor, step_s: float) -> Dynamics:
    """Return the dynamics whose Euler steps are nearest to those of beats (B, L, N): least squares over amplitudes and base.

    No gradient passes through it.
    """
    with torch.no_grad():
        z, waves = beat.double(), pulls.double()  # narrow waves overlap: the equations are nearly dependent
        rate = (z[..., 1:] - z[..., :-1]) / step_s + z[..., :-1]  # = a . pulls + base
        known = torch.cat([waves[..., :-1], torch.ones_like(waves[:, :1, :-1])], dim=1)  # (B, K + 1, N - 1)
        gram = known @ known.mT
        size = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
        ridge = _RIDGE * size[:, None, None] * torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)
        solved = torch.linalg.solve(gram + ridge, known @ rate.mT).mT.to(beat.dtype)  # (B, L, K + 1)
        return Dynamics(pulls, solved[..., :-1], solved[..., -1])


def integrate(start: Tensor, dynamics: Dynamics, step_s: float) -> Tensor:
    """Return the beats (B, L, N) that Euler steps of `step_s` give from their first samples `start` (B, L)."""
    samples = [start]
    drive = dynamics.amplitude @ dynamics.pulls
    for number in range(dynamics.pulls.shape[-1] - 1):
        z = samples[-1]
        samples.append(z + step_s * (drive[..., number] - (z - dynamics.base_mv)))
    return torch.stack(samples, dim=-1)


def departure(beat: Tensor, dynamics: Dynamics, step_s: float, size: Tensor | None = None) -> Tensor:
    """Return by how much each beat departs from the dynamics: (B,), 0 for a solution of its Euler steps.

    It is the squared difference between each step of the beat and the Euler step of the equation, as a mean over leads and
    samples, divided by `size` (B,): default, the beat's own mean squared step.
    """
    step = beat[..., 1:] - beat[..., :-1]
    error = (step - step_s * dynamics.rate(beat)[..., :-1]).square().mean((1, 2))
    return error / (mean_squared_step(beat) if size is None else size)


def mean_squared_step(beat: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring samples (B,) of beats (B, L, N), at least that of 1 uV."""
    return (beat[..., 1:] - beat[..., :-1]).square().mean((1, 2)).clamp(min=1e-6)
