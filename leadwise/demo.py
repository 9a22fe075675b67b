"""The demo: simulate ECGs, prepare a cohort, pretrain, evaluate, read three files, and write an HTML page with the results."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leadwise import ecg as ecgs
from leadwise import hub, weights
from leadwise.batch import Signal
from leadwise.config import (
    Config,
    DataConfig,
    LogConfig,
    OptimConfig,
)
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.simulator.example_files import write_examples
from leadwise.data.sources import simulated
from leadwise.evaluate import prompt_calibration
from leadwise.evaluate.calibrate import run_calibration
from leadwise.evaluate.probe import ProbeReport, run_probe
from leadwise.evaluate.zeroshot import ZeroShotReport, run_zeroshot
from leadwise.methods.catalogue import small_settings
from leadwise.model import Model
from leadwise.pages.demo import REMARK_KEYS, ExampleECG, ExampleReadings, build_page
from leadwise.progress import Progress
from leadwise.run import Run
from leadwise.training import loop as training

TASK = "findings"
FRACTIONS = (0.01, 0.1, 1.0)  # of the labels: one fewer than the probe's default, to save time
SHIPPED = "ptbxl"  # the weights that read the example files, if they ship with this version
N_FINDINGS = 5  # of each example file
MARK = "demo.json"  # a folder that contains this file was written by a demo and may be replaced

N_RECORDS = 3000
CONFIG = Config(
    signal=Signal(rate_hz=100, duration_s=10.0),
    method=small_settings("cg_dmer"),
    optim=OptimConfig(steps=900, batch_size=32, lr=2e-3, optimizer="muon", weight_decay=1e-2),
    log=LogConfig(every=20, validate_every=300, validate_records=128, save_every=300),
)


class DemoError(ValueError):
    """The demo cannot start; the message names the folder and the remedy."""


@dataclass(frozen=True)
class Result:
    """The results of a demo."""

    folder: Path
    page: Path
    probe: ProbeReport
    zeroshot: ZeroShotReport
    examples: ExampleReadings
    seconds: dict[str, float]

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Rows by table title: the scores, the findings of the example files, and the time of each step."""
        rows = [{"how": "zero-shot", **_short(row)} for row in self.zeroshot.rows()]
        rows += [{"how": f"probe, {row['fraction']:.0%} of labels", **_short(row)} for row in self.probe.rows()]
        times = [{"step": name, "seconds": f"{seconds:.0f}"} for name, seconds in self.seconds.items()]
        title = "unseen simulated patients, macro AUROC over findings with its 95 % interval"
        return {title: rows, self.examples.title: self.examples.rows(), "time of each step": times}

    @property
    def remarks(self) -> list[str]:
        """Sentences that name the classes that could not be trained or scored."""
        rows = [("zero-shot", row) for row in self.zeroshot.rows()]
        rows += [(f"probe, {row['fraction']:.0%} of labels", row) for row in self.probe.rows()]
        trained = [(how, row) for how, row in rows if row["features"] == "trained"]
        return [f"{how}, {key}: {row[key]}." for how, row in trained for key in REMARK_KEYS if row.get(key)]

    def to_json(self) -> dict[str, Any]:
        """Both reports and the times as one JSON object."""
        return {
            "command": "demo",
            "cohort": "simulated",
            "run": str(self.folder / "run"),
            "task": TASK,
            "zeroshot": self.zeroshot.to_json(),
            "probe": self.probe.to_json(),
            "examples": {"run": self.examples.run, "findings": self.examples.rows()},
            "seconds": self.seconds,
        }


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a score row that the demo's table has."""
    return {key: row[key] for key in ("features", "macro", "low", "high", *REMARK_KEYS) if key in row}


def demo(
    folder: Path,
    n_records: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Simulate, prepare, pretrain, score and read three files in `folder`; the page is folder/run/report.html.

    Args:
        folder: a new or empty folder, or with `overwrite` that of an earlier demo.
        n_records: simulated ECGs; default N_RECORDS.
        steps: training steps; default those of CONFIG.
        seed: of the simulation and of the training.
        overwrite: replace an earlier demo.
        progress: called with (task, units done, units in total) throughout.

    Raises:
        DemoError: the folder is not empty, and is not a demo that may be replaced.
    """
    _create_folder(folder, overwrite)
    report: Progress = progress or (lambda what, done, total: None)
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def record_time(name: str) -> None:
        """Store the time since the last call as that of the step `name`."""
        nonlocal began
        seconds[name] = time.perf_counter() - began
        began = time.perf_counter()

    # the cohort
    n_records = N_RECORDS if n_records is None else n_records
    simulated.simulate(folder / "ecgs", n_records, seed, report)
    record_time("simulate")
    source = simulated.read_source(folder / "ecgs")
    write(source, folder / "cohort", progress=report)
    cohort = Cohort.open(folder / "cohort")
    record_time("prepare")

    # the run
    optim = dataclasses.replace(CONFIG.optim, seed=seed, steps=CONFIG.optim.steps if steps is None else steps)
    config = dataclasses.replace(CONFIG, data=DataConfig(cohort=str(folder / "cohort")), optim=optim)
    run = training.pretrain(config, folder / "run", progress=report)
    record_time("pretrain")

    # the scores and the page
    probe = run_probe(run, cohort, TASK, FRACTIONS, progress=report)
    record_time("embed and probe")
    zeroshot = run_zeroshot(run, cohort, TASK, progress=report)
    record_time("zero-shot")
    examples = _read_examples(folder / "examples", run, cohort, seed, progress)
    record_time("example files")
    page = folder / "run" / "report.html"
    result = Result(folder, page, probe, zeroshot, examples, seconds)
    report("report", 0, 1)
    tables = {title: rows for title, rows in result.tables.items() if title != examples.title}
    build_page(tables, result.remarks, zeroshot, probe, run, cohort, examples).write(result.page)
    report("report", 1, 1)
    record_time("report")
    return result


def _read_examples(folder: Path, run: Run, cohort: Cohort, seed: int, progress: Progress | None) -> ExampleReadings:
    """Write three ECG files of three formats and return what the shipped weights find in them, or else this run.

    The demo's run gets a calibration on its validation split for this; shipped weights have theirs.
    """
    prompt_calibration.write(run, run_calibration(run, cohort, "val", [TASK], progress=progress))
    is_shipped = weights.folder(SHIPPED) is not None
    model = Model(hub.load(SHIPPED) if is_shipped else run)
    files = write_examples(folder, seed + 1)  # another seed: not the ECGs of the cohort
    table = model.findings([file.path for file in files], top=N_FINDINGS)
    examples = [
        ExampleECG(
            file.path.name, file.format, file.findings, ecgs.read(file.path), table.loc[[row]].to_dict("records")
        )
        for row, file in enumerate(files)
    ]
    calibration = next(iter(table.attrs["calibration"].values()))
    fitted_on = f"{calibration['n_records']} recordings of {calibration['cohort']} ({calibration['source']})"
    return ExampleReadings(model.name, is_shipped, fitted_on, tuple(examples))


def _create_folder(folder: Path, overwrite: bool) -> None:
    """Create the demo's folder with its mark, after deleting an earlier demo in it if `overwrite`."""
    if folder.exists() and any(folder.iterdir()):
        is_demo = (folder / MARK).is_file()
        if not (overwrite and is_demo):
            remedy = "add --overwrite to replace that demo" if is_demo else "choose another folder with --out"
            raise DemoError(f"{folder} is not empty: {remedy}")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(json.dumps({"what": "a leadwise demo; safe to delete"}) + "\n")
