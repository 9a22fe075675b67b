"""The benchmark of the relatives of dual-phase CMR: its rows, its acceptance lines on planted scores, and its page."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from leadwise.config import Config
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.regress import RegressTask, score_predictions
from leadwise.methods.catalogue import volume_setting

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import cmr_relatives as script
import cmr_relatives_page as pages


@pytest.fixture(autouse=True)
def _few_resamplings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leadwise.evaluate.regress.N_REPLICATES", 60)


def test_rows_have_valid_settings_and_steps_of_rows_before_them() -> None:
    names = [row.name for row in script.ROWS]
    assert len(set(names)) == len(names)
    for number, row in enumerate(script.ROWS):
        assert row.steps_of in ("", *names[:number])
        config = script.config_of(row)
        assert config.method["name"] == row.method
        assert script.comparable(config) == script.comparable(
            dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=7))
        )
    scar = script.config_of(script.row_named(pages.INFARCT_SCAR))
    assert volume_setting(scar).phases == ("ed", "es", "scar")
    echo, etp = (script.config_of(script.row_named(name)) for name in (pages.ECHO, pages.ETP))
    assert (echo.signal, echo.optim) == (etp.signal, etp.optim)
    for key in ("encoder", "resnet_width", "noise_mv", "shared_width", "text_width"):
        assert echo.method[key] == etp.method[key]


def test_a_run_is_used_only_if_it_is_finished(tmp_path: Path) -> None:
    assert script.last_step(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text('{"split": "train", "step": 1}\n{"split": "val", "step": 4}\n')
    assert script.last_step(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert script.last_step(tmp_path) == 4
    assert script.comparable(Config()) != script.comparable(dataclasses.replace(Config(), method={"name": "st_mem"}))


LEVELS = {
    pages.RANDOM: 0.5, pages.MASKED: 0.56, pages.PHASE: 0.57, pages.BOTH: 0.68, pages.RELATIONAL: 0.69,
    pages.SHUFFLED_PAIRS: 0.56, pages.MYO: 0.68, pages.GLOBAL: 0.66, pages.PTACL: 0.66,
    pages.ETP: 0.6, pages.ECHO: 0.6, pages.ECHO_IMAGES: 0.62, pages.INFARCT_ED_ES: 0.6, pages.INFARCT_SCAR: 0.6,
}  # fmt: skip


def planted(**changes: float) -> pages.Results:
    """Results in which every line holds, with some numbers replaced."""
    v = {
        "other": 0.7,
        "vague": 0.7,
        "spearman": 0.5,
        "echo": 0.5,
        "relational": 0.69,
        "scar": 1.0,
        "ptacl": 0.66,
    } | changes
    rng = np.random.default_rng(0)
    n, targets = 400, pages.PHENOTYPES
    truth = rng.normal(size=(n, len(targets)))
    noise = rng.normal(size=truth.shape)
    task = RegressTask(targets, truth, np.arange(n).astype(str), np.arange(50), np.arange(50, n))
    levels = {**LEVELS, pages.RELATIONAL: v["relational"], pages.PTACL: v["ptacl"]}
    r = pages.Results.__new__(pages.Results)
    r.scores = {
        name: score_predictions(name, level * (level * truth + np.sqrt(1 - level**2) * noise)[None, 50:], task, 8)
        for name, level in levels.items()
    }

    def retrieval(direction: str, recall: float) -> dict:
        by_k = {"1": recall / 4, "5": recall / 2, "10": recall}
        return {"retrieval": {direction: {"pool": 256, "recall": by_k, "median_rank": 20.0, "thirds": []}}}

    third = {"third": "middle third", "n_queries": 9, "uncertainty": [0.1, 0.2], "recall": {"1": 0.1, "10": 0.5}}
    reports = {
        side: {"recall": {"10": v["echo"]}, "by_uncertainty": [third]} for side in ("ecg_to_report", "report_to_ecg")
    }
    plain = {side: {"recall": {"10": 0.5}} for side in reports}
    more = {
        pages.BOTH: retrieval("ECG → ED + ES", 0.3), pages.RELATIONAL: retrieval("ECG → ED + ES", 0.2),
        pages.SHUFFLED_PAIRS: retrieval("ECG → ED + ES", 0.04), pages.MYO: retrieval("ECG → BOTH", 0.25),
        pages.PTACL: {"local": {"local_top1": 0.9, "local_top1_other": v["other"], "n": 70}},
        pages.ECHO: {
            "vague": {"auroc": v["vague"], "auroc_of_few_words": 0.6, "n_reports": 90, "n_repeated": 20},
            "noise": {"spearman": v["spearman"], "n": 70, "largest_mv": 0.5}, "reports": reports,
        },
        pages.ECHO_IMAGES: {"noise": {"spearman": 0.5, "n": 70, "largest_mv": 0.5}},
        pages.ETP: {"reports": plain},
    }  # fmt: skip
    r.stored = {name: [{"width": 8, "steps": 100, **more.get(name, {})}] for name in levels}
    r.bounds, r.oracle, r.seeds = dict.fromkeys(targets, 0.5), {256: {1: 0.106, 5: 0.32, 10: 0.48}}, (0,)
    labels = (rng.random((350, 3)) < 0.2).astype(np.int8)
    people, classes = np.arange(350).astype(str), ("anterior", "inferior", "lateral")
    noisy = rng.normal(size=labels.shape)

    def territory(name: str):
        strength = v["scar"] if name == pages.INFARCT_SCAR else 0.3
        return auroc_score(labels, (strength * labels + 0.7 * noisy)[None], people, classes, 60)

    r.territory = territory
    cohort = SimpleNamespace(rows=lambda split: np.arange(350))
    r.pairs = r.infarcts = cohort
    return r


def by_start(r: pages.Results) -> dict[str, bool | None]:
    return {line.criterion: line.holds for line in pages.verdicts(r)}


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({}, ""),
        ({"other": 0.9}, "PTACL: with the ECG of another person"),
        ({"ptacl": 0.4}, "PTACL: R² of EF not below"),
        ({"vague": 0.55}, "EchoingECG: AUROC above 0.6"),
        ({"spearman": 0.1}, "EchoingECG, reports: Spearman above 0.3"),
        ({"echo": 0.4}, "EchoingECG: R@10"),
        ({"relational": 0.6}, "Relational target"),
        ({"scar": 0.3}, "Scar anchor"),
    ],
)
def test_each_line_fails_where_its_number_does(changes: dict, failing: str) -> None:
    lines = by_start(planted(**changes))
    assert len(lines) == 14
    failed = [criterion for criterion, holds in lines.items() if not holds]
    assert len(failed) == bool(failing)
    assert all(failing in criterion for criterion in failed)


def test_the_page_has_the_figure_first_and_every_table(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    pages.write_page(path, planted(), ["python", "benchmarks/cmr_relatives.py", "-o", "out"], "The last call took 3 s.")
    text = path.read_text(encoding="utf-8")
    assert text.index("![") < text.index("Papers around")
    assert "14 of 14 acceptance lines hold" in text
    assert path.with_suffix(".png").stat().st_size > 10_000
    for words in (
        "likelihood oracle",
        "bound: the best from any ECG",
        "middle third",
        "anterior",
        "shuffled pairs",
        "ECGFlowCMR",
    ):
        assert words in text, words


def test_missing_rows_leave_their_lines_out() -> None:
    r = planted()
    for name in (pages.PTACL, pages.INFARCT_SCAR, pages.ECHO):
        r.scores.pop(name)
        r.stored.pop(name)
    assert len(pages.verdicts(r)) == 7
    assert pages.thirds_table(r) == []
