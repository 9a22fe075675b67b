"""MS-ECG-FM beyond the contract: the loss in one direction, and the batch norm of each lead."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import make_batch, unobserve
from test_methods import build
from torch import Tensor

from leadwise.methods import ms_ecg_fm
from leadwise.nn.batch_norm import LeadNorm
from leadwise.nn.losses import multimodal


def slow_loss(ecg: Tensor, text: Tensor, report: Tensor, tau: float, ignore: bool) -> float:
    """The loss as a double loop: each ECG among all reports."""
    n, total = len(ecg), 0.0
    for i in range(n):
        scores = [float(torch.cosine_similarity(ecg[i], text[j], dim=0)) / tau for j in range(n)]
        among = [j for j in range(n) if not (ignore and j != i and bool((report[i] == report[j]).any()))]
        total += math.log(sum(math.exp(scores[j]) for j in among)) - scores[i]
    return total / n


@pytest.mark.parametrize("treat", ["negative", "ignore"])
def test_each_ecg_is_compared_with_all_reports_and_no_report_with_all_ecgs(treat: str) -> None:
    method, batch = build("ms_ecg_fm", temperature=0.1, same_report=treat).eval(), make_batch(8)
    _, features = method.local_terms(batch)
    got = float(method.batch_terms(features)["L_align"].detach())
    ecg, text, report = (features[name].detach() for name in ("ecg", "text", "report"))
    assert got == pytest.approx(slow_loss(ecg, text, report, 0.1, treat == "ignore"), rel=1e-4)
    assert got != pytest.approx(slow_loss(text, ecg, report, 0.1, treat == "ignore"), rel=1e-3)
    both = build("ms_ecg_fm", temperature=0.1, same_report=treat, direction="both").eval()
    back = slow_loss(text, ecg, report, 0.1, treat == "ignore")
    assert float(both.batch_terms(features)["L_align"].detach()) == pytest.approx((got + back) / 2, rel=1e-4)


def test_one_direction_is_exact_in_shares_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    ecg, text = torch.randn(12, 5, generator=g), torch.randn(12, 5, generator=g)
    report = torch.arange(12)[:, None] // 2

    def loss(rows: slice = slice(None)) -> Tensor:
        return multimodal.aligned(ecg, text, report, 5.0, "ignore", rows, both_ways=False)

    whole = loss()
    assert float(whole) == pytest.approx(slow_loss(ecg, text, report, 0.2, True), rel=1e-4)
    torch.testing.assert_close(sum(loss(slice(i, i + 4)) for i in (0, 4, 8)) / 3, whole)
    monkeypatch.setattr(multimodal, "BLOCK", 5)
    torch.testing.assert_close(loss(), whole)


def test_the_temperature_has_a_floor() -> None:
    method = build("ms_ecg_fm").eval()
    with torch.no_grad():
        assert float(method.temperature) == pytest.approx(0.07)
        method.log_temperature.fill_(-20.0)
        assert method.measure(make_batch(8))["temperature"] == pytest.approx(0.01)
        _, features = method.local_terms(make_batch(8))
        lowest = build("ms_ecg_fm", temperature=0.01)
        torch.testing.assert_close(method.batch_terms(features), lowest.batch_terms(features))
    with pytest.raises(ValueError, match="temperature"):
        ms_ecg_fm.Config(temperature=0.0)


def test_the_norm_of_a_lead_is_that_of_its_observed_samples() -> None:
    torch.manual_seed(0)
    norm = LeadNorm(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.bias.copy_(torch.tensor([0.0, 0.5, 1.0]))
    observed = torch.rand(4, 3, 50) < 0.7
    observed[:, 2] = False  # no record has the third lead
    ecg = (2 + torch.randn(4, 3, 50)) * observed
    out = norm(ecg, observed).detach()
    for lead in (0, 1):
        values = ecg[:, lead][observed[:, lead]]
        expected = (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(out[:, lead][observed[:, lead]], expected * (lead + 1) + 0.5 * lead)
        assert float(norm.running_mean[lead]) == pytest.approx(0.1 * float(values.mean()), rel=1e-5)
        assert float(norm.running_variance[lead]) == pytest.approx(0.9 + 0.1 * float(values.var()), rel=1e-5)
    assert not out[~observed].any()
    assert (float(norm.running_mean[2]), float(norm.running_variance[2])) == (0.0, 1.0)

    # whole leads: the batch norm of torch; in eval mode both use the running statistics
    other, whole = torch.nn.BatchNorm1d(3), 1 + torch.randn(5, 3, 40)
    plain = LeadNorm(3)
    everywhere = torch.ones_like(whole, dtype=torch.bool)
    torch.testing.assert_close(plain(whole, everywhere), other(whole))
    torch.testing.assert_close(plain.eval()(whole, everywhere), other.eval()(whole))


def test_a_record_keeps_its_amplitude() -> None:
    """Twice the ECG is another ECG: nothing is scaled per record."""
    method, batch = build("ms_ecg_fm").eval(), make_batch(4)
    twice = type(batch)(2 * batch.ecg, batch.observed, batch.record, batch.patient, batch.report)
    with torch.no_grad():
        assert (method.embed_ecg(twice) - method.embed_ecg(batch)).norm() > 0.1 * method.embed_ecg(batch).norm()


def test_a_view_has_fewer_leads_and_every_record_one() -> None:
    torch.manual_seed(1)
    method, batch = build("ms_ecg_fm"), unobserve(make_batch(32), leads=[2])
    observed = method.training_view(batch).observed.any(-1)
    assert bool((observed.sum(1) >= 1).all())
    assert 0.3 < float(observed.float().mean()) < 0.6
    assert method.eval().training_view(batch) is batch
