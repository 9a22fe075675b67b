"""Tests of CRT beyond the contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import make_batch, unobserve
from test_methods import build

from leadwise.methods import crt
from leadwise.nn.losses import masked


def test_spectra_equal_numpys() -> None:
    ecg = make_batch(2).ecg
    same, magnitude, phase = crt.spectra(ecg)
    slow = np.fft.fft(ecg.double().numpy(), norm="ortho")[..., :200]
    assert same is ecg
    np.testing.assert_allclose(magnitude.numpy(), np.abs(slow), atol=1e-5)
    # compared on the unit circle, because phases of pi and -pi are equal
    difference = np.abs(np.exp(1j * np.pi * phase.numpy()) - np.exp(1j * np.angle(slow)))
    assert difference.max() < 1e-2  # the phases of small magnitudes are inexact
    assert float(phase.abs().max()) <= 1.0


def test_a_missing_lead_has_no_spectrum() -> None:
    batch = unobserve(make_batch(2), leads=[4])
    zeros = -0.0 * batch.ecg[:, 4:5]
    for domain in crt.spectra(torch.cat([batch.ecg[:, :4], zeros, batch.ecg[:, 5:]], dim=1)):
        assert not bool(domain[:, 4].any())
    method = build("crt")
    patches, _ = method._patches(batch)
    _, counts = method._targets(patches, batch)
    assert not bool(counts.unflatten(2, (12, -1))[:, :, 4].any())
    assert bool(counts.unflatten(2, (12, -1))[:, :, 5].all())


def test_the_ratio_follows_training_and_is_part_of_the_state() -> None:
    method = build("crt")
    assert method.ratio == 0.3
    for progress, ratio in ((0.1, 0.3), (0.5, 0.5), (0.9, 0.8), (1.0, 0.8)):
        method.after_step(progress)
        assert method.ratio == pytest.approx(ratio)
    method.after_step(0.5)
    twin = build("crt", seed=1)
    twin.load_state_dict(method.state_dict())
    assert twin.ratio == method.ratio
    assert method.eval().ratio == 0.8


def test_times_and_frequencies_are_dropped_at_the_ratio() -> None:
    method = build("crt")
    method.after_step(0.6)
    patches, usable = method._patches(unobserve(make_batch(4), after=300))
    assert usable[0].sum(1).tolist() == [15] * 4  # 20 patches of 0.2 s, 3 s observed
    times, frequencies = method._drop(usable[0]), method._drop(usable[1])
    assert times.sum(1).tolist() == [6] * 4
    assert frequencies.sum(1).tolist() == [4] * 4
    assert not bool(times[:, 15:].any())
    visible = torch.cat([times, frequencies, frequencies], dim=1)
    tokens, index, real = method._tokens(patches, visible)
    assert tokens.shape == (4, 14, 32)
    assert real is None
    for b in range(4):
        assert index[b].tolist() == visible[b].nonzero().flatten().tolist()
        for token, place in zip(tokens[b], index[b].tolist()):
            domain = 0 if place < 20 else 1 if place < 30 else 2
            patch = patches[domain][b, place - (0, 20, 30)[domain]]
            torch.testing.assert_close(token, method.tokenizers[domain](patch[None])[0], atol=1e-5, rtol=1e-4)


def test_dropped_patches_are_not_encoded() -> None:
    method = build("crt").eval()
    patches, usable = method._patches(make_batch(3))
    visible = torch.cat([method._drop(usable[0]), method._drop(usable[1]).repeat(1, 2)], dim=1)
    other = tuple(
        torch.where(mask[..., None], patch, patch + 1.0) for patch, mask in zip(patches, visible.split(method.n_of, 1))
    )
    a, b = (method._encode(*method._tokens(each, visible)) for each in (patches, other))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_loss_is_over_dropped_and_visible_values_of_three_domains() -> None:
    method = build("crt").eval()
    batch = unobserve(make_batch(3), leads=[2], after=300)
    patches, usable = method._patches(batch)
    target, counts = method._targets(patches, batch)
    for b in range(3):
        observed = torch.cat(
            [patches[0][b].unflatten(1, (12, -1))[:15, lead].flatten() for lead in range(12) if lead != 2]
        )
        spread = math.sqrt(float(observed.square().mean()) + 1e-6)
        torch.testing.assert_close(target[b, :20], patches[0][b] / spread, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(target[b, 20:30], patches[1][b] / spread, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(target[:, 30:], patches[2])
    torch.manual_seed(2)
    terms = method(batch)
    torch.manual_seed(2)
    visible = torch.cat([method._drop(usable[0]), method._drop(usable[1]).repeat(1, 2)], dim=1)
    tokens, index, real = method._tokens(patches, visible)
    encoded = method._encode(tokens, index, real)
    predicted = method._decode(encoded, index, real, torch.cat(usable, 1))
    torch.testing.assert_close(terms["L_rec"], masked.reconstruction(predicted, target, counts))
    l_idc = masked.instance_discrimination(method.before(tokens), method.after(encoded[:, 3:]))
    torch.testing.assert_close(terms["L_idc"], 1e-4 * l_idc)


def test_only_the_resnets_need_the_whole_batch() -> None:
    assert build("crt").config.whole_batch == ""
    assert "patch_encoder" in build("crt resnet").config.whole_batch


def test_invalid_settings_are_refused() -> None:
    for wrong in ({"n_patches": 25}, {"n_patches": 6}, {"first_ratio": 0.9}, {"w_idc": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("crt", **wrong)
    with pytest.raises(ValueError, match="multiple of 8"):
        build("crt resnet", width=36)
