"""Generate ECGs from texts, and write them as a folder that `leadwise prepare folder` reads.

Every file is marked as synthetic (`written`), and the table has a column `synthetic` with the value 1. A generated ECG follows a
text by a model. It is no evidence about a disease or a patient; research use only.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from leadwise.batch import SEXES, Batch, Signal
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import creating_folder
from leadwise.data.loader import Recordings, person_table
from leadwise.data.usable_rows import usable_rows
from leadwise.evaluate.embed import frozen
from leadwise.methods.contract import Conditions
from leadwise.nn import phase
from leadwise.progress import Progress
from leadwise.run import Run
from leadwise.synthesis.written import MadeEcg, write_made

TABLE = "ecgs.csv"
_AT_ONCE = 32  # ECGs that are generated together; the result depends on it
_RATES_BPM = (15.0, 300.0)  # heart rates that a condition may have
Ecgs = NDArray[np.float32]


class GenerationError(ValueError):
    """ECGs that cannot be generated; the message names the run, cohort or value and the remedy."""


@dataclass(frozen=True)
class Prompt:
    """What one generated ECG is generated from, and what the table states about it."""

    name: str  # of the ECG
    text: str  # worded as in a report
    conditions: Conditions = field(default_factory=Conditions)
    patient: str = ""  # "": the ECG's own name
    split: str = "train"
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # task -> class -> 0 or 1
    text_is_private: bool = False  # a report of a patient: it is in the table only, in no file of an ECG


def check_generates(run: Run) -> None:
    """Check that a run generates ECGs.

    Raises:
        GenerationError: its method does not, or its settings leave the generator out.
    """
    if run.method.generates_ecgs:
        return
    method = run.config.method["name"]
    if type(run.method).generates_ecgs:
        raise GenerationError(
            f'run {run.name} has stage = "{run.config.method.get("stage")}", which generates no ECGs; train a run of stage '
            f'"diffusion" with data.init={run.folder or run.name}, and generate with that one'
        )
    raise GenerationError(
        f"run {run.name}: its method {method} generates no ECGs; use a run of a method that does, such as se_diff"
    )


def generate(run: Run, prompts: Sequence[Prompt], seed: int = 0, progress: Progress | None = None) -> Ecgs:
    """Return one ECG for each prompt: (N, L, T) float32 in mV, with the leads and the rate of the run.

    The same prompts and the same seed give the same ECGs; further prompts at the end do not change the first.

    Raises:
        GenerationError: the run generates no ECGs, there is no prompt, or an ECG is not finite.
    """
    check_generates(run)
    if not prompts:
        raise GenerationError("no prompt to generate ECGs from; give a text, or a cohort with reports")
    pieces = []
    with frozen(run.method):
        for number, begin in enumerate(range(0, len(prompts), _AT_ONCE)):
            some = prompts[begin : begin + _AT_ONCE]
            drawn = run.method.generate(
                [one.text for one in some], [one.conditions for one in some], 1_000_003 * seed + number
            )
            pieces.append(drawn.float().cpu().numpy())
            if progress is not None:
                progress("generate", begin + len(some), len(prompts))
    ecgs: Ecgs = np.concatenate(pieces)
    invalid = np.flatnonzero(~np.isfinite(ecgs).all(axis=(1, 2)))
    if len(invalid):
        raise GenerationError(
            f"run {run.name}: the ECG of {prompts[int(invalid[0])].name} is not finite; train the run longer, or with a lower "
            "optim.lr"
        )
    return ecgs


# ---------------------------------------------------------------------------------------------------------- prompts


def prompts_of_text(text: str, n: int, conditions: Conditions) -> list[Prompt]:
    """Return `n` equal prompts, named ecg-001 and so on.

    Raises:
        GenerationError: an empty text, or fewer than one ECG.
    """
    if not text.strip():
        raise GenerationError('--text is empty; word it as in a report, such as "sinus bradycardia"')
    if n < 1:
        raise GenerationError(f"{n} ECGs cannot be generated; give 1 or more")
    return [Prompt(f"ecg-{number:03d}", text.strip(), conditions) for number in range(1, n + 1)]


def prompts_of_cohort(
    cohort: Cohort, signal: Signal, split: str = "train", rows: NDArray[np.integer] | None = None
) -> list[Prompt]:
    """Return a prompt for each report of a split of a cohort, or of `rows`: its text, age and sex, and the measured heart rate.

    Split, patient and labels are those of the recording, so that the generated ECGs can be added to the cohort.

    Raises:
        GenerationError: no recording with a report that can be read.
    """
    chosen = cohort.rows(split=split, min_report_words=1) if rows is None else np.asarray(rows, dtype=np.int64)
    chosen, _ = usable_rows(cohort, signal, chosen)
    if not len(chosen):
        raise GenerationError(
            f"cohort {cohort.name} has no recording with a report in split '{split}'; choose another split, or give a text"
        )
    rates = measured_rates(Recordings(cohort, signal, chosen))
    person = person_table(cohort, chosen)
    tasks = {task: _labels_or_none(cohort, task, chosen) for task in cohort.tasks}
    texts, records, patients = (column.take(chosen) for column in (cohort.reports, cohort.records, cohort.patients))
    out = []
    for at, split_name in enumerate(cohort.splits(chosen).tolist()):
        labels = {
            task: dict(zip(cohort.tasks[task], map(int, table[at])))
            for task, table in tasks.items()
            if table is not None
        }
        out.append(
            Prompt(
                records[at], texts[at], _conditions(person[at], rates[at]), patients[at], split_name, labels,
                text_is_private=True,
            )
        )  # fmt: skip
    return out


def _labels_or_none(cohort: Cohort, task: str, rows: NDArray[np.int64]) -> NDArray[np.int8] | None:
    """The labels of a task, or None unless all of the rows have them."""
    has_labels = np.isin(rows, cohort.rows(task=task))
    return cohort.labels(task, rows) if has_labels.all() else None


def _conditions(person: NDArray[np.float32], rate_bpm: float) -> Conditions:
    age, sex = (float(value) for value in person)
    return Conditions(
        None if np.isnan(age) else min(max(age, 0.0), 120.0),
        None if np.isnan(sex) else SEXES[int(sex)],
        float(rate_bpm) if _RATES_BPM[0] <= rate_bpm <= _RATES_BPM[1] else None,
    )


def measured_rates(recordings: Recordings, batch_size: int = 64) -> NDArray[np.float64]:
    """Return the ventricular rate of each recording in bpm, NaN where fewer than two R peaks were detected."""
    signal = recordings.signal
    rates = [phase.heart_rate(phase.r_peaks(batch, signal), signal.rate_hz) for batch in recordings.batches(batch_size)]
    return torch.cat(rates).double().numpy()


def rates_of(ecgs: Ecgs, signal: Signal) -> NDArray[np.float64]:
    """Return the same of ECGs (N, L, T) in mV with the leads and the rate of `signal`, all observed."""
    batch = batch_of(ecgs)
    return phase.heart_rate(phase.r_peaks(batch, signal), signal.rate_hz).double().numpy()


def batch_of(ecgs: Ecgs) -> Batch:
    """Return complete ECGs (N, L, T) in mV as a batch."""
    ecg = torch.from_numpy(np.ascontiguousarray(ecgs, dtype=np.float32))
    names = tuple(map(str, range(len(ecg))))
    return Batch(ecg, torch.ones_like(ecg, dtype=torch.bool), names, names, ("",) * len(ecg))


# ---------------------------------------------------------------------------------------------------------- writing


def write_folder(
    folder: Path,
    run: Run,
    prompts: Sequence[Prompt],
    ecgs: Ecgs,
    seed: int,
    pictures: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Write ECGs to a new folder and return its table, which `leadwise prepare folder` reads.

    ecgs.csv has path, record, patient, split, report, age, sex, heart_rate_bpm, synthetic and the labels; ecg/ the files.

    Raises:
        CohortError: the folder exists.
    """
    model = f"run {run.name} ({run.config.method['name']}, {run.fingerprint})"
    signal = run.config.signal
    with creating_folder(folder) as partial:
        lines = []
        for number, (prompt, ecg) in enumerate(zip(prompts, ecgs, strict=True)):
            facts: dict[str, str | float] = {"seed": str(seed)}
            facts |= {} if prompt.text_is_private else {"prompt": prompt.text}
            facts |= {key: value for key, value in vars(prompt.conditions).items() if value is not None}
            marked = MadeEcg(prompt.name, ecg, signal.rate_hz, signal.leads, signal.leads, model, facts=facts)
            header = write_made(marked, partial / "ecg", picture=pictures)[0]
            lines.append(_line(prompt, header.relative_to(partial).as_posix(), header.stem))
            if progress is not None:
                progress("write", number + 1, len(prompts))
        names = list(dict.fromkeys(name for line in lines for name in line))
        with (partial / TABLE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(lines)
    return folder / TABLE


def _line(prompt: Prompt, path: str, record: str) -> dict[str, str | int | float]:
    """The row of the table for one ECG."""
    c = prompt.conditions
    facts = {"age": c.age_years, "sex": c.sex, "heart_rate_bpm": c.heart_rate_bpm}
    labels = {f"label.{task}.{name}": value for task, each in prompt.labels.items() for name, value in each.items()}
    return {
        "path": path,
        "record": record,
        "patient": prompt.patient or record,
        "split": prompt.split,
        "report": prompt.text,
        **{key: "" if value is None else value for key, value in facts.items()},
        "synthetic": 1,
        **labels,
    }
