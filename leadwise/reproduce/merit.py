"""The target `merit`: MERIT's thesis on simulated ECGs, and the readable numbers of its paper beside ours.

OUT/merit_cohort/     simulated ECGs whose reports state no measurement
OUT/merit_truth.csv   the true values behind them
OUT/merit_shuffled/   the same ECGs; in training, each has the report of another patient
OUT/runs/             the arms of the thesis, one run for each seed; and the runs of the table
OUT/scores/           predictions and cells of each run, so that nothing is scored twice
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.config import Config, ConfigError
from leadwise.data.cohort.changed_copy import write_with_other_reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.simulator.reports import MEASURED
from leadwise.data.sources import simulated
from leadwise.evaluate.embed import embed_cohort, usable
from leadwise.evaluate.metrics.bootstrap import N_REPLICATES, permute_across_patients
from leadwise.files import DamagedNpzError, read_npz, replacing
from leadwise.pages.reproduction import ReproductionPage
from leadwise.pictures import plane
from leadwise.progress import Progress, relabel
from leadwise.reproduce import merit_table, merit_thesis, paper_numbers, training_runs
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.cells import Cell
from leadwise.reproduce.merit_thesis import (
    CONTRAST_ONLY,
    MASK_ONLY,
    MERIT,
    RANDOM_ENCODER,
    SHUFFLED,
    ArmScore,
    Predictions,
)
from leadwise.reproduce.variants import Variant
from leadwise.run import Run

log = logging.getLogger(__name__)

N_RECORDS = 4000  # of the thesis: 2,800 to train, 600 to choose penalties, 600 to test
SEEDS = (0, 1, 2)  # of the thesis

TITLE = "MERIT (arXiv 2605.27583): its thesis on simulated hearts, and its readable numbers"
NOTE = (
    "MERIT-style, not MERIT: only the paper's abstract and first page are accessible, and no code was found. Its numbers come "
    "from a page that collects results; they are at the level of fine-tuning, and none of them is comparable with a frozen "
    "probe. Ours follow the strict protocol: every choice is made on the validation split, the test split is scored once, and "
    "95 % intervals resample patients."
)
_ARMS: dict[str, dict[str, float]] = {MASK_ONLY: {"b": 0.0}, CONTRAST_ONLY: {"w_mem": 0.0}, MERIT: {}}


@dataclass(frozen=True)
class MeritOptions:
    """What to compute."""

    out: Path
    config: Config  # of MERIT
    cohorts: tuple[Cohort, ...] = ()  # of the table; none: no row of ours
    training_cohort: Path | None = None  # of the table; given if there are cohorts
    budget: Budget = dataclasses.field(default_factory=Budget)
    seeds: tuple[int, ...] = ()  # none: SEEDS for the thesis, the config's own for the table
    thesis: bool = True
    finetune_epochs: int = 0  # of the table; 0: not fine-tuned


def reproduce_merit(options: MeritOptions, progress: Progress) -> tuple[ReproductionPage, list[Variant]]:
    """Train and score what is missing; return the page, and the variants that were trained.

    Raises:
        ConfigError: the settings leave one of the two terms out, or nothing is to be computed.
        TrainingError: a run failed; the same call resumes it.
    """
    check_options(options)
    scale: list[str] = []
    trained: list[Variant] = []
    page = ReproductionPage(TITLE, [], [], [], note=NOTE)

    # the thesis
    if options.thesis:
        thesis, seeded = _thesis(options, progress)
        trained += seeded
        scale.append(thesis.scale)
        page = dataclasses.replace(page, lines=thesis.lines, figures=thesis.figures, more=thesis.more)

    # the table; the paper's numbers are printed without ours too
    cells: list[Cell] = []
    if options.cohorts:
        cells, seeded, sentence = _table_cells(options, progress)
        trained += seeded
        scale.append(sentence)
    else:
        scale.append("No cohort was given for the table, so it has the paper's numbers only.")
    table = merit_table.table(cells)
    more = [*page.more, ("The paper's readable numbers beside ours", table)] if options.thesis else []
    if cells:
        more.append(("Ours, every metric", merit_table.details(cells)))
    return dataclasses.replace(page, lines=page.lines or table, more=more, scale=" ".join(scale)), trained


def check_options(options: MeritOptions) -> None:
    """Check that the options ask for something, and that the arms differ.

    Raises:
        ConfigError: they do not.
    """
    if not (options.thesis or options.cohorts):
        raise ConfigError("--no-thesis without a cohort leaves nothing to compute: give one with --cohorts")
    if options.finetune_epochs and not options.cohorts:
        raise ConfigError("--finetune-epochs is for the table: give a cohort with --cohorts")
    zero = [name for name in ("b", "w_mem") if not options.config.method.get(name, 1.0)]
    if zero:
        raise ConfigError(f"method.{zero[0]} = 0 in the config of merit: its arms set it to 0; give a value above 0")


# --------------------------------------------------------------------------------------------------- the thesis


def _thesis(options: MeritOptions, progress: Progress) -> tuple[ReproductionPage, list[Variant]]:
    """Train and score the arms; return the part of the page, and the variants."""
    # the recordings, and the arms with the steps of MERIT
    folder, truth = _simulated(options.out, progress)
    cohort = Cohort.open(folder)
    seeded = _arms(options, folder, _shuffled(options.out, cohort))

    # the predictions of each arm and seed, and of the untrained encoder
    predictions: dict[str, list[Predictions]] = {name: [] for name in (*_ARMS, SHUFFLED, RANDOM_ENCODER)}
    data = None
    for number, variant in enumerate(seeded, start=1):
        log.info("%s, seed %d (%d of %d)", variant.label, variant.config.optim.seed, number, len(seeded))
        run = training_runs.load_or_train(options.out / "runs", variant, progress)
        rows, _ = usable(run, cohort, cohort.rows(task="findings"))
        data = data or merit_thesis.load_data(cohort, truth, rows)
        assert run.folder is not None
        cache = options.out / "scores" / run.folder.name / variant.folder
        encoders = {variant.label: run}
        if variant.label == MERIT:
            encoders[RANDOM_ENCODER] = run.untrained(variant.config.optim.seed)  # where this run started
        for name, one in encoders.items():
            predictions[name].append(_predictions(one, cohort, data, rows, cache, relabel(progress, f"{name}: embed")))
    assert data is not None

    # scores, differences, and what the stated findings alone predict
    scores = {name: merit_thesis.score_arm(each, data, N_REPLICATES) for name, each in predictions.items()}
    test = data.rows("test")
    alone = merit_thesis.r_squared(
        data.values[test], merit_thesis.predict_values(data.labels, data), np.ones((1, len(test)))
    )[0]
    compared = merit_thesis.claims(scores)
    page = ReproductionPage(
        TITLE,
        merit_thesis.arm_lines(scores, alone),
        [],
        [_figure(scores, compared)],
        f"{merit_thesis.verdict(compared)} {_scale(seeded, cohort, data)}",
        more=[("Differences", merit_thesis.claim_lines(compared))],
    )
    return page, seeded


def _arms(options: MeritOptions, cohort: Path, shuffled: Path) -> list[Variant]:
    """Return the arms with each seed, then the control with shuffled pairs.

    All have the steps that MERIT's run has in the budget, and the same batches.
    """
    merit = training_runs.with_cohort(Variant(MERIT, options.config), cohort)
    training_runs.check_variant(merit)
    merit = training_runs.with_budget(options.budget, options.out, merit)
    seeded: list[Variant] = []
    for label, settings in _ARMS.items():
        config = dataclasses.replace(merit.config, method={**merit.config.method, **settings})
        seeded += training_runs.with_seeds(Variant(label, config), options.seeds or SEEDS)
    control = training_runs.with_cohort(Variant(SHUFFLED, merit.config), shuffled)
    return [*seeded, *training_runs.with_seeds(control, options.seeds or SEEDS)]


def _simulated(out: Path, progress: Progress) -> tuple[Path, Path]:
    """Return the folder of the thesis's cohort and the table of true values; create them if one does not exist."""
    folder, truth = out / "merit_cohort", out / "merit_truth.csv"
    if not ((folder / "cohort.json").is_file() and truth.is_file()):
        ecgs = out / "merit_ecgs"
        for old in (ecgs, folder):
            shutil.rmtree(old, ignore_errors=True)
        simulated.simulate(ecgs, N_RECORDS, 0, progress, measurements=False)
        with replacing(truth) as part:
            shutil.copyfile(ecgs / "truth.csv", part)
        write(simulated.read_source(ecgs), folder, progress=progress)
        shutil.rmtree(ecgs)
    return folder, truth


def _shuffled(out: Path, cohort: Cohort) -> Path:
    """Return the folder of the cohort whose training ECGs have reports of other patients; create it if it does not exist."""
    folder = out / "merit_shuffled"
    if not (folder / "cohort.json").is_file():
        rows = cohort.rows("train")
        patients = np.unique(np.array(cohort.patients.take(rows), dtype=np.str_), return_inverse=True)[1]
        others = rows[permute_across_patients(patients, np.random.default_rng(0))]
        write_with_other_reports(cohort, folder, rows, others)
    return folder


def _predictions(
    run: Run,
    cohort: Cohort,
    data: merit_thesis.ThesisData,
    rows: np.ndarray,
    cache: Path,
    progress: Progress | None,
) -> Predictions:
    """Return the predictions of a run's probes; those of the same weights and data are read from `cache`."""
    path = cache / f"thesis-{run.fingerprint[:16]}.npz"
    inputs = json.dumps({"run": run.fingerprint, "cohort": cohort.fingerprint})
    shape = (len(data.rows("test")), len(merit_thesis.STATED_FINDINGS))
    if path.is_file():
        try:
            stored = read_npz(path)
            if str(stored["of"]) == inputs and stored["logits"].shape == shape:
                return Predictions(stored["logits"], stored["values"])
        except (DamagedNpzError, KeyError) as error:  # computed again
            log.warning("%s cannot be used (%s): scored again", path, error)
    result = merit_thesis.predict(embed_cohort(run, cohort, "backbone", rows, progress, cache / "embeddings"), data)
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, of=np.array(inputs), logits=result.logits, values=result.values)
    return result


def _figure(scores: Mapping[str, ArmScore], compared: Sequence[merit_thesis.Claim]) -> tuple[Any, str]:
    """Return the figure of R against U and its caption."""
    points = {name: 100 * np.stack([arm.stated_seeds, arm.unstated_seeds], axis=1) for name, arm in scores.items()}
    holds = [
        f"{claim.target}: {claim.arm} above {claim.other} {'holds' if claim.holds else 'does not hold here'}"
        for claim in compared
        if claim.is_criterion
    ]
    figure = plane.draw(
        points,
        "R, what reports state: macro AUROC x 100",
        "U, what no report states: mean R² x 100",
        "What reports state, and what only the ECG has",
        "; ".join(holds),
    )
    return figure, "One small dot per arm and seed; large dots are means over the seeds. Simulated ECGs, test patients."


def _scale(seeded: Sequence[Variant], cohort: Cohort, data: merit_thesis.ThesisData) -> str:
    """Return one paragraph on the data, the training and the quantities."""
    first = seeded[0].config
    seeds = ", ".join(map(str, sorted({variant.config.optim.seed for variant in seeded})))
    n = {split: len(data.rows(split)) for split in ("train", "val", "test")}
    patients = len(np.unique(data.patient[data.rows("test")]))
    rare = ", ".join(f"{name} ({count})" for name, count in data.left_out.items())
    left_out = f"; left out, with fewer test recordings: {rare}" if rare else ""
    return (
        f"{len(cohort):,} simulated ECGs, which show how objectives compare and nothing about patients: {n['train']:,} train, "
        f"{n['val']:,} validation, {n['test']:,} test ({patients} patients). Each arm is trained on the training split for "
        f"{first.optim.steps:,} steps of {first.optim.batch_size}, the same batches for each seed ({seeds}). R: "
        f"{len(data.scored)} of the {len(merit_thesis.STATED_FINDINGS)} findings that reports state, those with at least "
        f"{merit_thesis.MIN_POSITIVES} positive test recordings{left_out}. U: {', '.join(merit_thesis.QUANTITIES)}; true values "
        f"of the simulator, T amplitude in lead II. The reports of this cohort state none of {', '.join(sorted(MEASURED))}, no "
        "wording that mentions an interval, the axis or the T wave, and no conclusion; every report was checked for it. "
        f"'{merit_thesis.STATED}' is a ridge regression of U on the true labels of all stated findings: what U has in common "
        f"with them. '{SHUFFLED}' is MERIT with the report of another patient for each training ECG: its contrast has nothing "
        "to learn from the ECG. Intervals: "
        f"{N_REPLICATES:,} paired resamplings of the test patients, seeds averaged."
    )


# --------------------------------------------------------------------------------------------------- the table


def _table_cells(options: MeritOptions, progress: Progress) -> tuple[list[Cell], list[Variant], str]:
    """Train MERIT on the first cohort and score it; return the cells, the variants, and a sentence on the training."""
    row = paper_numbers.ROW_NAMES["merit", ""]
    folder = options.training_cohort or options.cohorts[0].folder
    variant = training_runs.with_cohort(Variant(row, options.config), folder)
    training_runs.check_variant(variant)
    variant = training_runs.with_budget(options.budget, options.out, variant)
    seeded = training_runs.with_seeds(variant, options.seeds)

    # train and score each seed
    cells: list[Cell] = []
    for one in seeded:
        run = training_runs.load_or_train(options.out / "runs", one, progress)
        assert run.folder is not None
        cache = options.out / "scores" / run.folder.name / one.folder
        cells += merit_table.scored_cells(row, run, options.cohorts, cache, options.finetune_epochs, progress)

    # the sentence, which begins with a leak if there is one
    n_leaked = max([0, *(cell.n_seen for cell in cells)])
    leak = f"LEAK: {n_leaked} people of a test split were in the pre-training. " if n_leaked else ""
    config = variant.config
    cohort = Cohort.open(folder)
    n_train = len(cohort.rows(split="train", min_report_words=1))
    tuned = (
        f"fine-tuned for {options.finetune_epochs} epochs, the best one by validation"
        if options.finetune_epochs
        else "not fine-tuned"
    )
    sentence = (
        f"{leak}The table: trained on {n_train:,} recordings of {cohort.name} ({cohort.source}), {config.optim.steps:,} steps of "
        f"{config.optim.batch_size}, seeds {', '.join(str(one.config.optim.seed) for one in seeded)}, {tuned}. This is NOT the "
        "paper's scale."
    )
    if not cells:
        sentence += f" None of {', '.join(one.name for one in options.cohorts)} has a task of the paper's numbers."
    return cells, seeded, sentence
