"""Measurements of simulated ECGs with known values, of leads that are missing, flat or noisy, and of LUDB; the command."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import invoke

from leadwise.batch import LEADS
from leadwise.data.delineation.conditioning import condition
from leadwise.data.measurements import POINTS, QUANTITIES, Measurements, measure
from leadwise.data.recordings.recording import RecordError
from leadwise.data.simulator.heart import twelve_leads
from leadwise.data.simulator.patients import draw_patients
from leadwise.data.simulator.tracing import draw_tracing, random_stream
from leadwise.ecg import from_array

ROOT = Path(__file__).resolve().parents[1]
LUDB = ROOT.parent / "shared" / "data" / "ludb"
INTERVALS = ("pr_ms", "qrs_ms", "qt_ms")


@dataclass(frozen=True)
class KnownEcg:
    """A simulated ECG and its true values."""

    ecg_mv: np.ndarray  # (12, T)
    rhythm: str
    findings: frozenset[str]
    truth: dict[str, float]


@cache
def simulated(rate_hz: int, n: int = 60) -> tuple[KnownEcg, ...]:
    """ECGs with 20 uV of noise; each patient's first one."""
    ecgs = []
    for patient in draw_patients(n, 21):
        tracing = draw_tracing(patient, random_stream(patient, 0, 21), rate_hz)
        noise = 0.02 * np.random.default_rng(patient.number).standard_normal((12, 10 * rate_hz))
        presentation = tracing.presentation
        leads = twelve_leads(tracing.leads).T + noise
        ecgs.append(KnownEcg(leads, presentation.rhythm, presentation.findings, tracing.truth))
    return tuple(ecgs)


def sinus(rate_hz: int = 500) -> KnownEcg:
    return next(ecg for ecg in simulated(rate_hz) if ecg.findings == {"NORM", "SR"})


def is_nothing(measured: Measurements) -> bool:
    return measured.n_beats == 0 and all(
        math.isnan(measured.values()[name]) for name in QUANTITIES if name != "n_beats"
    )


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_simulated_ecgs_are_measured(rate_hz: int) -> None:
    errors: dict[str, list[float]] = {name: [] for name in ("heart_rate_bpm", *INTERVALS, "axis_deg")}
    for ecg in simulated(rate_hz):
        if ecg.rhythm in ("SR", "PACE"):
            measured = measure(ecg.ecg_mv, LEADS, rate_hz)
            errors["heart_rate_bpm"].append(measured.heart_rate_bpm - ecg.truth["rate_bpm"])
            errors["axis_deg"].append((measured.axis_deg - ecg.truth["axis_deg"] + 180) % 360 - 180)
            for name in INTERVALS:
                errors[name].append(getattr(measured, name) - ecg.truth[name])
    limits = {"heart_rate_bpm": 0.3, "pr_ms": 6, "qrs_ms": 8, "qt_ms": 16, "axis_deg": 3}
    assert len(errors["qrs_ms"]) >= 15
    for name, limit in limits.items():
        assert np.nanmedian(np.abs(errors[name])) <= limit, name
        assert np.mean(np.isnan(errors[name])) <= 0.1, name
        assert np.nanpercentile(np.abs(errors[name]), 80) <= 2 * limit, name


def test_the_measurements_are_those_of_the_ecg_and_not_of_another() -> None:
    own, other = [], []
    ecgs = [ecg for ecg in simulated(500) if ecg.rhythm == "SR"]
    for ecg, next_ecg in pairwise(ecgs):
        rate_bpm = measure(ecg.ecg_mv, LEADS, 500).heart_rate_bpm
        own.append(abs(rate_bpm - ecg.truth["rate_bpm"]))
        other.append(abs(rate_bpm - next_ecg.truth["rate_bpm"]))
    assert np.median(own) < 0.1 * np.median(other)


@pytest.mark.parametrize("rate_hz", [128, 250, 360, 1000])
def test_any_rate_is_measured_alike(rate_hz: int) -> None:
    ecg = sinus()
    at = np.arange(10 * rate_hz) / rate_hz
    resampled = np.stack([np.interp(at, np.arange(5000) / 500, lead) for lead in ecg.ecg_mv])
    expected, measured = measure(ecg.ecg_mv, LEADS, 500), measure(resampled, LEADS, rate_hz)
    assert measured.n_beats == expected.n_beats
    for name in INTERVALS:
        assert getattr(measured, name) == pytest.approx(getattr(expected, name), abs=12), name
    assert measured.axis_deg == pytest.approx(expected.axis_deg, abs=4)


def test_points_are_in_order_and_give_the_intervals() -> None:
    ecg = sinus()
    measured = measure(ecg.ecg_mv, LEADS, 500)
    assert set(measured.beats) == set(POINTS)
    rows = pd.DataFrame(measured.rows()).dropna()
    assert len(rows) >= measured.n_beats - 2
    for earlier, later in pairwise(POINTS):
        assert (rows[earlier] < rows[later]).all()
    assert 1000 * (rows.qrs_onset_s - rows.p_onset_s).median() == pytest.approx(measured.pr_ms, abs=4)
    assert 1000 * (rows.qrs_offset_s - rows.qrs_onset_s).median() == pytest.approx(measured.qrs_ms, abs=1)
    assert 1000 * (rows.t_offset_s - rows.qrs_onset_s).median() == pytest.approx(measured.qt_ms, abs=1)
    rr_s = 60 / measured.heart_rate_bpm
    assert measured.qtc_ms == pytest.approx(measured.qt_ms / math.sqrt(rr_s))
    assert measured.qtc_fridericia_ms == pytest.approx(measured.qt_ms / rr_s ** (1 / 3))


def test_no_point_is_outside_of_the_recording() -> None:
    ecg = sinus()
    last = measure(ecg.ecg_mv, LEADS, 500).beats
    n = round(500 * (last["qrs_offset_s"][-2] + 0.1))  # within the ST segment of a beat
    cut = measure(ecg.ecg_mv[:, :n], LEADS, 500).beats
    assert np.isfinite(cut["qrs_offset_s"][-1])
    assert np.isnan(cut["t_offset_s"][-1])
    assert all(np.nanmin(cut[name]) >= 0 and np.nanmax(cut[name]) < n / 500 for name in POINTS)


def test_a_shift_of_the_samples_shifts_the_points() -> None:
    ecg = sinus()
    late = measure(np.pad(ecg.ecg_mv, ((0, 0), (500, 0)), mode="edge"), LEADS, 500)
    expected = measure(ecg.ecg_mv, LEADS, 500)
    assert np.median(late.beats["qrs_onset_s"][-6:] - expected.beats["qrs_onset_s"][-6:]) == pytest.approx(1, abs=0.006)


def test_the_order_of_leads_does_not_matter() -> None:
    ecg, order = sinus(), [7, 3, 0, 11, 5, 1, 9, 2, 10, 4, 6, 8]
    measured = measure(ecg.ecg_mv[order], [LEADS[k] for k in order], 500)
    expected = measure(ecg.ecg_mv, LEADS, 500)
    for name in QUANTITIES:
        assert measured.values()[name] == pytest.approx(expected.values()[name], abs=1e-6), name


@pytest.mark.parametrize("leads", [("I", "II"), ("aVR", "aVL"), ("III", "aVF", "V2"), ("II", "aVF")])
def test_the_axis_needs_any_two_limb_leads(leads: tuple[str, ...]) -> None:
    ecg = sinus()
    measured = measure(ecg.ecg_mv[[LEADS.index(lead) for lead in leads]], leads, 500)
    assert measured.axis_deg == pytest.approx(measure(ecg.ecg_mv, LEADS, 500).axis_deg, abs=8)


@pytest.mark.parametrize("leads", [("II",), ("V5",), ("I", "V1", "V4"), LEADS[6:]])
def test_fewer_leads_are_measured(leads: tuple[str, ...]) -> None:
    ecg = sinus()
    measured = measure(ecg.ecg_mv[[LEADS.index(lead) for lead in leads]], leads, 500)
    assert measured.leads == leads
    assert measured.heart_rate_bpm == pytest.approx(ecg.truth["rate_bpm"], abs=0.5)
    assert measured.qrs_ms == pytest.approx(ecg.truth["qrs_ms"], abs=25)
    assert measured.qt_ms == pytest.approx(ecg.truth["qt_ms"], abs=40)
    assert math.isnan(measured.axis_deg)


def test_unused_flat_and_noisy_leads_change_little() -> None:
    ecg = sinus()
    spoiled = np.concatenate([ecg.ecg_mv, np.zeros((1, 5000))])
    spoiled[2] = 0.3
    spoiled[8] = 3 * np.random.default_rng(0).standard_normal(5000)
    spoiled[9] = np.nan
    measured = measure(spoiled, (*LEADS, "V7"), 500)
    expected = measure(ecg.ecg_mv, LEADS, 500)
    assert not {"III", "V4", "V7"} & set(measured.leads)
    assert measured.n_beats == expected.n_beats
    for name in INTERVALS:
        assert getattr(measured, name) == pytest.approx(getattr(expected, name), abs=16), name


def test_gaps_are_ignored() -> None:
    ecg = sinus()
    observed = np.ones((12, 5000), dtype=bool)
    observed[:, 2000:2700] = False
    observed[3, :1000] = False
    damaged = np.where(observed, ecg.ecg_mv, 50.0)
    measured = measure(damaged, LEADS, 500, observed)
    assert measured.heart_rate_bpm == pytest.approx(ecg.truth["rate_bpm"], abs=2)
    assert measured.qrs_ms == pytest.approx(ecg.truth["qrs_ms"], abs=12)
    assert measured.qt_ms == pytest.approx(ecg.truth["qt_ms"], abs=25)
    assert not ((measured.beats["qrs_onset_s"] > 4.05) & (measured.beats["qrs_onset_s"] < 5.35)).any()
    same = measure(np.where(observed, ecg.ecg_mv, np.nan), LEADS, 500)
    assert same.values() == measured.values()


@pytest.mark.parametrize("seconds", [3, 30])
def test_short_and_long_recordings(seconds: int) -> None:
    ecg = sinus()
    measured = measure(np.tile(ecg.ecg_mv, 3)[:, : 500 * seconds], LEADS, 500)
    assert measured.heart_rate_bpm == pytest.approx(ecg.truth["rate_bpm"], abs=5)
    assert measured.qrs_ms == pytest.approx(ecg.truth["qrs_ms"], abs=15)


def test_fibrillation_and_complete_block_have_no_pr() -> None:
    measured, irregular = [], []
    for patient in draw_patients(400, 5):
        if patient.rhythm in ("AFIB", "AVB3"):
            tracing = draw_tracing(patient, random_stream(patient, 0, 5), 500)
            if tracing.presentation.rhythm in ("AFIB", "AVB3"):
                measured.append(measure(twelve_leads(tracing.leads).T, LEADS, 500))
                irregular += [measured[-1].rr_sd_ms] if tracing.presentation.rhythm == "AFIB" else []
    assert len(measured) >= 12
    assert np.mean([math.isnan(one.pr_ms) for one in measured]) >= 0.85
    assert all(math.isfinite(one.qrs_ms) for one in measured)
    assert np.median(irregular) > 3 * measure(sinus().ecg_mv, LEADS, 500).rr_sd_ms


def test_pacing_stimuli_are_not_part_of_the_qrs() -> None:
    ecg = sinus()
    expected = measure(ecg.ecg_mv, LEADS, 500)
    spiked = ecg.ecg_mv.copy()
    for onset_s in expected.beats["qrs_onset_s"]:
        at = round(500 * (onset_s - 0.06))
        spiked[:, max(at, 0) : max(at, 0) + 2] += 2.0
    assert condition(spiked, LEADS, 500, np.isfinite(spiked)).paced  # type: ignore[union-attr]
    assert measure(spiked, LEADS, 500).qrs_ms == pytest.approx(expected.qrs_ms, abs=8)


@pytest.mark.parametrize("n_leads", [1, 3, 12])
def test_noise_is_not_measured(n_leads: int) -> None:
    rng = np.random.default_rng(n_leads)
    at = np.arange(5000) / 500
    for signal in (
        0.1 * rng.standard_normal((n_leads, 5000)),
        np.cumsum(0.02 * rng.standard_normal((n_leads, 5000)), axis=1),
        np.sin(2 * np.pi * 50 * at) + 0.01 * rng.standard_normal((n_leads, 5000)),
        np.sin(2 * np.pi * 1.2 * at) + 0.01 * rng.standard_normal((n_leads, 5000)),
    ):
        measured = measure(signal, LEADS[:n_leads], 500)
        assert is_nothing(measured)
        assert measured.rows() == []


@pytest.mark.parametrize(
    "signal", [np.zeros((12, 5000)), np.full((12, 5000), np.nan), np.full((12, 5000), 1e6), np.zeros((12, 3))]
)
def test_what_has_no_beats_is_nan(signal: np.ndarray) -> None:
    assert is_nothing(measure(signal, LEADS, 500))
    one = np.zeros_like(signal)
    one[:, signal.shape[1] // 2] = 1.0
    assert math.isnan(measure(one, LEADS, 500).heart_rate_bpm)


def test_a_signal_of_any_size_raises_nothing() -> None:
    rng = np.random.default_rng(3)
    for n in (1, 2, 700, 760, 1001):
        for scale in (1e-6, 1.0, 1e6):
            measured = measure(scale * rng.standard_normal((2, n)), ("II", "V1"), 500)
            assert measured.n_beats == 0 or n >= 700
    ecg = sinus()
    for n in range(760, 1600, 120):
        measured = measure(ecg.ecg_mv[:, :n], LEADS, 500)
        assert measured.n_beats <= 1 + n / 500 * 3  # at most 180 bpm; the ECG has a sinus rhythm
        assert measure(1e-3 * ecg.ecg_mv[:, :n], LEADS, 500).n_beats <= measured.n_beats


def test_json_has_null_for_nan_and_the_points() -> None:
    ecg = sinus()
    measured = measure(ecg.ecg_mv[6:], LEADS[6:], 500)
    result = json.loads(json.dumps(measured.to_json(), allow_nan=False))
    assert result["axis_deg"] is None
    assert result["qrs_ms"] == pytest.approx(measured.qrs_ms, abs=0.01)
    assert result["n_beats"] == len(result["beats"]["qrs_onset_s"])
    assert result["leads"] == list(LEADS[6:])


def test_arguments_that_do_not_fit_are_an_error() -> None:
    signal = np.zeros((2, 1000))
    with pytest.raises(RecordError, match=r"shape \(2, 1000\).*L = 1"):
        measure(signal, ("I",), 500)
    with pytest.raises(RecordError, match="a name occurs twice"):
        measure(signal, ("I", "I"), 500)
    with pytest.raises(RecordError, match="rate_hz = 0"):
        measure(signal, ("I", "II"), 0)
    with pytest.raises(RecordError, match=r"observed has shape \(1, 1000\)"):
        measure(signal, ("I", "II"), 500, np.ones((1, 1000)))


def test_an_ecg_is_measured_within_milliseconds() -> None:
    ecg = sinus()
    times = []
    for _ in range(3):
        began = time.process_time()
        measure(ecg.ecg_mv, LEADS, 500)
        times.append(time.process_time() - began)
    assert min(times) < 0.15  # about 0.03 s on one core


# -- the command and the method of an ECG


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sinus rhythm and a flat recording, 100 Hz."""
    folder = tmp_path_factory.mktemp("measured")
    np.save(folder / "a.npy", sinus(100).ecg_mv)
    np.save(folder / "b.npy", np.zeros((12, 1000)))
    return folder


STATED = ("--leads", ",".join(LEADS), "--rate-hz", 100, "--units", "mV")


def test_the_command_writes_one_row_for_each_ecg(files: Path, tmp_path: Path) -> None:
    for name in ("m.csv", "m.parquet"):
        done = invoke("measure", files, "-o", tmp_path / name, *STATED, "--json", tmp_path / "m.json")
        assert done.returncode == 0, done.stderr
        assert f"2 rows written to {tmp_path / name}" in done.stdout.replace("\n", " ")
        table = pd.read_csv(tmp_path / name) if name.endswith("csv") else pd.read_parquet(tmp_path / name)
        assert list(table.columns) == ["ecg", "refused", *QUANTITIES]
        expected = measure(sinus(100).ecg_mv, LEADS, 100)
        assert table.qrs_ms[0] == pytest.approx(expected.qrs_ms, rel=1e-4)
        assert table.heart_rate_bpm[0] == pytest.approx(expected.heart_rate_bpm, rel=1e-4)
        assert table.refused[1] == "all leads are flat"
        assert math.isnan(table.heart_rate_bpm[1])
    rows = json.loads((tmp_path / "m.json").read_text())["recordings"]
    assert [row["n_beats"] for row in rows] == [expected.n_beats, 0]
    assert rows[1]["pr_ms"] is None


def test_the_command_measures_a_cohort(cohort_folder: Path, tmp_path: Path) -> None:
    done = invoke("measure", cohort_folder, "--json", tmp_path / "m.json")
    assert done.returncode == 0, done.stderr
    assert "10 of 60 ECGs; -o measurements.csv writes all" in done.stdout
    rows = json.loads((tmp_path / "m.json").read_text())["recordings"]
    assert len(rows) == 60
    assert set(rows[0]) == {"ecg", "refused", *QUANTITIES}


def test_the_command_refuses_what_it_cannot_write_or_measure(files: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("name,value\n")
    for target, message in ((own, "leadwise did not write it"), (tmp_path / "m.txt", "must end in .csv or .parquet")):
        done = invoke("measure", files, "-o", target, *STATED)
        assert done.returncode == 2
        assert message in " ".join(done.stderr.replace("│", " ").split())
    assert own.read_text() == "name,value\n"
    done = invoke("measure", files / "b.npy", "-o", tmp_path / "b.csv", *STATED)
    assert done.returncode == 1
    assert "none of the 1 ECGs was measured: all leads are flat" in done.stderr
    assert not (tmp_path / "b.csv").exists()
    done = invoke("measure", files / "missing.npy", *STATED)
    assert done.returncode == 1
    assert "missing.npy" in done.stderr


def test_an_ecg_measures_itself() -> None:
    ecg = from_array(sinus().ecg_mv[:2], leads=("I", "II"), rate_hz=500, units="mV")
    measured = ecg.measure()
    assert set(measured.leads) == set(LEADS[:6])  # the others are derived
    assert measured.heart_rate_bpm == pytest.approx(sinus().truth["rate_bpm"], abs=0.5)


# -- real ECGs


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not (LUDB / "data").is_dir(), reason="LUDB is not beside this checkout")
def test_ludb_points_are_near_the_marks_of_cardiologists() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import delineation as benchmark
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    names = benchmark.numbers(LUDB)
    ecgs = [benchmark.read(LUDB, number) for number in names[len(names) // 2 :]]
    measured = [measure(ecg.ecg_mv, LEADS, 500) for ecg in ecgs]
    detected = [{name: [one.beats[key[0]]] for name, key in benchmark.POINTS.items()} for one in measured]
    _, median = benchmark.score_points(ecgs, detected)
    limits = {  # of |mean| and SD in ms, of sensitivity and positive predictivity
        "P onset": (6, 10, 0.92, 0.96),
        "P offset": (9, 14, 0.92, 0.96),
        "QRS onset": (6, 16, 0.99, 0.99),
        "QRS offset": (6, 12, 0.99, 0.99),
        "T offset": (12, 28, 0.95, 0.95),
    }
    for name, (mean, spread, sensitivity, predictivity) in limits.items():
        score = median[name]
        errors = np.array(score.errors_ms)
        assert abs(errors.mean()) <= mean, name
        assert errors.std() <= spread, name
        assert len(errors) / score.n_reference >= sensitivity, name
        assert len(errors) / (len(errors) + score.n_false) >= predictivity, name
