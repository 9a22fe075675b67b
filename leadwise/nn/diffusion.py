"""Denoising diffusion: the noise schedule, noisy samples, and sampling by DDIM (arXiv 2006.11239, 2010.02502).

    z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) e,   a_t = prod_{s <= t} (1 - b_s),   e ~ N(0, 1)

with b_s in equal steps from `beta_start` to `beta_end`. The model estimates e from z_t and t.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def signal_shares(n_steps: int, beta_start: float, beta_end: float) -> Tensor:
    """Return a_t (n_steps,), the share of the signal in the variance after each step; it falls from almost 1 to almost 0."""
    return (1 - torch.linspace(beta_start, beta_end, n_steps, dtype=torch.float64)).cumprod(0).float()


def add_noise(z: Tensor, noise: Tensor, share: Tensor) -> Tensor:
    """Return z_t (B, C, N) of z and e (B, C, N), given a_t (B,)."""
    share = share[:, None, None]
    return share.sqrt() * z + (1 - share).sqrt() * noise


def without_noise(noisy: Tensor, noise: Tensor, share: Tensor) -> Tensor:
    """Return the z_0 that gives `noisy` with this noise: the inverse of `add_noise`."""
    share = share[:, None, None]
    return (noisy - (1 - share).sqrt() * noise) / share.sqrt()


def ddim(noise_of: Callable[[Tensor, Tensor], Tensor], z: Tensor, shares: Tensor, n_steps: int) -> Tensor:
    """Return z_0 from pure noise z (B, C, N), in `n_steps` deterministic steps of DDIM.

    Args:
        noise_of: the estimate of e from z_t (B, C, N) and the step t (B,) int64.
        shares: a_t of all steps of training; `n_steps` of them are used, in equal distances, from the last down.
    """
    steps = torch.linspace(len(shares) - 1, 0, min(n_steps, len(shares))).round().long().tolist()
    for number, step in enumerate(steps):
        t = torch.full((len(z),), step, device=z.device)
        noise = noise_of(z, t)
        z_0 = without_noise(z, noise, shares[t])
        is_last = number + 1 == len(steps)
        z = z_0 if is_last else add_noise(z_0, noise, shares[torch.full_like(t, steps[number + 1])])
    return z
