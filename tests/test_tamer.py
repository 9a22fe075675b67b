"""TAMER beyond the contract: the spectrogram of observed samples, its encoder, and the contrasts of its two branches."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import SIGNAL, make_batch, unobserve
from test_merl import slow_clip
from test_methods import build

from leadwise.methods import tamer
from leadwise.nn.encoder import scaled
from leadwise.nn.losses import series
from leadwise.nn.spectrogram import FLOOR, Spectrogram, SpectrogramEncoder, segment_means


def slow_log_power(
    samples: np.ndarray, observed: np.ndarray, length: int, hop: int, n: int, floor: float
) -> tuple[np.ndarray, list[bool]]:
    """Log-power of one lead, frame by frame, with numpy's FFT."""
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length)
    columns, enough = [], []
    for begin in range(0, len(samples) - length + 1, hop):
        x, real = samples[begin : begin + length], observed[begin : begin + length]
        enough.append(2 * real.sum() >= length)
        if not enough[-1]:
            columns.append(np.zeros(n))
            continue
        centred = np.where(real, x - x[real].mean(), 0.0)
        power = np.abs(np.fft.rfft(centred * taper)) ** 2 / (taper**2 * real).sum()
        columns.append(np.log1p(power[1 : n + 1] / floor))
    return np.stack(columns, axis=1), enough


@pytest.mark.parametrize(("rate_hz", "length", "hop", "n"), [(100, 50, 10, 24), (250, 125, 25, 25), (100, 31, 7, 15)])
def test_the_spectrogram_is_that_of_numpy_on_observed_samples(rate_hz: int, length: int, hop: int, n: int) -> None:
    rng = np.random.default_rng(0)
    observed = rng.random((2, 3, 400)) < 0.8
    observed[0, 1, 100:260] = False  # a gap
    observed[1, 2] = False
    ecg = (rng.normal(size=(2, 3, 400)) + 0.5) * observed
    module = Spectrogram(rate_hz, length / rate_hz, hop / rate_hz, 50.0, 0.25)
    assert (module.length, module.hop, module.n_frequencies) == (length, hop, n)
    got, enough = module(torch.tensor(ecg, dtype=torch.float32), torch.tensor(observed))
    assert got.shape == (2, 3, n, module.n_frames(400))
    for record in range(2):
        for lead in range(3):
            expected, frames = slow_log_power(ecg[record, lead], observed[record, lead], length, hop, n, FLOOR / 16)
            np.testing.assert_allclose(got[record, lead].numpy(), expected, atol=2e-4)
            assert enough[record, lead].tolist() == frames
    assert not enough.all()


def test_a_sine_is_at_its_frequency_and_a_constant_is_silent() -> None:
    module = Spectrogram(100, 0.5, 0.1, 50.0, 1.0)
    time = torch.arange(400) / 100
    ecg = torch.stack([torch.sin(2 * math.pi * 12 * time), 3 + 0 * time])[None]
    observed = torch.ones_like(ecg, dtype=torch.bool)
    observed[0, :, 137:150] = False  # a gap in a constant is no edge
    power, _ = module(ecg * observed, observed)
    assert set(power[0, 0, :, :5].argmax(0).tolist()) == {
        12 // 2 - 1
    }  # 2 Hz from one frequency to the next, from 2 Hz on
    assert float(power[0, 1].max()) < 1e-4
    with pytest.raises(ValueError, match="has no frequency up to 1 Hz"):
        Spectrogram(100, 0.5, 0.1, 1.0, 1.0)
    with pytest.raises(ValueError, match="a frame of the spectrogram has 50 samples, and a lead 40"):
        module.n_frames(40)


def test_the_encoder_has_one_vector_for_each_frame() -> None:
    encoder = SpectrogramEncoder(3, 25, 4, 8)
    image = torch.randn(2, 3, 25, 17)
    assert encoder(image).shape == (2, 17, 8)
    assert encoder.project.in_features == 16 * 4  # of 25 frequencies, 13, 7 and 4 remain
    torch.testing.assert_close(encoder(image)[:1], encoder(image[:1]))


def test_means_of_segments_count_real_tokens() -> None:
    torch.manual_seed(0)
    tokens, real = torch.randn(2, 7, 3), torch.rand(2, 7) < 0.6
    real[1] = False
    place = (torch.arange(7) + 0.5) / 7
    means, present = segment_means(tokens, real, place, 4)
    for record in range(2):
        for segment in range(4):
            inside = [i for i in range(7) if bool(real[record, i]) and int(float(place[i]) * 4) == segment]
            assert bool(present[record, segment]) == bool(inside)
            expected = tokens[record, inside].mean(0) if inside else torch.zeros(3)
            torch.testing.assert_close(means[record, segment], expected)


def test_the_contrast_of_times_equals_the_double_loop() -> None:
    torch.manual_seed(0)
    a, b, present = torch.randn(4, 5, 3), torch.randn(4, 5, 3), torch.rand(4, 5) < 0.7
    present[2] = torch.tensor([False, True, False, False, False])
    present[3] = False
    total = 0.0
    for record in range(4):
        times = present[record].nonzero().flatten().tolist()
        if len(times) < 2:
            continue
        for x, y in ((a, b), (b, a)):
            for k in times:
                scores = {j: 6.0 * float(torch.cosine_similarity(x[record, k], y[record, j], dim=0)) for j in times}
                total += (math.log(sum(map(math.exp, scores.values()))) - scores[k]) / (2 * len(times))
    got = series.same_time_contrast(a.requires_grad_(), b, present, 6.0)
    assert float(got.detach()) == pytest.approx(total / 4, rel=1e-5)
    got.backward()
    assert bool(a.grad.isfinite().all())


def test_terms_are_those_of_the_docstring() -> None:
    method = build("tamer", temperature=0.2, w_report=2.0, w_global=3.0).eval()
    _, features = method.local_terms(make_batch(7))
    terms = method.batch_terms(features)
    for name, pair, weight in (("L_report", ("ecg", "text"), 2.0), ("L_global", ("waveform", "spectrum"), 3.0)):
        expected = weight * slow_clip(features[pair[0]], features[pair[1]], 0.2) / 2
        assert float(terms[name].detach()) == pytest.approx(expected, rel=1e-4)
    assert set(build("tamer", w_local=0.0, w_global=0.0).eval()(make_batch(4))) == {"L_report"}
    with pytest.raises(ValueError, match="w_report"):
        tamer.Config(w_report=0.0)


def test_both_branches_reach_the_embedding_and_segments_meet_in_time() -> None:
    method, batch = build("tamer").eval(), make_batch(3)
    with torch.no_grad():
        whole = method.embed_ecg(batch)
        for name in ("enter", "spectrum"):
            other = build("tamer").eval()
            other.load_state_dict(method.state_dict())
            for weight in getattr(other, name).parameters():
                weight.zero_()
            assert float((other.embed_ecg(batch) - whole).abs().max()) > 1e-2, name
    # a spike at 2.3 s of 4 s is in the same segment of both branches
    spike = torch.zeros_like(batch.ecg)
    spike[..., 230] = 1.0
    batch = dataclasses.replace(batch, ecg=spike)
    waveform, has_wave, _, has_frame = method._branches(batch)
    power, _ = method.spectrogram(scaled(batch, SIGNAL), batch.observed)
    loud, _ = segment_means(power.mean(1).transpose(1, 2), has_frame, method._frame_place(waveform), 4)
    quiet = dataclasses.replace(batch, ecg=torch.zeros_like(spike))
    change = (waveform - method._branches(quiet)[0]).abs()
    moved, _ = segment_means(change, has_wave, method._place(waveform), 4)
    assert loud.mean(-1).argmax(1).tolist() == moved.mean(-1).argmax(1).tolist() == [2, 2, 2]


def test_a_record_without_a_whole_frame_is_embedded_by_its_waveform() -> None:
    method = build("tamer").eval()
    batch = unobserve(make_batch(2), after=20)
    with torch.no_grad():
        assert not method._branches(batch)[3].any()
        assert bool(method.embed_ecg(batch).isfinite().all())
