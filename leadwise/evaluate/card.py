"""A model card: what a run was trained on, how well it scores and for whom, what disturbs it, and what it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort import Cohort
from leadwise.evaluate import disentangle, groups, occlusion, robustness
from leadwise.evaluate.embed import Progress, embed_cohort, named, seen_in_training
from leadwise.evaluate.metrics import Floats, Score, ScoreError, auroc, gain, score
from leadwise.evaluate.probe import ProbeError
from leadwise.evaluate.prompts import PromptError
from leadwise.evaluate.readers import PROBE, WORDS, Reader, fit_probe, read_words, reads_text, task_of
from leadwise.run import Run

RECORDS = 500  # test records that are judged once more after each change
QUICK_RECORDS = 100
N_MAPS = 3

_QUICK_TRAIN = 1000


class CardError(ValueError):
    """A card that cannot be made; the message names the cohort or task and the remedy."""


@dataclass(frozen=True)
class Row:
    """One task scored in one way on the test split."""

    task: str
    how: str  # PROBE or WORDS
    trained: Score
    untrained: Score | None  # None: not asked for

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
    scores: list[Row]
    groups: dict[str, list[groups.Group]]  # by task
    robustness: robustness.Robustness | None
    parts: disentangle.Disentanglement | None
    maps: list[occlusion.Map]
    remarks: list[str]  # what could not be shown, and why

    def to_json(self) -> dict[str, Any]:
        """One object of plain JSON values; no report, no ECG."""
        return {
            "command": "card",
            "quick": self.quick,
            "facts": self.facts,
            "scores": [{**row.line(), "per_class": dict(row.trained.per_class)} for row in self.scores],
            "groups": {task: [group.row() for group in found] for task, found in self.groups.items()},
            "robustness": self.robustness.to_json() if self.robustness else None,
            "disentanglement": self.parts.to_json() if self.parts else None,
            "occlusion": [_map_json(one, self.run.config.signal.leads) for one in self.maps],
            "remarks": self.remarks,
        }


def _map_json(one: occlusion.Map, leads: Sequence[str]) -> dict[str, Any]:
    known = one.drop[np.isfinite(one.drop)]
    whole = {lead: float(value) for lead, value in zip(leads, one.without_lead) if np.isfinite(value)}
    return {
        "record": one.record, "class": one.name, "reader": one.reader, "unit": one.unit, "score": one.score,
        "window_s": one.window_s, "largest_drop": float(known.max()), "without_lead": whole,
        "without_top_tenth": one.without_top, "without_random_tenth": one.without_random,
    }  # fmt: skip


def make(
    run: Run,
    cohort: Cohort,
    tasks: Sequence[str] | None = None,
    n_records: int | None = None,
    quick: bool = False,
    progress: Progress | None = None,
) -> Card:
    """The card of a run on a cohort's test split.

    Args:
        tasks: default all of the cohort; robustness, parts and maps are measured on the first.
        n_records: test records for robustness; default RECORDS, or QUICK_RECORDS.
        quick: a look in a minute or so: no untrained twin, fewer changes, probes of the parts on fewer recordings.

    Raises:
        CardError: no test split, or an unknown task.
    """
    wanted = _checked_tasks(cohort, tasks)
    n_records = n_records or (QUICK_RECORDS if quick else RECORDS)
    facts, remarks = describe(run, cohort), list[str]()
    twin = None if quick else run.untrained()
    rows: list[Row] = []
    by_group: dict[str, list[groups.Group]] = {}
    first: tuple[str, list[Reader]] | None = None
    for task in wanted:
        test = cohort.rows("test", task)
        readers = _readers(run, cohort, task, remarks, progress)
        if not readers:
            continue
        labels, patients = cohort.labels(task, test), cohort.patients.take(test)
        scores = {one.name: _judged(run, run, cohort, test, one, progress) for one in readers}
        try:
            rows += _rows(run, twin, cohort, task, readers, scores, progress)
        except ScoreError as error:
            remarks.append(f"Task {task} is not scored: {error}.")
            continue
        found = groups.members(cohort, test)
        by_group[task] = groups.measure(labels, scores, patients, cohort.tasks[task], found)
        if first is None:
            first = task, readers
            judged = scores
    if first is None:
        remarks.append("No task could be scored, so robustness, parts and occlusion maps are not shown.")
        return Card(run, cohort, quick, facts, rows, by_group, None, None, [], remarks)
    task, readers = first
    missing = [by for by in groups.BY if by not in groups.members(cohort, cohort.rows("test", task))]
    if missing:
        remarks.append(f"The cohort does not know {' or '.join(missing)}, so there are no scores by it.")
    hardy = _robustness(run, cohort, task, readers, n_records, quick, remarks, progress)
    parts = None
    if any(one.name == PROBE for one in readers):
        parts = disentangle.measure(run, cohort, task, _QUICK_TRAIN if quick else None, twin, progress)
    else:
        remarks.append("The parts of the embedding are not compared: that takes a probe, and none could be fitted.")
    maps = _maps(run, cohort, task, readers, judged, 1 if quick else N_MAPS, progress)
    return Card(run, cohort, quick, facts, rows, by_group, hardy, parts, maps, remarks)


def _checked_tasks(cohort: Cohort, tasks: Sequence[str] | None) -> tuple[str, ...]:
    if not len(cohort.rows("test")):
        raise CardError(f"cohort {cohort.name} has no recording in split 'test', on which a card is written")
    unknown = [task for task in tasks or () if task not in cohort.tasks]
    if unknown:
        raise CardError(f"cohort {cohort.name}: no task {unknown[0]!r}; it has {', '.join(cohort.tasks) or 'none'}")
    return tuple(tasks or cohort.tasks)


def describe(run: Run, cohort: Cohort) -> dict[str, Any]:
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
        "n_people_tested_and_trained_on": seen_in_training(run, cohort, test) if "people" in learnt else None,
    }  # fmt: skip


def _readers(run: Run, cohort: Cohort, task: str, remarks: list[str], progress: Progress | None) -> list[Reader]:
    """What can read the task out of the run; a remark for what cannot."""
    found: list[Reader] = []
    rows = cohort.rows(task=task)
    if not len(cohort.rows("test", task)):
        remarks.append(f"Task {task}: no recording of it in the test split.")
        return found
    try:
        asked = task_of(cohort, task, rows)
        found.append(fit_probe(embed_cohort(run, cohort, "backbone", rows, named(progress, "embed")), asked))
    except ProbeError as error:
        remarks.append(f"Task {task} is not probed: {error}.")
    if not reads_text(run):
        remarks.append(f"Task {task} has no zero-shot score: {run.name} learnt from ECGs alone, it reads no words.")
        return found
    try:
        found.append(read_words(run, cohort, task))
    except PromptError as error:
        remarks.append(f"Task {task} has no zero-shot score: {error}.")
    return found


def _judged(
    run: Run, home: Run, cohort: Cohort, rows: NDArray[Any], reader: Reader, progress: Progress | None
) -> Floats:
    cache = home.folder / "embeddings" if home.folder else None
    return reader.scores(embed_cohort(run, cohort, reader.part, rows, named(progress, f"embed {reader.part}"), cache))


def _rows(
    run: Run, twin: Run | None, cohort: Cohort, task: str, readers: list[Reader], scores: dict[str, Floats],
    progress: Progress | None,
) -> list[Row]:  # fmt: skip
    test, every = cohort.rows("test", task), cohort.rows(task=task)
    labels, patients, found = cohort.labels(task, test), cohort.patients.take(test), []
    for reader in readers:
        untrained = None
        if twin is not None:
            cache = run.folder / "embeddings" if run.folder else None
            if reader.name == PROBE:
                features = embed_cohort(twin, cohort, "backbone", every, named(progress, "embed, untrained"), cache)
                own = fit_probe(features, task_of(cohort, task, every))
            else:
                own = read_words(twin, cohort, task)
            values = _judged(twin, run, cohort, test, own, named(progress, "embed, untrained"))
            untrained = score(labels, values, patients, reader.classes)
        trained = score(labels, scores[reader.name], patients, reader.classes)
        found.append(Row(task, reader.name, trained, untrained))
    return found


def _robustness(
    run: Run, cohort: Cohort, task: str, readers: list[Reader], n_records: int, quick: bool, remarks: list[str],
    progress: Progress | None,
) -> robustness.Robustness | None:  # fmt: skip
    try:
        return robustness.measure(run, cohort, task, readers, n_records, quick, progress)
    except ScoreError as error:
        remarks.append(f"Robustness is not shown: {error}.")
        return None


def _maps(
    run: Run, cohort: Cohort, task: str, readers: list[Reader], scores: dict[str, Floats], n: int,
    progress: Progress | None,
) -> list[occlusion.Map]:  # fmt: skip
    """Maps of a few records that are classified well, by words where the run reads them."""
    reader = next((one for one in readers if one.name == WORDS), readers[0])
    test = cohort.rows("test", task)
    labels, values = cohort.labels(task, test), scores[reader.name]
    whole = np.isin(test, robustness.whole_rows(cohort, run.config.signal, test))
    if not np.isfinite(auroc(labels[whole], values[whole])).any():
        return []
    test = test[whole]
    picked = occlusion.choose(labels[whole], values[whole], reader.classes, n)
    return [occlusion.occlude(run, cohort, int(test[i]), reader, reader.classes[k], progress) for i, k in picked]
