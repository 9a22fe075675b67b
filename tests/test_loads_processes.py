"""Runs of two processes of which one is slow or hangs: it is named, the run ends in time, leaves no process and resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import invoke
from evidence import faults_of
from loads import process_rows
from mimic_tree import write_tree


@pytest.mark.slow
def test_a_process_that_hangs_or_is_slow_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", 200, n_samples=1000, shared_files=True)
    allowed = ("--allow-missing", "--allow-unreadable")
    done = invoke("prepare", "mimic_iv_ecg", tmp_path / "tree", "-o", tmp_path / "cohort", *allowed)
    assert done.returncode == 0, done.stderr
    rows = process_rows(tmp_path, tmp_path / "cohort", 2, 20.0, ("slow", "hangs"))
    assert len(rows) == 2
    assert faults_of(rows) == ""
