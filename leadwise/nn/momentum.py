"""Momentum teachers: copies of a student without gradients, updated by an exponential moving average after each step."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn


class Teacher(nn.Module):
    """Exponential moving average of `student`. In training mode its batch norms use the statistics of its own input."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(student).requires_grad_(False)

    def forward(self, *inputs: Any) -> Any:
        """Output of the copy, without a gradient graph."""
        with torch.no_grad():
            return self.model(*inputs)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """Set every parameter to momentum x its value + (1 - momentum) x the student's."""
        for own, other in zip(self.model.parameters(), student.parameters(), strict=True):
            own.lerp_(other, 1.0 - momentum)


def rising(progress: float, start: float) -> float:
    """Momentum that rises from `start` to 1 along a half cosine while `progress` goes from 0 to 1."""
    return 1.0 - (1.0 - start) * (math.cos(math.pi * progress) + 1) / 2
