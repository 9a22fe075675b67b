"""Tests of PA-MAE beyond the contract."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import SIGNAL, make_batch, unobserve
from test_methods import build

from leadwise.methods import pa_mae
from leadwise.nn import phase

INPUT_MASKS = ["pa_mae time", "pa_mae uniform"]


def test_positions_are_hidden_from_the_decoder_and_all_observed_samples_predicted() -> None:
    method = build("pa_mae").eval()
    batch = unobserve(make_batch(3), leads=[4])
    received: list[torch.Tensor] = []
    method.decoder.register_forward_pre_hook(lambda module, inputs: received.append(inputs[0]))
    _, hidden = method.reconstruct(batch)
    assert torch.equal(hidden, batch.observed)
    is_hidden = (received[0] == 0).all(1)  # (B, N)
    n = received[0].shape[2]
    assert (is_hidden.sum(1) == n - round(n * 0.5)).all()


@pytest.mark.parametrize("name", INPUT_MASKS)
def test_half_of_the_stretches_are_hidden_at_common_or_own_times(name: str) -> None:
    batch = make_batch(4)
    _, hidden = build(name).eval().reconstruct(batch)
    stretches = hidden.unflatten(-1, (10, -1))
    assert torch.equal(stretches.all(-1), stretches.any(-1))
    assert (stretches.all(-1).sum(-1) == 5).all()
    assert bool((hidden == hidden[:, :1]).all()) == (name == "pa_mae time")


@pytest.mark.parametrize("name", INPUT_MASKS)
def test_hidden_samples_are_predicted_but_not_encoded(name: str) -> None:
    method = build(name).eval()
    batch = make_batch(3)
    inputs: list[torch.Tensor] = []
    method.ecg.model.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    torch.manual_seed(0)
    _, hidden = method.reconstruct(batch)
    assert bool((inputs[0][hidden] == 0).all())
    assert bool((inputs[0][~hidden] != 0).any())


@pytest.mark.parametrize("name", ["pa_mae", *INPUT_MASKS])
def test_the_loss_is_the_squared_error_on_the_scale_of_the_record(name: str) -> None:
    method = build(name, w_phase=0.0).eval()
    batch = unobserve(make_batch(3), leads=[2])
    torch.manual_seed(0)
    loss = method(batch)["L_rec"]
    torch.manual_seed(0)
    rebuilt, hidden = method.reconstruct(batch)
    per_record = []
    for ecg, observed, other, counts in zip(batch.ecg, batch.observed, rebuilt, hidden):
        # in mV, without the median of each lead, which the model's scale does not have either
        centred = torch.stack(
            [lead - lead[real].quantile(0.5) if real.any() else lead for lead, real in zip(ecg, observed)]
        )
        spread = centred[observed].std(correction=0)
        per_record.append(float((((other - ecg) / spread)[counts]).square().mean()))
    assert float(loss.detach()) == pytest.approx(sum(per_record) / 3, rel=1e-2)


def test_the_phase_of_a_position_is_that_of_its_first_sample() -> None:
    method = build("pa_mae").eval()
    batch = make_batch(2)
    now = phase.phase_of(batch, method.signal)
    method.phase_head = torch.nn.Conv1d(method.ecg.width, 2, 1)
    torch.nn.init.zeros_(method.phase_head.weight)
    with torch.no_grad():
        method.phase_head.bias.copy_(torch.tensor([0.5, 0.25]))
    expected = []
    for value, known in zip(now.value[:, ::16], now.known[:, ::16]):
        errors = [
            ((math.sin(2 * math.pi * v) - 0.5) ** 2 + (math.cos(2 * math.pi * v) - 0.25) ** 2) / 2
            for v, is_known in zip(value.tolist(), known.tolist())
            if is_known
        ]
        expected.append(sum(errors) / max(len(errors), 1))
    assert any(expected)
    assert float(method(batch)["L_phase"].detach()) == pytest.approx(0.1 * sum(expected) / 2, rel=1e-4)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="decoder_width = 12: must be a multiple of 8"):
        pa_mae.Config(decoder_width=12)
    with pytest.raises(ValueError, match="n_patches = 7 does not divide"):
        pa_mae.Method(pa_mae.Config(masking="time", n_patches=7, resnet_width=8), SIGNAL)
    other = dataclasses.replace(SIGNAL, normalize="lead_zscore")
    with pytest.raises(ValueError, match="lead_zscore"):
        pa_mae.Method(pa_mae.Config(resnet_width=8, decoder_width=16), other).reconstruct(make_batch(2))
