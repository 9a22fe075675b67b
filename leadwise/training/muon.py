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
        if not matrices:
            return
        gradients: list[Tensor] = [p.grad for p in matrices if p.grad is not None]
        for p in matrices:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
                self.state[p]["step"] = torch.zeros(())  # unused; AdamW requires it of every state that it loads
        momenta: list[Tensor] = [self.state[p]["momentum"] for p in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        # views of the parameters: `flatten` could copy, and the update would be lost
        blocks = [block for p in matrices for block in p.view(len(p), -1).chunk(group["n_parts"])]
        updates = [block for update in ahead for block in update.flatten(1).chunk(group["n_parts"])]

        # all blocks of one shape together
        by_shape: dict[torch.Size, list[int]] = {}
        for number, block in enumerate(blocks):
            by_shape.setdefault(block.shape, []).append(number)
        for shape, numbers in by_shape.items():
            steps = orthogonalised(torch.stack([updates[number] for number in numbers]))
            rate = group["lr"] * SCALE * max(shape) ** 0.5
            of_shape = [blocks[number] for number in numbers]
            torch._foreach_mul_(of_shape, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(of_shape, steps.unbind(), alpha=-rate)


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
