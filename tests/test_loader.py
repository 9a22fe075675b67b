"""Batches of a cohort, and the order of training: every recording once per epoch, a pure function of the step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leadwise.batch import LEADS, Signal
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.loader import Recordings, Sampler
from leadwise.data.recordings.twelve_leads import conform
from leadwise.data.sources.source import Row, Source

RATES = (250, 500, 250, 100, 500)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("loader")
    rows = []
    for number, rate_hz in enumerate(RATES):
        rng = np.random.default_rng(number)
        values = np.cumsum(rng.normal(size=(rate_hz * (4 + number), 12)), axis=0) / 30
        values[20:60, number] = np.nan
        leads = LEADS if number != 2 else LEADS[:8]
        np.save(folder / f"{number}.npy", values[:, : len(leads)])
        labels = {"task": {"a": number % 2, "b": 1}} if number != 1 else {}
        report = "Sinus rhythm; Normal ECG" if number % 2 else ""
        rows.append(
            Row(f"r{number}", folder / f"{number}.npy", f"p{number}", "train", report, labels, {}, leads, rate_hz, "mV")
        )
    write(Source("made", rows, {"task": ("a", "b")}), folder / "out", shard_records=2)
    return Cohort.open(folder / "out")


def test_a_batch_has_the_leads_rate_and_duration_of_the_signal(cohort: Cohort) -> None:
    signal = Signal(leads=("V1", "II", "V6"), rate_hz=200, duration_s=5.0)
    recordings = Recordings(cohort, signal, rows=np.array([4, 2, 0]), task="task")
    batch = recordings.batch([2, 0, 1])
    assert batch.ecg.shape == batch.observed.shape == (3, 3, 1000)
    assert (batch.ecg.dtype, batch.observed.dtype) == (torch.float32, torch.bool)
    assert batch.record == ("r0", "r4", "r2")
    assert batch.patient == ("p0", "p4", "p2")
    assert batch.report == ("", "", "")
    assert batch.label is not None
    assert (batch.label.dtype, batch.label.tolist()) == (torch.float32, [[0, 1], [0, 1], [0, 1]])
    for place, row in enumerate((0, 4, 2)):
        ecg, observed = conform(*cohort.signal(row), signal)
        np.testing.assert_array_equal(batch.ecg[place], ecg)
        np.testing.assert_array_equal(batch.observed[place], observed)
    assert not batch.observed[0, :, 800:].any()  # 4 s of 5
    assert not batch.observed[2, 2].any()  # V6 is not in the file
    assert batch.observed[2, 1, 100:].all()
    assert not batch.ecg[~batch.observed].any()


def test_statements_come_as_lists_on_request(cohort: Cohort) -> None:
    batch = Recordings(cohort, Signal(), statements=True).batch([1, 0])
    assert batch.statements == (("sinus rhythm", "normal ecg"), ())
    assert Recordings(cohort, Signal()).batch([1]).statements is None


def test_batches_run_in_order_and_the_last_is_smaller(cohort: Cohort) -> None:
    recordings = Recordings(cohort, Signal(rate_hz=100))
    batches = list(recordings.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [name for batch in batches for name in batch.record] == [f"r{number}" for number in range(5)]
    assert [text for batch in batches for text in batch.report] == ["", "sinus rhythm. normal ecg."] * 2 + [""]
    assert batches[0].label is None


def test_a_task_chooses_its_rows_and_refuses_others(cohort: Cohort) -> None:
    recordings = Recordings(cohort, Signal(), task="task")
    assert recordings.rows.tolist() == [0, 2, 3, 4]
    assert len(recordings) == 4
    with pytest.raises(CohortError, match="not in task task"):
        Recordings(cohort, Signal(), rows=np.array([0, 1]), task="task")


def test_the_window_is_passed_on(cohort: Cohort) -> None:
    first = Recordings(cohort, Signal(rate_hz=500, duration_s=2.0)).batch([1]).ecg[0]
    centre = Recordings(cohort, Signal(rate_hz=500, duration_s=2.0, window="center")).batch([1]).ecg[0]
    whole = torch.from_numpy(np.nan_to_num(cohort.signal(1)[0])).T
    torch.testing.assert_close(first[0], whole[0, :1000])
    torch.testing.assert_close(centre, whole[:, 750:1750])


# ---------------------------------------------------------------------------------------------------------- sampler


@pytest.mark.parametrize(("n", "batch_size"), [(12, 4), (10, 4), (7, 7), (5, 8), (1, 1), (3, 1)])
def test_every_epoch_holds_every_position_once(n: int, batch_size: int) -> None:
    sampler = Sampler(n, batch_size, seed=3)
    n_epochs = 6
    n_steps = -(-n * n_epochs // batch_size)
    batches = [sampler.positions(step) for step in range(n_steps)]
    assert all(len(batch) == batch_size for batch in batches)
    positions = np.concatenate(batches)[: n * n_epochs].reshape(n_epochs, n)
    np.testing.assert_array_equal(np.sort(positions, axis=1), np.tile(np.arange(n), (n_epochs, 1)))


def test_epochs_differ_and_so_do_seeds() -> None:
    epochs = [Sampler(100, 100, seed=0).positions(step) for step in range(3)]
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    assert not np.array_equal(epochs[0], np.arange(100))
    assert not np.array_equal(epochs[0], Sampler(100, 100, seed=1).positions(0))


def test_resuming_is_to_begin_at_another_step() -> None:
    straight = Sampler(23, 5, seed=1)
    expected = [straight.positions(step).tolist() for step in range(60)]
    for begin in (0, 17, 42):
        fresh = Sampler(23, 5, seed=1)
        assert [fresh.positions(step).tolist() for step in range(begin, 60)] == expected[begin:]
    assert [straight.positions(step).tolist() for step in reversed(range(60))] == expected[::-1]


def test_a_sampler_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 and 4"):
        Sampler(0, 4, seed=0)
