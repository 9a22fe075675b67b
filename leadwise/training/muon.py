"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum with orthogonalised updates, and AdamW for the rest.

torch.optim.Muon computes one matrix at a time, in bfloat16. The models here have dozens of small matrices: this version
orthogonalises all matrices of one shape together, in float32, and splits fused projections into their parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic iteration
N_ITERATIONS = 5
SCALE = 0.2  # an update's root mean square, about that of AdamW (Liu et al. 2025, arXiv 2502.16982)


class MuonWithAdamW(torch.optim.AdamW):
    """AdamW, except for parameter groups with "muon" = True, whose parameters are matrices that Muon updates.

    A matrix has at least two dimensions; further ones (of a convolution) count as columns. A group's "n_parts" is the number
    of equal blocks of rows of each of its matrices, such as 2 for a fused projection to keys and values. The update of an
    n x m block is its orthogonalised momentum times 0.2 sqrt(max(n, m)), times the learning rate. Weight decay is decoupled.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters from their gradients."""
        every = self.param_groups
        try:
            self.param_groups = [group for group in every if not group.get("muon")]
            loss = super().step(closure)
        finally:
            self.param_groups = every
        for group in every:
            if group.get("muon"):
                self._muon_step(group)
        return loss

    def _muon_step(self, group: dict[str, Any]) -> None:
        # momentum, with Nesterov's look-ahead
        matrices: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        blocks: list[Tensor] = []  # views of the parameters
        updates: list[Tensor] = []
        for p in matrices:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
                state["step"] = torch.zeros(())  # unused; AdamW requires it of every state that it loads
            state["momentum"].lerp_(p.grad, 1 - MOMENTUM)
            update = p.grad.lerp(state["momentum"], MOMENTUM)
            blocks += p.view(len(p), -1).chunk(group["n_parts"])  # `flatten` could copy, and the update would be lost
            updates += update.flatten(1).chunk(group["n_parts"])

        # all blocks of one shape together
        by_shape: dict[torch.Size, list[int]] = {}
        for number, block in enumerate(blocks):
            by_shape.setdefault(block.shape, []).append(number)
        for shape, numbers in by_shape.items():
            steps = orthogonalised(torch.stack([updates[number] for number in numbers]))
            rate = group["lr"] * SCALE * max(shape) ** 0.5
            for number, step in zip(numbers, steps):
                blocks[number].mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-rate)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices (K, n, m) with all singular values about 1 (0.7 to 1.2) and the same singular vectors, by Newton-Schulz."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.float().mT if tall else matrices.float()
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(N_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
