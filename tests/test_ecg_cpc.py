"""Tests of ECG-CPC: its loss against slow loops, its candidates, and what a prediction may not depend on."""

from __future__ import annotations

import dataclasses

import plain_losses
import pytest
import torch
from conftest import SIGNAL, make_batch, unobserve
from test_methods import build
from torch import Tensor

from leadwise import distributed
from leadwise.methods import ecg_cpc
from leadwise.nn.losses import series


def slow(
    predicted: Tensor, latents: Tensor, real: Tensor, steps: tuple[int, ...], tau: float, others: Tensor, ok: Tensor
) -> float:
    tables = [x.tolist() for x in (predicted, latents, real)]
    return plain_losses.predictive_contrast(*tables, steps, tau, others.tolist(), ok.tolist())


def test_the_loss_equals_slow_loops() -> None:
    g = torch.Generator().manual_seed(0)
    predicted, latents = torch.randn(4, 2, 7, 5, generator=g), torch.randn(4, 7, 5, generator=g)
    real = torch.ones(4, 7, dtype=torch.bool)
    real[1, 3:], real[2, ::2], real[3, 1:] = False, False, False  # the last record has no pair of positions
    others, ok = torch.randn(6, 5, generator=g), torch.rand(4, 6, generator=g) > 0.4
    for among in (slice(0, 6), slice(0, 0)):
        arguments = (predicted, latents, real, (1, 3), 0.5, others[among], ok[:, among])
        assert float(series.predictive_contrast(*arguments)) == pytest.approx(slow(*arguments), rel=1e-5)


def test_a_record_without_a_future_has_no_gradient() -> None:
    predicted, latents = torch.randn(2, 1, 5, 3, requires_grad=True), torch.randn(2, 5, 3, requires_grad=True)
    real = torch.tensor([[True] * 5, [False, False, True, False, False]])
    nothing = torch.zeros(2, 0, dtype=torch.bool)
    series.predictive_contrast(predicted, latents, real, (2,), 1.0, torch.zeros(0, 3), nothing).backward()
    for gradient in (predicted.grad, latents.grad):
        assert gradient.flatten(1).abs().sum(1).gt(0).tolist() == [True, False]


@pytest.mark.parametrize("cosine", [True, False])
@torch.no_grad()
def test_candidates_are_the_own_record_and_latents_of_the_others(cosine: bool) -> None:
    method = build("ecg_cpc", cosine=cosine, temperature=2.0)
    batch = unobserve(make_batch(3), after=300)
    torch.manual_seed(1)
    _, features = method.local_terms(batch)
    real = features["real"].bool()
    # the drawn latents are observed ones of their record, each once
    for i in range(3):
        places = [torch.where((features["latents"][i] == z).all(-1))[0].item() for z in features["drawn"][i]]
        assert len(set(places)) == 2
        assert bool(real[i, places].all())
    predicted = method.ahead(features["context"]).reshape(3, -1, 2, 16).transpose(1, 2)
    latents, others = features["latents"], features["drawn"].flatten(0, 1)
    if cosine:
        predicted, latents, others = (torch.nn.functional.normalize(x, dim=-1) for x in (predicted, latents, others))
    ok = torch.tensor([[j // 2 != i for j in range(6)] for i in range(3)])
    expected = slow(predicted, latents, real, (1, 3), 2.0, others, ok)
    assert float(method.batch_terms(features)["L_CPC"]) == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_processes_share_their_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of two processes' losses is the loss of the whole batch."""
    method = build("ecg_cpc")
    _, features = method.local_terms(make_batch(6))
    whole = float(method.batch_terms(features)["L_CPC"])
    gathered = {name: features[name] for name in ("drawn", "drawn_real")}
    monkeypatch.setattr(distributed, "gather_features", lambda _: gathered)
    shares = []
    for rows in (slice(0, 3), slice(3, 6)):
        monkeypatch.setattr(distributed, "local_rows", lambda _, rows=rows: rows)
        shares.append(float(method.batch_terms({name: x[rows] for name, x in features.items()})["L_CPC"]))
    assert sum(shares) / 2 == pytest.approx(whole, rel=1e-5)


@torch.no_grad()
def test_a_prediction_depends_on_no_later_sample() -> None:
    method = build("ecg_cpc", view_crop=1.0).eval()
    batch = make_batch(2)
    changed = batch.ecg.clone()
    changed[..., 240:] = changed[..., 240:].flip(-1)  # the median of each lead, which is removed, remains
    before, after = (method.local_terms(one)[1]["context"] for one in (batch, dataclasses.replace(batch, ecg=changed)))
    torch.testing.assert_close(before[:, :60], after[:, :60], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before[:, 60:], after[:, 60:], atol=0.1)


@torch.no_grad()
def test_without_other_records_a_record_is_compared_with_itself_alone() -> None:
    method = build("ecg_cpc", n_elsewhere=0, view_crop=1.0)
    batch = make_batch(2)
    alone = [dataclasses.replace(batch, ecg=batch.ecg[i : i + 1], observed=batch.observed[i : i + 1]) for i in range(2)]
    each = [float(method(one)["L_CPC"]) for one in alone]
    assert float(method(batch)["L_CPC"]) == pytest.approx(sum(each) / 2, rel=1e-4)


def test_steps_must_fit_into_a_crop() -> None:
    with pytest.raises(ValueError, match=r"steps = \[60\]: each must be less than the 50 pieces of 4 samples"):
        build("ecg_cpc", steps=(60,))
    for steps in ((), (0,), (2, 2)):
        with pytest.raises(ValueError, match="one or more different numbers of 1 or more"):
            ecg_cpc.Config(steps=steps)
    assert ecg_cpc.Method(ecg_cpc.Config(width=8), SIGNAL).ahead.weight.shape == (8, 8)
