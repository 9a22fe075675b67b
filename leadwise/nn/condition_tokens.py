"""Conditions of a generator as tokens and as one vector: a report, and numbers of which each may be unknown."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leadwise.nn.flow import time_features

_FEATURES = 32  # of a number


class ConditionTokens(nn.Module):
    """Report states (B, S, D) and numbers (B, Q) -> tokens (B, M, W), which of them are read (B, M), and a vector (B, E).

    M = S + 1 + Q: the report's states, its summary, and a token for each number. An unknown text or number leaves the bias of
    its token, which is what the generator reads without a condition.
    """

    def __init__(self, text_width: int, n_numbers: int, width: int, vector_width: int) -> None:
        super().__init__()
        self.states = nn.Linear(text_width, width)
        self.summary = nn.Linear(text_width + 1, width)
        self.numbers = nn.ModuleList(
            nn.Sequential(nn.Linear(_FEATURES + 1, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(n_numbers)
        )
        self.vector = nn.Sequential(
            nn.Linear((1 + n_numbers) * width, vector_width), nn.SiLU(), nn.Linear(vector_width, vector_width)
        )

    def forward(
        self, states: Tensor, real: Tensor, summary: Tensor, has_text: Tensor, numbers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """real: (B, S) bool; summary: (B, D); has_text: (B,) bool; numbers: (B, Q), about 0 to 1, NaN where unknown."""
        is_given = has_text[:, None]
        tokens = [self.summary(torch.cat([summary * is_given, is_given.to(summary)], dim=1))]
        known = numbers.isfinite()
        for column, network in enumerate(self.numbers):
            is_known = known[:, column, None]
            features = time_features(numbers[:, column].nan_to_num(0.0), _FEATURES, fastest=60.0)
            tokens.append(network(torch.cat([features * is_known, is_known.to(features)], dim=1)))
        facts = torch.stack(tokens, dim=1)  # (B, 1 + Q, W)
        every = torch.cat([facts, self.states(states)], dim=1)
        is_read = torch.cat([torch.ones_like(facts[..., 0], dtype=torch.bool), real & is_given], dim=1)
        return every, is_read, self.vector(facts.flatten(1))
