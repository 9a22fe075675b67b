"""The learning curves: means over tasks with their intervals, rows that are trained, stopped and resumed, and the page."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import config_table
from test_cli import PROMPTS

from leadwise import run as runs
from leadwise.config import Config, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.metrics.bootstrap import resample_patients
from leadwise.evaluate.probe import run_probe
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.methods.catalogue import with_defaults

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import curve_page
import curve_scores
import learning_curves
import rows as benchmark_rows


def plain_auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in scores[labels == 1] for n in scores[labels == 0]]
    return float(np.mean(pairs)) if pairs else np.nan


def test_means_over_tasks_equal_a_plain_version() -> None:
    rng = np.random.default_rng(0)
    patients = {
        "a": np.array([f"p{n // 2:02d}" for n in range(24)]),
        "b": np.array([f"p{n:02d}" for n in range(8, 20)]),
    }
    tasks = {
        task: curve_scores.TaskScores(
            rng.normal(size=(2, len(names), 3)), rng.integers(0, 2, (len(names), 3)).astype(np.int8), names
        )
        for task, names in patients.items()
    }
    cells = curve_scores.score_tasks(tasks, "probe 10%", n_replicates=20)
    assert [(cell["task"], cell["how"]) for cell in cells] == [
        ("a", "probe 10%"),
        ("b", "probe 10%"),
        ("mean", "probe 10%"),
    ]

    # every resampling as a list of records, the same patients for both tasks
    everyone = np.unique(np.concatenate(list(patients.values())))
    counts = resample_patients(everyone, 20, 0)
    of_task = {}
    for task, one in tasks.items():
        macros = []
        for count in [np.ones(len(everyone), dtype=int), *counts]:
            of_patient = dict(zip(everyone, count))
            records = [n for n, name in enumerate(one.patients) for _ in range(of_patient[name])]
            values = [
                np.mean([plain_auroc(one.labels[records, k], draw[records, k]) for draw in one.scores])
                for k in range(3)
            ]
            macros.append(np.nanmean(values))
        of_task[task] = np.array(macros)
    of_task["mean"] = (of_task["a"] + of_task["b"]) / 2
    for cell in cells:
        values = 100 * of_task[cell["task"]]
        assert cell["macro"] == pytest.approx(values[0])
        assert (cell["low"], cell["high"]) == pytest.approx(tuple(np.percentile(values[1:], (2.5, 97.5))))


@pytest.fixture
def args(cohort_folder: Path, tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(
        cohort=cohort_folder, budget_min=0.0001, width=3, fit_records=30, seed=0, out=tmp_path / "out", lr=1e-3,
        name=str(tmp_path / "page"), note="A note.", methods="simclr,merl", also=[],
    )  # fmt: skip


@pytest.fixture
def config(cohort_folder: Path) -> Config:
    return with_defaults(typed(Config, config_table(cohort_folder)))


@pytest.mark.slow
def test_a_row_is_resumed_and_its_scores_are_those_of_the_commands(
    args: argparse.Namespace, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stopped in training and in scoring, a row has the results of one that was not stopped."""
    row, own_prompts = "CG-DMER", tmp_path / "own.toml"
    own_prompts.write_text(PROMPTS)
    with_prompts = functools.partial(curve_scores.zeroshot_classifier, prompt_file=own_prompts)
    monkeypatch.setattr(curve_scores, "zeroshot_classifier", with_prompts)
    monkeypatch.setattr(curve_scores, "TEST_FRACTIONS", (0.1, 1.0))  # 1 % of 40 recordings is none
    straight = argparse.Namespace(**{**vars(args), "out": args.out / "straight"})
    learning_curves.compute_row(row, config, straight)
    steps = json.loads((benchmark_rows.result_folder(straight, row) / "row.json").read_text())["steps"]
    assert steps == 24

    # stopped after step 13, of which 12 have a resume state
    save, folder = learning_curves._save_checkpoint, benchmark_rows.result_folder(args, row)

    def stopped(run: runs.Run, path: Path, seconds: float) -> None:
        if path.name == "step-0000018":
            raise KeyboardInterrupt
        save(run, path, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(learning_curves, "_save_checkpoint", stopped)
        with pytest.raises(KeyboardInterrupt):
            learning_curves.compute_row(row, config, args)
    with monkeypatch.context() as patch:
        patch.setattr(curve_scores.Scorer, "test", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            learning_curves.compute_row(row, config, args)
    points = sorted(folder.glob("step-*.json"))
    assert [path.name for path in points] == [f"step-{step:07d}.json" for step in (3, 6, 12, 18, 24)]
    before = {path: path.stat().st_mtime_ns for path in points}
    learning_curves.compute_row(row, config, args)
    assert before == {path: path.stat().st_mtime_ns for path in points}

    # the same scores as without a stop; processor time rises
    for name in [*(path.name for path in points), "test.json"]:
        one, other = (json.loads((benchmark_rows.result_folder(a, row) / name).read_text()) for a in (args, straight))
        assert one["cells"] == other["cells"]
    stored = [json.loads(path.read_text()) for path in points]
    assert [one["recordings"] for one in stored] == [8 * one["step"] for one in stored]
    seconds = [one["seconds"] for one in stored]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0

    # the commands give the same scores on the test split
    run, cohort = runs.load(args.out / "checkpoints" / folder.name / "step-0000024", "cpu"), Cohort.open(args.cohort)
    cells = json.loads((folder / "test.json").read_text())["cells"]
    expected = run_probe(run, cohort, "own", (0.1, 1.0), width=3).results
    for fraction in (0.1, 1.0):
        cell = curve_page.find(cells, f"probe {fraction:.0%}", "own")
        assert cell is not None
        assert cell["macro"] == pytest.approx(100 * expected[fraction]["trained"].score.macro)
        assert cell["probe width"] == 3 < cell["feature width"]
    zero_shot = curve_page.find(cells, "zero-shot", "own")
    assert zero_shot is not None
    assert zero_shot["macro"] == pytest.approx(100 * run_zeroshot(run, cohort, "own", own_prompts).trained.macro)
    for change in curve_scores.CHANGES:
        changed = curve_page.find(cells, "probe 10%", "own", change)
        assert changed is not None
        assert changed["n"] == 10

    # a row of other settings is refused
    other = argparse.Namespace(**{**vars(args), "width": 4})
    with pytest.raises(SystemExit, match=r"other settings \(width\); choose another --out"):
        learning_curves.compute_row(row, dataclasses.replace(config), other)


def test_the_page_has_curves_levels_and_intervals(args: argparse.Namespace) -> None:
    def cell(how: str, macro: float, change: str = "", task: str = "mean") -> dict:
        return {
            "task": task,
            "how": how,
            "macro": macro,
            "low": macro - 1,
            "high": macro + 1,
            "change": change,
            "feature width": 96,
        }

    def store(row: str, steps: int, macro: float, text: bool) -> None:
        ways = [*(["zero-shot"] if text else []), "probe 1%", "probe 10%", "probe 100%"]
        cells = [cell(how, macro, task=task) for how in ways for task in ("mean", "own")]
        cells += [cell("probe 10%", macro - 20, change) for change in curve_scores.CHANGES]
        folder = benchmark_rows.result_folder(args, row)
        folder.mkdir(parents=True)
        (folder / "row.json").write_text(json.dumps({"row": row, "steps": steps}))
        (folder / "test.json").write_text(json.dumps({"cells": cells}))
        for part in (1, 8) if steps else (0,):
            about = {"step": steps * part // 8, "recordings": 800 * part, "seconds": 2.5 * part, "parameters": 12_000}
            (folder / f"step-{part:07d}.json").write_text(json.dumps({**about, "cells": cells}))

    with pytest.raises(SystemExit, match="no row of seed 0 is complete"):
        curve_page.page(args)
    store("SimCLR", 24, 70.0, False)
    store("CG-DMER", 24, 80.0, True)
    store("hand-crafted features", 0, 75.0, False)
    unfinished = benchmark_rows.result_folder(args, "ETP")
    unfinished.mkdir()
    (unfinished / "row.json").write_text(json.dumps({"row": "ETP", "steps": 24}))
    curve_page.page(args)
    text = Path(args.name + ".md").read_text()
    ranked = [
        line.split("|")[1].strip()
        for line in text.split("## Test split, after")[1].splitlines()
        if line.startswith("| ")
    ]
    assert ranked[1:4] == ["CG-DMER", "hand-crafted features", "SimCLR"]
    assert "80.0 (79.0-81.0)" in text
    assert "60.0 (59.0-61.0)" in text  # with fewer leads
    assert "Not complete, so not here: ETP." in text
    assert "All probes use 3 features" in text
    assert "CG-DMER 96" in text
    assert Path(args.name + ".png").read_bytes().startswith(b"\x89PNG")


def test_a_width_of_the_benchmarks_is_a_number_or_native() -> None:
    assert benchmark_rows.probe_width("64") == 64
    assert benchmark_rows.probe_width("native") is None
    for wrong in ("0", "-1", "wide", "6.5"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be native or a number from 1"):
            benchmark_rows.probe_width(wrong)
    assert benchmark_rows.width_sentence(None, {"a": 96, "b": None}) == "Each probe uses all features of its row: a 96."
