"""Which part of a long recording is looked at: begin, middle, all of it in windows, and MERL's five seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leadwise.batch import LEADS, Signal
from leadwise.data.cohort import Cohort, Row, Source, write
from leadwise.data.windows import WindowError, averaged, crops, windowed
from leadwise.evaluate.compare import Probed, Prompted, run_compare
from leadwise.evaluate.embed import embed, embed_cohort
from leadwise.evaluate.probe import run_probe
from leadwise.evaluate.protocol import Legacy, run_protocol
from leadwise.evaluate.zeroshot import run_zeroshot
from tests.planted import PlantedCohort, PlantedRun

SECONDS = (6, 10, 25, 60)
PROMISED = Signal(rate_hz=100)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Four recordings whose lead I begins each second with its number, in hundredths of a mV."""
    folder = tmp_path_factory.mktemp("windows")
    rows = []
    for number, seconds in enumerate(SECONDS):
        second, phase = np.divmod(np.arange(100 * seconds), 100)
        counted = (second * (1 + phase % 50) / 100)[:, None] + np.arange(12)
        np.save(folder / f"{number}.npy", counted)
        path = folder / f"{number}.npy"
        rows.append(Row(f"r{number}", path, f"p{number}", "test", leads=LEADS, rate_hz=100, units="mV"))
    write(Source("made", rows), folder / "out", min_report_words=0)
    return Cohort.open(folder / "out")


def seconds_seen(cohort: Cohort, row: int, window: str | None) -> list[list[float]]:
    recordings, of_row = windowed(cohort, PROMISED, np.array([row]), window)
    assert of_row.tolist() == [0] * len(recordings)
    ecg = recordings.batch(range(len(recordings))).ecg[:, 0, ::100].numpy()
    return np.rint(ecg * 100).astype(int).tolist()


def test_begin_and_middle(cohort: Cohort) -> None:
    assert seconds_seen(cohort, 2, None) == seconds_seen(cohort, 2, "first_10s") == [list(range(10))]
    assert seconds_seen(cohort, 3, "center_10s") == [list(range(25, 35))]
    recordings, _ = windowed(cohort, PROMISED, np.array([0]), "first_10s")
    observed = recordings.batch([0]).observed[0]
    assert observed[:, :600].all()
    assert not observed[:, 600:].any()  # six of ten seconds: the padding is marked


def test_windows_cover_the_whole_recording_in_equal_steps(cohort: Cohort) -> None:
    assert seconds_seen(cohort, 1, "multi_crop_mean") == [list(range(10))]
    assert crops(25, 10) == [0.0, 7.5, 15.0]
    assert [len(crops(seconds, 10)) for seconds in (6, 10, 10.001, 25, 60)] == [1, 1, 2, 3, 6]
    seen = seconds_seen(cohort, 3, "multi_crop_mean")
    assert seen == [list(range(begin, begin + 10)) for begin in range(0, 60, 10)]
    _, of_row = windowed(cohort, PROMISED, np.array([3, 1, 2]), "multi_crop_mean")
    assert of_row.tolist() == [0] * 6 + [1] + [2] * 3


def test_merls_five_seconds_are_padded_with_zeros_that_count(cohort: Cohort) -> None:
    recordings, _ = windowed(cohort, PROMISED, np.arange(4), "merl_5s_pad")
    batch = recordings.batch(range(4))
    first, _ = windowed(cohort, PROMISED, np.arange(4), "first_10s")
    np.testing.assert_array_equal(batch.ecg[..., :500], first.batch(range(4)).ecg[..., :500])
    assert not batch.ecg[..., 500:].any()
    assert batch.observed.all()


def test_embeddings_of_windows_are_averaged_and_cached_apart(cohort: Cohort, tmp_path: Path) -> None:
    run = PlantedRun(tmp_path)
    rows = np.array([3, 0])
    whole = embed_cohort(run, cohort, rows=rows, window="multi_crop_mean")
    signal = run.config.signal  # two seconds long
    recordings, of_row = windowed(cohort, signal, rows, "multi_crop_mean")
    each = embed(run, recordings)
    expected = np.stack([each[of_row == place].mean(axis=0) for place in (0, 1)])
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
    assert np.abs(embed_cohort(run, cohort, rows=rows) - whole).max() > 1e-6
    np.testing.assert_array_equal(embed_cohort(run, cohort, rows=rows, window="multi_crop_mean"), whole)
    assert len(list((tmp_path / "embeddings").iterdir())) == 2


def test_averages() -> None:
    made = np.array([[1.0], [3.0], [5.0]], dtype=np.float32)
    np.testing.assert_array_equal(averaged(made, np.array([0, 0, 1])), [[2.0], [5.0]])
    assert averaged(made, np.array([0, 1, 2])) is made


@pytest.mark.parametrize(("window", "said"), [("merl_5s_pad", "--protocol merl-legacy"), ("last", "no window 'last'")])
def test_the_strict_protocol_does_not_look_through_merls_window(window: str, said: str) -> None:
    run, cohort = PlantedRun(), PlantedCohort()
    for asked in (
        lambda: run_probe(run, cohort, "finding", window=window),
        lambda: run_zeroshot(run, cohort, "finding", window=window),
        lambda: run_compare((run, run), cohort, "finding", Probed(window=window)),
        lambda: run_compare((run, run), cohort, "finding", Prompted(window=window)),
        lambda: run_protocol(run, cohort, "finding", (1.0,), "both", Legacy(window=window)),
    ):
        with pytest.raises(WindowError, match=said) as told:
            asked()
        assert "\n" not in str(told.value)
    assert run.method.n_embedded == 0


def test_an_unknown_window_is_named(cohort: Cohort) -> None:
    with pytest.raises(WindowError, match="no window 'last'; choose from first_10s, center_10s"):
        embed_cohort(PlantedRun(), cohort, window="last")
