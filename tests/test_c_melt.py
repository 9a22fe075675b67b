"""Tests of C-MELT beyond the contract, and of the parts that only it uses."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import REPORTS, make_batch, unobserve
from test_gradient_step import gradients
from test_methods import build
from torch import Tensor

from leadwise.config import OptimConfig
from leadwise.methods import c_melt
from leadwise.nn.fusion import Fusion
from leadwise.nn.losses import pairwise
from leadwise.training.gradient_step import Objective, backward, seed_all


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_matching_is_both_cross_entropies() -> None:
    own, other, exists = torch.randn(5), torch.randn(5), torch.tensor([True, True, False, True, False])
    total = 0.0
    for i in range(5):
        loss = [-math.log(sigmoid(float(own[i])))]
        if exists[i]:
            loss.append(-math.log(1 - sigmoid(float(other[i]))))
        total += sum(loss) / len(loss) / 5
    assert float(pairwise.matching(own, other, exists)) == pytest.approx(total, rel=1e-5)


def test_word_overlap_counts_words_once() -> None:
    ids = torch.tensor([[5, 6, 6, 0], [6, 7, 8, 0], [9, 9, 0, 0]])
    counted = ids > 0
    got = pairwise.word_overlap(ids, counted, 12)
    sets = [set(row[mask].tolist()) for row, mask in zip(ids, counted)]
    for i, a in enumerate(sets):
        for j, b in enumerate(sets):
            assert float(got[i, j]) == pytest.approx(len(a & b) / math.sqrt(len(a) * len(b)))


def test_a_sampled_negative_is_dissimilar_and_never_the_same_report() -> None:
    n = 12
    closeness = torch.rand(n, n)
    report = torch.stack([torch.arange(n) % 6, torch.arange(n) % 4], dim=-1)
    drawn: dict[int, set[int]] = {i: set() for i in range(n)}
    for _ in range(200):
        rows, exists = pairwise.sample_dissimilar_reports(closeness, report, 0.5)
        assert bool(exists.all())
        for i, j in enumerate(rows.tolist()):
            drawn[i].add(j)
    for i, negatives in drawn.items():
        others = [j for j in range(n) if not bool((report[i] == report[j]).any())]
        far = sorted(others, key=lambda j: float(closeness[i, j]))[: math.ceil(len(others) / 2)]
        assert negatives == set(far)


def test_identical_reports_have_no_dissimilar_one() -> None:
    _, exists = pairwise.sample_dissimilar_reports(torch.rand(3, 3), torch.zeros(3, 2, dtype=torch.int64), 0.25)
    assert not bool(exists.any())
    batch = make_batch(4)
    terms = build("c_melt")(dataclasses.replace(batch, report=(REPORTS[0],) * 4))
    assert all(bool(term.isfinite()) for term in terms.values())


def test_fused_sequences_attend_to_each_other_and_not_to_padding() -> None:
    torch.manual_seed(0)
    fusion = Fusion(8, 2, 2)
    a, b = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with torch.no_grad():
        fused = fusion(a, b, None, real)
        assert len(fused) == 3
        assert torch.equal(fused[0][0], a)
        changed = b.clone()
        changed[1, 3:] = 9.0
        torch.testing.assert_close(fusion(a, changed, None, real)[-1][0], fused[-1][0])
        changed[1, 0] = 9.0
        assert not torch.allclose(fusion(a, changed, None, real)[-1][0][1], fused[-1][0][1])
        assert not torch.allclose(fusion(a + torch.randn(8), b, None, real)[-1][1], fused[-1][1])


def record_calls(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[tuple]:
    """Record the arguments of each later call of a function."""
    calls: list[tuple] = []
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *a: calls.append(a) or original(*a))
    return calls


def test_hidden_ecg_is_scored_where_it_was_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build("c_melt").eval()
    loss_calls = record_calls(monkeypatch, c_melt.multimodal, "patch_reconstruction")
    encoder_calls = record_calls(monkeypatch, method.ecg, "forward")
    batch = unobserve(make_batch(6), leads=[2], after=330)
    method(batch)
    (_, target, hidden), (patches, visible) = loss_calls[0], encoder_calls[0]
    assert patches.shape == (6, 1, 10, 12 * 40)
    assert visible.sum((1, 2)).tolist() == [2] * 6  # a quarter of the nine times with an observed sample
    assert hidden.shape == (6, 12, 10)
    assert not bool(hidden[:, 2].any())
    assert not bool(hidden[:, :, 8:].any())  # the ninth is incomplete, the tenth unobserved
    assert not bool((hidden & visible).any())
    assert bool((hidden[:, 0] | visible[:, 0])[:, :8].all())
    lead = target[0, 0].flatten()[:330]
    assert float(lead.mean()) == pytest.approx(0, abs=1e-4)
    assert float(lead.std()) == pytest.approx(1, rel=0.01)


def test_predicted_patches_are_put_back_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that returns the true patches has no error: patches of all leads are split as they were joined."""
    method = build("c_melt").eval()
    batch = make_batch(3)
    patches, usable = method._patches(batch)
    monkeypatch.setattr(method.decoder, "forward", lambda *_: patches)
    monkeypatch.setattr(c_melt, "normalize", lambda *_: c_melt.scaled(batch, method.signal))
    assert float(method._hidden_ecg(batch, None, usable, torch.zeros_like(usable))) == 0.0


def test_words_and_ecg_are_predicted_beside_their_own_partner_only() -> None:
    """The choice of dissimilar reports does not change L_MLM and L_MEM."""
    method = build("c_melt").eval()
    batch = make_batch(8)
    results = []
    for by in (1, 3):
        method._dissimilar = lambda tokens, report, by=by: (torch.arange(8).roll(by), torch.ones(8, dtype=torch.bool))
        torch.manual_seed(0)
        results.append(method(batch))
    for name in ("L_MLM", "L_MEM", "L_ETS"):
        torch.testing.assert_close(results[0][name], results[1][name])
    assert not torch.allclose(results[0]["L_ETM"], results[1]["L_ETM"], rtol=1e-6, atol=0)


@torch.no_grad()
def slow_siglip(ecg: Tensor, text: Tensor) -> float:
    total = 0.0
    for i in range(len(ecg)):
        for j in range(len(text)):
            product = float(ecg[i] @ text[j])
            total -= math.log(sigmoid(product if i == j else -product))
    return total / len(ecg)


def test_ets_uses_plain_products_of_the_embedded_vectors() -> None:
    method = build("c_melt").eval()
    batch = make_batch(6)
    _, features = method.local_terms(batch)
    assert float(features["ecg"].detach().abs().max()) <= 1
    assert float(method.batch_terms(features)["L_ETS"].detach()) == pytest.approx(
        slow_siglip(features["ecg"], features["text"]), rel=1e-4
    )
    with torch.no_grad():
        shared, text = method.embed_ecg(batch, "shared"), method.embed_text(list(batch.report))
    assert shared.shape == text.shape == (6, 16)
    torch.testing.assert_close(shared.norm(dim=-1), torch.ones(6))


def test_embedding_hides_nothing_and_reads_no_report() -> None:
    method = build("c_melt").eval()
    batch = make_batch(3)
    first = method.embed_ecg(batch)
    assert torch.equal(first, method.embed_ecg(dataclasses.replace(batch, report=("",) * 3)))
    changed = dataclasses.replace(batch, ecg=batch.ecg.clone())
    changed.ecg[:, :, 200:240] += 1.0
    assert bool((method.embed_ecg(changed) != first).any(-1).all())


def test_leads_are_removed_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build("c_melt")
    calls = record_calls(monkeypatch, method.ecg, "forward")
    method(make_batch(16))
    method.eval()(make_batch(16))
    empty = [(patches.reshape(16, 10, 12, 40).abs().amax((1, 3)) == 0).float().mean() for patches, _ in calls]
    assert 0.3 < float(empty[0]) < 0.7
    assert float(empty[1]) == 0


@pytest.mark.parametrize("name", ["w_mlm", "w_mem"])
def test_a_weight_of_zero_removes_the_term_and_its_parameters(name: str) -> None:
    method = build("c_melt", **{name: 0.0})
    terms = method(make_batch())
    assert set(terms) == set(method.weights) == {"L_MLM", "L_MEM", "L_ETM", "L_ETS"} - {f"L_{name[2:].upper()}"}
    sum(terms.values()).backward()
    assert [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["c_melt", "c_melt learnable"])
def test_a_step_has_the_gradient_of_the_sum(name: str) -> None:
    method = build(name)
    values = backward(Objective(method), [make_batch()], 0, OptimConfig())
    got = gradients(method)
    method.zero_grad()
    seed_all(OptimConfig().seed, 0, 0)
    terms = method(make_batch())
    sum(terms.values()).backward()
    assert values == pytest.approx({name: float(term.detach()) for name, term in terms.items()}, rel=1e-4)
    for key, slope in gradients(method).items():
        torch.testing.assert_close(got[key], slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": 1.0}, r"mask_ratio = 1\.0 is out of range: it must be in \(0, 1\)"),
        ({"mem_layer": 7}, r"mem_layer = 7 is out of range: it must be in \[0, 6\]"),
        ({"far_share": 0.0}, r"far_share = 0\.0 is out of range: it must be in \(0, 1\]"),
        ({"w_ets": 0.0}, r"w_ets = 0\.0 is out of range: it must be > 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        c_melt.Config(**changes)
