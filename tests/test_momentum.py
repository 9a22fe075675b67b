"""Teachers follow, and learn nothing by themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from leadwise.nn.batch_norm import BatchNorm
from leadwise.nn.momentum import Teacher, rising


def student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias=False), BatchNorm(4), nn.Linear(4, 2))


def test_a_teacher_begins_as_its_student_and_has_no_gradient() -> None:
    x, model = torch.randn(6, 3), student()
    teacher = Teacher(model)
    torch.testing.assert_close(teacher(x), model(x))
    assert not teacher(x).requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in model.parameters())  # the copy is its own
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in model.parameters()}


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_a_teacher_moves_by_its_momentum(momentum: float) -> None:
    model = student()
    teacher = Teacher(model)
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    teacher.follow(model, momentum)
    for old, own, other in zip(before, teacher.parameters(), model.parameters()):
        torch.testing.assert_close(own, momentum * old + (1 - momentum) * other)


def test_batch_norms_of_a_teacher_take_what_it_is_shown() -> None:
    model = student()
    teacher = Teacher(model)
    teacher(torch.randn(8, 3))
    running_mean = teacher.model[1].running_mean.clone()
    assert bool(running_mean.any())
    assert not bool(model[1].running_mean.any())
    teacher.follow(model, 0.0)
    assert torch.equal(teacher.model[1].running_mean, running_mean)


def test_another_network_is_not_followed() -> None:
    with pytest.raises(ValueError, match="zip"):
        Teacher(student()).follow(student()[:1], 0.5)


def test_a_rising_momentum_is_half_a_cosine_up_to_one() -> None:
    assert rising(0.0, 0.99) == pytest.approx(0.99)
    assert rising(0.5, 0.99) == pytest.approx(0.995)
    assert rising(1.0, 0.99) == 1.0
    assert rising(0.25, 0.9) == pytest.approx(1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2)
