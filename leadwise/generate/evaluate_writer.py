"""Score a writer on one split, beside its controls: what it writes without the right ECG, and what needs no writer.

right ECG        the writer as it is
shuffled ECG     each ECG is replaced with that of another patient
zero ECG         every ECG is a flat line
random encoder   a writer with the same settings, trained on a run with random weights
majority         the most frequent training report
retrieve         the report of the nearest training ECG

Words that are right without the ECG are in all of these rows, so only the distance between the first row and the others
measures what the writer reads from an ECG. References and reports have the style of `leadwise.data.reports.clean`. A report
that is empty counts as one.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from leadwise.batch import Batch
from leadwise.data import reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.usable_rows import LeftOut
from leadwise.evaluate.embed import (
    Features,
    embed_batch,
    embed_cohort,
    scored_recordings,
    split_parts,
    training_overlap,
    usable,
)
from leadwise.evaluate.metrics.bootstrap import permute_across_patients
from leadwise.generate import folder as folders
from leadwise.generate.bank import ReportBank, training_reports
from leadwise.generate.bert_score import BertLayer, BertScores, bert_score
from leadwise.generate.facts import measure_cohort
from leadwise.generate.finding_metrics import RARE, ReportScore, macro_gain, score_reports
from leadwise.generate.folder import CONTROL, TrainedWriter
from leadwise.generate.labeller_accuracy import simulated_accuracy
from leadwise.generate.report_numbers import remove_numbers
from leadwise.generate.text_metrics import TextScores, score_texts
from leadwise.generate.training import train_writer
from leadwise.generate.writer import NOTE, Writer, WriterError, WriterInput
from leadwise.generate.writers.majority import MajorityWriter
from leadwise.generate.writers.retrieve import RetrieveWriter
from leadwise.progress import Progress, relabel
from leadwise.run import Run, has_resume_state, load_state
from leadwise.trained_on import TrainingOverlap

RIGHT, SHUFFLED, ZERO, RANDOM = "right ECG", "shuffled ECG", "zero ECG", "random encoder"
CONTROLS = (SHUFFLED, ZERO, RANDOM, MajorityWriter.name, RetrieveWriter.name)
N_LABELLER_REPORTS = 500  # simulated reports on which the labeller's accuracy is measured


@dataclass(frozen=True)
class WrittenRow:
    """The reports of one row of the table, and their scores."""

    name: str
    texts: list[str]
    findings: ReportScore
    words: TextScores | None  # None: the extra `reports` is not installed
    n_distinct: int
    n_copied: int  # equal to a training report
    bert: BertScores | None = None  # None: no model was given

    def cells(self) -> dict[str, Any]:
        """Return the table row: rates with a 95 % interval over patients, then word overlap."""
        stated = self.findings.with_uncertain
        rates = {
            "macro F1": stated.macro_f1,
            "micro F1": stated.micro_f1,
            "hallucinated": stated.hallucination_rate,
            "omitted": stated.omission_rate,
        }
        cells: dict[str, Any] = {"reports from": self.name}
        cells |= {
            name: f"{rate.value:.3f} ({rate.interval[0]:.3f}-{rate.interval[1]:.3f})" for name, rate in rates.items()
        }
        cells["contradictions"] = self.findings.contradictions_per_report.value
        if self.words is not None:
            words = self.words.row()
            cells |= {name: words[name] for name in ("BLEU-4", "ROUGE-L", "METEOR (no WordNet)", "CIDEr-D")}
        if self.bert is not None:
            cells |= self.bert.row()
        return {**cells, "distinct": self.n_distinct, "empty": self.findings.n_empty}

    def to_json(self) -> dict[str, Any]:
        """Return all scores, without the reports."""
        words = None if self.words is None else self.words.to_json()
        counts = {"n_distinct": self.n_distinct, "n_copied": self.n_copied}
        bert = {} if self.bert is None else {"bert_score": self.bert.to_json()}
        return {**counts, "findings": self.findings.to_json(), "words": words, **bert}


@dataclass(frozen=True)
class WriterScores:
    """A writer and its controls on one split of a cohort."""

    cohort: str
    run: str
    writer: str
    split: str
    fingerprints: dict[str, str]
    overlaps: dict[str, TrainingOverlap]  # of the split with the training of the run, and of the writer: must be empty
    records: list[str]
    references: list[str]
    n_without_report: int  # left out
    written: list[WrittenRow]
    left_out: LeftOut = field(default_factory=LeftOut)
    selected_on: TrainingOverlap | None = (
        None  # of the split with the recordings that chose the weights; None: none did
    )

    def rows(self) -> list[dict[str, Any]]:
        """Return the table of scores."""
        return [row.cells() for row in self.written]

    def gains(self) -> list[dict[str, Any]]:
        """Return the macro F1 of the right ECG minus that of each other row, with the 95 % interval of the paired difference."""
        first, *others = self.written
        lines = []
        for row in others:
            value, (low, high) = macro_gain(first.findings, row.findings)
            lines.append({"right ECG minus": row.name, "difference": value, "low": low, "high": high})
        return lines

    @property
    def remarks(self) -> list[str]:
        """How well the labeller reads reports, which all scores of findings depend on, and what is missing or too high."""
        lines = [
            f"The labeller that reads the findings has F1 {one.f1:.3f} on {one.n_reports} {one.source}; it recognises "
            f"{self.written[0].findings.coverage_of_references:.0%} of the references' sentences."
            for one in self.written[0].findings.labeller
        ]
        n_findings, n_rare = self.written[0].findings.n_findings
        if n_rare:
            lines.append(
                f"Fewer than {RARE} references state {n_rare} of the {n_findings} findings in macro F1: its intervals are not "
                "centred and too narrow if these are many. Micro F1 does not depend on them."
            )
        if self.written[0].words is None:
            lines.append("BLEU, ROUGE-L, METEOR and CIDEr-D need the extra reports: pip install 'leadwise[reports]'.")
        if self.written[0].findings.numbers is None:
            lines.append(
                "The writer was trained on reports without numbers (writer.numbers=remove): errors of its numbers are not "
                "applicable. The references have theirs."
            )
        if self.selected_on is not None and self.selected_on.n_patients is None and self.split != "test":
            lines.append(
                f"Whether the {self.split} split chose the writer's weights is unknown: {self.selected_on.unknown}."
            )
        if self.selected_on is not None and self.selected_on.is_leak:
            lines.append(
                f"SELECTED: {self.selected_on.n_patients} of the {self.selected_on.n_tested} persons of the {self.split} split, "
                f"and {self.selected_on.n_signals} identical signals, chose the writer's weights (log.keep=best); its scores are "
                "too high."
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the scores without any report."""
        names = ("cohort", "run", "writer", "split", "fingerprints", "n_without_report")
        overlaps: dict[str, Any] = {name: overlap.to_json() for name, overlap in self.overlaps.items()}
        if self.selected_on is not None:
            overlaps["selection"] = {"n_people": self.selected_on.n_patients, "n_signals": self.selected_on.n_signals}
        rows = {row.name: row.to_json() for row in self.written}
        return {
            **{"command": "score-writer", "note": NOTE, "n_records": len(self.records)},
            **{name: getattr(self, name) for name in names},
            **{"overlap": overlaps, "rows": rows, "gains": self.gains(), **self.left_out.to_json()},
        }

    def texts(self) -> pd.DataFrame:
        """Return the reference and the reports of all rows, one line per recording. They are patient data."""
        columns = {"ecg": self.records, "refused": "", "reference": self.references}
        return pd.DataFrame({**columns, **{row.name: row.texts for row in self.written}, "note": NOTE})


def score_row(
    name: str,
    texts: list[str],
    references: Sequence[str],
    patients: Sequence[str],
    training: Sequence[str],
    bert: BertLayer | None = None,
    has_numbers: bool = True,
) -> WrittenRow:
    """Return the scores of N written reports against their references.

    Args:
        name: of the row.
        texts: N written reports; an empty one counts.
        references: N reports, not empty.
        patients: N patients, whose reports are resampled together.
        training: all training reports.
        bert: model of BERTScore; None: it is left out.
        has_numbers: whether the writer was trained on reports with numbers; the references have theirs in any case.
    """
    accuracy = (simulated_accuracy(N_LABELLER_REPORTS),)
    findings = score_reports(references, texts, patients, has_numbers=has_numbers, labeller=accuracy)
    words = score_texts(references, texts, training) if _has_text_metrics() else None
    known = set(training if has_numbers else map(remove_numbers, training))
    similar = None if bert is None else bert_score(references, texts, bert.folder, bert.layer)
    return WrittenRow(name, texts, findings, words, len(set(texts)), sum(text in known for text in texts), similar)


def _has_text_metrics() -> bool:
    """Return whether the packages of the extra `reports` are installed."""
    return all(importlib.util.find_spec(package) for package in ("sacrebleu", "rouge_score", "nltk"))


def score_writer(
    run: Run,
    cohort: Cohort,
    writer: Writer,
    split: str = "test",
    seed: int = 0,
    bert: BertLayer | None = None,
    progress: Progress | None = None,
    controls: Collection[str] = CONTROLS,
) -> WriterScores:
    """Write the reports of one split with a writer and its controls, and score them.

    The random-encoder control of a trained writer is trained in the folder `random_encoder` of its folder if it is not there.

    Args:
        seed: of the shuffled ECGs.
        bert: model of BERTScore in a local folder; None: it is left out.
        controls: those of CONTROLS that are written and scored.

    Raises:
        ReportScoreError: the model of BERTScore cannot be used.
        WriterError: fewer than two recordings with a report, or one patient has more than half of them.
    """
    if bert is not None:
        bert.check()

    # the recordings with a report that the run can embed
    split_rows = cohort.rows(split)
    has_report = np.array([bool(reports.clean(text)) for text in cohort.reports.take(split_rows)], dtype=bool)
    rows, left_out = usable(run, cohort, split_rows[has_report])
    references = [reports.clean(text) for text in cohort.reports.take(rows)]
    patients = np.array(cohort.patients.take(rows), dtype=np.str_)
    numbers = np.unique(patients, return_inverse=True)[1]
    if len(rows) < 2 or np.bincount(numbers).max() * 2 > len(rows):
        raise WriterError(
            f"cohort {cohort.name}: split '{split}' has {len(rows)} recordings with a report, and no patient may have more than "
            "half of them; choose another --split"
        )
    overlaps, selected_on = {"run": training_overlap(run, cohort, rows, split)}, None
    if isinstance(writer, TrainedWriter):
        scored = scored_recordings(cohort, rows, split)
        overlaps["writer"], selected_on = writer.overlap(scored), writer.selection_overlap(scored)

    # the writer, with the right ECG, another patient's, and none
    checksums = cohort.checksums(rows)

    def embedded(one: Writer) -> WriterInput:
        encoder = one.encoder(run)
        step = relabel(progress, "embed")
        features = embed_cohort(encoder, cohort, one.part, rows, step, run.cache_folder)
        measured = measure_cohort(cohort, rows, progress) if one.reads_measurements else None
        return WriterInput(features, cohort.source, patients.tolist(), measured, checksums)

    ecgs = embedded(writer)
    texts = {RIGHT: writer.write(ecgs, progress)}
    if SHUFFLED in controls:
        others = permute_across_patients(numbers, np.random.default_rng(seed))
        texts[SHUFFLED] = writer.write(ecgs.with_ecgs_of(others), progress)
    if ZERO in controls:
        zero = np.repeat(embed_flat_ecg(writer.encoder(run), writer.part), len(rows), axis=0)
        texts[ZERO] = writer.write(ecgs.without_ecg(zero), progress)

    # the controls that need other writers
    if RANDOM in controls and isinstance(writer, TrainedWriter) and writer.config.ecg.encoder == "trained":
        control = random_control(run, cohort, writer, progress)
        texts[RANDOM] = control.write(embedded(control), progress)
    if MajorityWriter.name in controls:
        texts[MajorityWriter.name] = MajorityWriter(cohort).write(ecgs)  # it does not read them
    if RetrieveWriter.name in controls:
        nearest = RetrieveWriter(run, ReportBank.open(run, cohort, progress))
        texts[RetrieveWriter.name] = nearest.write(embedded(nearest))

    _, training = training_reports(cohort)
    without_numbers = () if _has_numbers(writer) else (RIGHT, "shuffled ECG", "zero ECG", "random encoder")
    written = [
        score_row(name, own, references, patients.tolist(), training, bert, name not in without_numbers)
        for name, own in texts.items()
    ]
    return WriterScores(
        cohort=cohort.name,
        run=run.name,
        writer=writer.name,
        split=split,
        fingerprints={"cohort": cohort.fingerprint, "run": run.fingerprint},
        overlaps=overlaps,
        records=cohort.records.take(rows),
        references=references,
        n_without_report=int((~has_report).sum()),
        written=written,
        left_out=left_out,
        selected_on=selected_on,
    )


def _has_numbers(writer: Writer) -> bool:
    """Return whether a writer was trained on reports with numbers, if it was trained."""
    return not isinstance(writer, TrainedWriter) or writer.config.has_numbers


def embed_flat_ecg(run: Run, part: str) -> Features:
    """Return the embedding (1, D) of an ECG that is 0 mV in all leads."""
    signal = run.config.signal
    ecg = torch.zeros(1, len(signal.leads), signal.n_samples)
    flat = Batch(ecg, torch.ones_like(ecg, dtype=torch.bool), ("flat",), ("flat",), ("",))
    return embed_batch(run, flat, split_parts(run, part))


def random_control(run: Run, cohort: Cohort, writer: TrainedWriter, progress: Progress | None = None) -> TrainedWriter:
    """Return the writer with the same settings that is trained on a run with random weights; it is trained if it is missing.

    Raises:
        WriterError: the cohort is not the one that the writer was trained on.
    """
    path: Path = writer.folder / CONTROL
    if (path / folders.WEIGHTS).is_file() and _n_steps(path) >= writer.config.optim.steps:
        return folders.load(path)
    if writer.provenance.get("fingerprint") != cohort.fingerprint:
        raise WriterError(
            f"{writer.folder} was trained on another cohort than {cohort.name}, so its control with a random encoder cannot be "
            f"trained here; score it on its own cohort first, which writes {path}"
        )
    table = dataclasses.replace(writer.config, ecg=dataclasses.replace(writer.config.ecg, encoder="untrained")).table()
    overrides = [
        f"{group}.{key}={json.dumps(value)}" for group, entries in table.items() for key, value in entries.items()
    ]
    return train_writer(run, cohort, path, overrides, has_resume_state(path), relabel(progress, "train control"))


def _n_steps(folder: Path) -> float:
    """Return the steps of a writer's training that are saved; infinity if its state was removed after training."""
    return int(load_state(folder)["step"]) if has_resume_state(folder) else math.inf
