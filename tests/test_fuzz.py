"""Mutated inputs of every reader give a value or one clear error of ours, in time and memory; and what such inputs found."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import heart_files
import numpy as np
import pandas as pd
import pytest
import test_leaderboard
import vendor_files
from api_run import write_run
from conftest import make_batch
from fuzz_stored import npy_of, npz_of
from fuzz_targets import targets
from fuzzing import SECONDS, Result, Target, mutated, read_every, run_target
from scipy.io import savemat

from leadwise import config as settings
from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.config import ConfigError
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.formats import reading
from leadwise.data.recordings.recording import RecordError
from leadwise.data.sources.folder import Options, read_source
from leadwise.data.stored_embeddings import StoredEmbeddingsError, read_embeddings
from leadwise.data.volumes.heart_image import VolumeError
from leadwise.data.volumes.read_image import read_image
from leadwise.evaluate import prompt_calibration
from leadwise.evaluate.leaderboard import Leaderboard, LeaderboardError, entries_of
from leadwise.files import DamagedNpzError, DiskFullError, npz_names, read_npz, replacing
from leadwise.questions.question import QuestionError, read_questions
from leadwise.run import RunError

N_INPUTS = 10_000  # of all targets together

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="limits of memory are read from /proc")


@pytest.mark.slow
def test_mutated_inputs_give_a_value_or_a_clear_error(tmp_path: Path) -> None:
    every = targets(tmp_path)
    assert len(every) > 30
    for result in read_every(every, N_INPUTS, processes=2):
        assert not result.n_faults, f"{result.name}: {dict(result.counts)} {result.faults[:3]}"
        assert result.counts["error"], f"{result.name}: no mutated input was refused"


def test_the_outcomes_that_are_faults() -> None:
    def read(content: bytes) -> None:
        begun = time.process_time()
        kind = content[:1]
        if kind == b"v":
            raise RecordError("a clear error")
        if kind == b"t":
            raise TypeError("not ours")
        if kind == b"e":
            raise RecordError("")
        if kind == b"s":
            while time.process_time() < begun + SECONDS + 1:
                pass
        if kind == b"m":
            np.ones(10**9)
        if kind == b"d":
            os._exit(3)

    def only(content: bytes) -> Result:
        target = Target("one", [b"ok"], read, (RecordError,))
        patched = pytest.MonkeyPatch()
        patched.setattr("fuzzing.mutated", lambda *_: content)
        try:
            return run_target(target, 0, 1)
        finally:
            patched.undo()

    outcomes = {kind: dict(only(kind.encode()).counts) for kind in "ovtesmd"}
    assert outcomes == {
        "o": {"value": 1}, "v": {"error": 1}, "t": {"other error": 1}, "e": {"unclear": 1}, "s": {"slow": 1},
        "m": {"memory": 1}, "d": {"died": 1},
    }  # fmt: skip


def test_a_dead_process_loses_no_input() -> None:
    def read(content: bytes) -> None:
        if content[:2] == b"\x00d":
            os._exit(1)

    target = Target("dies", [b"valid input"], read, ())
    inputs = [b"\x00d" if number in (3, 4, 9) else b"x" for number in range(10)]
    patched = pytest.MonkeyPatch()
    patched.setattr("fuzzing.mutated", lambda _, number: inputs[number])
    result = run_target(target, 0, 10)
    patched.undo()
    assert dict(result.counts) == {"value": 7, "died": 3}
    assert [number for number, *_ in result.faults] == [3, 4, 9]


def test_a_number_reproduces_its_input() -> None:
    target = Target("a", [bytes(range(256)) * 4], bytes, ())
    inputs = [mutated(target, number) for number in range(200)]
    assert inputs == [mutated(target, number) for number in range(200)]
    assert len(set(inputs)) > 190
    assert target.inputs[0] == bytes(range(256)) * 4  # valid inputs are not changed


# ------------------------------------------------------------------------------------------- what was found and mended


def test_settings_that_are_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b'[method]\nname = "cg_dm\xff"\n')
    with pytest.raises(ConfigError, match=r"c\.toml is not TOML.*correct that line"):
        settings.read(path)


def test_questions_that_are_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"kind": "\xff"}\n')
    with pytest.raises(QuestionError, match="line 1 is no question"):
        read_questions(path)


def test_a_scale_that_makes_samples_infinite() -> None:
    content = vendor_files.aecg(vendor_files.twelve_leads())
    digits = content.index("<digits>") + len("<digits>")
    large = (
        content[:digits] + "1e308 " + content[digits:].lstrip().partition(" ")[2]
    )  # the first sample of the first lead
    with pytest.raises(RecordError, match="lead 'I' has infinite samples; correct its scale"):
        reading.read(large.replace('value="2.5" unit="uV"', 'value="2500" unit="uV"', 1).encode())


@pytest.mark.parametrize("damage", [b"'fort\xffan_order'", b"'fortran_order'  : (", b"'fortran_order': 1, (("])
def test_a_shard_with_a_damaged_header(damage: bytes, tmp_path: Path) -> None:
    lines = ["path,patient,report,split"]
    for k in range(3):
        np.save(tmp_path / f"ecg{k}.npy", make_batch(4, seed=k).ecg[k].numpy())
        lines.append(f"ecg{k}.npy,p{k},sinus rhythm,train")
    (tmp_path / "ecgs.csv").write_text("\n".join(lines) + "\n")
    write(read_source(tmp_path / "ecgs.csv", Options(LEADS, 100, "mV")), tmp_path / "cohort")
    shard = tmp_path / "cohort" / "samples-00000.npy"
    content = bytearray(shard.read_bytes())
    at = content.index(b"'fortran_order'")
    content[at : at + len(damage)] = damage
    shard.write_bytes(content)
    with pytest.raises(CohortError, match=r"samples-00000\.npy (cannot be read|has changed).*prepare it again"):
        Cohort.open(tmp_path / "cohort", verify=True)


@pytest.mark.parametrize("at", [8, 10])  # the compression and the flags of a member
def test_embeddings_in_a_damaged_archive(at: int, tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    np.savez(path, record=np.array(["a"]), embedding=np.zeros((1, 4), np.float32))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + at] = 99
    path.write_bytes(content)
    with pytest.raises(StoredEmbeddingsError, match=r"e\.npz"):
        read_embeddings(path)


def test_a_matrix_whose_flags_promise_imaginary_numbers() -> None:
    target = io.BytesIO()
    savemat(target, {"val": np.arange(24.0).reshape(2, 12)})
    content = bytearray(target.getvalue())
    assert content[144] == 6  # the class: float64
    content[145] = 8
    with pytest.raises(RecordError, match=r"not a readable .mat file .a matrix lacks its values.; export it again"):
        reading.read(bytes(content))


def test_an_scp_record_that_promises_no_bytes() -> None:
    scp = pytest.importorskip("test_format_scp", reason="needs the extra formats")
    content = scp.write(scp.samples())
    with pytest.raises(RecordError, match="promises 0 bytes in all; it is damaged"):
        reading.read(content[:2] + bytes(4) + content[6:])


def test_a_segment_whose_name_has_a_zero_byte(tmp_path: Path) -> None:
    (tmp_path / "m.hea").write_bytes(b"m/1 12 500 500\na\x00b 500\n")
    with pytest.raises(RecordError, match="no such file"):
        reading.read(tmp_path / "m.hea")


def test_a_record_of_gaps_takes_no_memory(tmp_path: Path) -> None:
    lines = "".join(f"a.dat 16 1000/mV 16 0 0 0 0 {lead}\n" for lead in LEADS)
    (tmp_path / "a.dat").write_bytes(bytes(24 * 500))
    (tmp_path / "a.hea").write_text(f"a 12 500 500\n{lines}")
    (tmp_path / "m.hea").write_text("m/3 12 500 90000000\na 500\n~ 80000000\na 500\n")
    with pytest.raises(RecordError, match=r"hold 1,000 of 80,001,000 samples, and the rest are gaps"):
        reading.read(tmp_path / "m.hea")
    (tmp_path / "m.hea").write_text("m/3 12 500 11000\na 500\n~ 10000\na 500\n")
    assert np.isnan(reading.read(tmp_path / "m.hea").signal).mean() == 10 / 11


def test_a_shard_that_ends_before_its_last_record(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", make_batch(4, seed=0).ecg[0].numpy())
    (tmp_path / "ecgs.csv").write_text("path,patient,report,split\ne.npy,p,sinus rhythm,train\n")
    write(read_source(tmp_path / "ecgs.csv", Options(LEADS, 100, "mV")), tmp_path / "cohort")
    shard = tmp_path / "cohort" / "samples-00000.npy"
    content, n = shard.read_bytes(), len(np.load(shard))
    shard.write_bytes(content.replace(f"({n},)".encode(), f"({n // 10},) ".encode(), 1))
    with pytest.raises(CohortError, match=r"samples-00000\.npy ends before record e; prepare it again"):
        Cohort.open(tmp_path / "cohort").signal(0)


def test_a_disk_that_is_full_when_torch_ends_a_file(tmp_path: Path) -> None:
    def write_state() -> None:
        with replacing(tmp_path / "state.pt") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("basic_ios::clear: iostream error")

    with pytest.raises(DiskFullError, match="the disk is full"):
        write_state()
    assert not (tmp_path / "state.pt").exists()


def test_a_long_value_in_a_message_loses_its_middle() -> None:
    message = f"record a: lead {'x' * 20_000} has infinite samples; correct its scale"
    text = str(RecordError(message))
    assert len(text) < 1000
    assert text.startswith("record a: lead xxx")
    assert text.endswith("has infinite samples; correct its scale")
    assert str(RecordError("record a: short")) == "record a: short"


@pytest.mark.parametrize("damage", [b"\x85", b"\x0b", b"\x1c", b"\xc2\x85"])
def test_a_damaged_byte_of_a_header_moves_no_lead(damage: bytes, tmp_path: Path) -> None:
    samples = np.arange(12 * 500, dtype="<i2").reshape(500, 12) % 800
    lines = [f"a.dat 16 1000(0)/mV 16 0 {samples[0, k]} 0 0 {lead}" for k, lead in enumerate(LEADS)]
    header = ("a 12 500 500\n" + "\n".join(lines) + "\n").encode()
    (tmp_path / "a.dat").write_bytes(samples.tobytes())
    (tmp_path / "a.hea").write_bytes(header.replace(b"16 0 0 0 0 I\n", b"16 0 0" + damage + b" 0 0 I\n"))
    recording = reading.read(tmp_path / "a.hea")
    assert recording.leads == LEADS
    np.testing.assert_allclose(recording.signal, samples / 1000, rtol=1e-9)


def test_a_table_has_the_lines_of_its_file(tmp_path: Path) -> None:
    values = [f"{k}\x85" if k == 3 else str(k) for k in range(2000)]
    (tmp_path / "a.csv").write_bytes(("I,II\r\n" + "\r\n".join(f"{one},1" for one in values)).encode("latin-1"))
    recording = reading.read(tmp_path / "a.csv", rate_hz=500, units="mV")
    np.testing.assert_array_equal(recording.signal[:, 0], np.arange(2000))


def test_embeddings_whose_array_has_no_header(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    for content in (
        b"no array",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': (",
        npy_of(np.zeros((2, 4)))[:-9],
    ):
        path.write_bytes(npz_of("embedding", {"record": np.array(["a", "b"])}, content))
        with pytest.raises(StoredEmbeddingsError, match=r"e\.npz cannot be read as \.npz without pickled objects"):
            read_embeddings(path)


def test_an_array_that_promises_more_than_its_file_holds(tmp_path: Path) -> None:
    header = npy_of(np.zeros((2, 4))).replace(b"(2, 4)", b"(2, 9)").replace(b"(2, 9)", b"(9999999,9999999)")
    path = tmp_path / "a.npz"
    path.write_bytes(npz_of("a", {"b": np.arange(3)}, header))
    assert read_npz(path, ("b",))["b"].tolist() == [0, 1, 2]  # nothing is refused for what is not used
    assert npz_names(path) == ("b", "a")
    with pytest.raises(DamagedNpzError):
        read_npz(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"slope": float("nan")}, "class a has no finite slope and intercept"),
        ({"method": "isotonic", "cosines": [0.1, 0.4], "values": [0.2, 1.9]}, "are no probabilities"),
        ({"method": "isotonic", "cosines": [0.4, 0.1], "values": [0.2, 0.9]}, "do not ascend"),
    ],
)
def test_calibrations_that_give_no_probabilities(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    run = runs.load(write_run(tmp_path / "run"), "cpu")
    one = prompt_calibration.PromptSetCalibration(
        "0" * 16, "own", "set", "file", "folder", "c", "2" * 16, "val", None, 40, 50, 30,
        {"a": prompt_calibration.ClassCalibration("platt", 1.5, -0.2)}, {"a": 4}, {},
    )  # fmt: skip
    path = prompt_calibration.write(run, [one])
    table = json.loads(path.read_text())
    table["sets"][0]["classes"]["a"] |= changes
    path.write_text(json.dumps(table))
    with pytest.raises(prompt_calibration.CalibrationError, match=reason):
        prompt_calibration.read(run)


@pytest.mark.parametrize("change", [{"fractions": {"x": {}}}, {"fractions": {"1": {"trained": {"interval": [1]}}}}])
def test_a_result_with_a_score_that_cannot_be_read(change: dict[str, Any], tmp_path: Path) -> None:
    table = test_leaderboard.result()
    for at, cell in change["fractions"].items():
        one = json.loads(json.dumps(next(iter(table["fractions"].values()))))
        one["trained"] |= cell.get("trained", {})
        table["fractions"][at] = one
    path = tmp_path / "r.json"
    path.write_text(json.dumps(table))
    with pytest.raises(LeaderboardError, match=r"r\.json has a score that cannot be read .*run `leadwise probe` again"):
        entries_of(path)


def test_a_table_of_embeddings_whose_column_names_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    pd.DataFrame({"record": ["a"], "embedding": [[0.5, 1.0]]}).to_parquet(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"record", b"rec\xffrd"))
    with pytest.raises(StoredEmbeddingsError, match=r"e\.parquet cannot be read as Parquet"):
        read_embeddings(path)


def test_a_heart_image_that_ends_in_its_header(tmp_path: Path) -> None:
    pytest.importorskip("nibabel", reason="needs nibabel, the extra cmr")
    path = heart_files.write_nifti(tmp_path / "h.nii", heart_files.beating_heart()[0])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(VolumeError, match=r"h\.nii: it is damaged or no NIfTI file"):
        read_image(path, item="volume")


def test_a_leaderboard_that_is_not_utf_8_is_one_short_error(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_bytes(b'{"format": 1, "entries": [' + b" " * 3000 + b"\xff]}")
    with pytest.raises(LeaderboardError, match=r"board\.json is no leaderboard \(UnicodeDecodeError") as error:
        Leaderboard.read(path)
    assert len(str(error.value)) < 400


def test_an_index_whose_checksum_is_right_and_whose_content_is_not(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", make_batch(4, seed=0).ecg[0].numpy())
    (tmp_path / "ecgs.csv").write_text("path,patient,report,split\ne.npy,p,sinus rhythm,train\n")
    folder = tmp_path / "cohort"
    write(read_source(tmp_path / "ecgs.csv", Options(LEADS, 100, "mV")), folder)
    content = bytearray((folder / "index.parquet").read_bytes())
    content[4:60] = b"\xff" * 56  # the first page
    (folder / "index.parquet").write_bytes(content)
    description = json.loads((folder / "cohort.json").read_text())
    description["index"]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "cohort.json").write_text(json.dumps(description))
    with pytest.raises(CohortError, match=r"column 'record' of its index cannot be read .*prepare it again"):
        Cohort.open(folder)


def test_many_changed_settings_are_counted_and_not_listed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "config.toml").write_text('[method]\nname = "cg_dmer"\n')
    with pytest.raises(RunError, match=r"config\.toml is not as it was .* and \d+ more changed") as error:
        runs.load(folder, "cpu")
    assert len(str(error.value)) < 800
