"""Completed leads: linear maps, measures, files that state what is synthetic, and the command with its errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import invoke
from conftest import REPORTS, SIGNAL, TINY, config_table, make_batch

from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.config import Config, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.recordings.recording import RecordError
from leadwise.ecg import from_array, read
from leadwise.nn.normalize import normalize
from leadwise.pictures import paper
from leadwise.synthesis import completion_scores
from leadwise.synthesis.completion import (
    CompletionError,
    MapCompleter,
    RunCompleter,
    band_of,
    complete_ecg,
    open_completer,
    parse_leads,
)
from leadwise.synthesis.completion_scores import LINEAR, PATIENT, score_completion
from leadwise.synthesis.lead_errors import beats_of, measure_errors, qrs_amplitude
from leadwise.synthesis.linear_leads import LinearLeads, per_patient
from leadwise.synthesis.written import MadeEcg, draw_made, write_made


@pytest.fixture(scope="module")
def wear_run(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of wear_ecg with random weights."""
    folder = tmp_path_factory.mktemp("runs") / "wear"
    table = config_table(cohort_folder) | {"method": {"name": "wear_ecg", **TINY["wear_ecg"]}}
    torch.manual_seed(0)
    runs.create(typed(Config, table), REPORTS, folder).save_weights()
    return folder


def write_ecg(path: Path, seed: int = 0) -> Path:
    """An ECG of twelve leads that obey the limb law, as .csv with named columns."""
    ecg = make_batch(1, seed=seed).ecg[0].numpy()
    one, two = ecg[0], ecg[1]
    ecg[2:6] = two - one, -(one + two) / 2, one - two / 2, two - one / 2
    rows = "\n".join(",".join(f"{value:.4f}" for value in column) for column in ecg.T)
    path.write_text(",".join(LEADS) + "\n" + rows + "\n")
    return path


# ------------------------------------------------------------------------------------------------------- linear maps


def test_the_map_of_a_cohort_is_least_squares_with_and_without_lags() -> None:
    batches = [make_batch(4, seed=seed) for seed in range(3)]
    ecg = torch.cat([normalize(batch.ecg, batch.observed, "mv") for batch in batches]).double()
    for lag_s in (0.0, 0.02):
        fitted = LinearLeads.fit(batches, LEADS, ("II", "V5"), 100, lag_s)
        lags = round(100 * lag_s)
        padded = torch.nn.functional.pad(ecg[:, [1, 10]], (lags, lags))
        columns = [padded[:, lead, k : k + 400].flatten() for k in range(2 * lags + 1) for lead in (0, 1)]
        design = torch.stack(columns, dim=1).numpy()
        solution, *_ = np.linalg.lstsq(design, ecg[:, 8].flatten().numpy(), rcond=None)
        expected = (design @ solution).reshape(12, 400)
        np.testing.assert_allclose(fitted.estimate(ecg)[:, 8].numpy(), expected, atol=2e-3)
        assert fitted.n_records == 12


def test_incomplete_recordings_do_not_enter_the_map() -> None:
    batch = make_batch(3)
    observed = batch.observed.clone()
    observed[0, 4] = False
    assert LinearLeads.fit([dataclasses.replace(batch, observed=observed)], LEADS, ("II",), 100).n_records == 2
    with pytest.raises(ValueError, match="choose another split"):
        LinearLeads.fit([dataclasses.replace(batch, observed=observed).rows(0, 1)], LEADS, ("II",), 100)


def test_no_map_of_single_samples_is_better_than_that_of_the_recording_itself() -> None:
    batch = make_batch(5)
    ecg = normalize(batch.ecg, batch.observed, "mv")
    given = torch.tensor([[lead in ("II", "V1") for lead in LEADS]]).expand(5, -1)
    own = (per_patient(ecg, given) - ecg).square().mean(-1)
    of_all = (LinearLeads.fit([batch], LEADS, ("II", "V1"), 100).estimate(ecg) - ecg).square().mean(-1)
    assert bool((own <= of_all + 1e-6).all())


# ---------------------------------------------------------------------------------------------------------- measures


def test_the_measures_are_those_of_slow_loops() -> None:
    rng = np.random.default_rng(0)
    truth, estimate = rng.normal(size=(2, 3, 100)), rng.normal(size=(2, 3, 100))
    beats = [np.array([3, 30, 70]), np.array([50])]
    measured = measure_errors(estimate, truth, beats, 100)
    for record in range(2):
        for lead in range(3):
            a, b = estimate[record, lead], truth[record, lead]
            assert measured["mse"][record, lead] == pytest.approx(np.mean((a - b) ** 2))
            assert measured["mae"][record, lead] == pytest.approx(np.mean(np.abs(a - b)))
            assert measured["r"][record, lead] == pytest.approx(np.corrcoef(a, b)[0, 1])
            inside = [m for m in beats[record] if 6 <= m < 94]
            sizes = [np.median([np.ptp(x[m - 6 : m + 7]) for m in inside]) for x in (a, b)]
            assert measured["qrs"][record, lead] == pytest.approx(abs(sizes[0] - sizes[1]))
    assert np.isnan(qrs_amplitude(truth, [np.empty(0, dtype=np.int64)] * 2, 100)).all()


def test_beats_are_located_in_samples_of_the_signal() -> None:
    batch = make_batch(2)
    for record, middles in enumerate(beats_of(batch, SIGNAL.rate_hz, LEADS)):
        peaks = batch.ecg[record, 1, middles]
        assert len(middles) >= 2
        assert float(peaks.min()) > 0.5 * float(batch.ecg[record, 1].max())


# ------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("II,V9", "'V9' is no lead of"),
        ("", "such as II,V1,V5"),
        ("II,ii", "such as II,V1,V5"),
        (",".join(LEADS), "name fewer leads"),
    ],
)
def test_leads_that_cannot_be_given_are_refused(text: str, message: str) -> None:
    with pytest.raises(CompletionError, match=message):
        parse_leads(text)


def test_names_of_leads_are_put_in_order() -> None:
    assert parse_leads("v5, ii,V1") == ("II", "V1", "V5")


# ---------------------------------------------------------------------------------------------- one ECG and its files


def test_recorded_leads_are_unchanged_and_gaps_stay_gaps() -> None:
    ecg = make_batch(1).ecg[0].numpy().astype(float)
    one, two = ecg[0], ecg[1]
    ecg[2:6] = two - one, -(one + two) / 2, one - two / 2, two - one / 2
    ecg[:, 300:] = np.nan  # nothing was recorded
    ecg[7, 100:200] = np.nan
    completed = complete_ecg(
        MapCompleter("linear", SIGNAL),
        from_array(ecg, rate_hz=100, leads=LEADS, units="mV", name="x"),
        ("I", "II", "V2"),
    )
    assert completed.synthetic == ("V1", "V3", "V4", "V5", "V6")
    assert completed.derived == dict.fromkeys(("III", "aVR", "aVL", "aVF"), ("I", "II"))
    np.testing.assert_allclose(completed.signal[[0, 1, 7]], ecg[[0, 1, 7], :400], atol=1e-5)
    np.testing.assert_allclose(completed.signal[2:6, :300], ecg[2:6, :300], atol=1e-4)
    assert np.isfinite(completed.signal[6, :300]).all()
    assert np.isnan(completed.signal[:, 300:]).all()


def test_the_same_seed_gives_the_same_band(wear_run: Path, tmp_path: Path) -> None:
    completer = open_completer(wear_run)
    ecg = read(write_ecg(tmp_path / "a.csv"), rate_hz=100, units="mV")
    one, two = (complete_ecg(completer, ecg, ("II",), 9, seed=1) for _ in range(2))
    assert one.low is not None
    assert two.low is not None
    np.testing.assert_array_equal(one.low, two.low)
    rows = [LEADS.index(lead) for lead in one.synthetic]
    assert one.high is not None
    assert (one.high[rows] > one.low[rows]).all()
    assert np.isnan(one.low[1]).all()  # what was recorded has no band
    assert complete_ecg(completer, ecg, ("II",), 1).low is None


@pytest.mark.parametrize("n_draws", [10, 21])
def test_the_band_holds_a_further_draw_with_its_probability(n_draws: int) -> None:
    draws = np.random.default_rng(0).standard_normal((n_draws, 20_000), dtype=np.float32)
    low, high = band_of(draws)  # the first draw does not count: it is a further one
    assert float(((draws[0] >= low) & (draws[0] <= high)).mean()) == pytest.approx(0.8, abs=0.015)


def test_every_file_states_what_is_synthetic(wear_run: Path, tmp_path: Path) -> None:
    ecg = read(write_ecg(tmp_path / "a.csv"), rate_hz=100, units="mV")
    completed = complete_ecg(open_completer(wear_run), ecg, ("II", "V1", "V5"), 5)
    header, table, picture = write_made(completed, tmp_path / "out")
    assert {path.name for path in (header, table, picture)} == {f"a_synthetic{s}" for s in (".hea", ".npz", ".png")}
    text = header.read_text()
    assert "synthetic leads: I, III, aVR, aVL, aVF, V2, V3, V4, V6" in text
    assert "made by: wear_ecg" in text
    with np.load(table) as archive:
        stated = [str(lead) for lead, flag in zip(archive["leads"], archive["synthetic"]) if flag]
        assert stated == list(completed.synthetic)
        assert archive["low"].shape == (12, SIGNAL.n_samples)
    back = read(header)
    np.testing.assert_allclose(back.signal, completed.signal, atol=6e-4)
    with pytest.raises(RecordError, match="pass --overwrite"):
        write_made(completed, tmp_path / "out")
    write_made(completed, tmp_path / "out", overwrite=True)


def test_the_picture_draws_synthetic_leads_in_another_colour() -> None:
    signal = make_batch(1).ecg[0].numpy()
    completed = MadeEcg("x", signal, 100.0, LEADS, ("V2", "V3"), "a model", low=signal - 0.1, high=signal + 0.1)
    figure = draw_made(completed)
    lines = {line.get_gid(): line.get_color() for axes in figure.axes for line in axes.lines}
    assert lines["trace-V1"] == paper.INK
    assert lines["synthetic-V2"] == paper.SYNTHETIC
    texts = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"V2 synthetic", "V3 synthetic", "V1"} <= texts
    bands = {patch.get_gid() for axes in figure.axes for patch in axes.collections}
    assert {"band-V2", "band-V3"} <= bands
    assert "band-V1" not in bands
    whole = draw_made(dataclasses.replace(completed, synthetic=LEADS))
    assert "a synthetic ECG" in " ".join(text.get_text() for text in whole.texts)


# -------------------------------------------------------------------------------------------------------- the command


def test_the_command_completes_files_and_a_folder(wear_run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        write_ecg(tmp_path / f"in/e{number}.csv", number)
    words = ("--leads", "II,V1,V5", "--rate-hz", 100, "--units", "mV", "--draws", 10)
    done = invoke("complete", wear_run, tmp_path / "in", *words, "-o", tmp_path / "out", "--json", tmp_path / "x.json")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"e{k}_synthetic{suffix}" for k in range(2) for suffix in (".dat", ".hea", ".npz", ".png")
    ]
    assert "research use only" in json.loads((tmp_path / "x.json").read_text())["note"]
    again = invoke("complete", wear_run, tmp_path / "in", *words, "-o", tmp_path / "out")
    assert again.returncode == 1
    assert "pass --overwrite" in again.stderr


def test_the_command_needs_no_run_for_the_linear_map(tmp_path: Path) -> None:
    file = write_ecg(tmp_path / "a.csv")
    done = invoke(
        "complete", "linear", file, "--leads", "I,II", "--rate-hz", 100, "--units", "mV", "-o", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert "derived leads: III, aVR, aVL, aVF from I, II" in (tmp_path / "out/a_synthetic.hea").read_text()


def test_errors_of_the_command_are_one_line_with_a_remedy(wear_run: Path, cohort_folder: Path, tmp_path: Path) -> None:
    file = write_ecg(tmp_path / "a.csv")
    words = ("--rate-hz", 100, "--units", "mV", "-o", tmp_path / "out")
    short = tmp_path / "three.csv"
    short.write_text("\n".join(",".join(line.split(",")[:2]) for line in file.read_text().splitlines()) + "\n")
    merl = tmp_path / "merl"
    table = config_table(cohort_folder) | {"method": {"name": "merl", **TINY["merl"]}}
    runs.create(typed(Config, table), REPORTS * 20, merl).save_weights()
    for arguments, message in (
        ((wear_run, file, "--leads", "II,V9", *words), "'V9' is no lead of"),
        ((wear_run, file, *words), "pass --leads with those to complete from"),
        ((wear_run, short, "--leads", "V1", *words), "lead V1 was not recorded"),
        ((merl, file, "--leads", "II", *words), "choose a run of wear_ecg"),
    ):
        done = invoke("complete", *arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_file_that_cannot_be_completed_does_not_stop_the_others(wear_run: Path, tmp_path: Path) -> None:
    file = write_ecg(tmp_path / "a.csv")
    short = tmp_path / "b.csv"
    short.write_text("\n".join(line.split(",")[0] for line in file.read_text().splitlines()) + "\n")
    words = ("--leads", "II", "--rate-hz", 100, "--units", "mV", "--draws", 1, "-o", tmp_path / "out")
    done = invoke("complete", wear_run, short, file, *words)
    assert done.returncode == 1
    assert "1 of 2 ECGs were not completed" in done.stderr
    assert (tmp_path / "out/a_synthetic.hea").is_file()


# ---------------------------------------------------------------------------------------------------------- the scores


def test_the_scores_of_a_cohort_have_all_rows_and_intervals(
    wear_run: Path, cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion_scores, "N_REPLICATES", 50)
    monkeypatch.setattr(completion_scores, "SUBSETS", {"infarct": frozenset({"mi"})})
    done = invoke("complete", wear_run, cohort_folder, "--leads", "II,V1,V5", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out/completion.json").read_text())
    assert list(result["rows"]) == ["linear map", "linear map, 40 ms lags", "per patient (upper line)", "wear_ecg"]
    assert set(result["utility"]) == {"true twelve leads", "given leads only", *result["rows"]}
    assert result["rows"]["wear_ecg"]["coverage"] is not None
    assert result["recordings"] == 10
    assert "V3" in done.stdout
    again = invoke("complete", wear_run, cohort_folder, "-o", tmp_path / "out")
    assert "pass --overwrite" in again.stderr


def test_the_upper_line_is_above_the_linear_map(cohort_folder: Path) -> None:
    report = score_completion([MapCompleter("copy", SIGNAL)], Cohort.open(cohort_folder), ("II", "V1", "V5"))
    value, (_low, high) = report.against_linear(PATIENT, "mse")
    assert value < 0
    assert high < 0
    assert report.against_linear(LINEAR, "mse")[0] == 0
    share, (share_low, share_high) = report.relative_to_linear(PATIENT)
    assert share == pytest.approx(value / np.nanmean(report.errors[LINEAR].mean("mse")))
    assert -1 < share_low < share < share_high < 0
    assert not report.utility
    assert any(sentence.startswith("copy, all: MSE") for sentence in report.verdicts())


def test_a_run_is_completed_in_eval_mode_without_gradients(wear_run: Path) -> None:
    completer = open_completer(wear_run)
    assert isinstance(completer, RunCompleter)
    completer.run.method.train()
    out = completer.complete(make_batch(2), torch.ones(2, 12, dtype=torch.bool))
    assert not out.requires_grad
    assert completer.run.method.training
