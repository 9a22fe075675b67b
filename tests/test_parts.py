"""Small parts of nn: scales, views, positions, attention."""

from __future__ import annotations

import pytest
import torch
from conftest import make_batch, unobserve

from leadwise.nn import augment
from leadwise.nn.normalize import normalize
from leadwise.nn.patches import patchify, sincos
from leadwise.nn.transformer import Attention, Block


def test_scales_look_at_observed_samples_only() -> None:
    batch = unobserve(make_batch(3), leads=[5], after=300)
    for how in ("mv", "record_zscore", "lead_zscore", "merl_minmax"):
        a = normalize(batch.ecg, batch.observed, how)
        b = normalize(torch.where(batch.observed, batch.ecg, torch.full_like(batch.ecg, -9.0)), batch.observed, how)
        torch.testing.assert_close(a, b)
        assert not bool(a[~batch.observed].any())
        assert bool(a.isfinite().all())


def test_each_scale_does_what_it_says() -> None:
    batch = make_batch(2)
    mv = normalize(batch.ecg, batch.observed, "mv")
    torch.testing.assert_close(mv.median(-1).values, torch.zeros(2, 12), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        mv.diff(dim=-1), batch.ecg.diff(dim=-1), atol=1e-6, rtol=1e-5
    )  # millivolts stay millivolts
    record = normalize(batch.ecg, batch.observed, "record_zscore")
    assert float(record[0].mean()) == pytest.approx(0, abs=1e-5)
    assert float(record[0].std()) == pytest.approx(1, abs=1e-3)
    lead = normalize(batch.ecg, batch.observed, "lead_zscore")
    torch.testing.assert_close(lead.std(-1, correction=0), torch.ones(2, 12), atol=1e-4, rtol=0)
    unit = normalize(batch.ecg, batch.observed, "merl_minmax")
    assert float(unit[1].min()) == 0.0
    assert float(unit[1].max()) == pytest.approx(1.0, abs=1e-5)


def test_a_flat_lead_is_not_blown_up() -> None:
    ecg = torch.zeros(1, 2, 100)
    ecg[0, 0] = 1e-5 * torch.randn(100)
    assert float(normalize(ecg, torch.ones_like(ecg).bool(), "lead_zscore").abs().max()) < 0.1


def test_patches_are_in_time_order() -> None:
    signal = torch.arange(24.0).reshape(1, 2, 12)
    assert patchify(signal, 3)[0, 1].tolist() == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]


def test_a_shift_moves_signal_and_mask_together() -> None:
    batch = make_batch(2)
    torch.manual_seed(3)
    ways = set()
    for _ in range(12):
        ecg, observed = augment.shift(batch.ecg, batch.observed, 40)
        by = int((~observed[0, 0]).sum())
        assert by < 40
        assert not bool(ecg[~observed].any())
        if by and bool(observed[0, 0, 0]):
            ways.add("earlier")
            torch.testing.assert_close(ecg[..., :-by], batch.ecg[..., by:])
        elif by:
            ways.add("later")
            torch.testing.assert_close(ecg[..., by:], batch.ecg[..., :-by])
    assert ways == {"earlier", "later"}


def test_one_gain_for_all_leads_keeps_their_algebra() -> None:
    batch = make_batch(4)
    ecg = augment.gain(batch.ecg, 0.3)
    factor = ecg / batch.ecg
    torch.testing.assert_close(factor, factor[:, :1, :1].expand_as(factor), atol=1e-3, rtol=1e-3)
    assert float(factor[:, 0, 0].std()) > 0.05


def test_dropped_leads_leave_one_that_was_observed() -> None:
    batch = unobserve(make_batch(50), leads=list(range(6)))
    ecg, observed = augment.drop_leads(batch.ecg, batch.observed, batch.observed.any(-1), 0.95)
    n_remaining = observed.any(-1).sum(-1)
    assert int(n_remaining.min()) == 1
    assert int(n_remaining.max()) < 6
    assert not bool(ecg[~observed].any())


def test_near_times_have_near_positions() -> None:
    table = sincos(25, 64)
    likeness = torch.nn.functional.normalize(table, dim=-1) @ torch.nn.functional.normalize(table, dim=-1).T
    assert bool((likeness.argmax(-1) == torch.arange(25)).all())
    assert float(likeness[12, 13]) > float(likeness[12, 20])
    assert float(likeness[0, 12]) < 0.7


def test_attention_begins_like_to_like() -> None:
    torch.manual_seed(0)
    attention = Attention(64, 2)
    x = torch.nn.functional.layer_norm(torch.randn(1, 20, 64), (64,))
    q = attention.query(x).reshape(1, 20, 2, 32).transpose(1, 2)
    k = attention.key_value(x)[..., :64].reshape(1, 20, 2, 32).transpose(1, 2)
    assert bool(((q @ k.transpose(-1, -2)).argmax(-1) == torch.arange(20)).all())


def test_a_filler_is_not_attended_to() -> None:
    torch.manual_seed(0)
    block = Block(16, 2)
    x = torch.randn(2, 5, 16)
    real = torch.tensor([[True] * 5, [True, True, True, False, False]])
    changed = torch.where(real[..., None], x, x + 3.0)
    torch.testing.assert_close(block(x, real)[real], block(changed, real)[real])
    torch.testing.assert_close(block(x[1:, :3]), block(x, real)[1:, :3], atol=1e-6, rtol=1e-5)
