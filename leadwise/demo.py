"""The whole way on the simulated cohort, from nothing to a page that a person can open."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leadwise.batch import Signal
from leadwise.config import (
    Config,
    DataConfig,
    LogConfig,
    OptimConfig,
)
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.sources import simulated
from leadwise.evaluate.probe import ProbeReport, run_probe
from leadwise.evaluate.zeroshot import ZeroShotReport, run_zeroshot
from leadwise.methods.catalogue import small_settings
from leadwise.pages.demo import REMARK_KEYS, build_page
from leadwise.progress import Progress
from leadwise.training import loop as training

TASK = "findings"
FRACTIONS = (0.01, 0.1, 1.0)  # of the labels: one fewer than the probe's own, for time
MARK = "demo.json"  # says that a folder is a demo's, so that it may be replaced


N_RECORDS = 3000
# wider than the method's own small settings, which are for other tables' minutes; chosen on these hearts: NOTES.md
WIDER = {"mask_ratio": 0.7, "width": 128, "decoder": "joint", "decoder_width": 64}
CONFIG = Config(
    signal=Signal(rate_hz=100, duration_s=10.0),
    method={**small_settings("cg_dmer"), **WIDER},
    optim=OptimConfig(steps=1600, batch_size=16, lr=6e-4, weight_decay=1e-2),
    log=LogConfig(every=20, validate_every=400, validate_records=128, save_every=400),
)


class DemoError(ValueError):
    """The demo cannot begin; the message names the folder and the remedy."""


@dataclass(frozen=True)
class Result:
    """What the demo found."""

    folder: Path
    page: Path
    probe: ProbeReport
    zeroshot: ZeroShotReport
    seconds: dict[str, float]

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The one table a person reads first, and where the time went."""
        rows = [{"how": "zero-shot", **_short(row)} for row in self.zeroshot.rows()]
        rows += [{"how": f"probe, {row['fraction']:.0%} of labels", **_short(row)} for row in self.probe.rows()]
        times = [{"step": name, "seconds": f"{seconds:.0f}"} for name, seconds in self.seconds.items()]
        title = "unseen simulated patients, macro AUROC over findings with its 95 % interval"
        return {title: rows, "where the time went": times}

    @property
    def remarks(self) -> list[str]:
        """Classes that could not be learnt or scored, by name."""
        rows = [("zero-shot", row) for row in self.zeroshot.rows()]
        rows += [(f"probe, {row['fraction']:.0%} of labels", row) for row in self.probe.rows()]
        trained = [(how, row) for how, row in rows if row["features"] == "trained"]
        return [f"{how}, {key}: {row[key]}." for how, row in trained for key in REMARK_KEYS if row.get(key)]

    def to_json(self) -> dict[str, Any]:
        """One object: both reports and the times."""
        return {
            "command": "demo",
            "cohort": "simulated",
            "run": str(self.folder / "run"),
            "task": TASK,
            "zeroshot": self.zeroshot.to_json(),
            "probe": self.probe.to_json(),
            "seconds": self.seconds,
        }


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("features", "macro", "low", "high", *REMARK_KEYS) if key in row}


def demo(
    folder: Path,
    n_records: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Simulate, prepare, pretrain, embed, probe and classify zero-shot in `folder`; the page is folder/run/report.html.

    Raises:
        DemoError: the folder is taken.
    """
    _make_room(folder, overwrite)
    heard: Progress = progress or (lambda what, done, total: None)
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        seconds[name] = time.perf_counter() - began
        began = time.perf_counter()

    n_records = N_RECORDS if n_records is None else n_records
    simulated.simulate(folder / "ecgs", n_records, seed, heard)
    lap("simulate")
    source = simulated.read_source(folder / "ecgs")
    write(source, folder / "cohort", progress=heard)
    cohort = Cohort.open(folder / "cohort")
    lap("prepare")
    optim = dataclasses.replace(CONFIG.optim, seed=seed, steps=CONFIG.optim.steps if steps is None else steps)
    config = dataclasses.replace(CONFIG, data=DataConfig(cohort=str(folder / "cohort")), optim=optim)
    run = training.pretrain(config, folder / "run", progress=heard)
    lap("pretrain")
    probe = run_probe(run, cohort, TASK, FRACTIONS, progress=heard)
    lap("embed and probe")
    zeroshot = run_zeroshot(run, cohort, TASK, progress=heard)
    lap("zero-shot")
    page = folder / "run" / "report.html"
    result = Result(folder, page, probe, zeroshot, seconds)
    build_page(result.tables, result.remarks, zeroshot, probe, run, cohort).write(result.page)
    lap("report")
    return result


def _make_room(folder: Path, overwrite: bool) -> None:
    if folder.exists() and any(folder.iterdir()):
        ours = (folder / MARK).is_file()
        if not (overwrite and ours):
            remedy = "add --overwrite to replace that demo" if ours else "choose another with --out"
            raise DemoError(f"{folder} is not empty: {remedy}")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(json.dumps({"what": "a leadwise demo; safe to delete"}) + "\n")
