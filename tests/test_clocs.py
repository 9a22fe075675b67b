"""Tests of CLOCS: its loss against slow loops, its views, and recordings of one patient."""

from __future__ import annotations

from dataclasses import replace

import plain_losses
import pytest
import torch
from conftest import make_batch, unobserve
from test_gradient_step import agree, exact, exactly, gradients, split
from test_methods import build

from leadwise.batch import Signal
from leadwise.config import OptimConfig
from leadwise.methods import clocs
from leadwise.nn.losses import series
from leadwise.training.gradient_step import Objective, backward


@pytest.mark.parametrize("n_views", [2, 4])
@pytest.mark.parametrize("patient", [[0, 1, 2, 3, 4, 5], [0, 1, 0, 2, 0, 1]], ids=["once", "again"])
def test_the_loss_equals_the_slow_loops_whole_and_in_shares(n_views: int, patient: list[int]) -> None:
    g = torch.Generator().manual_seed(1)
    views, observed = torch.randn(6, n_views, 5, generator=g), torch.ones(6, n_views, dtype=torch.bool)
    observed[1, 0] = observed[4, 1] = False
    observed[:, 3:] = False  # in the whole batch
    args = (views, observed, torch.tensor(patient), 0.1)
    expected = plain_losses.same_patient(views.tolist(), observed.tolist(), patient, 0.1)
    assert float(series.same_patient(*args)) == pytest.approx(expected, rel=1e-5)
    shares = [float(series.same_patient(*args, slice(i, i + 2))) for i in (0, 2, 4)]
    assert sum(shares) / 3 == pytest.approx(expected, rel=1e-5)


def test_without_a_second_view_loss_and_gradient_are_zero() -> None:
    views = torch.randn(3, 2, 4, requires_grad=True)
    observed = torch.tensor([[True, False]] * 3)  # no second view in the whole batch
    loss = series.same_patient(views, observed, torch.arange(3), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not views.grad.any()


def test_two_recordings_of_one_patient_are_positives() -> None:
    method = build("clocs").eval()
    batch = make_batch(6)
    _, features = method.local_terms(replace(batch, patient=("a", "b", "c", "a", "d", "e")))
    same = features["patient"][:, None] == features["patient"][None]
    assert features["patient"].dtype == torch.int64
    assert same.nonzero().tolist() == [[0, 0], [0, 3], [1, 1], [2, 2], [3, 0], [3, 3], [4, 4], [5, 5]]
    features["views"] = features["views"].detach().requires_grad_()
    slopes = []
    for patient in (features["patient"], torch.arange(6)):
        (slope,) = torch.autograd.grad(
            method.batch_terms({**features, "patient": patient})["L_clocs"], features["views"]
        )
        near = features["views"].detach()[3, 1]
        slopes.append(float(slope[0, 0] @ (near / near.norm())))
    assert slopes[0] < slopes[1]  # a gradient step moves it towards the patient's other recording


@pytest.mark.parametrize(
    ("kind", "n_views", "shape"), [("cmsc", 2, (12, 200)), ("cmlc", 12, (1, 400)), ("cmsmlc", 24, (1, 200))]
)
def test_views_are_segments_leads_or_both(kind: str, n_views: int, shape: tuple[int, int]) -> None:
    batch = make_batch(2)
    views = build("clocs", kind=kind)._split(batch.ecg)
    assert views.shape == (2, n_views, *shape)
    if kind == "cmsc":
        assert torch.equal(torch.cat([views[:, 0], views[:, 1]], dim=-1), batch.ecg)
    elif kind == "cmlc":
        assert torch.equal(views[:, 7, 0], batch.ecg[:, 7])
    else:
        assert torch.equal(torch.cat([views[:, 14, 0], views[:, 15, 0]], dim=-1), batch.ecg[:, 7])


def test_a_lead_that_was_not_observed_is_no_view_and_the_rest_is_averaged() -> None:
    method = build("clocs cmlc").eval()
    batch = unobserve(make_batch(3), leads=[0, 5])
    _, features = method.local_terms(batch)
    assert features["observed"].bool().tolist() == [[lead not in (0, 5) for lead in range(12)]] * 3
    leads = [lead for lead in range(12) if lead not in (0, 5)]
    torch.testing.assert_close(method.embed_ecg(batch), features["views"][:, leads].mean(1))
    mean = method.batch_terms(features)["L_clocs"]
    fewer = {name: features[name][:, leads] for name in ("views", "observed")} | {"patient": features["patient"]}
    torch.testing.assert_close(method.batch_terms(fewer)["L_clocs"], mean)


def test_halves_are_weighted_by_their_observed_samples() -> None:
    method = build("clocs lead_time").eval()
    batch = unobserve(make_batch(2), after=280)  # 200 samples and 80, of which two patches of 40
    views, start, observed, n_samples = method._views(batch)
    vectors = method._encode(views, start).unflatten(0, (2, 2))
    assert start.tolist() == [0, 200, 0, 200]
    assert bool(observed.all())
    assert n_samples.tolist() == [[2400, 960]] * 2
    torch.testing.assert_close(method.embed_ecg(batch), (5 * vectors[:, 0] + 2 * vectors[:, 1]) / 7)
    assert method._views(unobserve(batch, after=230))[2].tolist() == [[True, False]] * 2


def test_embeddings_use_the_recording_and_not_its_changed_views() -> None:
    method = build("clocs lead_time", gain=0.3, noise_mv=0.1, lead_mask=0.5).eval()
    batch = make_batch(4)
    torch.testing.assert_close(method.embed_ecg(batch), method.embed_ecg(batch))
    views, *_ = method._views(batch)
    changed = method._changed(views)
    n_leads = changed.observed.any(-1).sum(-1)
    assert 1 <= int(n_leads.min()) < 12
    assert not bool(changed.ecg[~changed.observed].any())
    assert not torch.equal(method.local_terms(batch)[1]["views"], method.local_terms(batch)[1]["views"])


@pytest.mark.parametrize("name", ["clocs lead_time", "clocs cmsmlc"])
def test_gradient_accumulation_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact(monkeypatch)
    batch = make_batch(6)
    batch = replace(batch, ecg=batch.ecg.double(), patient=("a", "b", "c", "a", "d", "b"))
    method = exactly({}, name)
    terms = method(batch)
    sum(terms.values()).backward()
    expected = gradients(method)
    method.zero_grad()
    got = backward(Objective(method), split(batch, 3), 0, OptimConfig())
    assert got == pytest.approx({name: float(x.detach()) for name, x in terms.items()}, rel=1e-9)
    agree(gradients(method), expected)


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature = 0\.0 is out of range: it must be > 0"):
        clocs.Config(temperature=0.0)
    with pytest.raises(ValueError, match=r"signal\.leads has only II"):
        clocs.Method(clocs.Config(kind="cmlc"), Signal(leads=("II",), rate_hz=100))
    with pytest.raises(ValueError, match="n_patches must be even for halves of a recording"):
        clocs.Method(clocs.Config(encoder="vit", n_patches=25), Signal(rate_hz=100))
    assert clocs.Config(encoder="vit").whole_batch == ""
    assert clocs.Config(encoder="vit", paper_encoder=True).whole_batch == "method.paper_encoder = true"
