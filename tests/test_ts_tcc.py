"""Tests of TS-TCC: its temporal loss against slow loops, its views, and the inputs of a context."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import make_batch, unobserve
from test_methods import build

from leadwise.batch import Signal
from leadwise.methods import ts_tcc
from leadwise.nn.losses import series
from leadwise.nn.permute import permute, piece_order
from leadwise.nn.small_conv import SmallConv


def test_the_temporal_loss_equals_slow_loops() -> None:
    g = torch.Generator().manual_seed(0)
    predicted, future = torch.randn(6, 3, 5, generator=g), torch.randn(6, 3, 5, generator=g)
    observed = torch.tensor([True, True, False, True, True, True])
    total = 0.0
    for i in range(6):
        for k in range(3):
            likeness = [math.exp(float(predicted[i, k] @ future[j, k])) for j in range(6)]
            among = sum(x for j, x in enumerate(likeness) if observed[j])
            total -= math.log(likeness[i] / among) / 18 if observed[i] else 0.0
    assert float(series.future_contrast(predicted, future, observed)) == pytest.approx(total, rel=1e-5)
    shares = [float(series.future_contrast(predicted, future, observed, slice(i, i + 3))) for i in (0, 3)]
    assert sum(shares) / 2 == pytest.approx(total, rel=1e-5)


def test_a_record_without_a_future_has_no_gradient() -> None:
    predicted = torch.randn(3, 2, 4, requires_grad=True)
    future = torch.randn(3, 2, 4, requires_grad=True)
    series.future_contrast(predicted, future, torch.tensor([True, False, True])).backward()
    assert predicted.grad.flatten(1).any(1).tolist() == [True, False, True]
    assert future.grad.flatten(1).any(1).tolist() == [True, False, True]


@pytest.mark.parametrize("grid", [1, 40])
def test_all_leads_are_permuted_in_one_order_and_no_sample_is_lost(grid: int) -> None:
    batch = unobserve(make_batch(20), leads=[3], after=330)
    torch.manual_seed(0)
    ecg, observed = permute(batch.ecg, batch.observed, 5, grid)
    time = torch.arange(400.0).expand(20, 12, -1)
    torch.manual_seed(0)
    came_from, _ = permute(time, batch.observed, 5, grid)
    assert torch.equal(came_from, came_from[:, :1].expand(-1, 12, -1))
    assert torch.equal(came_from[:, 0].sort(-1).values, time[:, 0])
    assert torch.equal(ecg, batch.ecg.gather(2, came_from.long()))
    assert torch.equal(observed, batch.observed.gather(2, came_from.long()))
    breaks = (came_from[:, 0].diff(dim=-1) != 1).nonzero()
    assert bool(((breaks[:, 1] + 1) % grid == 0).all())
    per_record = torch.bincount(breaks[:, 0], minlength=20)
    assert int(per_record.max()) <= 4
    assert int(per_record.max()) > 1


def test_the_number_of_pieces_is_between_one_and_the_maximum() -> None:
    torch.manual_seed(0)
    n_pieces = 1 + (piece_order(400, 50, 3, torch.device("cpu")).diff(dim=-1) != 1).sum(-1)
    assert sorted(set(n_pieces.tolist())) == [1, 2, 3]
    assert torch.equal(piece_order(2, 6, 1, torch.device("cpu")), torch.arange(6).expand(2, -1))


def test_views_preserve_the_relations_of_leads_and_unobserved_samples() -> None:
    method = build("ts_tcc")
    batch = make_batch(4)
    ecg = batch.ecg.clone()
    ecg[:, 2] = ecg[:, 1] - ecg[:, 0]  # III = II - I
    batch = unobserve(type(batch)(ecg, batch.observed, batch.record, batch.patient, batch.report), leads=[8], after=350)
    for view in (method._weak(batch), method._strong(batch)):
        torch.testing.assert_close(view.ecg[:, 2], view.ecg[:, 1] - view.ecg[:, 0], atol=1e-5, rtol=0)
        assert not bool(view.ecg[~view.observed].any())
        assert int(view.observed.sum()) == int(batch.observed.sum())


def test_a_view_with_masked_leads_has_at_least_one() -> None:
    method = build("ts_tcc", lead_mask=0.9)
    batch = unobserve(make_batch(30), leads=[0, 1, 2])
    for view in (method._weak(batch), method._strong(batch)):
        n_leads = view.observed.any(-1).sum(-1)
        assert int(n_leads.min()) == 1
        assert int(n_leads.max()) < 9
        assert not bool(view.ecg[~view.observed].any())


def test_a_time_has_a_past_and_a_whole_future_in_both_views() -> None:
    method = build("ts_tcc", n_future=3)
    real = torch.ones(4, 10, dtype=torch.bool)
    other = real.clone()
    other[1, :4] = False  # only one view has a beginning
    other[2, 7:] = False
    other[3, 1::3] = False  # never three in a row
    times = [method._times(real, other) for _ in range(60)]
    assert all(has_future.tolist() == [True, True, True, False] for _, has_future in times)
    drawn = [sorted({int(t[record]) for t, _ in times}) for record in range(3)]
    assert drawn == [[0, 1, 2, 3, 4, 5, 6], [4, 5, 6], [0, 1, 2, 3]]


def test_a_context_does_not_depend_on_later_tokens() -> None:
    method = build("ts_tcc").eval()
    z, real = torch.randn(3, 12, 64), torch.ones(3, 12, dtype=torch.bool)
    real[1, 2] = False
    t = torch.tensor([3, 5, 7])
    changed = z.clone()
    for record, last in enumerate(t.tolist()):
        changed[record, last + 1 :] += 1.0
    changed[1, 2] += 1.0  # nor on unobserved tokens
    torch.testing.assert_close(method._context(changed, real, t), method._context(z, real, t))
    changed[:, 3] += 1.0
    assert not torch.allclose(method._context(changed, real, t), method._context(z, real, t))


def test_each_view_predicts_the_other() -> None:
    method = build("ts_tcc").eval()
    torch.manual_seed(2)
    _, features = method.local_terms(make_batch(5))
    features = {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in features.items()}
    terms = method.batch_terms(features)
    for term, used in (("L_TC_s", ("predicted_s", "future_w")), ("L_TC_w", ("predicted_w", "future_s"))):
        names = [name for name in features if name != "has_future"]
        slopes = torch.autograd.grad(
            terms[term], [features[name] for name in names], retain_graph=True, allow_unused=True
        )
        assert {name for name, slope in zip(names, slopes) if slope is not None} == set(used)
    for view in ("s", "w"):
        torch.testing.assert_close(features[f"future_{view}"].norm(dim=-1), torch.ones(5, 4))


@pytest.mark.parametrize("n_samples", [400, 401, 1000, 17])
def test_small_convolutions_compute_their_number_of_positions(n_samples: int) -> None:
    for stages in (((32, 64, 128), 8, 1, (0.35, 0.0, 0.0)), ((4, 16, 32), 7, 3, (0.1, 0.1, 0.1))):
        conv = SmallConv(2, *stages).eval()
        assert conv(torch.randn(1, 2, n_samples)).shape == (1, conv.width, conv.n_positions(n_samples))


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="less than the 10 positions of a sequence"):
        ts_tcc.Method(ts_tcc.Config(encoder="vit", n_patches=10), Signal(rate_hz=100))
    with pytest.raises(ValueError, match=r"w_cc = 0\.0 is out of range: it must be > 0"):
        ts_tcc.Config(w_cc=0.0)
    with pytest.raises(ValueError, match="most_pieces = 0 is out of range: it must be >= 1"):
        ts_tcc.Config(most_pieces=0)
