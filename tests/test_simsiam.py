"""Tests of SimSiam beyond the contract."""

from __future__ import annotations

import pytest
import torch
from conftest import make_batch
from test_methods import build

from leadwise.nn.batch_norm import BatchNorm
from leadwise.nn.losses import view_agreement


def test_the_loss_is_the_negative_cosine_and_stops_at_z() -> None:
    torch.manual_seed(0)
    p, z = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    loss = view_agreement.negative_cosine(p, z)
    slow = -sum(float(a @ b / (a.norm() * b.norm())) for a, b in zip(p.detach(), z.detach())) / 5
    assert float(loss.detach()) == pytest.approx(slow, rel=1e-5)
    loss.backward()
    assert bool(p.grad.any())
    assert z.grad is None


def test_both_views_predict_each_other() -> None:
    method, batch = build("simsiam").eval(), make_batch(4)
    with torch.no_grad():
        torch.manual_seed(1)
        total = method(batch)["L_SimSiam"]
        torch.manual_seed(1)
        z_1, z_2 = (method.tower(view) for view in method.two_views(batch))
        halves = torch.nn.functional.cosine_similarity(method.predictor(z_1), z_2).mean()
        halves = halves + torch.nn.functional.cosine_similarity(method.predictor(z_2), z_1).mean()
    torch.testing.assert_close(total, -halves / 2)
    assert -1 <= float(total) <= 1


def test_the_gradient_goes_through_the_predictor_only() -> None:
    """Without the predictor's gradient the encoder has none: the other side, z, is detached."""
    method = build("simsiam")
    method.predictor.register_forward_hook(lambda _, inputs, out: out.detach().requires_grad_())
    method(make_batch())["L_SimSiam"].backward()
    assert all(p.grad is None for p in method.tower.parameters())


def test_the_predictor_has_a_narrow_layer_and_the_norm_of_z_is_not_affine() -> None:
    method = build("simsiam")
    assert method.predictor[0].weight.shape == (8, 32)
    assert method.predictor[-1].weight.shape == (32, 8)
    last = method.tower.projector[-1]
    assert isinstance(last, BatchNorm)
    assert not last.affine
