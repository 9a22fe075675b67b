"""The packed cohort of the GPU check: what is unpacked equals the original to half a step, with the same index."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.sources import folder

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gpu_pack

STEP_UV = 5.0


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of eight recordings at 100 Hz; one of them is too short to be packed, one has a step of 40 mV."""
    home = tmp_path_factory.mktemp("ecgs")
    rng = np.random.default_rng(0)
    lines = ["path,patient,report,split"]
    for i, split in enumerate(["train"] * 5 + ["val", "test", "train"]):
        n_samples = 400 if i == 7 else 1000
        ecg = np.cumsum(rng.normal(0, 0.02, (12, n_samples)), axis=1)
        ecg[6, 500:] += 40.0 if i == 3 else 0.0
        ecg[2], ecg[3] = ecg[1] - ecg[0], -(ecg[0] + ecg[1]) / 2
        ecg[4], ecg[5] = ecg[0] - ecg[1] / 2, ecg[1] - ecg[0] / 2
        np.save(home / f"ecg{i}.npy", ecg.astype(np.float32))
        lines.append(f"ecg{i}.npy,p{i},report {i},{split}")
    (home / "ecgs.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path_factory.mktemp("cohorts") / "whole"
    write(folder.read_source(home / "ecgs.csv", folder.Options(LEADS, 100, "mV")), out)
    return out


def test_unpacked_recordings_equal_the_originals_to_half_a_step(original: Path, tmp_path: Path) -> None:
    counts = gpu_pack.pack(original, tmp_path / "packed", 10 * gpu_pack.MIB, STEP_UV)
    assert counts == {"train": 5, "val": 1, "test": 1}
    before, after = Cohort.open(original), Cohort.open(gpu_pack.unpack(tmp_path / "packed", tmp_path / "unpacked"))
    assert sorted(after.records) == sorted(before.records)[:7]
    rows = {record: row for row, record in enumerate(before.records)}
    for number, record in enumerate(after.records):
        expected, rate_hz = before.signal(rows[record])
        signal, same_rate = after.signal(number)
        assert same_rate == rate_hz
        error_uv = 1000 * np.abs(signal - expected).max(axis=0)
        independent = [LEADS.index(lead) for lead in gpu_pack.STORED]
        assert error_uv[independent].max() < STEP_UV / 2 + 0.6  # the cohort itself is rounded to 1 uV
        assert error_uv.max() < STEP_UV + 1.2
        assert after.reports[number] == before.reports[rows[record]]
        assert after.checksums(np.array([number])) == before.checksums(np.array([rows[record]]))


def test_too_little_space_is_an_error(original: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pass a larger --mib"):
        gpu_pack.pack(original, tmp_path, 1000, STEP_UV)
