"""The page of probed and fine-tuned runs: a picture and tables of AUROC and the variants of F1 from the stored results."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from machine import describe, table, write
from rows import Json, command_line

from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.metrics.all_metrics import F1_VARIANTS
from leadwise.evaluate.metrics.bootstrap import percentile_interval
from leadwise.pictures import bars, ink

MEASURES = {"auroc": "AUROC", "f1_val": "f1_val", "f1_max": "f1_max", "f2_val": "f2_val"}
RANDOM = "untrained"  # key of the encoder with random weights


def read(files: Mapping[str, Sequence[Path]]) -> tuple[list[Json], list[Json], list[str]]:
    """Return the stored probes, the stored fine-tunings and the names of the missing files.

    Exits if there is no probe, or if two results belong to other cohorts.
    """
    paths = [path for own in files.values() for path in own]
    stored = [json.loads(path.read_text()) for path in paths if path.exists()]
    missing = [path.stem for path in paths if not path.exists()]
    probes, tuned = ([one for one in stored if ("fraction" in one) == is_tuned] for is_tuned in (False, True))
    if not probes:
        sys.exit(f"not computed: {', '.join(missing)}; compute a row with --row NAME")
    if len({one["of"]["cohort"] for one in stored}) > 1:
        sys.exit("the stored results belong to more than one cohort; choose another --out")
    return probes, tuned, missing


def encoder_name(row: str, encoder: str) -> str:
    """Return the name of a row's encoder in tables."""
    return f"{row}, random weights" if encoder == RANDOM else row


def with_interval(cell: Json, measure: str) -> str:
    """Return a measure x 100 with its interval; '-' if no class has it."""
    one = cell.get(measure)
    return f"{100 * one['macro']:.1f} ({100 * one['low']:.1f}-{100 * one['high']:.1f})" if one else "-"


def gain(cells: Json, measure: str) -> str:
    """Return the pretrained minus the random encoder x 100, with the 95 % interval of the paired difference."""
    one, other = (cells[name].get(measure) for name in ("trained", RANDOM))
    if not one or not other:
        return "-"
    low, high = percentile_interval(np.array(one["replicates"]) - np.array(other["replicates"]))
    return f"{100 * (one['macro'] - other['macro']):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def probe_tables(probes: Sequence[Json], fractions: Sequence[float]) -> str:
    """Return a section for each task with a line for each encoder and fraction of the labels."""
    sections = []
    for task in dict.fromkeys(one["task"] for one in probes):
        own = [one for one in probes if one["task"] == task]
        lines = []
        for fraction in (f"{f:g}" for f in fractions):
            for one in own:
                for encoder, by_fraction in one["cells"].items():
                    if fraction in by_fraction:
                        line: Json = {"labels": f"{float(fraction):.0%}", "features": encoder_name(one["row"], encoder)}
                        cell = by_fraction[fraction]
                        line |= {name: with_interval(cell, measure) for measure, name in MEASURES.items()}
                        lines.append(line | {"cannot be learned": cell["unlearnable"] or ""})
        cell = next(iter(next(iter(own[0]["cells"].values())).values()))
        about = f"{own[0]['classes']} classes; test: {cell['n_test']:,} recordings of {cell['n_patients']:,} patients"
        skipped = f"; without positives there, so not scored: {', '.join(cell['skipped'])}" if cell["skipped"] else ""
        sections.append(f"### {task}\n{about}{skipped}.\n\n{table(lines)}")
    return "\n\n".join(sections)


def finetune_table(probes: Sequence[Json], tuned: Sequence[Json]) -> list[Json]:
    """Return a line for each fine-tuned encoder, with the scores of its probe on the same labels."""
    lines = []
    for one in sorted(tuned, key=lambda one: (one["task"], one["fraction"])):
        probed = next((p["cells"] for p in probes if (p["row"], p["task"]) == (one["row"], one["task"])), {})
        for encoder, cell in one["cells"].items():
            line: Json = {"task": one["task"], "labels": f"{one['fraction']:.0%}"}
            line["encoder"] = encoder_name(one["row"], encoder)
            line |= {name: with_interval(cell, measure) for measure, name in MEASURES.items()}
            line["best epoch"] = ", ".join(str(epoch) for epoch in cell["epochs"])
            of_probe = probed.get(encoder, {}).get(f"{one['fraction']:g}", {})
            line |= {f"probe: {MEASURES[m]}": with_interval(of_probe, m) for m in ("auroc", "f1_val")}
            lines.append(line)
    return lines


def gain_table(probes: Sequence[Json], tuned: Sequence[Json]) -> list[Json]:
    """Return what pre-training adds: the pretrained minus the random encoder, for every probe and fine-tuning."""
    lines = []
    for one in (*probes, *tuned):
        if RANDOM not in one["cells"]:
            continue
        is_tuned = "fraction" in one
        for fraction in [f"{one['fraction']:g}"] if is_tuned else one["cells"][RANDOM]:
            cells = one["cells"] if is_tuned else {name: cell[fraction] for name, cell in one["cells"].items()}
            how = "fine-tuned" if is_tuned else "probe"
            line = {"run": one["row"], "task": one["task"], "how": f"{how} {float(fraction):.0%}"}
            lines.append(line | {MEASURES[measure]: gain(cells, measure) for measure in ("auroc", "f1_val")})
    return lines


def draw(probes: Sequence[Json], tuned: Sequence[Json], fractions: Sequence[float], path: Path) -> None:
    """Draw f1_val with its intervals: of fine-tunings and the probes on the same labels, or of all probes without any."""
    tasks = list(dict.fromkeys(one["task"] for one in (tuned or probes)))
    drawn_fractions = sorted({one["fraction"] for one in tuned}) or [fractions[-1]]
    entries = []
    for task in tasks:
        for fraction in drawn_fractions:
            for one in probes:
                for encoder, by_fraction in one["cells"].items():
                    cell = by_fraction.get(f"{fraction:g}") if one["task"] == task else None
                    entries += _entry(encoder_name(one["row"], encoder), f"{task}, probe {fraction:.0%}", cell)
            for one in tuned:
                if (one["task"], one["fraction"]) == (task, fraction):
                    for encoder, cell in one["cells"].items():
                        how = f"{task}, fine-tuned {fraction:.0%}"
                        entries += _entry(encoder_name(one["row"], encoder), how, cell)
    title = "F1 at thresholds from validation (f1_val), macro, 95 % intervals over patients"
    ink.save(bars.draw(entries, title, None, "f1_val"), path, dpi=110)


def _entry(name: str, group: str, cell: Json | None) -> list[Json]:
    one = (cell or {}).get("f1_val")
    return (
        [{"name": name, "group": group, "value": one["macro"], "low": one["low"], "high": one["high"]}] if one else []
    )


def optimism(probes: Sequence[Json], tuned: Sequence[Json]) -> str:
    """Return a sentence on how far f1_max is above f1_val, over all results."""
    cells = [cell for one in probes for by_fraction in one["cells"].values() for cell in by_fraction.values()]
    cells += [cell for one in tuned for cell in one["cells"].values()]
    gaps = [100 * (cell["f1_max"]["macro"] - cell["f1_val"]["macro"]) for cell in cells if "f1_max" in cell]
    return (
        f"Over the {len(gaps)} results of this page, f1_max is {np.mean(gaps):.1f} points above f1_val ({min(gaps):.1f} to "
        f"{max(gaps):.1f}), by the choice of the thresholds alone."
    )


def page(args: argparse.Namespace, cohort: Cohort, files: Mapping[str, Sequence[Path]]) -> None:
    """Write benchmarks/results/NAME.md and NAME.png from the stored results."""
    probes, tuned, missing = read(files)
    n_tuned = sum(cell["n_draws"] for one in tuned for cell in one["cells"].values())
    n_probes = sum(len(cells) for one in probes for cells in one["cells"].values())
    widths = {
        one["row"]: cell["feature width"]
        for one in probes
        for cell in list(next(iter(one["cells"].values())).values())[:1]
    }
    overlaps = {one["row"]: one["overlap"] for one in probes if one.get("overlap")}
    counts = ", ".join(f"{split} {len(cohort.rows(split)):,}" for split in ("train", "val", "test"))
    absent = f"\nNot computed, so not here: {', '.join(missing)}.\n" if missing else ""
    fine_tuning = "No run was fine-tuned."
    if tuned:
        settings = ", ".join(f"{name} {value}" for name, value in tuned[0]["settings"].items())
        minutes = sum(one["seconds"] for one in tuned) / 60
        fine_tuning = f"""{table(finetune_table(probes, tuned))}

Encoder and linear map are trained on the labels; the best epoch on validation is scored. {settings}. {n_tuned} fine-tunings
with {len(tuned[0]["of"]["seeds"])} seed(s) ({", ".join(map(str, tuned[0]["of"]["seeds"]))}), {minutes:.0f} minutes of one core
in all."""
    seeds = "one training of each run, so that the spread between pre-trainings is not in any interval"
    text = f"""# Probed and fine-tuned: AUROC and F1 on {cohort.source}

![f1_val of every encoder]({Path(args.name).name}.png)
{absent}
All values x 100, macro over the classes that the test split has, with 95 % intervals over patients. {F1_VARIANTS}.
{optimism(probes, tuned)}
{len(widths)} rows of features, {n_probes} probes of tasks and fractions, {n_tuned} fine-tunings; {seeds}.

## Fine-tuned
{fine_tuning}

## What pre-training adds
Pretrained minus random encoder, on the same labels and resamplings.

{table(gain_table(probes, tuned))}

## Probes
Below 100 % of the labels, scores are means over three draws. A class of which a draw has no positive cannot be learned from
it, and counts with an AUROC of 0.5; the last column is their largest number.

{probe_tables(probes, args.fractions)}

## Settings
Command: `python {_command(args)}`. {describe()}.
{args.note}
Recordings: {counts}. Width of the features: {", ".join(f"{row} {n}" for row, n in widths.items())};
{"all are probed as they are" if args.width is None else f"wider ones are reduced to {args.width} principal components"}.
{" ".join(f"{row}: {sentence}" for row, sentence in overlaps.items())}
"""
    path = write(args.name, text)
    draw(probes, tuned, args.fractions, path.with_suffix(".png"))
    print(path)


def _command(args: argparse.Namespace) -> str:
    """Return the command line with the names of the folders instead of their paths."""
    line = command_line()
    for name, folder in args.run:
        line = line.replace(f"{name}={folder}", f"{name}={Path(folder).name}")
    return line
