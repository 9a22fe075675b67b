"""Load: 2,000 records through the commands that a data set of 800,000 goes through, each within its memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from evidence import faults_of
from loads import data_rows


@pytest.mark.slow
def test_many_records_take_the_stated_memory(tmp_path: Path) -> None:
    rows = data_rows(tmp_path, 2000, n_parts=3, n_made_up=1)
    assert len(rows) == 7
    assert faults_of(rows) == ""
