"""The script that makes a folder of shipped weights, on a small simulated cohort and a tiny run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import tomli_w
from conftest import TINY
from huggingface_hub import ModelCard

import leadwise as lw
from leadwise.config import read
from leadwise.data.cohort.prepare import write
from leadwise.data.sources import simulated
from leadwise.evaluate import prompt_calibration
from leadwise.training import loop

ROOT = Path(__file__).resolve().parents[1]
SCORES = {
    "key": {},
    "n_test": 900,
    "overlap": "No person.",
    "zeroshot": [
        {"task": "super", "prompts": name, "encoder": "trained", "macro": macro, "low": macro - 0.01, "high": macro + 0.01}
        for name, macro in (("name", 0.8), ("short", 0.85), ("rich", 0.9))
    ],
    "probe": [],
    "groups": [{"task": "super", "group": "80+", "macro": None}],
    "external": [{"data": "SPH", "task": "-", "remark": "not scored: no file"}],
    "external_about": [],
}  # fmt: skip


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_the_tables_of_the_card(scripts: None) -> None:
    from shipped_card import gap_rows, sections

    (row,) = gap_rows(SCORES)
    assert row == {
        "task": "super", "name": "80.0", "short": "85.0", "rich": "90.0", "rich - name": "10.0", "rich - short": "5.0",
    }  # fmt: skip
    text = sections(SCORES)
    assert "| super | rich | trained | 90.0 (89.0–91.0) |" in text
    assert "not scored: no file" in text
    assert "Probe" not in text  # an empty section is left out


@pytest.mark.slow
def test_a_run_becomes_a_folder_with_calibration_scores_and_card(
    scripts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shipped

    # a tiny run on simulated ECGs; the external data set is another simulation
    for name, n, seed in (("ecgs", 160, 0), ("other", 60, 5)):
        simulated.simulate(tmp_path / name, n, seed)
    write(simulated.read_source(tmp_path / "ecgs"), tmp_path / "cohort")
    table = {
        "signal": {"rate_hz": 100, "duration_s": 10.0},
        "data": {"cohort": str(tmp_path / "cohort")},
        "method": {"name": "cg_dmer", **TINY["cg_dmer"], "n_patches": 20},
        "optim": {"steps": 2, "batch_size": 8, "lr": 1e-3},
        "log": {"every": 1, "validate_every": 2, "validate_records": 8, "save_every": 2},
    }
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(table))
    loop.pretrain(read(tmp_path / "tiny.toml", None), tmp_path / "run")

    # the script, twice: the second call reads the stored scores
    pages: dict[str, str] = {}
    monkeypatch.setattr(shipped, "write", lambda name, text: pages.setdefault(name, text))
    words = [str(tmp_path / "run"), str(tmp_path / "cohort"), "--name", "mini", "--work", str(tmp_path / "work")]
    words += ["-o", str(tmp_path / "out" / "mini"), "--external", "other", "simulated", str(tmp_path / "other")]
    words += ["--external", "absent", "cpsc2018", str(tmp_path / "nothing")]
    monkeypatch.setattr(sys, "argv", ["shipped.py", *words])
    shipped.main()
    with pytest.raises(SystemExit):
        shipped.main()  # the folder exists
    monkeypatch.setattr(sys, "argv", ["shipped.py", *words, "--overwrite"])
    monkeypatch.setattr(shipped, "zeroshot_rows", None)
    shipped.main()
    assert "rich - name" in capsys.readouterr().out

    # the folder, its card and its scores
    out = tmp_path / "out" / "mini"
    names = {path.name for path in out.iterdir()}
    assert names == {
        "config.toml", "data.json", "model.safetensors", "tokenizer", "trained_on.json", "calibration.json", "README.md",
    }  # fmt: skip
    model = lw.load(out)
    assert prompt_calibration.read(model.run)
    card = ModelCard.load(out / "README.md")
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "leadwise")
    assert len(card.data.eval_results) == 3
    assert {result.task_name for result in card.data.eval_results} == {
        f"findings, zero-shot with the prompt set {name}" for name in ("name", "short", "rich")
    }
    assert str(tmp_path) not in pages["shipped_mini"]
    for part in ("Not a medical device", "Gap between wordings", "hand-crafted", "| other | findings |", "absent"):
        assert part in card.text, part
    assert str(tmp_path) not in card.text
    scores = json.loads((tmp_path / "work" / "scores.json").read_text())
    assert {row["prompts"] for row in scores["zeroshot"]} == {"name", "short", "rich"}
    assert {row["features"] for row in scores["probe"]} == {"trained", "untrained", "handcrafted"}
    assert {row["by"] for row in scores["groups"]} == {"sex", "age"}
    shutil.rmtree(tmp_path / "work")
