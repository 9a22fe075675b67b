"""Reproduce a table or figure of CG-DMER's paper, MERIT's thesis, dual-phase CMR, or the table of peers: train, score, write.

OUT/TARGET/     table.md, table.csv, table.tex, figures, page.html, configs/, log.txt
OUT/runs/       one folder for each distinct config, shared by all targets; an unfinished run is resumed
OUT/scores/     the cells of each run, so that nothing is scored twice
OUT/cohort/     simulated ECGs, if no cohort is given

The targets `merit` and `dual_phase` have further files, see `merit.py` and `dual_phase.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from leadwise import config as settings
from leadwise import distributed
from leadwise.config import Config, ConfigError
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.sources import simulated
from leadwise.demo import N_RECORDS
from leadwise.evaluate.embed import training_overlap
from leadwise.evaluate.embed_ecgs import width_of
from leadwise.foreign.opening import open_encoder
from leadwise.pages.reproduction import ReproductionPage, write_result
from leadwise.progress import Progress
from leadwise.reproduce import (
    dual_phase,
    embedding_maps,
    figures,
    merit,
    paper_numbers,
    peers,
    tables,
    training_runs,
    variants,
)
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.cells import Cell, ScoringOptions, check_scoring, score_run
from leadwise.reproduce.references import References, reference_cells, untrained_runs
from leadwise.reproduce.variants import Variant
from leadwise.run import Run

log = logging.getLogger(__name__)

COMMON: Literal["common"] = "common"

_MIN_MAP_RECORDINGS = 100  # test recordings of CSN; with fewer, Figure 3 uses the largest test split

_SCORING: dict[str, ScoringOptions] = {
    "table1": ScoringOptions(paper_numbers.FRACTIONS, zero_shot=False, untrained=True),
    "table2": ScoringOptions(untrained=True),
    "table3": ScoringOptions((0.01,)),
    "fig2": ScoringOptions((0.01, 1.0)),
    "fig3": ScoringOptions(),
    variants.PEERS: ScoringOptions(paper_numbers.FRACTIONS, untrained=True),
}
_WITH_REFERENCES = ("table1", variants.PEERS)  # and with encoders of the user's own


@dataclass(frozen=True)
class ReproduceRequest:
    """What to reproduce, on which cohorts, and with which budget."""

    target: str  # one of TARGETS, PEERS, MERIT or DUAL_PHASE
    out: Path
    cohorts: tuple[Path, ...] = ()  # the first is used for training unless a config names one; none: simulated ECGs
    configs: tuple[Path, ...] = ()  # settings by method; methods without a config use their small settings
    budget: Budget = field(default_factory=Budget)
    seeds: tuple[int, ...] = ()  # none: the config's own
    legacy: bool = False  # table1: the published protocol's numbers too
    splits: Path | None = None  # folder of the published split files, used instead of the cohorts' own splits
    methods: tuple[str, ...] = ()  # to compare, in addition to those of configs; none: all methods of the target
    encoders: tuple[
        str, ...
    ] = ()  # table1, peers: rows of encoders or runs that are not trained here, see `foreign.opening`
    references: bool = True  # table1, peers: untrained, supervised and hand-crafted rows too
    width: int | Literal["common", "native"] = (
        COMMON  # of the probes of all rows; common: the smallest of their features
    )
    thesis: bool = True  # merit: the arms on simulated ECGs
    finetune_epochs: int = 0  # merit: fine-tuned rows of the table; 0: none
    n_people: int | None = None  # dual_phase: simulated people; None: N_PEOPLE


@dataclass(frozen=True)
class Reproduction:
    """The result of `reproduce`."""

    folder: Path
    lines: list[dict[str, Any]]  # rows of the main table
    scale: str  # data and budget, in one paragraph
    more: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # further tables by heading


def reproduce(request: ReproduceRequest, progress: Progress | None = None) -> Reproduction:
    """Train and score the variants of `request.target`, and write its table, figures and configs.

    Raises:
        ConfigError: unknown target, or settings that cannot be used.
        CohortError: a cohort cannot be used, or no cohort has a task.
        TrainingError: a run failed; the same call resumes it.
        ForeignError, RunError, StoredEmbeddingsError: one of `request.encoders` cannot be used.
    """
    # MERIT's target is its own; separate the configs of supervised references from those of pre-training methods.
    report: Progress = progress or (lambda what, done, total: None)
    configs = [settings.read(path) for path in request.configs]
    if distributed.n_launched() > 1:
        raise ConfigError("reproduce is one process; train on several with `torchrun ... -m leadwise pretrain`")
    if request.encoders and request.target not in _WITH_REFERENCES:
        raise ConfigError(
            f"encoders of your own are rows of table1 and peers, not of {request.target}; choose one of these"
        )
    if request.n_people is not None and request.target != variants.DUAL_PHASE:
        raise ConfigError("the number of simulated people belongs to the target dual_phase; leave it out")
    if request.target == variants.MERIT:
        return _reproduce_merit(request, configs, report)
    if request.target == variants.DUAL_PHASE:
        return _reproduce_dual_phase(request, configs, report)
    if request.finetune_epochs or not request.thesis:
        raise ConfigError("fine-tuned rows and the thesis belong to the target merit; leave these options out")
    reference_configs = [config for config in configs if variants.is_reference(config)]
    configs = [config for config in configs if not variants.is_reference(config)]

    # Refuse what cannot work before anything is written.
    if isinstance(request.width, int) and request.width < 1:
        raise ConfigError(f"a probe width of {request.width} is below 1; pass a positive number, common or native")
    names = request.methods or _methods(request.target)
    small_configs = peers.small_configs if request.target == variants.PEERS else None
    compared = variants.make_variants(request.target, variants.base_configs(configs, names, small_configs))
    no_settings = variants.without_settings(configs, names)
    if not compared:
        raise ConfigError(f"no small settings: {', '.join(no_settings)}; give a config of the method with --config")
    if request.legacy and request.target != "table1":
        raise ConfigError(
            f"the published protocol is one of probes: it goes with table1, not with {request.target}; "
            "choose table1 or the strict protocol"
        )
    use_references = request.references and request.target in _WITH_REFERENCES
    references = References.from_configs(reference_configs, compared[0].config) if use_references else None
    if reference_configs and references is None:
        raise ConfigError("a config of a method that is trained on labels is for the references of table1 and peers")

    encoders = _own_encoders(request, [variant.label for variant in compared])
    folder = request.out / request.target
    folder.mkdir(parents=True, exist_ok=True)
    with training_runs.locked_folder(request.out), _log_file(folder / "log.txt"):
        return _reproduce(request, configs, compared, no_settings, references, encoders, report)


def _own_encoders(request: ReproduceRequest, rows: Sequence[str]) -> list[tuple[str, Run]]:
    """Return the encoders of the request with the name of their row.

    Raises:
        ConfigError: two rows have the same name.
    """
    named = [(f"{run.name} (own)", run) for run in map(open_encoder, request.encoders)]
    names = [*rows, *(name for name, _ in named)]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two rows are named '{max(names, key=names.count)}'; give one of them another name in a description file"
        )
    return named


def _reproduce(
    request: ReproduceRequest,
    configs: Sequence[Config],
    compared: Sequence[Variant],
    no_settings: Sequence[str],
    references: References | None,
    encoders: Sequence[tuple[str, Run]],
    progress: Progress,
) -> Reproduction:
    # Choose the cohorts, and check that every cell can be scored before anything is trained.
    folder = request.out / request.target
    training_cohort, cohorts = _cohorts(request, configs, progress)
    options = dataclasses.replace(_SCORING[request.target], legacy=request.legacy, splits=request.splits)
    map_recordings = _map_recordings(cohorts) if request.target == "fig3" else None
    if map_recordings is None:
        check_scoring(cohorts, options)

    # Complete the configs: cohort, budget and seeds.
    compared = [training_runs.with_cohort(variant, training_cohort) for variant in compared]
    for variant in compared:
        training_runs.check_variant(variant)
    if references:
        references.check()
        references = references.with_budget(request.budget, request.out, cohorts)
    compared = [training_runs.with_budget(request.budget, request.out, variant) for variant in compared]
    is_peers = request.target == variants.PEERS
    seeded = [
        one
        for variant in compared
        for one in training_runs.with_seeds(
            variant, peers.seeds_of(variant, request.seeds) if is_peers else request.seeds
        )
    ]

    # Probes of one width need the features of all rows, so that every run is trained before the first is scored.
    if options.fractions:
        width = _probe_width(request, seeded, references, [run for _, run in encoders], progress)
        options = dataclasses.replace(options, width=width)

    # Train each variant with each seed, and score it or draw its map.
    cells: list[Cell] = []
    maps: list[tuple[Figure, str]] = []
    map_lines: list[dict[str, Any]] = []
    n_leaked = 0  # test patients used in training
    for number, variant in enumerate(seeded, start=1):
        log.info("%s, seed %d (%d of %d)", variant.label, variant.config.optim.seed, number, len(seeded))
        run = training_runs.load_or_train(request.out / "runs", variant, progress)
        if map_recordings is not None:
            figure, lines = embedding_maps.draw_map(variant.label, run, map_recordings, progress)
            maps.append((figure, f"t-SNE of {variant.label}, seed {variant.config.optim.seed}"))
            map_lines += lines
            overlap = training_overlap(run, map_recordings.cohort, map_recordings.rows)
            n_leaked = max(n_leaked, overlap.n_leaked)
        else:
            assert run.folder is not None
            cache = request.out / "scores" / run.folder.name / variant.folder
            cells += score_run(variant.label, run, cohorts, cache, options, progress)

    # Encoders of the user's own, scored as they are.
    for row, run in encoders:
        log.info("%s: %s", row, run.origin or "run")
        cache = request.out / "scores" / "own" / run.fingerprint
        cells += score_run(row, run, cohorts, cache, options, progress)

    # The reference rows come first in the table.
    reference_variants: list[Variant] = []
    if references:
        log.info("references: untrained, hand-crafted and supervised")
        rows, reference_variants = reference_cells(references, cohorts, request.out, options, request.seeds, progress)
        cells = rows + cells

    # Describe the scale, and write everything.
    scale = _scale(request, seeded, cohorts, max([n_leaked, *(cell.n_seen for cell in cells)]))
    if map_recordings is not None:
        classes = ", ".join(map_recordings.classes)
        scale += (
            f" The maps contain the {len(map_recordings.rows)} test recordings of {map_recordings.cohort.name} "
            f"with exactly one of {classes}."
        )
    scale += _width_sentence(cells, options.width)
    if encoders:
        scale += f" Not trained here, with what is known of their pre-training data: {_own_sentence(encoders, cells)}."
    if request.target == "table3":
        scale += f" {variants.contrast_remark(compared)}"
    if references:
        scale += f" References: {references}."
    if no_settings:
        scale += f" No small settings, so not compared: {', '.join(no_settings)}; give a config of each with --config."
    page = dataclasses.replace(_page(request, compared, cells, map_lines, maps), scale=scale)
    texts = {variant.folder: settings.dumps(variant.config) for variant in [*seeded, *reference_variants]}
    write_result(folder, page, texts)
    return Reproduction(folder, page.lines, page.scale)


def _methods(target: str) -> tuple[str, ...]:
    """Return the methods that a target compares where the request names none."""
    return peers.METHODS if target == variants.PEERS else variants.compared_methods(target)


def _reproduce_merit(request: ReproduceRequest, configs: Sequence[Config], progress: Progress) -> Reproduction:
    """Return the result of the target `merit`."""
    # Refuse what cannot work before anything is written.
    if request.legacy or request.splits or request.methods or request.width != COMMON:
        raise ConfigError(
            "merit has one method, strict splits and features at their own width: leave out --methods, --splits, --protocol and "
            "--width"
        )
    other = [config.method.get("name") for config in configs if config.method.get("name") != "merit"]
    if other or len(configs) > 1:
        raise ConfigError(
            f"merit takes one --config, of the method merit, not of {', '.join(map(str, other)) or 'two runs'}"
        )
    training_cohort: Path | None = None
    cohorts: list[Cohort] = []
    if request.cohorts or any(config.data.cohort for config in configs):
        training_cohort, cohorts = _cohorts(request, configs, progress)
    options = merit.MeritOptions(
        request.out,
        next(iter(variants.base_configs(configs, ("merit",)).values())),
        tuple(cohorts),
        training_cohort,
        request.budget,
        request.seeds,
        request.thesis,
        request.finetune_epochs,
    )
    merit.check_options(options)

    # Train, score and write.
    folder = request.out / request.target
    folder.mkdir(parents=True, exist_ok=True)
    with training_runs.locked_folder(request.out), _log_file(folder / "log.txt"):
        page, trained = merit.reproduce_merit(options, progress)
        write_result(folder, page, {one.folder: settings.dumps(one.config) for one in trained})
        return Reproduction(folder, page.lines, page.scale, dict(page.more))


def _reproduce_dual_phase(request: ReproduceRequest, configs: Sequence[Config], progress: Progress) -> Reproduction:
    """Return the result of the target `dual_phase`."""
    # Refuse what cannot work before anything is written.
    is_other = request.cohorts or request.legacy or request.splits or request.methods or request.width != COMMON
    if is_other or request.finetune_epochs or not (request.thesis and request.references):
        raise ConfigError(
            "dual_phase simulates its cohort and has its own arms: leave out --cohorts, --methods, --splits, --protocol, "
            "--width, --no-references, --no-thesis and --finetune-epochs"
        )
    by_method = {str(config.method.get("name")): config for config in configs}
    masked = [config for name, config in by_method.items() if name in dual_phase.MASKED_METHODS]
    other = set(by_method) - {*dual_phase.MASKED_METHODS, "dual_phase_cmr"}
    if other or len(by_method) < len(configs) or len(masked) > 1:
        raise ConfigError(
            f"dual_phase takes one --config of {' or '.join(dual_phase.MASKED_METHODS)} and one of dual_phase_cmr, not of "
            f"{', '.join(sorted(other)) or 'two runs'}"
        )
    if request.n_people is not None and request.n_people < dual_phase.LEAST_PEOPLE:
        raise ConfigError(f"--people {request.n_people}: give {dual_phase.LEAST_PEOPLE} or more")
    options = dual_phase.DualPhaseOptions(
        request.out,
        request.budget,
        request.seeds,
        request.n_people or dual_phase.N_PEOPLE,
        masked[0] if masked else None,
        by_method.get("dual_phase_cmr"),
    )

    # Train, score and write.
    folder = request.out / request.target
    folder.mkdir(parents=True, exist_ok=True)
    with training_runs.locked_folder(request.out), _log_file(folder / "log.txt"):
        page, trained = dual_phase.reproduce_dual_phase(options, progress)
        write_result(folder, page, {one.folder: settings.dumps(one.config) for one in trained})
        return Reproduction(folder, page.lines, page.scale, dict(page.more))


def _probe_width(
    request: ReproduceRequest,
    seeded: Sequence[Variant],
    references: References | None,
    encoders: Sequence[Run],
    progress: Progress,
) -> int | None:
    """Return the width of all probes: as requested, else the smallest width of the rows' features.

    The smallest one, because then no row has fewer features than the others.
    """
    if request.width != COMMON:
        return request.width if isinstance(request.width, int) else None
    widths = [
        width_of(training_runs.load_or_train(request.out / "runs", variant, progress), "backbone") for variant in seeded
    ]
    widths += [width_of(run, "backbone") for run in encoders]
    if references:
        widths += [width_of(run, "backbone") for _, run in untrained_runs(references, request.seeds)]
    return min(widths)


def _width_sentence(cells: Sequence[Cell], width: int | None) -> str:
    """Return a sentence on the width of the probes and of the rows' features; empty without probes."""
    native = {cell.row: cell.feature_width for cell in cells if cell.feature_width}
    if not native:
        return ""
    rows = ", ".join(f"{row} {n}" for row, n in native.items())
    if width is None:
        return f" Probes use the features of each row at their own width ({rows})."
    return (
        f" All probes use {width} features: wider ones are reduced to so many principal components, by PCA of the training "
        f"split's features without labels (widths before: {rows})."
    )


def _own_sentence(encoders: Sequence[tuple[str, Run]], cells: Sequence[Cell]) -> str:
    """Return for each encoder of the user's own its training data, and how many test patients are known to be in it."""
    parts = []
    for row, run in encoders:
        n_leaked = max((cell.n_seen for cell in cells if cell.row == row), default=0)
        leak = f", with {n_leaked} people of a test split: its scores are too high" if n_leaked else ""
        parts.append(f"{row} {run.pretraining_data}{leak}")
    return "; ".join(parts)


def _page(
    request: ReproduceRequest,
    compared: Sequence[Variant],
    cells: Sequence[Cell],
    map_lines: list[dict[str, Any]],
    maps: list[tuple[Figure, str]],
) -> ReproductionPage:
    """Return the table and figures of the target."""
    each = tables.per_task(cells)
    title = f"{request.target} of CG-DMER (arXiv 2602.21154)"
    if request.target == "table3":
        return ReproductionPage(title, tables.table3(cells, compared), each, figures.component_figures(cells, compared))
    if request.target == "fig2":
        return ReproductionPage(title, tables.fig2(cells, compared), each, figures.sweep_figures(cells, compared))
    if request.target == "fig3":
        return ReproductionPage(title, map_lines, [], maps)
    if request.target == variants.PEERS:
        drawn = [*figures.mean_figures(cells), *figures.method_figures(cells)]
        more = [(peers.REMARK, peers.PUBLISHED)]
        return ReproductionPage(peers.TITLE, tables.means_table(cells), each, drawn, more=more)
    return ReproductionPage(title, each, [], figures.method_figures(cells))


# -------------------------------------------------------------------------------------------------------- data


def _cohorts(request: ReproduceRequest, configs: Sequence[Config], progress: Progress) -> tuple[Path, list[Cohort]]:
    """Return the cohort used for training, and the cohorts to score."""
    # All variants must be trained on one cohort.
    named = list(dict.fromkeys(config.data.cohort for config in configs if config.data.cohort))
    if len(named) > 1:
        raise ConfigError(
            f"the configs name different cohorts for training ({', '.join(named)}), so their rows are not comparable: "
            "name the same in each"
        )

    # Open the cohorts; folder names and data sets must be unique, since tables are keyed by them.
    paths = list(request.cohorts) or [Path(name) for name in named]
    if not paths:
        paths = [_simulated(request.out, progress)]
    opened = [Cohort.open(path) for path in paths]
    names = [cohort.name for cohort in opened]
    if len(set(names)) < len(names):
        raise CohortError(f"two of the cohorts have the folder name {max(names, key=names.count)}; rename one of them")
    paper_sources = {source for source, _ in paper_numbers.TASKS}
    sources = [cohort.source for cohort in opened if cohort.source in paper_sources]
    if len(set(sources)) < len(sources):
        raise CohortError(
            f"two of the cohorts are of {max(sources, key=sources.count)}; a table has one row for each data set: "
            "give one"
        )

    scored = [cohort for cohort in opened if cohort.tasks]
    if not scored:
        raise CohortError(f"none of {', '.join(map(str, paths))} has a task to score; add one with --cohorts")
    return Path(named[0]) if named else paths[0], scored


def _simulated(out: Path, progress: Progress) -> Path:
    """Return the folder of the demo's simulated cohort; create it if it does not exist."""
    folder = out / "cohort"
    if not (folder / "cohort.json").is_file():
        ecgs = out / "ecgs"
        shutil.rmtree(ecgs, ignore_errors=True)
        simulated.simulate(ecgs, N_RECORDS, 0, progress)
        write(simulated.read_source(ecgs), folder, progress=progress)
        shutil.rmtree(ecgs)
    return folder


def _map_recordings(cohorts: Sequence[Cohort]) -> embedding_maps.MapRecordings:
    """Return Figure 3's recordings: of CSN, as in the paper, if enough of it is given; else of the largest test split."""
    csn = [cohort for cohort in cohorts if cohort.source == "csn" and len(cohort.rows("test")) >= _MIN_MAP_RECORDINGS]
    cohort = csn[0] if csn else max(cohorts, key=lambda one: len(one.rows("test")))
    return embedding_maps.choose_recordings(cohort, next(iter(cohort.tasks)))


# ------------------------------------------------------------------------------------------------------- scale


def _scale(request: ReproduceRequest, seeded: Sequence[Variant], cohorts: Sequence[Cohort], n_leaked: int) -> str:
    """Return one paragraph on the data and budget compared with the paper's; it begins with a leak, if there is one."""
    # The training: recordings, steps and their fraction of the paper's training.
    first = seeded[0].config
    cohort = Cohort.open(Path(first.data.cohort))
    n_train = len(cohort.rows(split="train", min_report_words=first.data.min_report_words))
    processed = {variant.config.optim.steps * variant.config.optim.batch_size for variant in seeded}
    steps = _span([variant.config.optim.steps for variant in seeded])
    least, most = (n / paper_numbers.N_RECORDINGS_TRAINED for n in (min(processed), max(processed)))
    fraction = f"{least:.2%}" if least == most else f"{least:.2%} to {most:.2%}"
    sizes = " or ".join(map(str, sorted({variant.config.optim.batch_size for variant in seeded})))
    seeds = ", ".join(map(str, sorted({variant.config.optim.seed for variant in seeded})))
    kind = (
        "simulated hearts: they show how settings compare and nothing about patients"
        if cohort.source == "simulated"
        else cohort.source
    )

    # The evaluation, and the verdict that the paragraph begins with.
    tested = ", ".join(f"{one.name} ({_n_test(one, request)} test recordings)" for one in cohorts)
    splits = "splits of the cohorts" if request.splits is None else "published splits where there are any"
    is_full = cohort.source == "mimic_iv_ecg" and n_train > 700_000 and least > 0.9
    verdict = (
        "This is the paper's scale."
        if is_full
        else "This is NOT the paper's scale; its numbers are printed beside ours for orientation only."
    )
    leak = (
        f"LEAK: {n_leaked} people of a test split were in the pre-training; these scores are too high. "
        if n_leaked
        else ""
    )
    return (
        f"{leak}{verdict} Trained on {n_train:,} recordings of {cohort.name} ({kind}), {steps} steps of "
        f"{sizes} ({fraction} of the recordings processed in the paper's training: "
        f"{paper_numbers.PRETRAINING}), seeds {seeds}. Scored on {tested}, {splits}."
    )


def _n_test(cohort: Cohort, request: ReproduceRequest) -> str:
    if request.splits is not None:
        return "see the table for its"
    return f"{len(cohort.rows(split='test')):,}"


def _span(values: Sequence[int]) -> str:
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Append the package's log messages of the block to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("leadwise")
    previous_level = logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(previous_level)
        handler.close()
