"""A model card: what a run was trained on, scores overall and by patient group, robustness, shifts, and occlusion maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.usable_rows import LeftOut
from leadwise.evaluate import prompts
from leadwise.evaluate.card import (
    disentanglement,
    heart,
    occlusion,
    robustness,
    subgroups,
)
from leadwise.evaluate.classifiers import (
    PROBE,
    ZERO_SHOT,
    Classifier,
    has_text_encoder,
    probe_classifier,
    zeroshot_classifier,
)
from leadwise.evaluate.embed import (
    EmbedError,
    Features,
    embed_cohort,
    training_overlap,
    usable,
)
from leadwise.evaluate.logistic_regression import ProbeError
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.bootstrap import gain
from leadwise.evaluate.metrics.score import Floats, Score, ScoreError
from leadwise.evaluate.probe import make_probe_task
from leadwise.evaluate.prompts import PromptError
from leadwise.evaluate.shift import ShiftReport, run_shift, tested_task
from leadwise.evaluate.shift_labels import LabelMap, ShiftError
from leadwise.evaluate.zeroshot import load_prompts
from leadwise.progress import Progress, relabel
from leadwise.run import Run

N_RECORDS = 500  # test records that are scored again after each change
N_QUICK_RECORDS = 100
N_MAPS = 3

_N_QUICK_TRAIN = 1000


class CardError(ValueError):
    """A card cannot be computed; the message names the cohort or task and the remedy."""


@dataclass(frozen=True)
class CardRow:
    """One task scored in one way on the test split."""

    task: str
    how: str  # PROBE or ZERO_SHOT
    trained: Score
    untrained: Score | None  # None: not requested
    prompts: dict[str, str] | None = None  # of ZERO_SHOT: file, sha256 and set

    def line(self) -> dict[str, Any]:
        """Return the row for tables and JSON; AUROCs in [0, 1]."""
        low, high = self.trained.interval
        line: dict[str, Any] = {
            "task": self.task,
            "how": self.how,
            "macro": self.trained.macro,
            "low": low,
            "high": high,
        }
        if self.untrained:
            line["untrained"] = self.untrained.macro
            line["untrained_low"], line["untrained_high"] = self.untrained.interval
            line["gain"], (line["gain_low"], line["gain_high"]) = gain(self.trained, self.untrained)
        line |= {"records": self.trained.n_records, "patients": self.trained.n_patients}
        return {**line, "skipped": ", ".join(self.trained.skipped)}


@dataclass(frozen=True)
class Card:
    """The content of the page."""

    run: Run
    cohort: Cohort
    quick: bool
    facts: dict[str, Any]
    scores: list[CardRow]
    groups: dict[str, list[subgroups.Group]]  # by task
    robustness: robustness.Robustness | None
    parts: disentanglement.Disentanglement | None
    maps: list[occlusion.OcclusionMap]
    remarks: list[str]  # what could not be computed, and why
    left_out: LeftOut = field(default_factory=LeftOut)  # recordings that the run cannot embed
    shifts: list[ShiftReport] = field(default_factory=list)  # changed ECGs of one task, then one for each other cohort
    heart: heart.HeartSection | None = None  # None: a cohort without numbers of the heart and heart images

    def to_json(self) -> dict[str, Any]:
        """Return one object of plain JSON values, without reports and ECGs."""
        return {
            "command": "card",
            "quick": self.quick,
            "facts": self.facts,
            "scores": [
                {**row.line(), "prompts": row.prompts, "per_class": dict(row.trained.per_class)} for row in self.scores
            ],
            "groups": {task: [group.row() for group in groups] for task, groups in self.groups.items()},
            "robustness": self.robustness.to_json() if self.robustness else None,
            "disentanglement": self.parts.to_json() if self.parts else None,
            "occlusion": [_map_json(one, self.run.config.signal.leads) for one in self.maps],
            "shifts": [one.to_json() for one in self.shifts],
            **({"heart": self.heart.to_json()} if self.heart else {}),
            "remarks": self.remarks,
            **self.left_out.to_json(),
        }


def _map_json(one: occlusion.OcclusionMap, leads: Sequence[str]) -> dict[str, Any]:
    finite = one.drop[np.isfinite(one.drop)]
    without_lead = {lead: float(value) for lead, value in zip(leads, one.without_lead) if np.isfinite(value)}
    return {
        "record": one.record, "class": one.name, "reader": one.classifier, "unit": one.unit, "score": one.score,
        "window_s": one.window_s, "largest_drop": float(finite.max()), "without_lead": without_lead,
        "without_top_tenth": one.without_top, "without_random_tenth": one.without_random,
    }  # fmt: skip


@dataclass(frozen=True)
class _CardContext:
    """The inputs that every step of a card needs."""

    run: Run
    twin: Run | None  # untrained; None: not requested
    cohort: Cohort
    prompt_file: Path | None
    progress: Progress | None
    remarks: list[str]  # the steps append to it
    usable: NDArray[np.int64]  # rows of the cohort that the run can embed

    def rows(self, split: str | None, task: str | None) -> NDArray[np.int64]:
        """Return the rows of a split and task that the run can embed."""
        rows = self.cohort.rows(split, task)
        return rows[np.isin(rows, self.usable)]

    def embed(self, run: Run, part: str, rows: NDArray[Any]) -> Features:
        """Return (n, D) embeddings, cached in the run's folder; the twin's too."""
        cache = self.run.cache_folder
        what = f"embed {part}" if run is self.run else f"embed {part}, untrained"
        return embed_cohort(run, self.cohort, part, rows, relabel(self.progress, what), cache)


def make_card(
    run: Run,
    cohort: Cohort,
    tasks: Sequence[str] | None = None,
    n_records: int | None = None,
    quick: bool = False,
    prompt_file: Path | None = None,
    progress: Progress | None = None,
    tests: Sequence[Cohort] = (),
    label_map: LabelMap | None = None,
) -> Card:
    """Return the card of a run on a cohort's test split.

    Args:
        tasks: default all of the cohort; robustness, parts and maps are measured on the first that can be scored.
        n_records: test records for robustness and shifts; default N_RECORDS, or N_QUICK_RECORDS.
        quick: takes about a minute: no untrained twin, fewer changes, probes of the parts on fewer recordings.
        prompt_file: prompts for the task that it names, instead of the shipped ones.
        tests: other cohorts, on which a probe fitted on this one is scored; of each task, the first with findings in common.
        label_map: findings that data sets have in common; default: the shipped map.

    Raises:
        CardError: no test split, an unknown task, or prompts for none of the tasks.
        ShiftError: a cohort of `tests` has no finding in common with any of the tasks.
        PromptError: the prompt file cannot be read.
    """
    # Check the request before any computation.
    checked_tasks = _check_tasks(cohort, tasks)
    if prompt_file is not None:
        _check_prompts(cohort, prompt_file, checked_tasks)
    chosen_map = label_map or LabelMap.load()
    test_tasks = [_task_in_common(cohort, checked_tasks, test, chosen_map) for test in tests]
    of_tasks = [cohort.rows(task=task) for task in checked_tasks]
    needed = (
        cohort.rows() if run.stored is None else np.unique(np.concatenate([cohort.rows()[:0], *of_tasks]))
    )  # a file may have no others
    usable_rows, left_out = usable(run, cohort, needed)
    twin = run.untrained() if run.has_untrained and not quick else None
    context = _CardContext(run, twin, cohort, prompt_file, progress, [], usable_rows)
    remarks = context.remarks
    if left_out:
        remarks.append(f"{left_out.line}.")
    if not run.has_untrained:
        remarks.append(f"{run.name} gives no untrained encoder, so there is no such control.")
    facts = describe_run(run, cohort, context.rows("test", None))

    # A probe of this cohort on the others; it does not depend on the scores below.
    shifts = [
        run_shift(
            run, cohort, task, [test], (1.0,), label_map=chosen_map, changes=False,
            progress=relabel(progress, f"shift to {test.name}"),
        )
        for task, test in zip(test_tasks, tests)
    ]  # fmt: skip

    # Numbers of the heart and heart images, where the cohort has them.
    heart_section = heart.measure_heart(run, cohort, remarks, progress)

    # Score every task, overall and by group; remember the first that could be scored.
    rows: list[CardRow] = []
    groups_by_task: dict[str, list[subgroups.Group]] = {}
    first: tuple[str, list[Classifier], dict[str, Floats]] | None = None
    for task in checked_tasks:
        classifiers, test = _classifiers(context, run, task), context.rows("test", task)
        if not classifiers:
            continue
        scores = {one.name: one.scores(context.embed(run, one.part, test)) for one in classifiers}
        try:
            rows += _card_rows(context, task, classifiers, scores)
        except ScoreError as error:
            remarks.append(f"Task {task} is not scored: {error}.")
            continue
        labels, patients = cohort.labels(task, test), cohort.patients.take(test)
        names = subgroups.group_names(cohort, test)
        groups_by_task[task] = subgroups.score_groups(labels, scores, patients, cohort.tasks[task], names)
        first = first or (task, classifiers, scores)
    available = subgroups.group_names(cohort, cohort.rows("test"))
    missing = [by for by in subgroups.GROUP_COLUMNS if by not in available]
    if missing:
        remarks.append(f"The cohort has no {' or '.join(missing)}, so there are no scores by it.")
    if first is None:
        remarks.append("No task could be scored, so there are no robustness scores, parts and occlusion maps.")
        unique = list(dict.fromkeys(remarks))
        return Card(
            run, cohort, quick, facts, rows, groups_by_task, None, None, [], unique, left_out, shifts, heart_section
        )

    # Robustness, changed ECGs, parts and maps on that task.
    task, classifiers, scores = first
    n_changed = n_records or (N_QUICK_RECORDS if quick else N_RECORDS)
    robustness_scores = _robustness(context, task, classifiers, n_changed, quick)
    parts = None
    if any(one.name == PROBE for one in classifiers):
        shifts = [*_changed_ecgs(context, task, n_changed), *shifts]
        max_train = _N_QUICK_TRAIN if quick else None
        parts = disentanglement.measure_disentanglement(
            run, cohort, task, max_train, context.twin, progress, context.rows(None, task)
        )
    else:
        remarks.append(
            "Changed ECGs are not scored, and the parts of the embedding are not compared: this needs a probe, and none could be "
            "fitted."
        )
    maps = _maps(context, task, classifiers, scores, 1 if quick else N_MAPS)
    return Card(
        run, cohort, quick, facts, rows, groups_by_task, robustness_scores, parts, maps, list(dict.fromkeys(remarks)),
        left_out, shifts, heart_section,
    )  # fmt: skip


def _check_tasks(cohort: Cohort, tasks: Sequence[str] | None) -> tuple[str, ...]:
    """Return the tasks of the card, or raise CardError."""
    if not len(cohort.rows("test")):
        raise CardError(
            f"cohort {cohort.name} has no recording in split 'test', which a card needs; choose a cohort that has one"
        )
    unknown = [task for task in tasks or () if task not in cohort.tasks]
    if unknown:
        raise CardError(f"cohort {cohort.name}: no task {unknown[0]!r}; it has {', '.join(cohort.tasks) or 'none'}")
    return tuple(tasks or cohort.main_tasks)


def _task_in_common(cohort: Cohort, tasks: Sequence[str], test: Cohort, label_map: LabelMap) -> str:
    """Return the first of the tasks that has findings in common with another cohort.

    Raises:
        ShiftError: none has; the message is that of the first task.
    """
    errors = []
    for task in tasks:
        try:
            tested_task(cohort, task, test, label_map)
        except ShiftError as error:
            errors.append(error)
        else:
            return task
    raise errors[0] if errors else ShiftError(f"cohort {cohort.name} has no task to compare with {test.name}")


def _check_prompts(cohort: Cohort, path: Path, tasks: Sequence[str]) -> None:
    """Raise if the given prompt file cannot be read or would not be used; warn if it is for another source."""
    task = prompts.load(path).task
    if task not in tasks:
        raise CardError(
            f"{path}: its prompts are for task '{task}', but the card is of {', '.join(tasks) or 'no task'}; "
            "give a file for one of these, or name its task by --tasks"
        )
    load_prompts(cohort, task, path)


def describe_run(run: Run, cohort: Cohort, test: NDArray[np.int64]) -> dict[str, Any]:
    """Return what a run is, what it was trained on, and how much of the `test` rows that was, as plain values."""
    provenance, signal = run.provenance, run.config.signal
    optim = None if run.origin else run.config.optim  # of an encoder of another program nothing is known
    hashes, overlap = run.training_hashes, training_overlap(run, cohort, test)
    sizes: dict[str, int] = {}
    for name, weight in run.method.named_parameters():
        module = name.split(".")[0]
        sizes[module] = sizes.get(module, 0) + weight.numel()
    return {
        "run": run.name,
        "method": run.origin or run.config.method["name"],
        "weights": run.fingerprint,
        "trained_on": {key: provenance.get(key) for key in ("cohort", "source", "fingerprint")} if provenance else None,
        "pretraining_data": run.pretraining_data,
        "n_people_trained_on": len(hashes.people) if hashes else provenance.get("n_people"),
        "steps": optim and optim.steps,
        "batch_size": optim and optim.batch_size,
        "precision": optim and optim.precision,
        "n_parameters": sum(sizes.values()),
        "parameters_of": sizes,
        "signal": {"leads": list(signal.leads), "rate_hz": signal.rate_hz, "duration_s": signal.duration_s,
                   "normalize": signal.normalize},
        "settings": {key: value for key, value in run.config.method.items() if key != "name"},
        "cohort": {"name": cohort.name, "source": cohort.source, "fingerprint": cohort.fingerprint,
                   **({"about": cohort.about} if cohort.about else {}),
                   "recordings": {split: len(cohort.rows(split)) for split in ("train", "val", "test")}},
        "n_people_tested": overlap.n_tested,
        "n_people_tested_and_trained_on": overlap.n_patients,
        "n_signals_tested_and_trained_on": overlap.n_signals,
        "tested_and_trained_on": overlap.sentence,
    }  # fmt: skip


def _classifiers(context: _CardContext, run: Run, task: str) -> list[Classifier]:
    """Return the classifiers of a task that the run or its twin allows; add a remark for each that it does not."""
    classifiers: list[Classifier] = []
    rows = context.rows(None, task)
    if not len(context.rows("test", task)):
        context.remarks.append(f"Task {task}: no recording of it in the test split.")
        return classifiers
    try:
        probe_task = make_probe_task(context.cohort, task, rows)
        classifiers.append(probe_classifier(context.embed(run, "backbone", rows), probe_task))
    except ProbeError as error:
        context.remarks.append(f"Task {task} is not probed: {error}.")
    if not has_text_encoder(run):
        context.remarks.append(
            "There are no zero-shot scores: the run was trained on ECGs only and has no text encoder."
            if not context.run.origin
            else f"There are no zero-shot scores: {context.run.name} embeds no texts."
        )
        return classifiers
    try:
        classifiers.append(zeroshot_classifier(run, context.cohort, task, context.prompt_file))
    except PromptError as error:
        context.remarks.append(f"Task {task} has no zero-shot score: {error}.")
    return classifiers


def _card_rows(
    context: _CardContext, task: str, classifiers: list[Classifier], scores: dict[str, Floats]
) -> list[CardRow]:
    """Return the scores of a task by each classifier, with those of the untrained twin."""
    test = context.rows("test", task)
    labels, patients = context.cohort.labels(task, test), context.cohort.patients.take(test)
    untrained: dict[str, Score] = {}
    if context.twin is not None:
        for one in _classifiers(context, context.twin, task):
            values = one.scores(context.embed(context.twin, one.part, test))
            untrained[one.name] = auroc_score(labels, values, patients, one.classes)
    return [
        CardRow(
            task,
            one.name,
            auroc_score(labels, scores[one.name], patients, one.classes),
            untrained.get(one.name),
            one.prompts,
        )
        for one in classifiers
    ]


def _robustness(
    context: _CardContext, task: str, classifiers: list[Classifier], n_records: int, quick: bool
) -> robustness.Robustness | None:
    """Return the robustness scores; None with a remark if they cannot be computed."""
    try:
        return robustness.measure_robustness(
            context.run, context.cohort, task, classifiers, n_records, quick, context.progress
        )
    except (ScoreError, EmbedError) as error:
        context.remarks.append(f"Robustness is not scored: {error}.")
        return None


def _changed_ecgs(context: _CardContext, task: str, n_records: int) -> list[ShiftReport]:
    """Return the scores of a probe on changed ECGs; nothing and a remark if they cannot be computed."""
    try:
        return [
            run_shift(
                context.run, context.cohort, task, fractions=(1.0,), n_records=n_records, progress=context.progress
            )
        ]
    except (ShiftError, ProbeError, ScoreError, EmbedError) as error:
        context.remarks.append(f"Changed ECGs are not scored by a probe: {error}.")
        return []


def _maps(
    context: _CardContext, task: str, classifiers: list[Classifier], scores: dict[str, Floats], n: int
) -> list[occlusion.OcclusionMap]:
    """Return maps of a few well-classified records, by the zero-shot classifier if there is one."""
    run, cohort = context.run, context.cohort
    if run.stored is not None:
        context.remarks.append(f"There are no occlusion maps: {run.name} is an {run.origin}, without its encoder.")
        return []
    classifier = next((one for one in classifiers if one.name == ZERO_SHOT), classifiers[0])
    test = context.rows("test", task)
    complete = np.isin(test, robustness.complete_rows(cohort, run.config.signal, test)[0])
    labels, values, test = cohort.labels(task, test)[complete], scores[classifier.name][complete], test[complete]
    examples = occlusion.choose_examples(labels, values, classifier.classes, n)
    if not examples:
        context.remarks.append("There are no occlusion maps: no class has enough positives among complete recordings.")
    maps = []
    for i, k in examples:
        try:
            maps.append(
                occlusion.occlude(run, cohort, int(test[i]), classifier, classifier.classes[k], context.progress)
            )
        except EmbedError as error:
            context.remarks.append(f"No occlusion map of {classifier.classes[k]}: {error}.")
    return maps
