"""Which recordings a model can use: known from the index, and where that is not enough from the samples."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import SIGNAL

from leadwise.batch import LEADS, Signal
from leadwise.data import crops, usable_rows
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.crops import crop_recordings
from leadwise.data.loader import Recordings
from leadwise.data.sources.source import Row, Source
from leadwise.data.usable_rows import LeftOut, contains_patch

ECGS = {  # name -> seconds, leads, and the observed seconds of each lead (all of it where there is none)
    "whole": (4.0, LEADS, ()),
    "one lead": (4.0, ("II",), ()),
    "three leads": (4.0, ("I", "II", "V2"), ()),
    "chest": (4.0, ("V1", "V2", "V3"), ()),
    "short": (0.35, LEADS, ()),
    "late": (10.0, LEADS, ((6.0, 10.0),)),
    "scattered": (4.0, LEADS, tuple((0.5 * k, 0.5 * k + 0.2) for k in range(8))),
    "brief": (4.0, LEADS, ((1.0, 1.45),)),
    "twenty": (20.0, LEADS, ((0.0, 0.3), (13.0, 15.0))),
}


def ecg(seconds: float, n_leads: int, parts: tuple[tuple[float, float], ...], rng: np.random.Generator) -> np.ndarray:
    samples = rng.normal(size=(round(100 * seconds), n_leads))
    observed = np.zeros(len(samples), dtype=bool)
    for begin, end in parts or ((0.0, seconds),):
        observed[round(100 * begin) : round(100 * end)] = True
    samples[~observed] = np.nan
    return samples


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder, rng, rows = tmp_path_factory.mktemp("parts"), np.random.default_rng(0), []
    for number, (name, (seconds, leads, parts)) in enumerate(ECGS.items()):
        path = folder / f"{number}.npy"
        samples = ecg(seconds, 12, parts, rng)
        samples[:, [k for k, lead in enumerate(LEADS) if lead not in leads]] = np.nan
        np.save(path, samples)
        rows.append(Row(name, path, f"p{number}", "test", leads=LEADS, rate_hz=100, units="mV"))
    write_all(rows, folder / "out")
    return Cohort.open(folder / "out")


def write_all(rows: list[Row], folder: Path, tasks: dict[str, tuple[str, ...]] | None = None) -> None:
    """Write a cohort with every recording, also those that `prepare` leaves out because most of it is missing."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("leadwise.data.cohort.shard.unusable_reason", lambda recording: None)
        write(Source("made", rows, tasks or {}), folder, min_report_words=0)


def select(
    cohort: Cohort, signal: Signal = SIGNAL, patch: int = 40, window: str | None = None
) -> tuple[set[str], LeftOut]:
    rows, left_out = usable_rows.usable_rows(cohort, signal, np.arange(len(cohort)), window, patch)
    return set(cohort.records.take(rows)), left_out


def test_recordings_without_a_lead_or_a_patch_are_left_out_and_counted(cohort: Cohort) -> None:
    usable, left_out = select(cohort)
    assert usable == {"whole", "one lead", "three leads", "chest"}
    assert left_out.records == {"not_observed": ("short", "late", "scattered", "brief", "twenty")}
    limb = dataclasses.replace(SIGNAL, leads=("I", "II"))
    usable, left_out = select(cohort, limb)
    assert left_out.records["no_lead"] == ("chest",)
    assert left_out.to_json() == {"left_out": {"no_lead": 1, "not_observed": 5}}
    assert left_out.line.startswith(
        "6 recordings left out (1: none of the model's leads is recorded; 5: no whole patch"
    )


def test_a_smaller_patch_needs_less(cohort: Cohort) -> None:
    usable, _left_out = select(cohort, patch=10)
    assert usable == set(ECGS) - {"late"}
    assert select(cohort, patch=1)[0] == usable
    assert LeftOut().line == ""
    assert LeftOut().to_json() == {}


def test_every_usable_row_has_a_patch_in_every_window_and_the_others_do_not(cohort: Cohort) -> None:
    """The index decides most rows without their samples; it must decide as the samples would."""
    for window in (None, *crops.WINDOWS):
        for place in ("first", "center") if window in (None, "best") else ("first",):
            for rate_hz, patch in ((100, 1), (100, 40), (250, 25), (73, 30)):
                signal = Signal(rate_hz=rate_hz, duration_s=4.0, window=place)
                usable, _ = select(cohort, signal, patch, window)
                recordings, of_row = crop_recordings(cohort, signal, np.arange(len(cohort)), window)
                has_patch = contains_patch(recordings.batch(range(len(recordings))).observed.numpy(), patch)
                whole = {name for row, name in enumerate(ECGS) if has_patch[of_row == row].all()}
                assert usable == whole, (window, place, rate_hz, patch)


def test_only_doubtful_rows_are_read(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = Recordings._read
    monkeypatch.setattr(Recordings, "_read", lambda self, row, *rest: opened.append(row) or original(self, row, *rest))
    rows, _ = usable_rows.usable_rows(cohort, SIGNAL, np.array([3, 1, 0]), None, 40)
    assert rows.tolist() == [3, 1, 0]
    assert opened == []


def test_two_ledgers_count_a_recording_once() -> None:
    one = LeftOut({"not_observed": ("a", "b")})
    other = LeftOut({"no_lead": ("c",), "not_observed": ("b",)})
    assert (one | other).records == {"no_lead": ("c",), "not_observed": ("a", "b")}
    assert len(one | other) == 3
    assert (LeftOut() | LeftOut()).records == {}


def test_what_is_left_out_is_logged_without_long_names(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        usable_rows.log_left_out(LeftOut(), "run")
        assert caplog.text == ""
        usable_rows.log_left_out(LeftOut({"not_observed": ("a", "atrial fibrillation of a patient")}), "run")
    assert "run: 2 recordings left out" in caplog.text
    assert "records a, a longer text" in caplog.text


# ------------------------------------------------------------------------------------------------------ window best


def print_of_four_columns(folder: Path, seconds: float = 10.0, lost: tuple[int, ...] = ()) -> Cohort:
    """A digitised 3 x 4 print: each lead is observed in another quarter; the columns in `lost` are not observed."""
    samples = np.random.default_rng(1).normal(size=(round(100 * seconds), 12))
    quarter = len(samples) // 4
    for column in range(4):
        outside = np.ones(len(samples), dtype=bool)
        if column not in lost:
            outside[column * quarter : (column + 1) * quarter] = False
        samples[outside, 3 * column : 3 * column + 3] = np.nan
    np.save(folder / "print.npy", samples)
    write_all([Row("print", folder / "print.npy", "p", "test", leads=LEADS, rate_hz=100, units="mV")], folder / "out")
    return Cohort.open(folder / "out")


def observed(cohort: Cohort, row: int, duration_s: float, window: str | None, place: str = "first") -> np.ndarray:
    signal = Signal(rate_hz=100, duration_s=duration_s, window=place)
    return crop_recordings(cohort, signal, np.array([row]), window)[0].batch([0]).observed[0].numpy()


def test_the_best_window_of_a_print_is_where_its_columns_are(tmp_path: Path) -> None:
    cohort = print_of_four_columns(tmp_path, lost=(0, 1))
    assert not observed(cohort, 0, 5.0, None).any()
    best = observed(cohort, 0, 5.0, "best")
    assert best.sum() == 2 * 3 * 250
    assert best[6:9, :250].all()
    assert best[9:, 250:].all()


def test_the_best_window_of_a_whole_print_is_the_own_one(tmp_path: Path) -> None:
    """Three leads are observed at any time, so all windows have as many samples."""
    cohort = print_of_four_columns(tmp_path)
    for place in ("first", "center"):
        own = observed(cohort, 0, 5.0, None, place)
        assert (observed(cohort, 0, 5.0, "best", place) == own).all()


def test_the_best_window_avoids_what_is_not_observed_at_the_begin(cohort: Cohort) -> None:
    late, twenty, whole = (list(ECGS).index(name) for name in ("late", "twenty", "whole"))
    assert not observed(cohort, late, 4.0, None).any()
    assert observed(cohort, late, 4.0, "best").all()
    assert observed(cohort, twenty, 4.0, "best").any(axis=0).sum() == 200
    assert observed(cohort, whole, 4.0, "best").all()


def test_the_best_window_depends_on_the_leads_of_the_model(tmp_path: Path) -> None:
    samples = np.random.default_rng(2).normal(size=(1000, 12))
    samples[:400, 0] = np.nan
    samples[600:, 1:] = np.nan
    np.save(tmp_path / "a.npy", samples)
    write_all([Row("a", tmp_path / "a.npy", "p", "test", leads=LEADS, rate_hz=100, units="mV")], tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out")
    for leads, begin in ((("I",), 400), (("V1",), 0)):
        signal = Signal(leads=leads, rate_hz=100, duration_s=5.0)
        batch = crop_recordings(cohort, signal, np.array([0]), "best")[0].batch([0])
        column = LEADS.index(leads[0])
        np.testing.assert_allclose(batch.ecg[0, 0, :5], samples[begin : begin + 5, column], atol=1e-3)
        assert batch.observed.all()
