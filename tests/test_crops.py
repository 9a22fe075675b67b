"""The part of a long recording that is read: start, middle, all of it in windows, and MERL's five seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import REPORTS, config_table

from leadwise.batch import LEADS, Signal
from leadwise.config import Config, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.crops import (
    WindowError,
    average_crops,
    crop_recordings,
    crop_starts,
)
from leadwise.data.loader import Recordings
from leadwise.data.sources.source import Row, Source
from leadwise.evaluate.compare import ProbeScorer, ZeroShotScorer, run_compare
from leadwise.evaluate.embed import embed, embed_cohort
from leadwise.evaluate.probe import run_probe
from leadwise.evaluate.protocol import LegacySettings, run_protocol
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.run import create
from tests.planted import PlantedCohort, PlantedRun

SECONDS = (6, 10, 25, 60)
SIGNAL = Signal(rate_hz=100)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Four recordings whose lead I begins each second with its number, in hundredths of a mV."""
    folder = tmp_path_factory.mktemp("windows")
    rows = []
    for number, seconds in enumerate(SECONDS):
        second, phase = np.divmod(np.arange(100 * seconds), 100)
        counted = (second * (1 + phase % 50) / 100)[:, None] + np.arange(12)
        counted[phase == 10] += 0.01  # else the first second would be constant, as padding is
        np.save(folder / f"{number}.npy", counted)
        path = folder / f"{number}.npy"
        rows.append(Row(f"r{number}", path, f"p{number}", "test", leads=LEADS, rate_hz=100, units="mV"))
    write(Source("made", rows), folder / "out", min_report_words=0)
    return Cohort.open(folder / "out")


def seconds_read(cohort: Cohort, row: int, window: str | None) -> list[list[float]]:
    recordings, of_row = crop_recordings(cohort, SIGNAL, np.array([row]), window)
    assert of_row.tolist() == [0] * len(recordings)
    ecg = recordings.batch(range(len(recordings))).ecg[:, 0, ::100].numpy()
    return np.rint(ecg * 100).astype(int).tolist()


def test_begin_and_middle(cohort: Cohort) -> None:
    assert seconds_read(cohort, 2, None) == seconds_read(cohort, 2, "first_10s") == [list(range(10))]
    assert seconds_read(cohort, 3, "center_10s") == [list(range(25, 35))]
    recordings, _ = crop_recordings(cohort, SIGNAL, np.array([0]), "first_10s")
    observed = recordings.batch([0]).observed[0]
    assert observed[:, :600].all()
    assert not observed[:, 600:].any()  # six of ten seconds: the padding is marked


def test_windows_cover_the_whole_recording_in_equal_steps(cohort: Cohort) -> None:
    assert seconds_read(cohort, 1, "multi_crop_mean") == [list(range(10))]
    assert crop_starts(25, 10) == [0.0, 7.5, 15.0]
    assert [len(crop_starts(seconds, 10)) for seconds in (6, 10, 10.001, 25, 60)] == [1, 1, 2, 3, 6]
    assert seconds_read(cohort, 3, "multi_crop_mean") == [list(range(begin, begin + 10)) for begin in range(0, 60, 10)]
    _, of_row = crop_recordings(cohort, SIGNAL, np.array([3, 1, 2]), "multi_crop_mean")
    assert of_row.tolist() == [0] * 6 + [1] + [2] * 3


def test_merls_five_seconds_are_padded_with_zeros_that_count(cohort: Cohort) -> None:
    recordings, _ = crop_recordings(cohort, SIGNAL, np.arange(4), "merl_5s_pad")
    batch = recordings.batch(range(4))
    first, _ = crop_recordings(cohort, SIGNAL, np.arange(4), "first_10s")
    np.testing.assert_array_equal(batch.ecg[..., :500], first.batch(range(4)).ecg[..., :500])
    assert not batch.ecg[..., 500:].any()
    assert batch.observed.all()


def test_embeddings_of_windows_are_averaged_and_cached_apart(cohort: Cohort, tmp_path: Path) -> None:
    run = PlantedRun(tmp_path)
    rows = np.array([3, 0])
    whole = embed_cohort(run, cohort, rows=rows, window="multi_crop_mean")
    signal = run.config.signal  # two seconds long
    recordings, of_row = crop_recordings(cohort, signal, rows, "multi_crop_mean")
    each = embed(run, recordings)
    expected = np.stack([each[of_row == place].mean(axis=0) for place in (0, 1)])
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
    assert np.abs(embed_cohort(run, cohort, rows=rows) - whole).max() > 1e-6
    np.testing.assert_array_equal(embed_cohort(run, cohort, rows=rows, window="multi_crop_mean"), whole)
    assert len(list((tmp_path / "embeddings").iterdir())) == 2


def gappy(
    folder: Path, seconds: int, lost: list[tuple[int, int]], name: str = "gappy", leads: tuple[str, ...] = LEADS
) -> Cohort:
    """One recording of noise at 100 Hz, of which some leads are missing between some seconds."""
    signal = np.random.default_rng(0).normal(scale=0.3, size=(100 * seconds, 12))
    for begin, end in lost:
        signal[100 * begin : 100 * end, [LEADS.index(lead) for lead in leads]] = np.nan
    np.save(folder / f"{name}.npy", signal)
    row = Row(name, folder / f"{name}.npy", "p", "test", leads=LEADS, rate_hz=100, units="mV")
    write(Source("made", [row]), folder / name, min_report_words=0)
    return Cohort.open(folder / name)


def starts_used(cohort: Cohort, signal: Signal = SIGNAL) -> list[int]:
    """Where, in seconds, the windows of the first recording begin."""
    whole = cohort.signal(0)[0][:, LEADS.index(signal.leads[0])]
    recordings, _ = crop_recordings(cohort, signal, np.array([0]), "multi_crop_mean")
    starts = []
    for ecg in recordings.batch(range(len(recordings))).ecg[:, 0].numpy():
        near = [np.abs(np.nan_to_num(whole[at : at + len(ecg)]) - ecg).max() for at in range(0, len(whole), 100)
                if at + len(ecg) <= len(whole)]  # fmt: skip
        starts.append(int(np.argmin(near)))
    return starts


def test_windows_without_an_ecg_are_left_out_of_the_mean(tmp_path: Path) -> None:
    half = gappy(tmp_path, 60, [(9, 31)])
    starts = [0, 30, 40, 50]
    assert starts_used(half) == starts  # 10-20 and 20-30 were not observed at all
    run = PlantedRun(tmp_path)
    run.config = Config(signal=SIGNAL)
    each = embed(run, Recordings(half, SIGNAL, np.zeros(4, int), starts_s=np.array(starts)))
    whole = embed_cohort(run, half, rows=np.array([0]), window="multi_crop_mean")
    np.testing.assert_allclose(whole[0], each.mean(axis=0), rtol=1e-5)
    enough, little = (gappy(tmp_path, 60, [lost], f"{lost[0]}") for lost in ((12, 38), (11, 39)))
    assert starts_used(enough) == [0, 10, 30, 40, 50]  # two seconds of a window
    assert starts_used(little) == [0, 40, 50]
    part = dataclasses.replace(SIGNAL, leads=("V6",), duration_s=20.0)
    never = gappy(tmp_path, 40, [(0, 40)], "never", leads=("V6",))
    assert (
        len(crop_recordings(never, part, np.array([0]), "multi_crop_mean")[0]) == 1
    )  # the embedding refuses it with its name
    assert len(crop_recordings(never, dataclasses.replace(part, leads=LEADS), np.array([0]), "multi_crop_mean")[0]) == 2


def test_a_method_that_needs_a_whole_patch_embeds_a_recording_with_a_long_gap(tmp_path: Path) -> None:
    cohort = gappy(tmp_path, 20, [(5, 13)])
    table = config_table(tmp_path / "gappy")
    run = create(typed(Config, table), REPORTS)
    run.method.eval()
    assert np.isfinite(embed_cohort(run, cohort, window="multi_crop_mean")).all()


def test_merls_five_seconds_are_the_first_whatever_the_run_has_set(cohort: Cohort) -> None:
    middle = dataclasses.replace(SIGNAL, window="center")
    recordings, _ = crop_recordings(cohort, middle, np.array([3]), "merl_5s_pad")
    ecg = recordings.batch([0]).ecg[0, 0, :500:100].numpy()
    assert np.rint(ecg * 100).astype(int).tolist() == [0, 1, 2, 3, 4]


def test_averages() -> None:
    features = np.array([[1.0], [3.0], [5.0]], dtype=np.float32)
    np.testing.assert_array_equal(average_crops(features, np.array([0, 0, 1])), [[2.0], [5.0]])
    assert average_crops(features, np.array([0, 1, 2])) is features


@pytest.mark.parametrize(
    ("window", "message"), [("merl_5s_pad", "--protocol merl-legacy"), ("last", "no window 'last'")]
)
def test_the_strict_protocol_refuses_merls_window(window: str, message: str) -> None:
    run, cohort = PlantedRun(), PlantedCohort()
    for evaluate in (
        lambda: run_probe(run, cohort, "finding", window=window),
        lambda: run_zeroshot(run, cohort, "finding", window=window),
        lambda: run_compare((run, run), cohort, "finding", ProbeScorer(window=window)),
        lambda: run_compare((run, run), cohort, "finding", ZeroShotScorer(window=window)),
        lambda: run_protocol(run, cohort, "finding", (1.0,), "both", LegacySettings(window=window)),
    ):
        with pytest.raises(WindowError, match=message) as caught:
            evaluate()
        assert "\n" not in str(caught.value)
    assert run.method.n_embedded == 0


def test_an_unknown_window_is_named(cohort: Cohort) -> None:
    with pytest.raises(WindowError, match="no window 'last'; choose from first_10s, center_10s"):
        embed_cohort(PlantedRun(), cohort, window="last")
