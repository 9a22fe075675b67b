"""`leadwise probe` under the legacy protocol, or both protocols."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leadwise.cli.output import (
    bars,
    out,
    print_table,
    progress_bars,
    window_suffix,
    write_json,
)

if TYPE_CHECKING:
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate.protocol import LegacySettings, ProtocolReport

PROTOCOLS = ("strict", "merl-legacy", "both")
UNLEARNABLE = (
    "unlearnable: the class has a single label value in a draw; the strict probe counts it as 0.5 there, MERL's trainer "
    "scores it like any other. learnable only: macro AUROC over the other classes."
)

ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol",
        help="strict; merl-legacy: MERL's probe with its faults, not comparable; both: with the effect of each fault.",
    ),
]
Splits = Annotated[
    Path | None,
    typer.Option(
        "--splits",
        help="Folder of the published split files (ptbxl/, icbeb/, chapman/) to use instead of the cohort's.",
    ),
]
FaultNames = Annotated[
    str | None, typer.Option("--faults", help="Faults of the legacy protocol, joined by commas [all that apply].")
]
EpochsOfLegacy = Annotated[int | None, typer.Option("--epochs", help="Epochs of the legacy trainer [100].")]
SeedsOfStrict = Annotated[
    str | None,
    typer.Option("--seeds", help="Seeds of the label draws, three or more to report [42,43,44]; not for merl-legacy."),
]


def legacy_settings(
    faults: str | None, epochs: int | None, part: str, splits: Path | None, window: str | None, seeds: tuple[int, ...]
) -> LegacySettings:
    """Return the options as settings of the legacy protocol; `seeds` are for the strict probe."""
    from leadwise.evaluate.merl_legacy.probe_heads import Fault, TrainerSettings, parse_faults
    from leadwise.evaluate.protocol import LegacySettings

    parsed = (
        tuple(Fault) if faults is None else parse_faults([name.strip() for name in faults.split(",") if name.strip()])
    )
    trainer = TrainerSettings() if epochs is None else TrainerSettings(epochs=epochs)
    return LegacySettings(parsed, trainer, part, splits, window, seeds)


def check_protocol(
    name: str, faults: str | None, epochs: int | None, seeds: str | None, width: int | None = None
) -> None:
    """Check that the protocol exists and uses the given options.

    Raises:
        typer.BadParameter: it does not.
    """
    if name not in PROTOCOLS:
        raise typer.BadParameter(f"--protocol {name}: must be one of {', '.join(PROTOCOLS)}")
    if name == "strict" and faults is not None:
        raise typer.BadParameter("--faults needs --protocol merl-legacy or both")
    if name == "strict" and epochs is not None:
        raise typer.BadParameter("--epochs is for the legacy trainer and needs --protocol merl-legacy or both")
    if width is not None and width < 1:
        raise typer.BadParameter(f"--width {width}: must be at least 1; omit it to probe features at their own width")
    if name != "strict" and width is not None:
        raise typer.BadParameter("--width is for the strict probe; omit --protocol")
    if name == "merl-legacy" and seeds is not None:
        raise typer.BadParameter(
            "--seeds is for the strict probe and needs --protocol both or strict; MERL's probe has seed 42"
        )


def published_splits_json(cohort: Cohort) -> dict[str, Any]:
    """Return the JSON entry about published splits for a strict result; empty if the cohort's own splits were used."""
    from leadwise.data.published_splits import PublishedCohort

    if not isinstance(cohort, PublishedCohort):
        return {}
    entry = {"fingerprint": cohort.published.fingerprint, "records_missing": dict(cohort.matched.missing)}
    return {"published_splits": entry}


def run_legacy_probe(
    run: Path,
    cohort: Path,
    task: str,
    fractions: tuple[float, ...],
    protocol: Any,
    settings: LegacySettings,
    json_file: Path | None,
    accept_changes: bool = False,
) -> ProtocolReport:
    """Run the probe of the legacy protocol, or of both protocols; print and write the result."""
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate.protocol import run_protocol
    from leadwise.foreign.opening import open_encoder

    loaded = open_encoder(run, accept_changes=accept_changes)
    with progress_bars() as progress:
        report = run_protocol(loaded, Cohort.open(cohort), task, fractions, protocol, settings, progress=bars(progress))
    print_report(report)
    write_json(json_file, report.to_json())
    return report


def print_report(report: ProtocolReport) -> None:
    """Print the table, then remarks on classes and faults."""
    from leadwise.evaluate.merl_legacy.probe_heads import FAULT_DESCRIPTIONS, NOT_REPRODUCED

    task = report.legacy_task
    # the table
    where = f"{report.run} on {task.cohort.name}, task {task.name}{window_suffix(report.legacy.window)}"
    title = f"protocol {report.protocol}: {where}, macro AUROC on test"
    unlearnable = [line for line in report.lines if line.unlearnable]
    print_table([_cells(row, bool(unlearnable)) for row in report.rows()], title)

    # remarks: splits, classes that are skipped or unlearnable, and the faults
    remarks = [] if report.published else [_own_splits(task.name)]
    skipped: dict[str, list[str]] = {}
    for line in report.lines:
        skipped.setdefault(", ".join(line.score.skipped), []).append(f"{line.fraction:g} {line.probe}")
    remarks += [
        f"{'all' if len(skipped) == 1 else '; '.join(lines)}: skipped {names}"
        for names, lines in skipped.items()
        if names
    ]
    remarks += [f"{line.fraction:g} {line.probe}: unlearnable {', '.join(line.unlearnable)}" for line in unlearnable]
    if unlearnable:
        remarks.append(UNLEARNABLE)
    remarks += [f"{fault}: {FAULT_DESCRIPTIONS[fault]}" for fault in report.faults]
    remarks += [f"{fault} does not apply: {reason}" for fault, reason in report.not_applicable.items()]
    remarks.append(
        "Not reproduced from MERL: " + "; ".join(f"{part} ({reason})" for part, reason in NOT_REPRODUCED.items())
    )
    for remark in remarks:
        out.print(remark, highlight=False, markup=False)


def _own_splits(task: str) -> str:
    from leadwise.data.published_splits import tasks

    remedy = "pass the folder of MERL's files as --splits" if task in tasks() else "MERL published none of this task"
    return f"Records, splits and labels are the cohort's own, not MERL's published ones: {remedy}."


def _cells(row: dict[str, Any], some_unlearnable: bool) -> dict[str, Any]:
    """Return a row for printing: the difference and its interval share a cell."""
    difference = "-"
    if row["difference"] is not None:
        difference = f"{row['difference']:+.3f} ({row['difference_low']:+.3f} to {row['difference_high']:+.3f})"
    columns = ("fraction", "probe", "n_train", "epoch", "macro", "low", "high")
    learnable = {"learnable only": row["learnable only"]} if some_unlearnable else {}
    return {name: row[name] for name in columns} | {"against no fault": difference, **learnable, " ": row["comparable"]}
