"""Tests of ECG-JEPA: its loss and its attention against slow loops, its masks, and its momentum copy."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import make_batch, unobserve
from test_methods import build
from torch import Tensor, nn

from leadwise.methods import ecg_jepa
from leadwise.nn import masking
from leadwise.nn.lead_time import EncoderShape, LeadTimeEncoder
from leadwise.nn.losses import masked
from leadwise.nn.patches import LinearTokenizer
from leadwise.nn.transformer import Attention


def test_the_loss_equals_slow_loops() -> None:
    g = torch.Generator().manual_seed(0)
    predicted, target = 2 * torch.randn(3, 2, 4, 5, generator=g), torch.randn(3, 2, 4, 5, generator=g)
    hidden = torch.rand(3, 2, 4, generator=g) > 0.5
    hidden[2] = False
    total = 0.0
    for i in range(3):
        distances = []
        for lead, n in hidden[i].nonzero().tolist():
            for d in (predicted[i, lead, n] - target[i, lead, n]).abs().tolist():
                distances.append(d * d / 2 if d < 1 else d - 0.5)
        total += sum(distances) / max(len(distances), 1) / 3
    assert float(masked.latent_prediction(predicted, target, hidden)) == pytest.approx(total, rel=1e-5)


@torch.no_grad()
def test_a_query_attends_to_the_tokens_that_its_row_names() -> None:
    torch.manual_seed(0)
    attention, x, pairs = Attention(8, 2), torch.randn(2, 5, 8), torch.rand(2, 5, 5) > 0.4
    pairs |= torch.eye(5, dtype=torch.bool)
    out = attention(x, x, pairs)
    for i in range(2):
        for s in range(5):
            alone = attention(x[i : i + 1, s : s + 1], x[i : i + 1, pairs[i, s]])
            torch.testing.assert_close(out[i, s], alone[0, 0], atol=1e-5, rtol=1e-5)


def cross_encoder() -> LeadTimeEncoder:
    torch.manual_seed(0)
    shape = EncoderShape(3, 4, 10, 16, 1, 2, temporal="sincos", cross_pattern=True)
    return LeadTimeEncoder(shape, LinearTokenizer(10, 16, 0.25)).eval()


@pytest.mark.parametrize("gaps", [False, True])
@torch.no_grad()
def test_one_layer_reads_the_own_lead_and_the_own_time(gaps: bool) -> None:
    encoder, patches = cross_encoder(), torch.randn(2, 3, 4, 10)
    visible = torch.ones(2, 3, 4, dtype=torch.bool)
    if gaps:
        visible[0, 1, 2] = visible[0, 2] = False  # the first record has fillers beside its tokens
    before = encoder(patches, visible)
    assert bool(before.tokens.isfinite().all())
    for lead, time in ((0, 0), (1, 3), (0, 2)):
        changed = patches.clone()
        changed[0, lead, time] += 1.0
        after = encoder(changed, visible)
        for at, place in enumerate(before.index[0].tolist()):
            if before.real is not None and not before.real[0, at]:
                continue
            reads = place // 4 == lead or place % 4 == time
            assert torch.allclose(before.tokens[0, at], after.tokens[0, at], atol=1e-5) != reads


def test_a_cross_pattern_has_no_place_for_separators() -> None:
    with pytest.raises(ValueError, match="no lead or time"):
        LeadTimeEncoder(dataclasses.replace(cross_encoder().shape, separators=True), LinearTokenizer(10, 16, 0.25))


# --- masks


def test_random_times_are_a_share_of_the_usable_ones() -> None:
    usable = torch.ones(200, 3, 20, dtype=torch.bool)
    usable[:, :, 15:] = False
    usable[0, 1:, :] = False
    usable[1] = False
    usable[1, 0, 3] = True  # one patch alone stays visible
    torch.manual_seed(0)
    hidden = masking.draw_hidden_times(usable, 0.6, 0.7, 0)
    counts = hidden.sum(1)
    assert set(counts[[0, *range(2, 200)]].tolist()) == {9, 10}  # of 15
    assert int(counts[1]) == 0
    assert not bool(hidden[:, 15:].any())
    assert len({tuple(row) for row in hidden.tolist()}) > 150


def test_blocks_are_consecutive_times() -> None:
    usable = torch.ones(300, 2, 40, dtype=torch.bool)
    torch.manual_seed(0)
    one = masking.draw_hidden_times(usable, 0.2, 0.25, 1)
    assert set(one.sum(1).tolist()) == {8, 9}
    edges = torch.nn.functional.pad(one.long(), (1, 1)).diff(dim=1).abs().sum(1)
    assert edges.tolist() == [2] * 300
    assert one[:, 0].any()
    assert one[:, -1].any()
    four = masking.draw_hidden_times(usable, 0.175, 0.225, 4).sum(1)
    assert 7 <= int(four.min()) < int(four.max()) <= 36
    everything = masking.draw_hidden_times(usable, 0.999, 0.999, 4)
    assert not bool(everything.all(1).any())  # a patch remains


# --- the method


def test_the_copy_follows_and_has_no_gradient() -> None:
    method = build("ecg_jepa")
    before = {name: p.clone() for name, p in method.target.named_parameters()}
    with torch.no_grad():
        for p in method.ecg.parameters():
            p.add_(1.0)
    method.after_step(0.0)
    for name, p in method.target.named_parameters():
        torch.testing.assert_close(p, before[name] + 0.1)  # momentum 0.9
        assert not p.requires_grad
    method.after_step(1.0)
    for name, p in method.target.named_parameters():
        torch.testing.assert_close(p, before[name] + 0.1)
    sum(method(make_batch(4)).values()).backward()
    assert all(p.grad is None for p in method.target.parameters())


@pytest.mark.parametrize("case", ["ecg_jepa", "ecg_jepa random"])
@torch.no_grad()
def test_targets_are_normalised_vectors_of_the_copy_on_the_whole_ecg(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the loss receives, computed record by record."""
    method = build(case).eval()
    for p in method.target.parameters():
        p.add_(0.05 * torch.randn_like(p))
    received: list[Tensor] = []
    monkeypatch.setattr(masked, "latent_prediction", lambda *three: received.extend(three) or torch.zeros(()))
    batch = unobserve(make_batch(3), after=305)
    batch.observed[1, 4] = False
    method(batch)
    _, target, hidden = received
    patches, usable, _ = method._patches(batch)
    assert not bool((hidden & ~usable).any())
    for i in range(3):
        alone = method.target.model(patches[i : i + 1], usable[i : i + 1])
        assert bool(hidden[i].any())
        for at, place in enumerate(alone.index[0].tolist()):
            if alone.real is None or alone.real[0, at]:
                vector = alone.tokens[0, at]
                expected = (vector - vector.mean()) / (vector.var(correction=0) + 1e-5).sqrt()
                torch.testing.assert_close(target[i].flatten(0, 1)[place], expected, atol=1e-4, rtol=1e-4)
        # all leads hide the same times
        times = hidden[i].any(0)
        assert torch.equal(hidden[i], usable[i] & times)


@torch.no_grad()
def test_the_context_does_not_read_hidden_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build("ecg_jepa").eval()
    batch, predicted = make_batch(2), []
    monkeypatch.setattr(masked, "latent_prediction", lambda *three: predicted.append(three) or torch.zeros(()))
    torch.manual_seed(3)
    method(batch)
    hidden = predicted[0][2].repeat_interleave(40, dim=-1)
    changed = torch.where(hidden, batch.ecg.flip(-1), batch.ecg)
    monkeypatch.setattr(ecg_jepa, "scaled", lambda given, signal: given.ecg)  # a lead's median would change with it
    for ecg in (batch.ecg, changed):
        torch.manual_seed(3)
        method(dataclasses.replace(batch, ecg=ecg))
    assert torch.equal(predicted[1][2], predicted[0][2])
    torch.testing.assert_close(predicted[1][0], predicted[2][0])
    assert not torch.allclose(predicted[1][1], predicted[2][1], atol=0.1)  # the targets do


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"mask_low = 0.4 is above mask_high = 0.3"):
        ecg_jepa.Config(mask_low=0.4, mask_high=0.3)
    with pytest.raises(ValueError, match="n_patches = 7 does not divide the 400 samples"):
        build("ecg_jepa", n_patches=7)
    assert isinstance(build("ecg_jepa").ecg.tokenizer.project, nn.Linear)
    assert math.isclose(ecg_jepa.Config().momentum, 0.996)
