"""R peaks, the phase between them, and the windows of the cardiac cycle."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import make_batch, unobserve

from leadwise.batch import LEADS, Batch, Signal
from leadwise.nn import phase

SIGNAL = Signal(rate_hz=250, duration_s=8.0)


def beats(starts: list[float], t_height: float = 0.6, signal: Signal = SIGNAL) -> Batch:
    """One record with R peaks at `starts` and a tall T wave 0.3 s after each."""
    time = torch.arange(signal.n_samples) / signal.rate_hz
    trace = torch.zeros(signal.n_samples)
    for r in starts:
        trace += torch.exp(-(((time - r) / 0.015) ** 2)) + t_height * torch.exp(-(((time - r - 0.3) / 0.06) ** 2))
        trace -= 0.25 * torch.exp(-(((time - r - 0.035) / 0.012) ** 2))
    trace += 0.01 * torch.randn(len(trace), generator=torch.Generator().manual_seed(0))
    ecg = torch.linspace(0.6, 1.4, 12)[None, :, None] * trace
    return dataclasses.replace(make_batch(1, signal=signal), ecg=ecg, observed=torch.ones_like(ecg, dtype=torch.bool))


@pytest.mark.parametrize("t_height", [0.2, 0.9])
def test_r_peaks_are_where_they_were_put_and_tall_t_waves_are_not_counted(t_height: float) -> None:
    starts = [0.5, 1.42, 2.3, 3.4, 4.1, 5.2, 6.1, 7.2]
    peaks = phase.r_peaks(beats(starts, t_height), SIGNAL)
    times = peaks.sample[peaks.real] / SIGNAL.rate_hz
    assert len(times) == len(starts)
    torch.testing.assert_close(times, torch.tensor(starts), atol=0.009, rtol=0)


@pytest.mark.parametrize("leads", [["II"], ["V1", "V5"], ["I"]])
def test_other_leads_are_used_where_lead_ii_is_missing(leads: list[str]) -> None:
    starts = [0.5, 1.4, 2.3, 3.2, 4.1, 5.0, 5.9, 6.8]
    batch = unobserve(beats(starts), leads=[i for i, lead in enumerate(LEADS) if lead not in leads])
    peaks = phase.r_peaks(batch, SIGNAL)
    torch.testing.assert_close(peaks.sample[peaks.real] / SIGNAL.rate_hz, torch.tensor(starts), atol=0.009, rtol=0)


def test_records_of_different_rates_are_padded_and_a_flat_one_has_no_peak() -> None:
    slow, fast = beats([1.0, 2.5, 4.0]), beats([0.4 + 0.6 * i for i in range(12)])
    flat = dataclasses.replace(slow, ecg=torch.zeros_like(slow.ecg))
    batch = dataclasses.replace(
        slow, ecg=torch.cat([slow.ecg, fast.ecg, flat.ecg]), observed=slow.observed.expand(3, -1, -1)
    )
    peaks = phase.r_peaks(batch, SIGNAL)
    assert peaks.real.sum(1).tolist() == [3, 12, 0]
    assert not phase.rr_phase(peaks, SIGNAL.n_samples, SIGNAL.rate_hz).known[2].any()


def test_the_phase_is_linear_between_r_peaks_and_unknown_outside_of_them() -> None:
    peaks = phase.RPeaks(
        torch.tensor([[3, 7, 15], [2, 12, 0]]), torch.tensor([[True, True, True], [True, True, False]])
    )
    one = phase.rr_phase(peaks, 20, 10.0)
    for record, places in enumerate(([3, 7, 15], [2, 12])):
        for t in range(20):
            before = [place for place in places if place <= t]
            after = [place for place in places if place > t]
            known = bool(before and after)
            assert bool(one.known[record, t]) == known
            expected = (t - before[-1]) / (after[0] - before[-1]) if known else 0.0
            assert float(one.value[record, t]) == pytest.approx(expected)
            assert float(one.rr_s[record, t]) == pytest.approx((after[0] - before[-1]) / 10 if known else 0.0)
    target = phase.phase_target(one)
    torch.testing.assert_close(target.square().sum(-1), torch.ones(2, 20))
    torch.testing.assert_close(target[0, 5], torch.tensor([0.0, -1.0]), atol=1e-6, rtol=0)  # half of 3 .. 7


def test_windows_of_diastole_and_systole() -> None:
    peaks = phase.RPeaks(torch.tensor([[100, 350, 600]]), torch.ones(1, 3, dtype=torch.bool))
    one = phase.rr_phase(peaks, 1000, 250.0)
    ed = phase.window_weights(one, "ed", 0.05, 1000)[0]
    es = phase.window_weights(one, "es", 0.05, 1000)[0]
    inside = ed.nonzero()[:, 0]
    assert inside[inside > 200].min() == 350 - 10 - 12
    assert 350 in inside
    middle = es.nonzero()[:, 0]
    assert abs(float(middle[middle < 300].float().mean()) - (100 + 0.36 * 250)) < 1
    coarse = phase.window_weights(one, "es", 0.05, 63)  # of a ResNet: 1000 samples in 63 positions
    assert coarse.shape == (1, 63)
    assert float(coarse.max()) > 0.5
    with pytest.raises(ValueError, match="known: ed, es"):
        phase.window_weights(one, "scar", 0.05, 10)
