"""`prepare` again, twice at once and after a kill: nothing is done twice, lost or half written."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from leadwise.batch import LEADS
from leadwise.cli import app
from leadwise.data.cohort import left_out, prepare
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.left_out import LeftOutError
from leadwise.data.cohort.locking import locked
from leadwise.data.cohort.prepare import finished_ledger, write, write_share
from leadwise.data.cohort.shard import Dropped
from leadwise.data.sources.folder import Options, read_source
from leadwise.data.sources.source import Source

GIVEN = (f"leads={','.join(LEADS)}", "rate_hz=100", "units=mV")


def table(folder: Path, n: int = 4) -> Path:
    """A table of `n` recordings of `n` patients."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        np.save(folder / f"{number}.npy", np.random.default_rng(number).normal(size=(300, 12)))
    (folder / "mine.csv").write_text("path,patient\n" + "".join(f"{k}.npy,P{k}\n" for k in range(n)), encoding="utf-8")
    return folder / "mine.csv"


def source_of(path: Path, rate_hz: float = 100) -> Source:
    return read_source(path, Options(LEADS, rate_hz, "mV"))


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


# ---------------------------------------------------------------------------------------------------------- resume


def test_resume_of_a_finished_cohort_is_a_success(tmp_path: Path) -> None:
    path, out = table(tmp_path / "raw"), tmp_path / "c"
    words = ("prepare", "folder", path, *GIVEN, "-o", out)
    assert call(*words).exit_code == 0
    written = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    for share in ((), ("--shard", "1/2")):
        again = call(*words, "--resume", "--json", tmp_path / "a.json", *share)
        assert again.exit_code == 0, again.output
        assert f"finished already: {out} has 4 recordings" in " ".join(again.output.split())
        assert json.loads((tmp_path / "a.json").read_text())["ledger"]["kept"] == 4
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == written
    other = call(*words[:-2], "--min-words", 3, "-o", out, "--resume")
    assert isinstance(other.exception, CohortError)
    assert "was finished from other rows, options or files; pass --overwrite instead of --resume" in str(
        other.exception
    )
    assert call(*words, "--overwrite").exit_code == 0


def test_only_the_same_rows_options_and_files_are_finished(tmp_path: Path) -> None:
    path, out = table(tmp_path / "raw"), tmp_path / "c"
    source = source_of(path)
    assert finished_ledger(source, out) is None
    ledger = write(source, out)
    assert finished_ledger(source_of(path), out) == ledger
    assert finished_ledger(source_of(path), out, min_report_words=3) is None
    assert finished_ledger(source_of(path, 200), out) is None
    rows = [dataclasses.replace(row, report="x") if row.record == "2" else row for row in source.rows]
    assert finished_ledger(dataclasses.replace(source, rows=rows), out) is None
    assert finished_ledger(dataclasses.replace(source, rows=source.rows[:3]), out) is None
    later = time.time() + 60
    os.utime(tmp_path / "raw" / "2.npy", (later, later))
    assert finished_ledger(source_of(path), out) is None
    (tmp_path / "raw" / "2.npy").unlink()  # its samples are in the cohort
    assert finished_ledger(source_of(path), out) == ledger


def test_a_cohort_of_an_earlier_version_is_not_taken_as_finished(tmp_path: Path) -> None:
    path, out = table(tmp_path / "raw"), tmp_path / "c"
    write(source_of(path), out)
    description = json.loads((out / "cohort.json").read_text())
    del description["rows"]
    del description["ledger"]["bad_row"]
    (out / "cohort.json").write_text(json.dumps(description))
    assert finished_ledger(source_of(path), out) is None
    assert len(Cohort.open(out, verify=True)) == 4


# ------------------------------------------------------------------------------------------------- two at one time


def test_a_second_prepare_of_one_folder_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    source, out = source_of(table(tmp_path / "raw")), tmp_path / "c"
    refusals = []

    def second(_: str, done: int, total: int) -> None:
        if done == 2:
            for attempt in (lambda: write(source, out), lambda: write_share(source, out, (1, 2))):
                with pytest.raises(CohortError, match=r"another `leadwise prepare` is writing .*c\.partial") as caught:
                    attempt()
                refusals.append(caught.value)
            assert write(source, tmp_path / "other").kept == 4  # the remedy

    assert write(source, out, progress=second).kept == 4
    assert len(refusals) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "other", "raw"]  # no lock file stays


def test_different_shares_run_at_one_time_and_exclude_the_whole(tmp_path: Path) -> None:
    partial = tmp_path / "c.partial"
    with locked(partial, (1, 3)), locked(partial, (2, 3)):
        for share in (None, (1, 3)):
            with pytest.raises(CohortError, match="another `leadwise prepare`"), locked(partial, share):
                pass
    with locked(partial), pytest.raises(CohortError, match="another"), locked(partial, (3, 3)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_cohort_that_another_process_finished_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch) -> None:
    source, out = source_of(table(tmp_path / "raw")), tmp_path / "c"
    lock = prepare.locked

    @contextlib.contextmanager
    def late(partial: Path, share: tuple[int, int] | None = None) -> Iterator[None]:
        monkeypatch.setattr(prepare, "locked", lock)
        write(source, out)
        with lock(partial, share):
            yield

    for attempt in (lambda: write(source, out), lambda: write_share(source, out, (1, 2))):
        monkeypatch.setattr(prepare, "locked", late)
        with pytest.raises(CohortError, match="exists already"):
            attempt()
        assert finished_ledger(source, out) is not None
        shutil.rmtree(out)


def hold(partial: Path, ready: multiprocessing.synchronize.Event) -> None:
    with locked(partial):
        ready.set()
        time.sleep(60)


def test_the_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "c.partial", ready))
    process.start()
    assert ready.wait(20)
    source = source_of(table(tmp_path / "raw"))
    with pytest.raises(CohortError, match="another `leadwise prepare` is writing"):
        write(source, tmp_path / "c")
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".lock")]
    assert write(source, tmp_path / "c").kept == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "raw"]


# --------------------------------------------------------------------------------------------------------- reasons


def test_every_reason_is_printed_and_in_dropped_csv(tmp_path: Path) -> None:
    path = table(tmp_path / "raw", 6)
    (tmp_path / "raw" / "1.npy").write_bytes(b"no array")
    (tmp_path / "raw" / "2.npy").write_bytes(b"no array")
    np.save(tmp_path / "raw" / "3.npy", np.zeros((300, 11)))
    words = ("prepare", "folder", path, *GIVEN, "-o", tmp_path / "c")
    wrong = call(*words)
    message = str(wrong.exception)
    assert isinstance(wrong.exception, LeftOutError)
    for part in ("3 recordings are unreadable", "raw/1.npy", "(and 1 other)", "raw/3.npy", "c.partial/dropped.csv"):
        assert part in message
    assert "\n" not in message
    for output, file in (
        (wrong.output, tmp_path / "c.partial"),
        (call(*words, "--allow-unreadable").output, tmp_path / "c"),
    ):
        assert "recordings left out, by reason" in output
        assert "no side of 12 leads" in " ".join(output.split())
        if file.is_dir():
            assert {entry.record for entry in left_out.read(file / "dropped.csv")} == {"1", "2", "3"}
    assert Cohort.open(tmp_path / "c").ledger.unreadable == 3


def test_where_nothing_is_left_every_reason_is_in_the_file(tmp_path: Path) -> None:
    path = table(tmp_path / "raw", 3)
    for number in range(3):
        (tmp_path / "raw" / f"{number}.npy").write_bytes(b"no array")
    with pytest.raises(
        LeftOutError, match=r"none of its 3 recordings can be used \(3 unreadable\).*dropped\.csv"
    ) as caught:
        write(source_of(path), tmp_path / "c", allow_unreadable=True)
    assert [entry.record for entry in left_out.read(caught.value.file)] == ["0", "1", "2"]
    assert not (tmp_path / "c").exists()
    table(tmp_path / "raw", 3)
    assert write(source_of(path), tmp_path / "c").kept == 3


def test_reasons_that_differ_in_names_and_numbers_are_one_group() -> None:
    dropped = [
        Dropped("a", "unreadable", "record /x/a.npy: shape (11, 300) has no side of 12 leads"),
        Dropped("b", "missing_file", "/x/b.npy"),
        Dropped("c", "unreadable", "record /x/c.npy: shape (9, 250) has no side of 12 leads"),
        Dropped("d", "bad_row", "mine.csv row 7: age is 'x'; it must be years"),
        Dropped("e", "missing_file", "/x/e.npy"),
        Dropped("f", "bad_row", "mine.csv row 9: age is 'old'; it must be years"),
        Dropped("g", "no_report"),
    ]
    groups = left_out.groups(dropped)
    assert [(group.reason, group.n, group.record) for group in groups] == [
        ("unreadable", 2, "a"), ("missing_file", 2, "b"), ("bad_row", 2, "d"), ("no_report", 1, "g"),
    ]  # fmt: skip
    assert groups[0].detail == "shape (11, 300) has no side of 12 leads"
    assert groups[0].text() == "record /x/a.npy: shape (11, 300) has no side of 12 leads (and 1 other)"


def test_an_output_folder_that_is_no_cohort_is_refused_with_remedies_that_work(tmp_path: Path) -> None:
    path, out = table(tmp_path / "raw"), tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("x")
    for flags in ((), ("--overwrite",)):
        refused = call("prepare", "folder", path, *GIVEN, "-o", out, *flags)
        assert "exists and is not a cohort" in str(refused.exception)
        assert "--overwrite" not in str(refused.exception)
    assert call("prepare", "folder", path, *GIVEN, "-o", tmp_path / "another").exit_code == 0
    (out / "chapter1.tex").rename(tmp_path / "chapter1.tex")
    assert call("prepare", "folder", path, *GIVEN, "-o", out).exit_code == 0


def test_root_is_an_option_and_a_flag(tmp_path: Path) -> None:
    path = table(tmp_path / "raw")
    (tmp_path / "tables").mkdir()
    path.rename(tmp_path / "tables" / "mine.csv")
    for name, words in (("a", ("--root", tmp_path / "raw")), ("b", (f"root={tmp_path / 'raw'}",))):
        done = call("prepare", "folder", tmp_path / "tables", *GIVEN, *words, "-o", tmp_path / name)
        assert done.exit_code == 0, done.output
    assert Cohort.open(tmp_path / "a").fingerprint == Cohort.open(tmp_path / "b").fingerprint
