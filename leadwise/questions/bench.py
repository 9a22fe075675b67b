"""Answer questions about one split of a cohort, beside answers that do not come from the right ECG.

answerer       probe, tiny (a trained writer) or server
shuffled ECG   the same answerer with the ECG of another patient
zero ECG       the same answerer with a flat line
majority       the most frequent findings and ranges of the training split, without any ECG
chance         a random option
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.usable_rows import LeftOut
from leadwise.evaluate.embed import Features, embed_cohort, scored_recordings, split_parts, training_overlap, usable
from leadwise.evaluate.metrics.bootstrap import (
    mean_of_defined,
    percentile_interval,
    permute_across_patients,
    resample_patients,
)
from leadwise.generate.bank import ReportBank
from leadwise.generate.evaluate_writer import embed_flat_ecg
from leadwise.generate.facts import collect_facts, measure_cohort
from leadwise.generate.folder import TrainedWriter
from leadwise.generate.writer import WriterInput, shared_part
from leadwise.generate.writers.server import ChatServer, ServerOptions
from leadwise.progress import Progress, relabel
from leadwise.questions.answerers import Probe, ask_server, believe_reports, majority
from leadwise.questions.beliefs import Beliefs, answer
from leadwise.questions.make import make_questions
from leadwise.questions.question import GROUPS, KINDS, Kind, Question, QuestionError, score
from leadwise.questions.truth import Truth, read_truth
from leadwise.run import Run
from leadwise.trained_on import TrainingOverlap

SHUFFLED, ZERO, MAJORITY, CHANCE = "shuffled ECG", "zero ECG", "majority", "chance"
NOTE = "research use only: no answer supports a decision about a patient"
N_REPLICATES = 1000
Chosen = list[tuple[int, ...]]


@dataclass(frozen=True)
class BenchRow:
    """The answers of one row: a score in [0, 1] for each question."""

    name: str
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class BenchResult:
    """Scores of an answerer and its controls on the questions of one split."""

    run: str
    cohort: str
    split: str
    task: str
    answers: str
    seed: int
    numbers_from: str
    questions: list[Question]
    patients: list[str]  # of each question
    rows: list[BenchRow]
    overlaps: dict[str, TrainingOverlap]
    left_out: LeftOut
    fingerprints: dict[str, str]

    def kinds(self) -> list[Kind]:
        """Return the kinds of questions that there are, in their order."""
        there = {one.kind for one in self.questions}
        return [kind for kind in KINDS if kind in there]

    def value(self, row: BenchRow, kind: Kind | None, minus: BenchRow | None = None) -> tuple[float, float, float]:
        """Return the mean score of a row, or its difference to another row, with the 95 % interval over patients.

        Args:
            kind: of questions; None: all kinds, each with the same weight.
        """
        values = row.scores - (minus.scores if minus is not None else 0.0)
        kinds = self.kinds() if kind is None else [kind]
        weights = resample_patients(self.patients, N_REPLICATES, self.seed)
        of_question = np.array([one.kind for one in self.questions])
        means, draws = [], []
        for one in kinds:
            own = of_question == one
            means.append(values[own].mean())
            total = weights[:, own].sum(axis=1)
            drawn = weights[:, own] @ values[own]
            draws.append(np.divide(drawn, total, out=np.full(len(total), np.nan), where=total > 0))
        return float(np.mean(means)), *percentile_interval(mean_of_defined(np.stack(draws, axis=1)))

    def table(self) -> list[dict[str, Any]]:
        """Return a line for each row: the score of each kind of question, with its interval."""
        lines = []
        for row in self.rows:
            cells = {GROUPS[kind]: _cell(*self.value(row, kind)) for kind in self.kinds()}
            lines.append({"answers from": row.name, **cells, "mean of kinds": _cell(*self.value(row, None))})
        return lines

    def gains(self) -> list[dict[str, Any]]:
        """Return the answerer minus each other row, with the 95 % interval of the paired difference."""
        first, *others = self.rows
        lines = []
        for row in others:
            for kind in (*self.kinds(), None):
                value, low, high = self.value(first, kind, row)
                name = GROUPS[kind] if kind else "mean of kinds"
                lines.append(
                    {f"{first.name} minus": row.name, "on": name, "difference": value, "low": low, "high": high}
                )
        return lines

    def remarks(self) -> list[str]:
        """Return what a reader has to know about the questions."""
        counts = ", ".join(f"{sum(q.kind == kind for q in self.questions)} {GROUPS[kind]}" for kind in self.kinds())
        lines = [
            f"{len(self.questions)} questions about {len({r for q in self.questions for r in q.records})} recordings of "
            f"{len(set(self.patients))} patients: {counts}. Options are shuffled (seed {self.seed}).",
            "Scores are the share of right answers; of lists, F1 of the listed findings. Intervals resample patients.",
        ]
        if "change" not in self.kinds():
            lines.append("No comparison: no patient of the split has two ECGs with findings.")
        if self.numbers_from == "measured":
            lines.append(
                "Heart rate, PR and QRS are measured by leadwise, not known"
                + (
                    "; a server's facts contain the same measurements, so its answers to ranges are no evidence."
                    if self.answers == "server"
                    else "."
                )
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return all scores; no name of a patient or recording."""
        rows: dict[str, Any] = {}
        for row in self.rows:
            own = {}
            for kind in (*self.kinds(), None):
                value, low, high = self.value(row, kind)
                own[kind or "mean"] = {"score": value, "low": low, "high": high}
            rows[row.name] = own
        names = ("run", "cohort", "split", "task", "answers", "seed", "numbers_from", "fingerprints")
        return {
            **{"command": "bench-qa", "note": NOTE, "n_questions": len(self.questions)},
            **{name: getattr(self, name) for name in names},
            **{"n_patients": len(set(self.patients)), "rows": rows, "gains": self.gains()},
            **{"overlap": {name: one.to_json() for name, one in self.overlaps.items()}, **self.left_out.to_json()},
        }


def _cell(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f}-{high:.3f})"


def run_bench(
    run: Run,
    cohort: Cohort,
    answers: str,
    task: str | None = None,
    split: str = "test",
    part: str = "backbone",
    truth_table: pd.DataFrame | None = None,
    writer: TrainedWriter | None = None,
    server: ServerOptions | None = None,
    seed: int = 0,
    limit: int | None = None,
    kinds: Sequence[Kind] = KINDS,
    progress: Progress | None = None,
) -> BenchResult:
    """Make questions about one split of a cohort, answer them, and score the answers beside the controls.

    Args:
        answers: probe, tiny or server.
        task: the labels that questions are made from [the first task of the cohort].
        part: the embedding of the run that a probe reads.
        truth_table: true heart rate, PR and QRS (`read_truth_table`); None: they are measured.
        writer: of `tiny`.
        server: of `server`.
        limit: most recordings of a split that questions are about; patients stay together.

    Raises:
        QuestionError: an unknown task or answerer, or no question can be made.
        EmbedError: the run can embed none of the recordings.
        WriterError: the writer belongs to another run, or the server does not answer.
    """
    _check(answers, writer, server)
    task = task or next(iter(cohort.main_tasks), "")
    split_parts(run, part)

    # what is known about the split, and about the training and validation splits
    def known(name: str, most: int | None = None) -> tuple[Truth, LeftOut]:
        if task not in cohort.tasks:
            raise QuestionError(
                f"cohort {cohort.name} has no task '{task}'; choose --task from {', '.join(cohort.tasks)}"
            )
        rows = cohort.rows(name, task)
        if not len(rows):
            raise QuestionError(
                f"cohort {cohort.name} has no recording of task '{task}' in split '{name}'; choose another --task"
            )
        chosen, left_out = usable(run, cohort, _first_patients(cohort, rows, most))
        measures = "range" in kinds
        return read_truth(cohort, chosen, task, truth_table, measures, relabel(progress, f"measure {name}")), left_out

    truth, left_out = known(split, limit)
    train, _ = known("train")
    questions = make_questions(truth, seed, kinds)
    patient_of = dict(zip(truth.records, truth.patients))

    # the rows that come from an ECG
    others = _other_patients(truth.patients, seed)
    overlaps = {"run": training_overlap(run, cohort, truth.rows, split)}
    if answers == "server":
        assert server is not None
        chosen = _by_server(run, cohort, truth, questions, others, server, progress)
        name = f"server {server.model}"
    elif answers == "tiny":
        assert writer is not None
        chosen = _by_writer(run, cohort, truth, questions, others, writer, seed, progress)
        overlaps["writer"], name = writer.overlap(scored_recordings(cohort, truth.rows, split)), writer.name
    else:
        val, _ = known("val")
        chosen = _by_probe(run, cohort, (train, val, truth), part, questions, others, seed, progress)
        name = f"probe of {part}"

    # the rows without one
    chosen = {name: chosen[""], SHUFFLED: chosen[SHUFFLED], ZERO: chosen[ZERO]}
    chosen[MAJORITY] = answer(majority(train, truth), questions, seed)
    rows = [
        BenchRow(label, np.array([score(question, one) for question, one in zip(questions, own, strict=True)]))
        for label, own in chosen.items()
    ]
    rows.append(BenchRow(CHANCE, np.array([one.chance for one in questions])))
    return BenchResult(
        run=run.name,
        cohort=cohort.name,
        split=split,
        task=task,
        answers=answers,
        seed=seed,
        numbers_from=truth.numbers_from,
        questions=questions,
        patients=[patient_of[one.records[0]] for one in questions],
        rows=rows,
        overlaps=overlaps,
        left_out=left_out,
        fingerprints={"run": run.fingerprint, "cohort": cohort.fingerprint},
    )


def _check(answers: str, writer: TrainedWriter | None, server: ServerOptions | None) -> None:
    """Check that what an answerer needs is there, and nothing else."""
    if answers not in ("probe", "tiny", "server"):
        raise QuestionError(f"--answers {answers}: must be probe, tiny or server")
    if (answers == "tiny") != (writer is not None):
        raise QuestionError("--answers tiny and --writer FOLDER belong together: pass both or none")
    if (answers == "server") != (server is not None):
        raise QuestionError("--answers server and --server-url belong together: pass both or none")


def _first_patients(cohort: Cohort, rows: NDArray[np.int64], most: int | None) -> NDArray[np.int64]:
    """Return the rows of the first patients, at most so many rows, unless the first patient alone has more."""
    if most is None or len(rows) <= most:
        return rows
    patients = cohort.patients.take(rows)
    first = dict.fromkeys(patients[:most])
    if len(set(patients[:most])) > 1 and patients[most] == patients[most - 1]:
        first.pop(patients[most - 1])
    return rows[[patient in first for patient in patients]]


def _other_patients(patients: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return for each recording the place of one of another patient.

    Raises:
        QuestionError: one patient has more than half of the recordings.
    """
    numbers = np.unique(np.array(patients, dtype=np.str_), return_inverse=True)[1]
    if len(numbers) < 2 or np.bincount(numbers).max() * 2 > len(numbers):
        raise QuestionError(
            f"{len(numbers)} recordings, of which one patient has more than half, cannot be shuffled across patients; "
            "choose another --split, or a higher --limit"
        )
    return permute_across_patients(numbers, np.random.default_rng(seed))


# ------------------------------------------------------------------------------------------------------- answerers


def _by_probe(
    run: Run,
    cohort: Cohort,
    truths: tuple[Truth, Truth, Truth],
    part: str,
    questions: Sequence[Question],
    others: NDArray[np.int64],
    seed: int,
    progress: Progress | None,
) -> dict[str, Chosen]:
    train, val, truth = truths
    features = [embed_cohort(run, cohort, part, one.rows, relabel(progress, "embed")) for one in truths]
    probe = Probe(train, features[0], val, features[1])
    right = probe.believe(truth, features[2])
    flat = probe.believe(truth, np.repeat(embed_flat_ecg(run, part), len(truth.rows), axis=0))
    return _answered(right, right.of_others(others), flat, questions, seed)


def _by_writer(
    run: Run,
    cohort: Cohort,
    truth: Truth,
    questions: Sequence[Question],
    others: NDArray[np.int64],
    writer: TrainedWriter,
    seed: int,
    progress: Progress | None,
) -> dict[str, Chosen]:
    encoder = writer.encoder(run)
    features = embed_cohort(encoder, cohort, writer.part, truth.rows, relabel(progress, "embed"), run.cache_folder)

    def believe(vectors: Features) -> Beliefs:
        return believe_reports(
            truth, cohort.source, writer.write(WriterInput(vectors, cohort.source, truth.patients), progress)
        )

    right = believe(features)
    zero = believe_reports(
        truth, cohort.source, writer.write(WriterInput(embed_flat_ecg(encoder, writer.part))) * len(truth.rows)
    )
    return _answered(right, right.of_others(others), zero, questions, seed)


def _answered(
    right: Beliefs, shuffled: Beliefs, zero: Beliefs, questions: Sequence[Question], seed: int
) -> dict[str, Chosen]:
    named = (("", right), (SHUFFLED, shuffled), (ZERO, zero))
    return {name: answer(beliefs, questions, seed) for name, beliefs in named}


def _by_server(
    run: Run,
    cohort: Cohort,
    truth: Truth,
    questions: Sequence[Question],
    others: NDArray[np.int64],
    options: ServerOptions,
    progress: Progress | None,
) -> dict[str, Chosen]:
    """Ask a server with the facts of each ECG, of another patient's, and of a flat line."""
    part = shared_part(run)
    features = embed_cohort(run, cohort, part, truth.rows, relabel(progress, "embed"))
    measured = measure_cohort(cohort, truth.rows, progress)
    bank = ReportBank.open(run, cohort, progress) if cohort.rows("train", min_report_words=1).size else None
    ecgs = WriterInput(features, cohort.source, truth.patients, measured, cohort.checksums(truth.rows))
    flat = np.repeat(embed_flat_ecg(run, part), len(features), axis=0)
    server, chosen = ChatServer(options), {}
    collect: Callable[[WriterInput], list[dict[str, Any]]] = lambda given: collect_facts(run, given, bank)  # noqa: E731
    for name, given in (("", ecgs), (SHUFFLED, ecgs.with_ecgs_of(others)), (ZERO, ecgs.without_ecg(flat))):
        has_facts = given.measurements is not None or bank is not None
        facts = collect(given) if has_facts else [{} for _ in truth.records]
        chosen[name] = ask_server(
            server, questions, dict(zip(truth.records, facts)), relabel(progress, f"ask, {name or 'right ECG'}")
        )
    return chosen
