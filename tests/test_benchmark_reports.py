"""The benchmark of written reports: rows that are stopped and resumed, means over seeds, and the page."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from api_run import write_run

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import report_page
import reports as benchmark

SMALL = [
    "writer.width=16", "writer.depth=1", "writer.heads=2", "writer.vectors=2", "writer.vocabulary=320",
    "writer.max_tokens=24", "writer.positions=32", "optim.batch_size=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def args(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    home = tmp_path_factory.mktemp("reports")
    run = write_run(home / "run", cohort_folder)
    return argparse.Namespace(
        run=str(run), cohort=cohort_folder, budget_min=0.0001, seeds=[0, 1], numbers="keep", split="test", set=SMALL,
        out=home / "out", name=str(home / "page"), note="A note.", page=True,
    )  # fmt: skip


def test_numbers_are_left_out_with_their_statements() -> None:
    text = "sinus rhythm. rate 72 bpm. 1st degree av block. qrs duration 120 ms."
    assert benchmark.without_numbers(text) == "sinus rhythm. 1st degree av block."


def test_a_mean_over_seeds_and_its_paired_difference() -> None:
    one = report_page.Estimate([0.2, 0.4], np.array([[0.1, 0.2, 0.3], [0.3, 0.4, 0.5]]))
    other = report_page.Estimate([0.1], np.array([[0.1, 0.2, 0.3]]))
    assert one.value == pytest.approx(0.3)
    assert one.replicates == pytest.approx([0.2, 0.3, 0.4])
    gap = one - other
    assert gap.value == pytest.approx(0.2)
    assert gap.interval == pytest.approx((0.1, 0.1))


def test_rare_findings_are_left_out_of_the_second_macro() -> None:
    counts = {
        "a": {"n_reference": 10, "f1": 0.5},
        "b": {"n_reference": 9, "f1": 1.0},
        "c": {"n_reference": 0, "f1": 0.0},
    }
    assert report_page.macro_without_rare({"with_uncertain": {"per_finding": counts}}) == 0.5


@pytest.mark.slow
def test_rows_are_stored_once_and_the_page_has_every_claim(
    args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # the first row stops while it is scored, and its training is not repeated
    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "score_writer", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            benchmark.compute_row(args, "tiny", 0)
    weights = args.out / "writers" / "tiny-seed0" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    rows = (*benchmark.TRAINED, *benchmark.UNTRAINED)
    files = {row: [benchmark.result_file(args, row, s) for s in benchmark.seeds_of(args, row)] for row in rows}
    for row in rows:
        for seed in benchmark.seeds_of(args, row):
            benchmark.compute_row(args, row, seed)
    assert weights.stat().st_mtime_ns == before
    stored = {row: [json.loads(path.read_text()) for path in paths] for row, paths in files.items()}
    assert [len(seeds) for seeds in stored.values()] == [2, 1, 2, 1, 1]
    assert {one["facts"]["steps"] for row in ("tiny", "random") for one in stored[row]} == {20}
    assert stored["tiny"][0]["facts"]["seconds"] is None  # resumed
    assert stored["tiny"][1]["facts"]["seconds"] > 0

    # a row that exists is not computed again, and one of other settings is refused
    benchmark.compute_row(args, "tiny", 0)
    with pytest.raises(SystemExit, match="other inputs"):
        benchmark.compute_row(argparse.Namespace(**{**vars(args), "set": [*SMALL, "optim.lr=0.1"]}), "tiny", 0)

    # the page, without any report
    benchmark.page(args, benchmark.open_cohort(args), files)
    text = Path(f"{args.name}.md").read_text()
    assert Path(f"{args.name}.png").stat().st_size > 0
    assert text.index(".png)") < text.index("Settings")
    assert text.count("does not hold") + text.count("**holds**") >= 4
    assert "machine-written, research use only" in text
    assert "0 of 40 training reports state one" in text
    for row in report_page.NAMES.values():
        assert f"| {row} |" in text
    reports_of_cohort = set(benchmark.open_cohort(args).reports)
    assert not any(report in path.read_text() for path in args.out.glob("*.json") for report in reports_of_cohort)
    del capsys


def test_a_missing_row_is_named(args: argparse.Namespace, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="tiny-seed0"):
        report_page.read_rows({"tiny": [tmp_path / "tiny-seed0.json"]})
