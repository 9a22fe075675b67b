"""Tests of MoCo v3 beyond the contract."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import make_batch
from test_methods import build

from leadwise.methods import moco_v3
from leadwise.nn.losses import view_agreement


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(6, 5, generator=g), torch.randn(6, 5, generator=g)


def test_the_loss_equals_the_double_loop(pair) -> None:
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in pair)
    total = 0.0
    for i in range(6):
        s = [math.exp(float(q[i] @ k[j]) / 0.2) for j in range(6)]
        total -= math.log(s[i] / sum(s))
    assert float(view_agreement.momentum_nce(*pair, 0.2)) == pytest.approx(0.4 * total / 6, rel=1e-5)


def test_shares_are_the_whole_and_keys_have_no_gradient(pair) -> None:
    q, k = (x.clone().requires_grad_() for x in pair)
    shares = [
        view_agreement.momentum_nce(q[local_rows], k, 0.2, local_rows) for local_rows in (slice(0, 3), slice(3, 6))
    ]
    whole = view_agreement.momentum_nce(q, k, 0.2)
    torch.testing.assert_close(sum(shares) / 2, whole)
    whole.backward()
    assert bool(q.grad.any())
    assert k.grad is None


def test_queries_are_compared_with_the_keys_of_the_other_view() -> None:
    method = build("moco_v3 vit").eval()
    with torch.no_grad():
        _, features = method.local_terms(make_batch(4))
        want = view_agreement.momentum_nce(features["q_1"], features["k_2"], 0.2)
        want = want + view_agreement.momentum_nce(features["q_2"], features["k_1"], 0.2)
        torch.testing.assert_close(method.batch_terms(features)["L_MoCo"], want)


@pytest.mark.parametrize("kind", ["vit", "lead_time_conv"])
def test_the_map_from_patches_to_tokens_is_not_trained(kind: str) -> None:
    method = build(f"moco_v3 {kind}")
    tokenizer = method.tower.ecg.tokenizer
    before = [p.clone() for p in tokenizer.parameters()]
    assert before
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    method(make_batch())["L_MoCo"].backward()
    optimizer.step()
    method.after_step(0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, tokenizer.parameters()))
    trainable = build(f"moco_v3 {kind}", freeze_patches=False).tower.ecg.tokenizer
    assert all(p.requires_grad for p in trainable.parameters())


def test_a_resnet_is_trained_whole() -> None:
    assert all(p.requires_grad for p in build("moco_v3").tower.parameters())


def test_the_momentum_encoder_has_no_predictor_and_is_updated() -> None:
    method = build("moco_v3", momentum=0.5)
    assert len([*method.teacher.parameters()]) == len([*method.tower.parameters()])
    student = method.tower.projector[0].weight
    teacher = method.teacher.model.projector[0].weight
    with torch.no_grad():
        student.add_(1.0)
    before = teacher.clone()
    method.after_step(0.0)
    torch.testing.assert_close(teacher, before + 0.5)
    method.after_step(1.0)
    torch.testing.assert_close(teacher, before + 0.5)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"momentum": 1.5}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        moco_v3.Config(**wrong)
