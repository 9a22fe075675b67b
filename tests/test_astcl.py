"""Tests of ASTCL beyond the contract, and of the parts that only it uses."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import SIGNAL, make_batch, unobserve
from test_gradient_step import gradients
from test_methods import build
from torch import Tensor

from leadwise.batch import LEADS
from leadwise.config import OptimConfig
from leadwise.methods import astcl
from leadwise.nn.filters import band_pass
from leadwise.nn.gradient_reversal import reverse_gradient
from leadwise.nn.losses import pairwise
from leadwise.training.gradient_step import Objective, backward, seed_all


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_records_of_a_patient_agree_with_each_other_only() -> None:
    predicted, target = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    patient = torch.tensor([3, 5, 3, 7, 5, 3])
    loss = pairwise.patient_agreement(predicted, target, patient)
    total = 0.0
    with torch.no_grad():
        for i in range(6):
            mates = [j for j in range(6) if patient[j] == patient[i]]
            total -= sum(cosine(predicted[i], target[j]) for j in mates) / len(mates) / 6
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)
    loss.backward()
    assert target.grad is None  # stop-gradient
    assert bool(predicted.grad.any())
    shares = [
        pairwise.patient_agreement(predicted, target, patient, local_rows) for local_rows in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(sum(shares) / 2, loss)


def test_a_forecast_counts_observed_parts_only() -> None:
    predicted, target = torch.randn(3, 2, 4), torch.randn(3, 2, 4, requires_grad=True)
    observed = torch.tensor([[True, True], [True, False], [False, False]])
    total = 0.0
    with torch.no_grad():
        for i in range(3):
            cosines = [cosine(predicted[i, k], target[i, k]) for k in range(2) if observed[i, k]]
            total -= sum(cosines) / max(1, len(cosines)) / 3
    assert float(pairwise.forecast(predicted, target, observed)) == pytest.approx(total, rel=1e-5)
    assert not pairwise.forecast(predicted, target, observed).requires_grad


def test_the_discriminator_loss_is_the_cross_entropy_of_both_kinds() -> None:
    first, second = torch.randn(4, 1), torch.randn(4, 1)
    right = [1 / (1 + math.exp(-float(x))) for x in first] + [1 - 1 / (1 + math.exp(-float(x))) for x in second]
    slow = -sum(map(math.log, right)) / 8
    assert float(pairwise.discriminator_loss(first, second)) == pytest.approx(slow, rel=1e-5)


def test_gradient_reversal_negates_the_gradient_and_not_the_value() -> None:
    x = torch.randn(3, requires_grad=True)
    y = reverse_gradient(x, 0.5)
    assert torch.equal(x, y)
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad.tolist() == [-0.5, -1.0, -1.5]


@pytest.mark.parametrize(("hertz", "passes"), [(0.1, False), (2.0, True), (15.0, True), (45.0, False)])
def test_a_band_pass_filter_passes_its_frequencies_only(hertz: float, passes: bool) -> None:
    time = torch.arange(2000) / 200
    wave = torch.sin(2 * math.pi * hertz * time)
    filtered = band_pass(wave.expand(2, 3, -1), 200, 0.5, 30.0)[..., 200:-200]
    assert filtered.shape == (2, 3, 1600)
    if passes:
        torch.testing.assert_close(filtered, wave[200:-200].expand(2, 3, -1), atol=0.05, rtol=0)
    else:
        assert float(filtered.abs().max()) < 0.15


def test_a_band_wider_than_the_spectrum_changes_nothing() -> None:
    x = torch.randn(2, 3, 50)
    torch.testing.assert_close(band_pass(x, 40, 0.0, 100.0), x)


def test_views_have_more_and_less_noise_and_consistent_leads() -> None:
    method = build("astcl", gain=0.0)
    batch = make_batch(6)
    i, ii = batch.ecg[:, 0], batch.ecg[:, 1]
    ecg = batch.ecg.clone()
    ecg[:, 2], ecg[:, 3] = ii - i, -(i + ii) / 2
    batch = dataclasses.replace(batch, ecg=ecg)
    noisy, calm = method._more_noise(batch).ecg, method._less_noise(batch).ecg
    torch.testing.assert_close(noisy[:, 2], noisy[:, 1] - noisy[:, 0], atol=1e-5, rtol=0)
    assert [LEADS[n] for n in (0, 1, 2)] == ["I", "II", "III"]

    def fast(x: Tensor) -> float:
        return float(band_pass(x, SIGNAL.rate_hz, 44.0, 200.0).square().mean())

    assert fast(noisy) > fast(ecg) > 2 * fast(calm)
    hidden = unobserve(batch, leads=[4], after=200)
    for view in (method._more_noise(hidden), method._less_noise(hidden)):
        assert not bool(view.ecg[~hidden.observed].any())


def test_leads_are_removed_from_the_earlier_half_only() -> None:
    method = build("astcl")
    (early, begin), (late, later) = method._halves(make_batch(32))
    assert early.ecg.shape == late.ecg.shape == (32, 12, 200)
    assert 0.3 < float(early.observed.float().mean()) < 0.7
    assert bool(early.observed.any(-1).any(-1).all())
    assert bool(late.observed.all())
    assert (begin == 0).all()
    assert (later == 200).all()


@pytest.mark.parametrize("name", ["astcl", "astcl lead_time"])
def test_an_unobserved_half_is_replaced_by_the_other(name: str) -> None:
    method = build(name, lead_mask=0.0)
    batch = unobserve(make_batch(3), after=210)  # of the later half ten samples, not a whole patch
    (early, _), (late, start) = method._halves(batch)
    replaced = name != "astcl"  # the ResNet accepts any sample
    assert torch.equal(late.ecg, early.ecg) == replaced
    assert start.tolist() == [0 if replaced else 200] * 3
    assert all(bool(term.isfinite()) for term in method(batch).values())


def test_records_without_a_patient_name_are_patients_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build("astcl").eval()
    batch = dataclasses.replace(make_batch(5), patient=("a", "b", "a", "", ""))
    _, features = method.local_terms(batch)
    numbers = features["patient"].tolist()
    assert numbers[0] == numbers[2]
    assert len(set(numbers)) == 4
    calls = []
    monkeypatch.setattr(astcl.pairwise, "patient_agreement", lambda *a: calls.append(a) or torch.tensor(0.0))
    method.batch_terms(features)
    assert len(calls) == 4
    for number, (p, z, patient, _) in enumerate(calls):  # the other half of the other view
        assert torch.equal(p, features[f"p_{number}"])
        assert torch.equal(z, features[f"z_{3 - number}"])
        assert patient.tolist() == numbers


def test_encoder_and_discriminator_are_trained_against_each_other() -> None:
    """A gradient step of the discriminator lowers L_adv; a gradient step of the encoder raises it."""
    method = build("astcl", w_adv=1.0).eval()
    batch = make_batch(8)

    def adversary() -> Tensor:
        torch.manual_seed(0)
        return method.local_terms(batch)[0]["L_adv"]

    before = adversary()
    before.backward()
    parts = {"discriminator": list(method.discriminator.parameters()), "ecg": list(method.ecg.parameters())}
    moved = {}
    for name, parameters in parts.items():
        was = [p.detach().clone() for p in parameters]
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters))
        with torch.no_grad():
            for p in parameters:
                p -= 1e-3 * p.grad / norm
            moved[name] = float(adversary() - before)
            for p, old in zip(parameters, was):
                p.copy_(old)
    assert moved["discriminator"] < 0 < moved["ecg"]


def test_no_gradient_reaches_the_predicted_half() -> None:
    method = build("astcl")
    halves = method._encode([half for view in [make_batch(4)] * 2 for half in method._halves(view)])
    for half in halves:
        for x in (half.parts, half.z):
            x.retain_grad()
    method._forecast(halves[0], halves[3]).backward()
    assert halves[3].parts.grad is None
    assert bool(halves[0].z.grad.any())
    assert halves[0].parts.shape == (4, 4, 64)


@pytest.mark.parametrize("name", ["astcl", "astcl vit"])
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
        ({"lead_mask": 1.0}, r"lead_mask = 1\.0 is out of range: it must be in \[0, 1\)"),
        ({"low_hz": 50.0}, r"low_hz = 50\.0 is out of range: it must be in \[0, 40\.0\)"),
        ({"n_ahead": 0}, r"n_ahead = 0 is out of range: it must be >= 1"),
        ({"muscle_mv": -1.0}, r"muscle_mv = -1\.0 is out of range: it must be >= 0"),
        ({"w_adv": 0.0}, r"w_adv = 0\.0 is out of range: it must be > 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        astcl.Config(**changes)
