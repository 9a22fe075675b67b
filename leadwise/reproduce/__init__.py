"""A table or figure of the paper from one command: trains what is missing, scores it, and writes what came out.

OUT/TARGET/     table.md, table.csv, table.tex, figures, page.html, configs/, log.txt
OUT/runs/       one folder for each distinct config, shared by all targets; an unfinished one is gone on with
OUT/scores/     the cells of each run, so that nothing is scored twice
OUT/cohort/     simulated ECGs, where no cohort is named
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from leadwise import config as settings
from leadwise import distributed
from leadwise.config import Config, ConfigError
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.sources import simulated
from leadwise.demo import N_RECORDS
from leadwise.evaluate.embed import count_training_patients
from leadwise.pages.reproduction import ReproductionPage, write_result
from leadwise.progress import Progress
from leadwise.reproduce import (
    figures,
    maps,
    paper,
    tables,
    variants,
)
from leadwise.reproduce import trained as training
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.references import References, reference_cells
from leadwise.reproduce.score import (
    Cell,
    Scores,
    cells,
    check,
)
from leadwise.reproduce.variants import Variant

log = logging.getLogger(__name__)

_FEWEST_DRAWN = 100  # test recordings, for a map that says something

_SCORES: dict[str, Scores] = {
    "table1": Scores(paper.FRACTIONS, zero_shot=False, untrained=True),
    "table2": Scores(untrained=True),
    "table3": Scores((0.01,)),
    "fig2": Scores((0.01, 1.0)),
    "fig3": Scores(),
}


@dataclass(frozen=True)
class ReproduceRequest:
    """What to reproduce, on what, and how long."""

    target: str  # one of TARGETS
    out: Path
    cohorts: tuple[Path, ...] = ()  # the first is learnt from where no config says; none: simulated ECGs
    configs: tuple[Path, ...] = ()  # settings by method; methods without one take their small ones
    budget: Budget = field(default_factory=Budget)
    seeds: tuple[int, ...] = ()  # none: the config's own
    legacy: bool = False  # table1: the published protocol's numbers too
    splits: Path | None = None  # folder of the published split files, to stand in for the cohorts' own
    methods: tuple[str, ...] = ()  # those to compare, beside those of configs; none: what the target has
    references: bool = True  # table1: untrained, supervised and hand-crafted rows too


@dataclass(frozen=True)
class Reproduction:
    """What came out."""

    folder: Path
    lines: list[dict[str, Any]]  # of the table that stands first
    scale: str  # which data and budget it was, in a sentence


def reproduce(asked: ReproduceRequest, progress: Progress | None = None) -> Reproduction:
    """Train and score what `asked.target` compares, and write its table, figures and configs.

    Raises:
        ConfigError: no such target, or settings that cannot be used.
        CohortError: a cohort cannot be used, or none of them has a task.
        TrainingError: a run failed; the same call goes on from there.
    """
    heard: Progress = progress or (lambda what, done, total: None)
    given = [settings.read(path) for path in asked.configs]
    of_labels = [config for config in given if variants.is_reference(config)]
    given = [config for config in given if not variants.is_reference(config)]
    names = asked.methods or variants.compared(asked.target)
    compared = variants.variants(
        asked.target, variants.base_configs(given, names)
    )  # refused before anything is written
    if asked.legacy and asked.target != "table1":
        raise ConfigError(f"the published protocol is one of probes: it goes with table1, not with {asked.target}")
    shared = compared[0].config
    rows = References.of(of_labels, shared) if asked.references and asked.target == "table1" else None
    if of_labels and rows is None:
        raise ConfigError("a config of a method that learns from labels is for the references of table1")
    if distributed.n_launched() > 1:
        raise ConfigError("reproduce is one process; train on several with `torchrun ... -m leadwise pretrain`")
    folder = asked.out / asked.target
    folder.mkdir(parents=True, exist_ok=True)
    with training.alone_in(asked.out), _logged(folder / "log.txt"):
        return _reproduce(asked, given, compared, rows, heard)


def _reproduce(
    asked: ReproduceRequest,
    given: Sequence[Config],
    compared: Sequence[Variant],
    rows: References | None,
    heard: Progress,
) -> Reproduction:
    folder = asked.out / asked.target
    learnt_from, cohorts = _cohorts(asked, given, heard)
    wanted = dataclasses.replace(_SCORES[asked.target], legacy=asked.legacy, splits=asked.splits)
    chosen = _chosen(cohorts) if asked.target == "fig3" else None
    if chosen is None:
        check(cohorts, wanted)  # what cannot be scored is said before anything is trained
    compared = [training.on(variant, learnt_from) for variant in compared]
    for variant in compared:
        training.check(variant)
    if rows:
        rows.check()
        rows = rows.within(asked.budget, asked.out, cohorts)
    compared = [training.within(asked.budget, asked.out, variant) for variant in compared]
    every = [one for variant in compared for one in training.seeded(variant, asked.seeds)]
    found: list[Cell] = []
    pictures: list[tuple[Figure, str]] = []
    placed: list[dict[str, Any]] = []
    n_seen = 0
    for number, variant in enumerate(every, start=1):
        log.info("%s, seed %d (%d of %d)", variant.label, variant.config.optim.seed, number, len(every))
        run = training.trained(asked.out / "runs", variant, heard)
        if chosen is not None:
            figure, lines = maps.look(variant.label, run, chosen, heard)
            pictures.append((figure, f"t-SNE of {variant.label}, seed {variant.config.optim.seed}"))
            placed += lines
            n_seen = max(n_seen, count_training_patients(run, chosen.cohort, chosen.rows))
        else:
            assert run.folder is not None
            kept = asked.out / "scores" / run.folder.name / variant.folder
            found += cells(variant.label, run, cohorts, kept, wanted, heard)
    behind: list[Variant] = []
    if rows:
        log.info("references: untrained, hand-crafted and supervised")
        beside, behind = reference_cells(rows, cohorts, asked.out, wanted, asked.seeds, heard)
        found = beside + found
    page = _page(asked, compared, found, placed, pictures)
    scale = _scale(asked, every, cohorts, max([n_seen, *(cell.n_seen for cell in found)]))
    if chosen is not None:
        classes = ", ".join(chosen.classes)
        scale += (
            f" Drawn are the {len(chosen.rows)} test recordings of {chosen.cohort.name} with exactly one of {classes}."
        )
    if rows:
        scale += f" References: {rows}."
    page = dataclasses.replace(page, scale=scale)
    write_result(folder, page, {variant.folder: settings.dumps(variant.config) for variant in [*every, *behind]})
    return Reproduction(folder, page.lines, page.scale)


def _page(
    asked: ReproduceRequest,
    compared: Sequence[Variant],
    found: Sequence[Cell],
    placed: list[dict[str, Any]],
    pictures: list[tuple[Figure, str]],
) -> ReproductionPage:
    """The target's table and figures."""
    each = tables.per_task(found)
    title = f"{asked.target} of CG-DMER (arXiv 2602.21154)"
    if asked.target == "table3":
        return ReproductionPage(title, tables.table3(found, compared), each, figures.components(found, compared))
    if asked.target == "fig2":
        return ReproductionPage(title, tables.fig2(found, compared), each, figures.sweeps(found, compared))
    if asked.target == "fig3":
        return ReproductionPage(title, placed, [], pictures)
    return ReproductionPage(title, each, [], figures.methods(found))


# ------------------------------------------------------------------------------------------------------- data


def _cohorts(asked: ReproduceRequest, given: Sequence[Config], progress: Progress) -> tuple[Path, list[Cohort]]:
    """The cohort to learn from, and those to be scored on."""
    named = list(dict.fromkeys(config.data.cohort for config in given if config.data.cohort))
    if len(named) > 1:
        raise ConfigError(
            f"the configs learn from different cohorts ({', '.join(named)}), and a table sets like beside like: "
            "name the same in each"
        )
    paths = list(asked.cohorts) or [Path(name) for name in named]
    if not paths:
        paths = [_simulated(asked.out, progress)]
    opened = [Cohort.open(path) for path in paths]
    names = [cohort.name for cohort in opened]
    if len(set(names)) < len(names):
        raise CohortError(f"two of the cohorts have the folder name {max(names, key=names.count)}; rename one of them")
    known = [cohort.source for cohort in opened if cohort.source in {source for source, _ in paper.TASKS}]
    if len(set(known)) < len(known):
        raise CohortError(
            f"two of the cohorts are of {max(known, key=known.count)}; a table has one row for each data set: give one"
        )
    scored = [cohort for cohort in opened if cohort.tasks]
    if not scored:
        raise CohortError(f"none of {', '.join(map(str, paths))} has a task to score; add one with --cohorts")
    return Path(named[0]) if named else paths[0], scored


def _simulated(out: Path, progress: Progress) -> Path:
    """The demo's simulated cohort, made once."""
    folder = out / "cohort"
    if not (folder / "cohort.json").is_file():
        ecgs = out / "ecgs"
        shutil.rmtree(ecgs, ignore_errors=True)
        simulated.simulate(ecgs, N_RECORDS, 0, progress)
        write(simulated.read_source(ecgs), folder, progress=progress)
        shutil.rmtree(ecgs)
    return folder


def _chosen(cohorts: Sequence[Cohort]) -> maps.Chosen:
    """Figure 3's recordings: of CSN, as in the paper, where enough of it is given; else of the largest test split."""
    csn = [one for one in cohorts if one.source == "csn" and len(one.rows("test")) >= _FEWEST_DRAWN]
    cohort = csn[0] if csn else max(cohorts, key=lambda one: len(one.rows("test")))
    return maps.choose(cohort, next(iter(cohort.tasks)))


# ------------------------------------------------------------------------------------------------------- words


def _scale(asked: ReproduceRequest, compared: Sequence[Variant], cohorts: Sequence[Cohort], n_seen: int) -> str:
    """Plainly which data and budget it was, and what of the paper's that is; first of all, whether a test split leaked."""
    first = compared[0].config
    cohort = Cohort.open(Path(first.data.cohort))
    n_train = len(cohort.rows(split="train", min_report_words=first.data.min_report_words))
    seen = {variant.config.optim.steps * variant.config.optim.batch_size for variant in compared}
    steps = _span([variant.config.optim.steps for variant in compared])
    least, most = min(seen) / paper.N_SEEN, max(seen) / paper.N_SEEN
    share = f"{least:.2%}" if least == most else f"{least:.2%} to {most:.2%}"
    full = cohort.source == "mimic_iv_ecg" and n_train > 700_000 and least > 0.9
    tested = ", ".join(f"{one.name} ({_tested(one, asked)} test recordings)" for one in cohorts)
    kind = (
        "simulated hearts: they say how settings compare, nothing about patients"
        if cohort.source == "simulated"
        else cohort.source
    )
    verdict = (
        "This is the paper's scale."
        if full
        else "This is NOT the paper's scale; its numbers stand beside ours for orientation only."
    )
    leak = (
        f"LEAK: {n_seen} people of a test split were in the pre-training; these scores are too high. " if n_seen else ""
    )
    splits = "splits of the cohorts" if asked.splits is None else "published splits where there are any"
    return (
        f"{leak}{verdict} Learnt from {n_train:,} recordings of {cohort.name} ({kind}), {steps} steps of "
        f"{first.optim.batch_size} ({share} of the recordings that the paper's run looked at: {paper.PRETRAINING}), seeds "
        f"{', '.join(map(str, sorted({variant.config.optim.seed for variant in compared})))}. Scored on {tested}, {splits}."
    )


def _tested(cohort: Cohort, asked: ReproduceRequest) -> str:
    if asked.splits is not None:
        return "see the table for its"
    return f"{len(cohort.rows(split='test')):,}"


def _span(values: Sequence[int]) -> str:
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What is logged inside the block is also added to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    house = logging.getLogger("leadwise")
    before = house.level
    house.addHandler(handler)
    if house.getEffectiveLevel() > logging.INFO:
        house.setLevel(logging.INFO)
    try:
        yield
    finally:
        house.removeHandler(handler)
        house.setLevel(before)
        handler.close()
