"""Every planted leak between training and test data is found, and ECGs of different patients raise no alarm."""

from __future__ import annotations

from pathlib import Path

import leaks
import numpy as np
from evidence import faults_of

from leadwise.data.audit import beat_matching


def test_planted_leaks_are_found(tmp_path: Path) -> None:
    rows = leaks.rows(tmp_path / "leaks", n_each=2, n_base=24)
    assert len(rows) >= 20
    assert sum(row.n_cases for row in rows) >= 70
    assert not faults_of(rows)


def test_a_flat_a_short_and_a_missing_signal_have_no_beats() -> None:
    for ecg in (np.zeros((12, 5000)), np.zeros((12, 1)), np.ones((12, 100))):
        beats = beat_matching.find_beats(ecg, 500)
        assert (len(beats.times_s), len(beats.runs)) == (0, 0)
    assert beat_matching.candidates([beats, beats]) == {}


def test_overlap_of_two_recordings() -> None:
    for lag, expected in ((0, (0, 7, 0, 7)), (2, (0, 7, 2, 9)), (-3, (3, 10, 0, 7)), (20, (0, 0, 20, 20))):
        one, other = beat_matching.overlap(10, 9 if lag == 2 else 7, lag)
        assert (one.start, one.stop, other.start, other.stop) == expected


def regular(noise_seed: int, hum_mv: float, mains_hz: float = 50) -> beat_matching.Aligned:
    """An ECG (12, T) of equal beats, with noise of its own and the hum of the mains."""
    time_s = np.arange(5000) / 500
    beat = np.exp(-0.5 * (((time_s % 0.8) - 0.4) / 0.012) ** 2) + 0.3 * np.exp(
        -0.5 * (((time_s % 0.8) - 0.65) / 0.03) ** 2
    )
    noise = np.random.default_rng(noise_seed).normal(scale=0.02, size=(12, 5000))
    ecg = np.linspace(0.5, 1.5, 12)[:, None] * beat + noise + hum_mv * np.sin(2 * np.pi * mains_hz * time_s)
    return beat_matching.Aligned(ecg, 500)


def test_the_hum_of_the_mains_makes_no_copy_of_an_equal_rhythm() -> None:
    for hum in ((0.0, 50), (0.2, 50), (0.2, 60), (1.0, 50), (1.0, 60)):
        assert beat_matching.refine_lag(regular(0, *hum), regular(1, *hum), [0.0]) is None
        assert beat_matching.refine_lag(regular(0, *hum), regular(0, *hum), [0.0]) == 0.0


def test_a_disturbance_of_two_beats_hides_no_copy() -> None:
    one, other = regular(0, 0.0), regular(0, 0.0)
    time_s = np.arange(1000) / 500
    other.ecg[:, -1000:] += 0.3 * np.sin(2 * np.pi * 7 * time_s) * np.exp(-time_s[::-1])
    assert beat_matching.refine_lag(one, other, [0.0]) == 0.0
