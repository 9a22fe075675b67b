"""The page of the written reports: a picture, the verdict on each claim, and tables from the stored rows."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, table, write
from numpy.typing import NDArray
from rows import Json, command_line

from leadwise.data import reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.metrics.bootstrap import percentile_interval
from leadwise.generate.evaluate_writer import RIGHT, SHUFFLED, ZERO
from leadwise.generate.lexicon import lexicon
from leadwise.generate.report_numbers import read_numbers
from leadwise.generate.writer import NOTE
from leadwise.pictures import bars, ink

NAMES = {
    "tiny": "tiny, pretrained encoder",
    "kv": "tiny with kv fusion, pretrained encoder",
    "random": "tiny, random encoder",
    "retrieve": "retrieve",
    "majority": "majority",
}
RATES = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "hallucination_rate": "hallucinated",
    "omission_rate": "omitted",
    "contradictions": "contradictions",
}
WORDS = {
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "meteor_without_wordnet": "METEOR (no WordNet)",
    "cider_d": "CIDEr-D",
}
MARGIN = 0.15  # of the right ECG above the shuffled one
N_RARE = 10  # references; a finding in fewer is rare
N_FINDINGS = 15  # lines of the table of findings
Floats = NDArray[np.float64]


class Estimate:
    """A rate as mean over the seeds, with the same mean in every resampling of patients."""

    def __init__(self, values: Sequence[float], replicates: Floats) -> None:
        """`values` has one value for each of S seeds; `replicates` is (S, R)."""
        self.values, self.value = list(values), float(np.mean(values))
        self.replicates: Floats = replicates.mean(axis=0)
        self.interval = percentile_interval(self.replicates)

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the paired difference."""
        return Estimate([self.value - other.value], (self.replicates - other.replicates)[None])

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.interval[0]:.3f}-{self.interval[1]:.3f})"

    @property
    def signed(self) -> str:
        """The value and its interval with signs, for a difference."""
        return f"{self.value:+.3f} ({self.interval[0]:+.3f} to {self.interval[1]:+.3f})"


def estimate(seeds: Sequence[Json], ecg: str, rate: str) -> Estimate:
    """Return a rate of the reports that are written from `ecg`, over the stored results of the seeds."""
    values = [_value(one, ecg, rate) for one in seeds]
    return Estimate(values, np.array([one["replicates"][ecg][rate] for one in seeds]))


def _value(one: Json, ecg: str, rate: str) -> float:
    findings = one["scores"]["rows"][ecg]["findings"]
    cell = findings["contradictions_per_report"] if rate == "contradictions" else findings["with_uncertain"][rate]
    return float(cell["value"])


def read_rows(files: Mapping[str, Sequence[Path]]) -> tuple[dict[str, list[Json]], list[str]]:
    """Return the stored results of every row, one per seed, and the names of the files that are missing.

    Exits if two results belong to other runs, cohorts or splits.
    """
    rows: dict[str, list[Json]] = {}
    missing = []
    for row, paths in files.items():
        missing += [path.stem for path in paths if not path.exists()]
        stored = [json.loads(path.read_text()) for path in paths if path.exists()]
        if stored:
            rows[row] = stored
    if not {"tiny", "retrieve", "majority"} <= rows.keys():
        sys.exit(f"not computed: {', '.join(missing)}; compute a row with --row NAME")
    for name in ("run", "cohort", "split", "numbers"):
        if len({one["of"][name] for seeds in rows.values() for one in seeds}) > 1:
            sys.exit(f"the stored rows belong to more than one {name}; choose another --out")
    return rows, missing


def claims(rows: Mapping[str, Sequence[Json]]) -> list[Json]:
    """Return a line for each claim: the difference of macro F1 that it is about, and whether it holds."""
    right = estimate(rows["tiny"], RIGHT, "macro_f1")
    others = {
        f"right ECG above shuffled ECG by {MARGIN}": (estimate(rows["tiny"], SHUFFLED, "macro_f1"), MARGIN),
        "above majority": (estimate(rows["majority"], RIGHT, "macro_f1"), None),
        "pretrained encoder above random encoder, same language model": (_of(rows, "random"), None),
        "above retrieve": (_of(rows, "retrieve"), None),
    }
    lines = []
    for claim, (other, margin) in others.items():
        if other is None:
            lines.append({"claim": claim, "difference": "not computed", "verdict": "open"})
            continue
        gap = right - other
        holds = gap.interval[0] > 0 if margin is None else gap.value >= margin
        verdict = "holds" if holds else "does not hold"
        by_seed = "" if len(other.values) != len(right.values) else _by_seed(right, other)
        lines.append({"claim": claim, "difference": gap.signed, "each seed": by_seed, "verdict": f"**{verdict}**"})
    return lines


def _of(rows: Mapping[str, Sequence[Json]], row: str) -> Estimate | None:
    return estimate(rows[row], RIGHT, "macro_f1") if row in rows else None


def _by_seed(one: Estimate, other: Estimate) -> str:
    return ", ".join(f"{a - b:+.3f}" for a, b in zip(one.values, other.values))


def main_table(rows: Mapping[str, Sequence[Json]]) -> list[Json]:
    """Return a line for each row and ECG: findings with their intervals, numbers, word overlap, and distinct reports."""
    lines = []
    for row, seeds in rows.items():
        for ecg in seeds[0]["replicates"]:
            line: Json = {"reports from": NAMES[row], "ECG": ecg.removesuffix(" ECG") if row != "majority" else "none"}
            line["seeds"] = len(seeds) if row not in ("retrieve", "majority") else "-"
            own = [one["scores"]["rows"][ecg] for one in seeds]
            for rate, name in RATES.items():
                line[name] = str(estimate(seeds, ecg, rate))
                if rate == "macro_f1":
                    line[f"{name}, not rare"] = _mean(macro_without_rare(one["findings"]) for one in own)
            line["numeric error"] = _numeric_error(own)
            if all(one["words"] for one in own):
                line |= {name: _mean(one["words"][key] for one in own) for key, name in WORDS.items()}
            line["distinct"] = f"{_mean(one['n_distinct'] for one in own):.0f}"
            line["copies of a training report"] = f"{_mean(one['n_copied'] for one in own):.0f}"
            line["empty"] = f"{_mean(one['findings']['n_empty'] for one in own):.0f}"
            lines.append(line)
    return lines


def macro_without_rare(findings: Json) -> float:
    """Return the macro F1 over the findings that at least N_RARE references state; nan without any."""
    counts = findings["with_uncertain"]["per_finding"].values()
    values = [one["f1"] for one in counts if one["n_reference"] >= N_RARE]
    return float(np.mean(values)) if values else float("nan")


def _numeric_error(seeds: Sequence[Json]) -> str:
    """Return mean absolute error and share within 10 % of each measurement that references and reports state."""
    parts = []
    for name in seeds[0]["findings"]["numbers"]:
        errors = [one["findings"]["numbers"][name] for one in seeds]
        if all(one["n_both"] for one in errors):
            absolute, near = (_mean(one[key] for one in errors) for key in ("mean_absolute", "share_near"))
            parts.append(f"{name} {absolute:.1f} ({near:.0%} near)")
    return "; ".join(parts) or "no number"


def _mean(values: Any) -> float:
    return float(np.mean([float(value) for value in values]))


def seed_table(rows: Mapping[str, Sequence[Json]]) -> list[Json]:
    """Return a line for each trained writer: its training, and its macro F1."""
    lines = []
    for row, seeds in rows.items():
        for one in seeds:
            facts = one["facts"]
            if not facts.get("steps"):
                continue
            seconds = "resumed" if facts["seconds"] is None else f"{facts['seconds']:.0f}"
            lines.append(
                {"writer": NAMES[row], "seed": one["seed"], "parameters, M": f"{facts['parameters'] / 1e6:.2f}"}
                | {"steps": f"{facts['steps']:,}", "best step": f"{facts['best step']:,}", "seconds": seconds}
                | {"validation loss": facts["validation loss"]}
                | {f"macro F1, {ecg}": _value(one, ecg, "macro_f1") for ecg in (RIGHT, SHUFFLED, ZERO)}
            )
    return lines


def finding_table(rows: Mapping[str, Sequence[Json]]) -> list[Json]:
    """Return the F1 of the most frequent findings of the references, for each row with the right ECG."""
    of_row = {
        row: [one["scores"]["rows"][RIGHT]["findings"]["with_uncertain"]["per_finding"] for one in seeds]
        for row, seeds in rows.items()
    }
    first = of_row["tiny"][0]
    frequent = sorted(first, key=lambda key: -int(first[key]["n_reference"]))[:N_FINDINGS]
    lines = []
    for key in frequent:
        line: Json = {"finding": lexicon().findings[key].name, "references": first[key]["n_reference"]}
        line |= {
            NAMES[row]: _mean((one.get(key) or {}).get("f1") or 0.0 for one in seeds) for row, seeds in of_row.items()
        }
        lines.append(line)
    return lines


def draw(rows: Mapping[str, Sequence[Json]], path: Path) -> None:
    """Draw the macro F1 of every row and ECG with its interval."""
    entries = []
    for row, seeds in rows.items():
        for ecg in seeds[0]["replicates"]:
            one = estimate(seeds, ecg, "macro_f1")
            low, high = one.interval
            entries.append({"name": NAMES[row], "group": ecg, "value": one.value, "low": low, "high": high})
    title = "Findings that written reports state: macro F1 with 95 % intervals over patients"
    ink.save(bars.draw(entries, title, baseline=None, unit="macro F1 of findings"), path, dpi=110)


def page(args: argparse.Namespace, cohort: Cohort, files: Mapping[str, Sequence[Path]]) -> None:
    """Write benchmarks/results/NAME.md and NAME.png from the stored rows."""
    rows, missing = read_rows(files)
    first = rows["tiny"][0]
    findings = first["scores"]["rows"][RIGHT]["findings"]
    per_finding = findings["with_uncertain"]["per_finding"].values()
    n_scored = sum(one["n_reference"] > 0 for one in per_finding)
    n_rare = sum(0 < one["n_reference"] < N_RARE for one in per_finding)
    counts = {split: len(cohort.rows(split, min_report_words=1)) for split in ("train", "val", "test")}
    train = [reports.clean(text) for text in cohort.reports.take(cohort.rows("train", min_report_words=1))]
    n_numbers = sum(bool(read_numbers(text)) for text in train)
    left = "are in the reports" if args.numbers == "keep" else "are left out of the reports"
    absent = f"\nNot computed, so not here: {', '.join(missing)}.\n" if missing else ""
    split = "Test" if args.split == "test" else "Validation"
    settings = json.dumps(first["facts"]["table"]["writer"] | {"part": first["facts"]["table"]["ecg"]["part"]})
    text = f"""# Reports written from ECGs: {cohort.source}

All reports are {NOTE}.

![Macro F1 of findings of every row]({Path(args.name).name}.png)

{table(claims(rows))}

A claim about a difference of macro F1 holds if its 95 % interval is above 0; the margin over the shuffled ECG is one of the
value itself. Differences are of means over the seeds, on the same resamplings of patients; they do not contain the spread
between seeds, which the column "each seed" has.

## {split} split: {first["scores"]["n_records"]:,} ECGs of {findings["n_patients"]:,} patients
{absent}
{table(main_table(rows))}

Macro F1 is the mean over the {n_scored} findings that some reference states, of which {n_rare} are in fewer than {N_RARE}:
"not rare" leaves these out. A finding stated with doubt counts as stated. Hallucinated: share of the written statements that the
reference does not have. Omitted: share of the reference's statements that the report does not have. Contradictions: pairs of
findings that exclude each other, per report. Values are means over the seeds. {" ".join(first["remarks"])}
Measurements {left}: {n_numbers:,} of {len(train):,} training reports state one.

## Findings, right ECG
F1 of the most frequent findings.

{table(finding_table(rows))}

## Trained writers
{table(seed_table(rows))}

## Settings
Command: `python {command_line()}`. {describe()}.
{args.note}
Each trained writer: {args.budget_min:g} minutes of one core (steps counted by processor time, one thread; embeddings are
computed before), the weights of the lowest loss on {min(512, counts["val"])} ECGs of the validation split. The random encoder
has the settings of the run and fresh weights; its writer has the same seeds, steps and settings.
Recordings with a report: {", ".join(f"{split} {n:,}" for split, n in counts.items())}.
Writer: `{settings}`; `{json.dumps(_optim(first))}`.
{" ".join(first["overlaps"])}
"""
    path = write(args.name, text)
    draw(rows, path.with_suffix(".png"))
    print(path)


def _optim(one: Json) -> Json:
    names = ("steps", "batch_size", "lr", "weight_decay", "betas", "warmup", "final_lr", "clip")
    return {name: one["facts"]["table"]["optim"][name] for name in names}
