"""Every command has relations, and they hold: all exact changes at once for each command, each other change for one."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import metamorphic_verbs as verbs
import numpy as np
import pytest
import typer
from evidence import faults_of

from leadwise.cli import app


def test_every_command_has_relations_or_a_reason() -> None:
    pytest.importorskip("starlette", reason="needs the extra serve")
    import metamorphic_files as files

    group = typer.main.get_command(app)
    commands = set(group.commands)  # type: ignore[attr-defined]
    assert commands == verbs.VERBS.keys() | files.FILE_VERBS.keys() | verbs.WITHOUT.keys()
    assert not verbs.WITHOUT.keys() & (verbs.VERBS.keys() | files.FILE_VERBS.keys())
    kinds = {change.bound for change in verbs.CHANGES}
    assert kinds == {"exact", "order", "names", "batch", "rate", "bfloat16"}
    reasons = [verb.bound(kind) for verb in verbs.VERBS.values() for kind in sorted(kinds)]
    reasons += [verb.bound(kind.bound) for verb in files.FILE_VERBS.values() for kind in files.KINDS]
    assert all(len(reason) > 10 if isinstance(reason, str) else 0 <= reason < 0.5 for reason in reasons)
    assert all(verb.bound("exact") == 0 for verb in (*verbs.VERBS.values(), *files.FILE_VERBS.values()))


def test_commands_do_not_depend_on_what_must_not_matter(tmp_path: Path) -> None:
    rows = verbs.rows(1, tmp_path, is_short=True)
    assert [row.n_cases for row in rows] == [sum(verb.in_short for verb in verbs.VERBS.values()), 1, 1, 1, 1, 1]
    assert not faults_of(rows)


def test_commands_on_files_do_not_depend_on_what_must_not_matter(tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="needs the extra serve")
    pytest.importorskip("httpx", reason="needs httpx, the client of the tests")
    import metamorphic_files as files

    rows = files.rows(1, tmp_path, is_short=True)
    assert [row.n_cases for row in rows] == [len(files.FILE_VERBS), 1, 1, 1, 1, 1]
    assert not faults_of(rows)


def test_a_command_that_depends_on_names_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def names(scene: verbs.Scene) -> verbs.Answer:
        return {"first patient": scene.change.patient(0), "sum": float(len(scene.change.patient(0)))}

    monkeypatch.setattr(verbs, "write_runs", lambda folder, *_: folder.mkdir(parents=True))  # none is read
    monkeypatch.setattr(verbs, "VERBS", {"names": verbs.Verb(names, order=0.0)})
    monkeypatch.setattr(verbs, "CHANGES", (verbs.EVERYTHING, dataclasses.replace(verbs.AS_IT_IS, name="nothing")))
    renamed, unchanged = verbs.rows(1, tmp_path)
    assert len(renamed.faults) == 1  # the names themselves are exchanged back
    assert renamed.faults[0].startswith("names, cg_dmer, seed 0: sum (4.0 and 7.0) differs by 0.75, more than 0")
    assert not unchanged.faults


def test_answers_are_compared_by_name() -> None:
    table = {"run": "/a", "rows": [{"name": "x", "auroc": 0.5}, {"name": "y", "auroc": None}], "ends": [1, 2]}
    one = verbs.flat(table)
    assert one == {
        "rows x name": "x", "rows x auroc": 0.5, "rows y name": "y", "rows y auroc": None, "ends 0": 1, "ends 1": 2
    }  # fmt: skip
    assert verbs.flat({**table, "rows": table["rows"][::-1]}) == one  # type: ignore[index]
    same = list(verbs.differences_of("exact", 0.0, "", one, dict(one)))
    assert [size for _, size, _ in same] == [0.0, 0.0]
    for other, size in (
        (one | {"rows x auroc": 0.75}, 0.25),
        (one | {"rows x auroc": None}, math.inf),
        (one | {"rows x auroc": math.nan}, math.inf),
        (one | {"more": 1}, math.inf),
        (one | {"rows x name": "z"}, 1 / 3),
        (one | {"rows x auroc": np.zeros(2)}, math.inf),
    ):
        assert max(distance for _, distance, _ in verbs.differences_of("exact", 0.0, "", one, other)) == size
    nothing = list(verbs.differences_of("rate", 0.2, "auprc$", one, dict(one)))
    assert [size for _, size, _ in nothing] == [math.inf]
    drawn = list(verbs.differences_of("order", 0.0, "", one | {"shuffled ECG": 1.0}, one | {"shuffled ECG": 2.0}))
    assert not any(size for _, size, _ in drawn)  # a control that is drawn anew
