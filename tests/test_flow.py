"""Rectified flow, against a plain version and against differential equations with a known solution."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from leadwise.nn import flow


def test_points_and_velocities_of_the_lines() -> None:
    z0, z1, t = torch.randn(4, 2, 3), torch.randn(4, 2, 3), torch.tensor([0.0, 0.25, 0.5, 1.0])
    x, velocity = flow.interpolate(z0, z1, t)
    for i in range(4):
        for j in range(2):
            for k in range(3):
                line = float(z0[i, j, k]) + float(t[i]) * (float(z1[i, j, k]) - float(z0[i, j, k]))
                assert float(x[i, j, k]) == pytest.approx(line, abs=1e-6)
    assert torch.equal(velocity, z1 - z0)
    assert torch.equal(x[0], z0[0])
    assert torch.equal(x[3], z1[3])


def test_time_features_distinguish_close_times() -> None:
    t = torch.linspace(0, 1, 101)
    features = flow.time_features(t, 32)
    assert features.shape == (101, 32)
    assert features.abs().max() <= 1
    distance = (features[1:] - features[:-1]).norm(dim=1)
    assert distance.min() > 0.5  # of times 0.01 apart
    usual = t[:, None] * 10_000 ** (-torch.arange(16) / 16)  # t in [0, 1], with frequencies for steps up to 1000
    usual = torch.cat([usual.sin(), usual.cos()], dim=1)
    assert (usual[1:] - usual[:-1]).norm(dim=1).max() < 0.02
    # the slowest sine orders the times
    assert (features[1:, 0] > features[:-1, 0]).all()


def test_samples_solve_the_equation() -> None:
    z0 = torch.randn(5, 3, dtype=torch.float64)

    def decay(x: Tensor, t: Tensor) -> Tensor:  # x(1) = x(0) exp(-1) + sin(1), if x(t) = x(0) exp(-t) + sin(t)
        angle = t.double()[:, None]
        return -(x - angle.sin()) + angle.cos()

    exact = z0 * math.exp(-1) + math.sin(1)
    errors = {
        (method, n): float((flow.sample(decay, z0, n, method) - exact).abs().max())
        for method in ("euler", "midpoint")
        for n in (20, 40)
    }
    assert errors["euler", 40] < 0.6 * errors["euler", 20] < 0.05  # first order
    assert errors["midpoint", 40] < 0.3 * errors["midpoint", 20] < 1e-3  # second order


@pytest.mark.parametrize("method", ["euler", "midpoint"])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_straight_line_is_exact_with_any_number_of_steps(method: flow.Solver, n_steps: int) -> None:
    z0, z1 = torch.randn(4, 2, 3, 5), torch.randn(4, 2, 3, 5)
    assert torch.allclose(flow.sample(lambda x, t: z1 - z0, z0, n_steps, method), z1, atol=1e-5)


def test_samples_of_the_exact_velocity_have_the_target_distribution() -> None:
    """From z0 ~ N(0, 1) to z1 ~ N(m, s^2), the velocity that the loss has as its optimum is known in closed form."""
    mean, deviation = 2.0, 0.5

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        time = t[:, None]
        variance = (1 - time) ** 2 + (time * deviation) ** 2
        return mean + (time * deviation**2 - (1 - time)) / variance * (x - time * mean)

    torch.manual_seed(0)
    x = flow.sample(velocity, torch.randn(20_000, 1), 50)
    assert float(x.mean()) == pytest.approx(mean, abs=0.02)
    assert float(x.std()) == pytest.approx(deviation, abs=0.02)


def test_wrong_arguments_are_errors() -> None:
    t = torch.zeros(2)
    with pytest.raises(ValueError, match="width = 5"):
        flow.time_features(t, 5)
    with pytest.raises(ValueError, match="n_steps = 0"):
        flow.sample(lambda x, t: x, torch.zeros(2, 1), 0)
    with pytest.raises(ValueError, match="choose from euler, midpoint"):
        flow.sample(lambda x, t: x, torch.zeros(2, 1), 1, "heun")  # type: ignore[arg-type]
