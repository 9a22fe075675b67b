"""Changes of files, batches and cohorts that must not change a result: a few methods of each relation, and every verb."""

from __future__ import annotations

from pathlib import Path

import metamorphic
import numpy as np
import pytest
from evidence import faults_of

N_METHODS = 4  # of each relation


def test_embeddings_do_not_depend_on_what_must_not_matter(tmp_path: Path) -> None:
    rows = metamorphic.method_rows(N_METHODS, tmp_path)
    assert len(rows) == len(metamorphic.RELATIONS)
    assert all(row.n_cases for row in rows)
    assert not faults_of(rows)


def test_every_method_is_reached_by_some_relation() -> None:
    reached = {
        case
        for number in range(len(metamorphic.RELATIONS))
        for case in metamorphic.chosen_cases(number, N_METHODS, metamorphic.CASES)
    }
    assert reached == set(metamorphic.CASES)


def test_scores_do_not_depend_on_what_must_not_matter(tmp_path: Path) -> None:
    rows = metamorphic.score_rows(1, tmp_path)
    assert [row.what for row in rows] == list(metamorphic.SCORE_RELATIONS)
    assert not faults_of(rows)


def test_a_change_that_matters_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metamorphic, "RELATIONS", (metamorphic.Relation("other vectors", _turned),))
    (row,) = metamorphic.method_rows(1, tmp_path, ["cg_dmer"])
    assert len(row.faults) == 1
    assert row.faults[0].startswith("cg_dmer, seed 0: turned differs by")
    one = {"probe": {"auroc macro": 0.8, "auroc interval low": 0.7}}
    other = {"probe": {"auroc macro": 0.8, "auroc interval low": np.nan}}
    sizes = {what: size for what, size, _ in metamorphic.changes(one, other, 0.0)}
    assert sizes == {"probe auroc interval low": np.inf, "probe auroc macro": 0.0}


def _turned(subject: metamorphic.Subject) -> metamorphic.Differences:
    yield "turned", metamorphic.unequal(subject.embed("as it is"), -subject.embed("as it is")), 0.0
