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
