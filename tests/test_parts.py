"""Small parts of nn: scales, views, positions, attention."""

from __future__ import annotations

import pytest
import torch
from conftest import make_batch, unobserve

from leadwise.nn import augment
from leadwise.nn.lead_time import Encoded, EncoderShape, LeadTimeEncoder, mean_by_lead
from leadwise.nn.normalize import normalize
from leadwise.nn.patches import ConvTokenizer, PooledFeatures, patchify, sincos
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
        moved = augment.shift(batch, 40)
        ecg, observed = moved.ecg, moved.observed
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


@pytest.mark.parametrize("patch_samples", [10, 20, 40, 50, 54, 60, 90, 100, 125, 200, 250, 500])
def test_the_tokenizer_reads_every_sample_of_a_patch(patch_samples: int) -> None:
    torch.manual_seed(0)
    tokenizer = ConvTokenizer(patch_samples, 16)
    patches = torch.randn(8, patch_samples, requires_grad=True)
    tokenizer(patches).square().sum().backward()
    assert bool((patches.grad.abs().sum(0) > 0).all())
    first = tokenizer.convolutions[0]
    read = torch.zeros(patch_samples, dtype=torch.bool)
    for centre in range(0, patch_samples, first.stride[0]):
        read[max(0, centre - first.padding[0]) : centre + first.padding[0] + 1] = True
    assert bool(read.all())


def test_a_moved_wave_has_nearly_the_same_pooled_features() -> None:
    torch.manual_seed(0)
    pooled, flattened = PooledFeatures(), ConvTokenizer(50, 16).convolutions
    wave = torch.exp(-(torch.arange(-25, 25) / 2.0).square())
    patches = torch.stack([wave.roll(by) for by in (-10, -4, 0, 8)])[:, None]

    def spread(features: torch.Tensor) -> float:
        return float(((features - features.mean(0)).norm() / features.norm()).detach())

    assert spread(pooled(patches)) < 0.5 * spread(flattened(patches).flatten(1))


def test_embeddings_start_at_the_given_scale() -> None:
    def encoder(scale: float) -> LeadTimeEncoder:
        torch.manual_seed(0)
        shape = EncoderShape(12, 10, 50, 32, 1, 4, embedding_scale=scale)
        return LeadTimeEncoder(shape, ConvTokenizer(50, 32))

    whole, part = encoder(1.0), encoder(0.3)
    torch.testing.assert_close(part.spatial, 0.3 * whole.spatial)
    torch.testing.assert_close(part.temporal, 0.3 * whole.temporal)


def test_the_mean_by_lead_equals_a_plain_loop() -> None:
    torch.manual_seed(0)
    index = torch.tensor([[0, 2, 3, 7], [4, 5, 11, 0]])  # 3 leads of 4 patches
    real = torch.tensor([[True] * 4, [True, True, True, False]])
    tokens = torch.randn(2, 4, 5)
    expected = torch.zeros(2, 3, 5)
    for row in range(2):
        for lead in range(3):
            chosen = [tokens[row, k] for k in range(4) if real[row, k] and int(index[row, k]) // 4 == lead]
            if chosen:
                expected[row, lead] = torch.stack(chosen).mean(0)
    out = mean_by_lead(Encoded(tokens, index, real, tokens.mean(1)), 3, 4)
    torch.testing.assert_close(out, expected.flatten(1))
    whole = mean_by_lead(Encoded(tokens, index, None, tokens.mean(1)), 3, 4)
    torch.testing.assert_close(whole[0], expected.flatten(1)[0])
