"""Tests of BYOL beyond the contract."""

from __future__ import annotations

import pytest
import torch
from conftest import make_batch
from test_methods import build

from leadwise.methods import byol
from leadwise.nn.losses import view_agreement


def test_the_loss_is_the_squared_distance_of_unit_vectors() -> None:
    torch.manual_seed(0)
    q, z = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    loss = view_agreement.bootstrap(q, z)
    slow = sum(float((a / a.norm() - b / b.norm()).square().sum()) for a, b in zip(q.detach(), z.detach())) / 5
    assert float(loss.detach()) == pytest.approx(slow, rel=1e-5)
    loss.backward()
    assert bool(q.grad.any())
    assert z.grad is None


def test_both_views_predict_the_targets_of_the_other() -> None:
    method, batch = build("byol").eval(), make_batch(4)
    with torch.no_grad():
        torch.manual_seed(1)
        total = method(batch)["L_BYOL"]
        torch.manual_seed(1)
        one, other = method.two_views(batch)
        q_1, q_2 = (method.predictor(method.tower(view)) for view in (one, other))
        want = view_agreement.bootstrap(q_1, method.target(other)) + view_agreement.bootstrap(q_2, method.target(one))
    torch.testing.assert_close(total, want)


def test_the_target_is_updated_more_slowly_as_training_proceeds() -> None:
    method = build("byol", momentum=0.9)
    names = [name for name, _ in method.tower.named_parameters()]
    target, online = (dict(m.named_parameters()) for m in (method.target.model, method.tower))
    with torch.no_grad():
        for p in online.values():
            p.add_(1.0)
    before = {name: target[name].clone() for name in names}
    method.after_step(0.0)
    for name in names:
        torch.testing.assert_close(target[name], before[name] + 0.1, atol=1e-5, rtol=1e-5)
    before = {name: target[name].clone() for name in names}
    method.after_step(1.0)
    assert all(torch.equal(target[name], before[name]) for name in names)


def test_no_gradient_reaches_the_target() -> None:
    method = build("byol")
    method(make_batch())["L_BYOL"].backward()
    assert all(p.grad is None for p in method.target.parameters())
    assert not any("bias" in name for name, _ in method.tower.projector[-1].named_parameters())


def test_a_momentum_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"momentum = 1\.1 is out of range: it must be in \[0, 1\]"):
        byol.Config(momentum=1.1)
