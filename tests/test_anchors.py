"""The losses between anchors and those of Gaussian embeddings, each against a slow loop."""

from __future__ import annotations

import math
from functools import partial

import plain_losses
import pytest
import torch

from leadwise.nn.losses import anchors, gaussian


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("missing", [[], [1], [0, 4, 5]])
def test_a_pair_of_anchors_equals_a_loop_over_the_records_that_have_both(missing: list[int]) -> None:
    a, b = random(6, 4), random(6, 4, seed=1)
    present = torch.tensor([i not in missing for i in range(6)])
    person = torch.tensor([0, 1, 2, 2, 3, 4])
    slow = partial(plain_losses.pair_contrast, a.tolist(), b.tolist(), present.tolist())
    for same in (None, person):
        value = anchors.pair_contrast(a, b, present, 5.0, same)
        assert float(value) == pytest.approx(slow(5.0, None if same is None else same.tolist()), rel=1e-5)


def test_absent_records_have_no_gradient_and_none_present_gives_zero() -> None:
    a, b = random(5, 4).requires_grad_(), random(5, 4, seed=1).requires_grad_()
    present = torch.tensor([True, True, False, True, True])
    anchors.pair_contrast(a, b, present, 3.0).backward()
    assert not a.grad[2].any()
    assert a.grad[0].any()
    nothing = anchors.pair_contrast(a, b, torch.zeros(5, dtype=torch.bool), 3.0)
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert bool(a.grad.isfinite().all())


def test_the_mean_over_processes_is_the_value_of_the_batch() -> None:
    a, b, f = random(8, 4), random(8, 4, seed=1), random(8, 3, seed=2)
    present = torch.tensor([True, False, True, True, True, True, False, False])
    for loss in (
        lambda rows: anchors.pair_contrast(a, b, present, 3.0, None, rows),
        lambda rows: anchors.relational_contrast(a, b, present, f, 3.0, 1.0, rows),
        lambda rows: gaussian.matching(
            gaussian.distances(a, b, b, a), torch.eye(8).bool(), 2.0, 1.0, "pairs", None, rows
        ),
    ):
        shares = [loss(slice(0, 4)), loss(slice(4, 8))]
        assert float(sum(shares) / 2) == pytest.approx(float(loss(slice(None))), rel=1e-5)


def test_weights_are_shares_of_their_sum() -> None:
    names = ("ecg", "ed", "es")
    third = anchors.pair_weights(names, {"ecg-ed": 0.33, "ecg-es": 0.33, "ed-es": 0.33})
    assert all(weight == pytest.approx(1 / 3) for weight in third.values())
    assert len(third) == 3
    assert anchors.pair_weights(names, {"ecg-ed": 1.0, "ecg-es": 3.0}) == {("ecg", "ed"): 0.25, ("ecg", "es"): 0.75}
    with pytest.raises(ValueError, match="no pair"):
        anchors.pair_weights(names, {})


def test_the_relational_contrast_equals_a_loop() -> None:
    a, b, f = random(6, 4), random(6, 4, seed=1), random(6, 3, seed=2)
    f[1, 0] = f[2, 1] = f[2, 2] = torch.nan
    f[4] = torch.nan  # can be compared with itself only
    present = torch.tensor([True, True, True, False, True, True])
    value = anchors.relational_contrast(a, b, present, f, 4.0, 1.5)
    slow = plain_losses.relational_contrast(*(x.tolist() for x in (a, b, present, f)), 4.0, 1.5)
    assert float(value) == pytest.approx(slow, rel=1e-4)


def test_the_relational_contrast_is_zero_where_cosines_follow_the_distances() -> None:
    angle = torch.tensor([0.0, 0.3, 0.9, 2.0])
    unit = torch.stack([angle.cos(), angle.sin()], dim=1)
    present = torch.ones(4, dtype=torch.bool)
    assert float(anchors.relational_contrast(unit, unit, present, unit, 2.0, 1.0)) == pytest.approx(0, abs=1e-6)


def test_top1_counts_the_records_whose_own_pair_is_nearest() -> None:
    a = torch.eye(4)
    present = torch.tensor([True, True, True, False])
    assert anchors.top1(a, a, present) == 1
    assert anchors.top1(a, a[[1, 0, 2, 3]], present) == pytest.approx(1 / 3)
    assert math.isnan(anchors.top1(a, a, ~torch.ones(4, dtype=torch.bool)))


def test_the_contrast_within_a_record_equals_a_loop() -> None:
    a, b = random(4, 3, 5), random(4, 3, 5, seed=1)
    present = torch.tensor([True, False, True, True])
    each = [plain_losses.pair_contrast(a[i].tolist(), b[i].tolist(), [True] * 3, 4.0) for i in range(4)]
    values = anchors.contrast_within(a, b, 4.0)
    assert values.tolist() == pytest.approx(each, rel=1e-5)
    # an absent record is left out of the mean, and does not count in its denominator
    assert float(anchors.mean_over_present(values, present)) == pytest.approx(
        (each[0] + each[2] + each[3]) / 3, rel=1e-5
    )
    assert float(anchors.mean_over_present(values, ~present | present)) == pytest.approx(sum(each) / 4, rel=1e-5)
    assert float(anchors.mean_over_present(values, present & ~present)) == 0
    right = [
        max(range(3), key=lambda j: plain_losses.cosine(a[i, k], b[i, j])) == k for i in (0, 2, 3) for k in range(3)
    ]
    assert anchors.top1_within(a, b, present) == pytest.approx(sum(right) / 9)


# ------------------------------------------------------------------------------------------------------- Gaussians


def test_distances_and_matching_equal_loops() -> None:
    mu, s, nu, t = (random(5, 3, seed=seed) for seed in range(4))
    distance = gaussian.distances(mu, s, nu, t)
    slow = plain_losses.gaussian_distances(*(x.tolist() for x in (mu, s, nu, t)))
    torch.testing.assert_close(distance, torch.tensor(slow), atol=1e-4, rtol=1e-4)

    # equal reports match as well; pairs that do not count are left out
    match = torch.eye(5, dtype=torch.bool)
    match[0, 1] = match[1, 0] = True
    counted = torch.ones(5, 5, dtype=torch.bool)
    counted[2, 3] = False

    def loss(i: int, j: int) -> float:
        logit = -0.5 * slow[i][j] + 2.0
        return math.log1p(math.exp(-logit if match[i, j] else logit))

    def mean(i: int, columns: list[int]) -> float:
        return sum(loss(i, j) for j in columns) / max(len(columns), 1)

    by_pairs = sum(mean(i, [j for j in range(5) if counted[i, j]]) for i in range(5)) / 5
    equal = (
        sum(
            mean(i, [j for j in range(5) if counted[i, j] and match[i, j]])
            + mean(i, [j for j in range(5) if counted[i, j] and not match[i, j]])
            for i in range(5)
        )
        / 10
    )
    assert float(gaussian.matching(distance, match, 0.5, 2.0, "pairs", counted)) == pytest.approx(by_pairs, rel=1e-4)
    assert float(gaussian.matching(distance, match, 0.5, 2.0, "equal", counted)) == pytest.approx(equal, rel=1e-4)


def test_pseudo_matches_are_as_near_as_the_own_pair() -> None:
    distance = torch.tensor([[2.0, 1.0, 3.0], [5.0, 4.0, 4.0], [9.0, 9.0, 1.0]])
    pseudo = gaussian.pseudo_matches(distance, torch.eye(3, dtype=torch.bool))
    assert pseudo.tolist() == [[True, True, False], [False, True, True], [False, False, True]]


def test_the_divergence_from_a_standard_normal_equals_torch_distributions() -> None:
    mu, s = random(4, 3), random(4, 3, seed=1)
    own = torch.distributions.Normal(mu, (s / 2).exp())
    slow = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    assert float(gaussian.divergence(mu, s)) == pytest.approx(float(slow), rel=1e-5)
    assert float(gaussian.divergence(torch.zeros(2, 3), torch.zeros(2, 3))) == 0
