"""The benchmark of probed and fine-tuned runs: results that are stored once, equal to the commands', and the page."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
from api_run import write_run

from leadwise import hub
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.probe import run_probe

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import judging
import judging_page


def test_values_of_options() -> None:
    assert judging.named_run("MERL (ResNet)=runs/a=b") == ("MERL (ResNet)", "runs/a=b")
    assert judging.numbers("0.1, 1") == [0.1, 1.0]
    for text in ("MERL", "=runs/a", f"{judging.HANDCRAFTED}=runs/a"):
        with pytest.raises(argparse.ArgumentTypeError):
            judging.named_run(text)
    for text in ("", "0", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError):
            judging.numbers(text)


def test_a_paired_gain() -> None:
    cells = {
        "trained": {"auroc": {"macro": 0.8, "replicates": [0.7, 0.8, 0.9]}},
        "untrained": {"auroc": {"macro": 0.6, "replicates": [0.5, 0.6, 0.7]}},
    }
    assert judging_page.gain(cells, "auroc") == "+20.0 (+20.0 to +20.0)"
    assert judging_page.gain(cells, "f1_val") == "-"


@pytest.mark.slow
def test_results_are_stored_once_and_equal_those_of_the_command(
    cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", cohort_folder)
    args = argparse.Namespace(
        run=[("CG-DMER", str(folder))], cohort=cohort_folder, tasks=["own"], fractions=[0.5, 1.0], width=None,
        finetune_tasks=["own"], finetune_fractions=[0.5], epochs=2, seeds=[42, 43], out=tmp_path / "out",
        name=str(tmp_path / "page"), note="A note.",
    )  # fmt: skip
    run, cohort = hub.load(folder), Cohort.open(cohort_folder)
    rows = ("CG-DMER", judging.HANDCRAFTED)

    # an interrupted row continues with what is missing
    with monkeypatch.context() as patch:
        patch.setattr(judging, "finetune", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            judging.compute_row(args, rows[0], run, cohort)
    for row in rows:
        judging.compute_row(args, row, run, cohort)
    files = {row: judging.files_of(args, row) for row in rows}
    assert [len(paths) for paths in files.values()] == [2, 1]
    before = [path.stat().st_mtime_ns for paths in files.values() for path in paths]
    for row in rows:
        judging.compute_row(args, row, run, cohort)
    assert before == [path.stat().st_mtime_ns for paths in files.values() for path in paths]
    with pytest.raises(SystemExit, match="other inputs"):
        judging.compute_row(argparse.Namespace(**{**vars(args), "epochs": 3}), rows[0], run, cohort)

    # the probes are those of `leadwise probe`
    expected = run_probe(run, cohort, "own", (0.5, 1.0)).results
    cells = json.loads(files[rows[0]][0].read_text())["cells"]
    cells |= json.loads(files[rows[1]][0].read_text())["cells"]
    for name, key in (("trained", "trained"), ("untrained", "untrained"), ("handcrafted", judging.HANDCRAFTED)):
        for fraction in (0.5, 1.0):
            cell = cells[key][f"{fraction:g}"]
            assert cell["auroc"]["macro"] == pytest.approx(expected[fraction][name].score.macro, abs=1e-6)
            assert cell["f1_val"]["macro"] == pytest.approx(expected[fraction][name].measures["f1_val"].macro, abs=1e-6)
            assert cell["f1_max"]["macro"] >= cell["f1_val"]["macro"]

    # the page
    judging_page.page(args, cohort, files)
    text = Path(f"{args.name}.md").read_text()
    assert Path(f"{args.name}.png").stat().st_size > 0
    assert text.index(".png)") < text.index("## Settings")
    assert "6 probes of tasks and fractions, 4 fine-tunings" in text
    assert "| own | 50% | CG-DMER, random weights |" in text
    assert str(folder) not in text


def test_a_missing_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="cg_dmer-probe-own"):
        judging_page.read({"CG-DMER": [tmp_path / "cg_dmer-probe-own.json"]})
