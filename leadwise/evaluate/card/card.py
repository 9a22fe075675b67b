"""A model card: what a run was trained on, how well it scores and for whom, what disturbs it, and what it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate import prompts
from leadwise.evaluate.card import (
    disentanglement,
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
    count_leaked_patients,
    embed_cohort,
)
from leadwise.evaluate.logistic_regression import ProbeError
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.bootstrap import gain
from leadwise.evaluate.metrics.score import Floats, Score, ScoreError
from leadwise.evaluate.probe import make_probe_task
from leadwise.evaluate.prompts import PromptError
from leadwise.evaluate.zeroshot import load_prompts
from leadwise.progress import Progress, relabel
from leadwise.run import Run

N_RECORDS = 500  # test records that are judged once more after each change
N_QUICK_RECORDS = 100
N_MAPS = 3

_N_QUICK_TRAIN = 1000


class CardError(ValueError):
    """A card that cannot be made; the message names the cohort or task and the remedy."""


@dataclass(frozen=True)
class CardRow:
    """One task scored in one way on the test split."""

    task: str
    how: str  # PROBE or ZERO_SHOT
    trained: Score
    untrained: Score | None  # None: not asked for
    prompts: dict[str, str] | None = None  # of ZERO_SHOT: file, sha256 and set

    def line(self) -> dict[str, Any]:
        """For a table and for JSON; AUROCs in [0, 1]."""
        low, high = self.trained.interval
        told: dict[str, Any] = {
            "task": self.task,
            "how": self.how,
            "macro": self.trained.macro,
            "low": low,
            "high": high,
        }
        if self.untrained:
            told["untrained"] = self.untrained.macro
            told["untrained_low"], told["untrained_high"] = self.untrained.interval
            told["gain"], (told["gain_low"], told["gain_high"]) = gain(self.trained, self.untrained)
        told |= {"records": self.trained.n_records, "patients": self.trained.n_patients}
        return {**told, "skipped": ", ".join(self.trained.skipped)}


@dataclass(frozen=True)
class Card:
    """Everything that stands on the page."""

    run: Run
    cohort: Cohort
    quick: bool
    facts: dict[str, Any]
    scores: list[CardRow]
    groups: dict[str, list[subgroups.Group]]  # by task
    robustness: robustness.Robustness | None
    parts: disentanglement.Disentanglement | None
    maps: list[occlusion.OcclusionMap]
    remarks: list[str]  # what could not be shown, and why

    def to_json(self) -> dict[str, Any]:
        """One object of plain JSON values; no report, no ECG."""
        return {
            "command": "card",
            "quick": self.quick,
            "facts": self.facts,
            "scores": [
                {**row.line(), "prompts": row.prompts, "per_class": dict(row.trained.per_class)} for row in self.scores
            ],
            "groups": {task: [group.row() for group in found] for task, found in self.groups.items()},
            "robustness": self.robustness.to_json() if self.robustness else None,
            "disentanglement": self.parts.to_json() if self.parts else None,
            "occlusion": [_map_json(one, self.run.config.signal.leads) for one in self.maps],
            "remarks": self.remarks,
        }


def _map_json(one: occlusion.OcclusionMap, leads: Sequence[str]) -> dict[str, Any]:
    known = one.drop[np.isfinite(one.drop)]
    whole = {lead: float(value) for lead, value in zip(leads, one.without_lead) if np.isfinite(value)}
    return {
        "record": one.record, "class": one.name, "reader": one.reader, "unit": one.unit, "score": one.score,
        "window_s": one.window_s, "largest_drop": float(known.max()), "without_lead": whole,
        "without_top_tenth": one.without_top, "without_random_tenth": one.without_random,
    }  # fmt: skip


@dataclass(frozen=True)
class _CardContext:
    """What every step of a card works on."""

    run: Run
    twin: Run | None  # untrained; None: not asked for
    cohort: Cohort
    prompt_file: Path | None
    progress: Progress | None
    remarks: list[str]  # grows

    def embed(self, run: Run, part: str, rows: NDArray[Any]) -> Features:
        """(n, D) from the cache beside the run, the twin's too."""
        cache = self.run.folder / "embeddings" if self.run.folder else None
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
) -> Card:
    """The card of a run on a cohort's test split.

    Args:
        tasks: default all of the cohort; robustness, parts and maps are measured on the first that can be scored.
        n_records: test records for robustness; default RECORDS, or QUICK_RECORDS.
        quick: a look in a minute or so: no untrained twin, fewer changes, probes of the parts on fewer recordings.
        prompt_file: prompts for the task that it names, in place of those shipped.

    Raises:
        CardError: no test split, an unknown task, or prompts for none of the tasks.
        PromptError: the prompt file cannot be read.
    """
    wanted = _check_tasks(cohort, tasks)
    if prompt_file is not None:
        _check_prompts(cohort, prompt_file, wanted)
    asked = _CardContext(run, None if quick else run.untrained(), cohort, prompt_file, progress, [])
    facts = describe_run(run, cohort)
    rows: list[CardRow] = []
    by_group: dict[str, list[subgroups.Group]] = {}
    first: tuple[str, list[Classifier], dict[str, Floats]] | None = None
    for task in wanted:
        readers, test = _classifiers(asked, run, task), cohort.rows("test", task)
        if not readers:
            continue
        scores = {one.name: one.scores(asked.embed(run, one.part, test)) for one in readers}
        try:
            rows += _card_rows(asked, task, readers, scores)
        except ScoreError as error:
            asked.remarks.append(f"Task {task} is not scored: {error}.")
            continue
        labels, patients = cohort.labels(task, test), cohort.patients.take(test)
        by_group[task] = subgroups.score_groups(
            labels, scores, patients, cohort.tasks[task], subgroups.group_names(cohort, test)
        )
        first = first or (task, readers, scores)
    missing = [by for by in subgroups.GROUP_COLUMNS if by not in subgroups.group_names(cohort, cohort.rows("test"))]
    if missing:
        asked.remarks.append(f"The cohort does not know {' or '.join(missing)}, so there are no scores by it.")
    if first is None:
        asked.remarks.append("No task could be scored, so robustness, parts and occlusion maps are not shown.")
        return Card(run, cohort, quick, facts, rows, by_group, None, None, [], list(dict.fromkeys(asked.remarks)))
    task, readers, scores = first
    hardy = _robustness(asked, task, readers, n_records or (N_QUICK_RECORDS if quick else N_RECORDS), quick)
    parts = None
    if any(one.name == PROBE for one in readers):
        parts = disentanglement.measure_disentanglement(
            run, cohort, task, _N_QUICK_TRAIN if quick else None, asked.twin, progress
        )
    else:
        asked.remarks.append(
            "The parts of the embedding are not compared: that takes a probe, and none could be fitted."
        )
    maps = _maps(asked, task, readers, scores, 1 if quick else N_MAPS)
    return Card(run, cohort, quick, facts, rows, by_group, hardy, parts, maps, list(dict.fromkeys(asked.remarks)))


def _check_tasks(cohort: Cohort, tasks: Sequence[str] | None) -> tuple[str, ...]:
    if not len(cohort.rows("test")):
        raise CardError(f"cohort {cohort.name} has no recording in split 'test', on which a card is written")
    unknown = [task for task in tasks or () if task not in cohort.tasks]
    if unknown:
        raise CardError(f"cohort {cohort.name}: no task {unknown[0]!r}; it has {', '.join(cohort.tasks) or 'none'}")
    return tuple(tasks or cohort.tasks)


def _check_prompts(cohort: Cohort, path: Path, wanted: Sequence[str]) -> None:
    """A file that was named and cannot be read, or would not be used, is an error and no remark; another source's warns."""
    task = prompts.load(path).task
    if task not in wanted:
        raise CardError(
            f"{path}: its prompts are for task '{task}', but the card is of {', '.join(wanted) or 'no task'}; "
            "give a file for one of these, or name its task by --tasks"
        )
    load_prompts(cohort, task, path)


def describe_run(run: Run, cohort: Cohort) -> dict[str, Any]:
    """What a run is and what it learnt from, as plain values."""
    learnt, optim, signal = run.provenance, run.config.optim, run.config.signal
    test = cohort.rows("test")
    sizes: dict[str, int] = {}
    for name, weight in run.method.named_parameters():
        room = name.split(".")[0]
        sizes[room] = sizes.get(room, 0) + weight.numel()
    return {
        "run": run.name,
        "method": run.config.method["name"],
        "weights": run.fingerprint,
        "trained_on": {key: learnt.get(key) for key in ("cohort", "source", "fingerprint")} if learnt else None,
        "n_people_trained_on": len(learnt["people"]) if "people" in learnt else None,
        "steps": optim.steps,
        "batch_size": optim.batch_size,
        "precision": optim.precision,
        "n_parameters": sum(sizes.values()),
        "parameters_of": sizes,
        "signal": {"leads": list(signal.leads), "rate_hz": signal.rate_hz, "duration_s": signal.duration_s,
                   "normalize": signal.normalize},
        "settings": {key: value for key, value in run.config.method.items() if key != "name"},
        "cohort": {"name": cohort.name, "source": cohort.source, "fingerprint": cohort.fingerprint,
                   "recordings": {split: len(cohort.rows(split)) for split in ("train", "val", "test")}},
        "n_people_tested": len(cohort.patients.distinct(test)),
        "n_people_tested_and_trained_on": count_leaked_patients(run, cohort, test) if "people" in learnt else None,
    }  # fmt: skip


def _classifiers(asked: _CardContext, run: Run, task: str) -> list[Classifier]:
    """What can read the task out of the run or its twin; a remark for what cannot."""
    found: list[Classifier] = []
    rows = asked.cohort.rows(task=task)
    if not len(asked.cohort.rows("test", task)):
        asked.remarks.append(f"Task {task}: no recording of it in the test split.")
        return found
    try:
        wanted = make_probe_task(asked.cohort, task, rows)
        found.append(probe_classifier(asked.embed(run, "backbone", rows), wanted))
    except ProbeError as error:
        asked.remarks.append(f"Task {task} is not probed: {error}.")
    if not has_text_encoder(run):
        asked.remarks.append("There are no zero-shot scores: the run learnt from ECGs alone, it reads no words.")
        return found
    try:
        found.append(zeroshot_classifier(run, asked.cohort, task, asked.prompt_file))
    except PromptError as error:
        asked.remarks.append(f"Task {task} has no zero-shot score: {error}.")
    return found


def _card_rows(asked: _CardContext, task: str, readers: list[Classifier], scores: dict[str, Floats]) -> list[CardRow]:
    test = asked.cohort.rows("test", task)
    labels, patients = asked.cohort.labels(task, test), asked.cohort.patients.take(test)
    untrained: dict[str, Score] = {}
    if asked.twin is not None:
        for own in _classifiers(asked, asked.twin, task):
            values = own.scores(asked.embed(asked.twin, own.part, test))
            untrained[own.name] = auroc_score(labels, values, patients, own.classes)
    return [
        CardRow(
            task,
            one.name,
            auroc_score(labels, scores[one.name], patients, one.classes),
            untrained.get(one.name),
            one.prompts,
        )
        for one in readers
    ]


def _robustness(
    asked: _CardContext, task: str, readers: list[Classifier], n_records: int, quick: bool
) -> robustness.Robustness | None:
    try:
        return robustness.measure_robustness(asked.run, asked.cohort, task, readers, n_records, quick, asked.progress)
    except (ScoreError, EmbedError) as error:
        asked.remarks.append(f"Robustness is not shown: {error}.")
        return None


def _maps(
    asked: _CardContext, task: str, readers: list[Classifier], scores: dict[str, Floats], n: int
) -> list[occlusion.OcclusionMap]:
    """Maps of a few records that are classified well, by words where the run reads them."""
    run, cohort = asked.run, asked.cohort
    reader = next((one for one in readers if one.name == ZERO_SHOT), readers[0])
    test = cohort.rows("test", task)
    whole = np.isin(test, robustness.complete_rows(cohort, run.config.signal, test)[0])
    labels, values, test = cohort.labels(task, test)[whole], scores[reader.name][whole], test[whole]
    picked = occlusion.choose_examples(labels, values, reader.classes, n)
    if not picked:
        asked.remarks.append("There are no occlusion maps: no class has enough positives among whole recordings.")
    maps = []
    for i, k in picked:
        try:
            maps.append(occlusion.occlude(run, cohort, int(test[i]), reader, reader.classes[k], asked.progress))
        except EmbedError as error:
            asked.remarks.append(f"No occlusion map of {reader.classes[k]}: {error}.")
    return maps
