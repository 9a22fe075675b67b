"""Losses of masked methods against plain loops."""

from __future__ import annotations

import plain_losses
import pytest
import torch

from leadwise.nn.losses import masked


def test_reconstruction_is_a_mean_of_each_record_then_of_records() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 4, 5, generator=g), torch.randn(3, 4, 5, generator=g)
    counts = torch.rand(3, 4, 5, generator=g) > 0.6
    counts[2] = False
    slow = plain_losses.selected_error(*(x.flatten(1).tolist() for x in (a, b, counts)))
    assert float(masked.reconstruction(a, b, counts)) == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("ragged", [False, True])
def test_instance_discrimination_against_a_double_loop(ragged: bool) -> None:
    g = torch.Generator().manual_seed(1)
    before, after = torch.randn(3, 6, 4, generator=g), torch.randn(3, 6, 4, generator=g)
    real = torch.ones(3, 6, dtype=torch.bool)
    if ragged:
        real[1, 4:] = False
        real[2, 1:] = False  # one token: nothing to tell apart
    slow = plain_losses.instance_discrimination(before.tolist(), after.tolist(), real.tolist())
    assert float(masked.instance_discrimination(before, after, real)) == pytest.approx(slow, rel=1e-5)
    if not ragged:
        assert float(masked.instance_discrimination(before, after)) == pytest.approx(slow, rel=1e-5)


def test_instance_discrimination_has_finite_slopes_everywhere() -> None:
    before = torch.zeros(2, 3, 4, requires_grad=True)  # no direction at all
    real = torch.tensor([[True, False, False], [True, True, True]])
    masked.instance_discrimination(before, torch.ones(2, 3, 4), real).backward()
    assert bool(before.grad.isfinite().all())
