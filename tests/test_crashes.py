"""Crashes leave nothing half-written that is taken for whole, and the command run again gives the same result."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import REPORTS, make_batch
from crash_verbs import verbs
from crashes import Child, clock_jumps, full_disk, full_file_system, killed, power_cut, reference, two_at_once
from evidence import faults_of
from file_layer import Recorder, Recording, layer

from leadwise.batch import LEADS
from leadwise.data.cohort import prepare
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.sources.folder import Options, read_source
from leadwise.files import DiskFullError, exchange, replacing, sync_tree, temporary_folder

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="paths of descriptors are read from /proc")


@pytest.mark.slow
def test_crashes_of_the_commands_that_write(tmp_path: Path) -> None:
    every = {verb.name: verb for verb in verbs(tmp_path)}
    for name in ("prepare --overwrite", "pretrain", "convert --overwrite"):
        one = reference(every[name], tmp_path / "references")
        assert one.whole, name
        assert {"open", "rename", "fsync"} <= set(one.kinds), name
        table = [killed(one, tmp_path, 2), power_cut(one, tmp_path, 3)]
        if name == "convert --overwrite":
            table += [two_at_once(one, tmp_path, 1), clock_jumps(one, tmp_path, 1)]
            table += [full_disk(one, tmp_path, False), full_file_system(one, tmp_path, False)]
        assert not faults_of(table)
        assert sum(row.n_cases for row in table) >= 5


# ------------------------------------------------------------------------------------------------------ the file layer


def recorded(home: Path, write: object) -> Recording:
    home.mkdir()
    (home / "a").write_bytes(b"old")
    recorder = Recorder(home)
    with layer(home, recorder):
        write(home / "a")  # type: ignore[operator]
    recorder.look("end")
    return Recording(recorder.moments, recorder.blobs)


def states(recording: Recording, home: Path) -> set[bytes]:
    """What `a` may hold after a power cut at any moment."""
    contents = set()
    rng = np.random.default_rng(0)
    for at in range(1, len(recording.moments)):
        for how in ("names", "nothing", "mixed", "mixed", "mixed"):
            target = home.with_name("state")
            recording.write_state(at, how, rng, target)
            contents.add((target / "a").read_bytes() if (target / "a").exists() else b"absent")
            shutil.rmtree(target)
    return contents


def test_the_power_cut_finds_a_rename_without_a_sync(tmp_path: Path) -> None:
    def careless(path: Path) -> None:
        part = path.with_name("part")
        part.write_bytes(b"new content")
        part.replace(path)

    def ours(path: Path) -> None:
        with replacing(path) as part:
            part.write_bytes(b"new content")

    lost = states(recorded(tmp_path / "careless", careless), tmp_path / "careless")
    assert {b"old", b""} < lost  # and parts of the new content
    assert states(recorded(tmp_path / "ours", ours), tmp_path / "ours") == {b"old", b"new content"}


def test_the_power_cut_leaves_what_was_there_before_an_append(tmp_path: Path) -> None:
    def append(path: Path) -> None:
        with path.open("ab") as file:
            file.write(b" and new")

    after = states(recorded(tmp_path / "append", append), tmp_path / "append")
    assert {b"old", b"old and new"} <= after  # and perhaps parts of what was appended
    assert all(content.startswith(b"old") for content in after)


# ----------------------------------------------------------------------------------------------------- `leadwise.files`


def dies_while_writing(path: Path, folder: bool = False) -> None:
    def write() -> None:
        with temporary_folder(path) if folder else replacing(path) as part:
            (part / "x" if folder else part).write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert Child(write).wait().was_killed


def test_the_temporary_file_of_a_killed_process_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for _ in range(3):
        dies_while_writing(path)
    assert len(list(tmp_path.iterdir())) == 1
    with replacing(path) as part:
        with replacing(path) as other:  # the first is in use: a second writer has a name of its own
            assert other != part
            other.write_text("second")
        part.write_text("first")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_folder_of_a_killed_process_is_emptied(tmp_path: Path) -> None:
    for _ in range(2):
        dies_while_writing(tmp_path / "f", folder=True)
    assert len(list(tmp_path.iterdir())) == 1
    with temporary_folder(tmp_path / "f") as part, temporary_folder(tmp_path / "f") as other:
        assert not list(part.iterdir())
        assert other != part
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("100000 requested and 16384 written"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_with_its_file(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    raised = pytest.raises(DiskFullError, match=r"/a cannot be written: the disk is full.*free some space")
    with raised as caught, replacing(path) as part:
        part.write_text("half")
        raise error
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_only_when_it_is_waited_for(tmp_path: Path, monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_text("content")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"/a cannot be written"):
        sync_tree(tmp_path)


def test_another_error_is_not_changed(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="mine"), replacing(tmp_path / "a") as part:  # noqa: PT012
        part.write_text("half")
        raise PermissionError(errno.EACCES, "mine")
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------------- prepare


def small_source(home: Path) -> object:
    home.mkdir()
    lines = ["path,patient,report,split"]
    for k in range(4):
        np.save(home / f"e{k}.npy", make_batch(4, seed=k).ecg[k].numpy())
        lines.append(f'e{k}.npy,p{k},"{REPORTS[k]}",train')
    (home / "ecgs.csv").write_text("\n".join(lines) + "\n")
    return read_source(home / "ecgs.csv", Options(LEADS, 100, "mV"))


def test_a_cohort_that_was_finished_before_the_kill_is_not_packed_again(tmp_path: Path, monkeypatch) -> None:
    source, out = small_source(tmp_path / "raw"), tmp_path / "out"
    prepare.write(source, tmp_path / "straight")
    (tmp_path / "straight").rename(tmp_path / "out.partial")
    (tmp_path / "out.partial" / "parts.tmp").mkdir()  # killed while the parts were deleted
    monkeypatch.setattr(prepare, "pack_shard", lambda *_: pytest.fail("it is packed again"))
    assert prepare.write(source, out).kept == 4
    assert Cohort.open(out, verify=True).name == "out"
    assert not (out / "parts.tmp").exists()


@pytest.mark.parametrize("is_one_step", [True, False])
def test_a_cohort_is_replaced_or_stays(is_one_step: bool, tmp_path: Path, monkeypatch) -> None:
    source, out = small_source(tmp_path / "raw"), tmp_path / "out"
    prepare.write(source, out)
    if not is_one_step:
        monkeypatch.setattr(prepare, "exchange", lambda *_: False)
    prepare.write(source, out, overwrite=True, shard_records=2)
    assert len(Cohort.open(out, verify=True).shard_files) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]

    # the new one cannot get its name: the earlier one is there again
    rename = Path.rename
    monkeypatch.setattr(prepare, "exchange", lambda *_: False)

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "out.partial":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(DiskFullError):
        prepare.write(source, out, overwrite=True)
    assert len(Cohort.open(out, verify=True).shard_files) == 2


def test_an_exchange_of_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    changed = exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / ("b" if changed else "a")).is_file()
    assert not exchange(tmp_path / "a", tmp_path / "absent")
    assert (tmp_path / "a").is_dir()


def test_a_folder_of_the_user_is_not_taken_for_a_replaced_cohort(tmp_path: Path) -> None:
    source = small_source(tmp_path / "raw")
    (tmp_path / "out.replaced").mkdir()
    (tmp_path / "out.replaced" / "mine").write_text("mine")
    for _ in range(2):
        prepare.write(source, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out.replaced" / "mine").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.replaced", "raw"]


def test_a_cohort_from_the_future_does_not_count_as_finished(tmp_path: Path) -> None:
    source, out = small_source(tmp_path / "raw"), tmp_path / "out"
    prepare.write(source, out)
    assert prepare.finished_ledger(source, out) is not None
    ahead = (out / "cohort.json").stat().st_mtime + 365 * 86400
    os.utime(out / "cohort.json", (ahead, ahead))  # the clock was a year ahead: which files changed since is not known
    assert prepare.finished_ledger(source, out) is None
