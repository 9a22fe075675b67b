"""Tests of SimCLR, and of the parts that all two-view methods share."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import make_batch
from test_methods import build

from leadwise.config import OptimConfig
from leadwise.methods import simclr
from leadwise.nn.losses import view_agreement
from leadwise.training.gradient_step import Objective, backward, seed_all

TWO_VIEWS = ["simclr", "byol", "barlow_twins", "moco_v3", "simsiam"]


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(6, 5, generator=g), torch.randn(6, 5, generator=g)


def test_nt_xent_equals_the_double_loop(pair) -> None:
    views = torch.nn.functional.normalize(torch.cat(pair), dim=-1)
    total = 0.0
    for i in range(12):
        s = [math.exp(float(views[i] @ views[k]) / 0.1) for k in range(12)]
        total -= math.log(s[(i + 6) % 12] / (sum(s) - s[i]))
    assert float(view_agreement.nt_xent(*pair, 0.1)) == pytest.approx(total / 12, rel=1e-5)


def test_shares_of_nt_xent_are_the_whole(pair) -> None:
    shares = [view_agreement.nt_xent(*pair, 0.1, local_rows) for local_rows in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(sum(shares) / 2, view_agreement.nt_xent(*pair, 0.1))


def test_views_that_agree_are_better_than_views_that_do_not(pair) -> None:
    assert float(view_agreement.nt_xent(pair[0], pair[0], 0.1)) < float(view_agreement.nt_xent(*pair, 0.1))


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature = 0\.0 is out of range: it must be > 0"):
        simclr.Config(temperature=0.0)


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_two_view_methods_need_their_records_in_one_pass(name: str) -> None:
    assert build(name).config.whole_batch == f"method.name = '{name}'"


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_validation_uses_two_views_and_embeddings_use_the_whole_ecg(name: str) -> None:
    method, batch = build(name).eval(), make_batch(4)
    inputs_of_tower = []
    method.tower.register_forward_pre_hook(lambda _, inputs: inputs_of_tower.append(inputs[0].batch.ecg))
    with torch.no_grad():
        method(batch)
    assert [ecg.shape[-1] for ecg in inputs_of_tower] == [200, 200]
    assert not torch.equal(*inputs_of_tower)
    torch.testing.assert_close(method.embed_ecg(batch), method.tower.ecg(batch))
    assert 1 < method.measure(batch)["effective_rank"] <= 3
    with pytest.raises(ValueError, match="no part 'shared'"):
        method.embed_ecg(batch, "shared")


@pytest.mark.parametrize("name", [f"{name} vit" for name in ("simclr", "barlow_twins", "moco_v3", "simsiam")])
def test_a_bias_that_a_batch_norm_removes_is_not_trained(name: str) -> None:
    norm = build(name).tower.ecg.last_norm
    assert not norm.bias.requires_grad
    assert norm.weight.requires_grad


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_a_step_of_the_loop_has_the_gradient_of_forward(name: str) -> None:
    """Features are detached: a gradient path around them would be missing in the training loop."""
    method, batch = build(name), make_batch(8)
    values = backward(Objective(method), [batch], 3, OptimConfig())
    through = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    seed_all(OptimConfig().seed, 3, 0)
    terms = method(batch)
    sum(terms.values()).backward()
    assert values == pytest.approx({name: float(term.detach()) for name, term in terms.items()}, rel=1e-4)
    for name, p in method.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(through[name], p.grad, rtol=1e-3, atol=1e-5)
