"""Teachers: copies of a student that no gradient reaches and that follow it, a little after each step."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn


class Teacher(nn.Module):
    """A slow copy of `student`. Batch norms in it take the statistics of what it is shown, as the student's do."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(student).requires_grad_(False)

    def forward(self, *inputs: Any) -> Any:
        """What the copy makes of it, without a graph."""
        with torch.no_grad():
            return self.model(*inputs)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """Move every parameter to momentum x itself + (1 - momentum) x the student's."""
        for own, other in zip(self.model.parameters(), student.parameters(), strict=True):
            own.lerp_(other, 1.0 - momentum)


def rising(progress: float, start: float) -> float:
    """A momentum that goes from `start` to 1 by a half cosine while `progress` goes from 0 to 1."""
    return 1.0 - (1.0 - start) * (math.cos(math.pi * progress) + 1) / 2
