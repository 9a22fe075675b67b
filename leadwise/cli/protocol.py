"""What `leadwise probe` does under another protocol than the strict one."""

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
    "unlearnable: a draw of the labels shows the class with one value only; the strict probe counts it 0.5 there, MERL's "
    "trainer scores it as any other. learnable only: macro AUROC over the other classes."
)

ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol",
        help="strict; merl-legacy: MERL's probe, faults included, not comparable; both: side by side, fault by fault.",
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
    str | None, typer.Option("--faults", help="Of the legacy protocol, joined by commas [all that apply].")
]
EpochsOfLegacy = Annotated[int | None, typer.Option("--epochs", help="Of the legacy trainer [100].")]
SeedsOfStrict = Annotated[
    str | None,
    typer.Option("--seeds", help="One draw of the labels each, three or more to report [42,43,44]; not merl-legacy's."),
]


def legacy_settings(
    faults: str | None, epochs: int | None, part: str, splits: Path | None, window: str | None, seeds: tuple[int, ...]
) -> LegacySettings:
    """The options as the legacy protocol's settings; `seeds` are those of the strict probe beside it."""
    from leadwise.evaluate.merl_legacy.probe_heads import Fault, TrainerSettings, parse_faults
    from leadwise.evaluate.protocol import LegacySettings

    named = (
        tuple(Fault) if faults is None else parse_faults([name.strip() for name in faults.split(",") if name.strip()])
    )
    trainer = TrainerSettings() if epochs is None else TrainerSettings(epochs=epochs)
    return LegacySettings(named, trainer, part, splits, window, seeds)


def check_protocol(name: str, faults: str | None, epochs: int | None, seeds: str | None) -> None:
    """Nothing, if there is such a protocol and the options that were given mean something to it.

    Raises:
        typer.BadParameter: they do not.
    """
    if name not in PROTOCOLS:
        raise typer.BadParameter(f"--protocol {name}: say one of {', '.join(PROTOCOLS)}")
    if name == "strict" and faults is not None:
        raise typer.BadParameter("--faults belong to the legacy protocol: say --protocol merl-legacy or both")
    if name == "strict" and epochs is not None:
        raise typer.BadParameter("--epochs belong to the legacy trainer: say --protocol merl-legacy or both")
    if name == "merl-legacy" and seeds is not None:
        raise typer.BadParameter(
            "--seeds belong to the strict probe, MERL's has seed 42: say --protocol both or strict"
        )


def published_splits_json(cohort: Cohort) -> dict[str, Any]:
    """What a strict result says of published splits that stood in for the cohort's own; nothing without them."""
    from leadwise.data.published_splits import PublishedCohort

    if not isinstance(cohort, PublishedCohort):
        return {}
    told = {"fingerprint": cohort.published.fingerprint, "records_missing": dict(cohort.matched.missing)}
    return {"published_splits": told}


def run_legacy_probe(
    run: Path,
    cohort: Path,
    task: str,
    fractions: tuple[float, ...],
    protocol: Any,
    settings: LegacySettings,
    json_file: Path | None,
) -> ProtocolReport:
    """Run, show and write the probe of the legacy protocol, or of both."""
    from leadwise import run as runs
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate.protocol import run_protocol

    with progress_bars() as progress:
        report = run_protocol(
            runs.load(run), Cohort.open(cohort), task, fractions, protocol, settings, progress=bars(progress)
        )
    print_report(report)
    write_json(json_file, report.to_json())
    return report


def print_report(report: ProtocolReport) -> None:
    """The table, then what the faults are."""
    from leadwise.evaluate.merl_legacy.probe_heads import FAULT_DESCRIPTIONS, NOT_REPRODUCED

    task = report.legacy_task
    where = f"{report.run} on {task.cohort.name}, task {task.name}{window_suffix(report.legacy.window)}"
    title = f"protocol {report.protocol}: {where}, macro AUROC on test"
    remarks = [] if report.published else [_own_splits(task.name)]
    unlearnable = [line for line in report.lines if line.unlearnable]
    print_table([_cells(row, bool(unlearnable)) for row in report.rows()], title)
    skipped: dict[str, list[str]] = {}
    for line in report.lines:
        skipped.setdefault(", ".join(line.score.skipped), []).append(f"{line.fraction:g} {line.probe}")
    remarks += [
        f"{'all' if len(skipped) == 1 else '; '.join(of)}: skipped {lost}" for lost, of in skipped.items() if lost
    ]
    remarks += [f"{line.fraction:g} {line.probe}: unlearnable {', '.join(line.unlearnable)}" for line in unlearnable]
    if unlearnable:
        remarks.append(UNLEARNABLE)
    remarks += [f"{fault}: {FAULT_DESCRIPTIONS[fault]}" for fault in report.faults]
    remarks += [f"{fault} does not apply: {reason}" for fault, reason in report.not_applicable.items()]
    remarks.append(
        "Not done as MERL does: " + "; ".join(f"{what} ({reason})" for what, reason in NOT_REPRODUCED.items())
    )
    for remark in remarks:
        out.print(remark, highlight=False, markup=False)


def _own_splits(task: str) -> str:
    from leadwise.data.published_splits import tasks

    there_are = "name the folder of MERL's files by --splits" if task in tasks() else "MERL published none of this task"
    return f"Records, splits and labels are the cohort's own, not MERL's published ones: {there_are}."


def _cells(row: dict[str, Any], some_unlearnable: bool) -> dict[str, Any]:
    """A row for the screen: the difference and its interval share a cell."""
    apart = "-"
    if row["difference"] is not None:
        apart = f"{row['difference']:+.3f} ({row['difference_low']:+.3f} to {row['difference_high']:+.3f})"
    shown = ("fraction", "probe", "n_train", "epoch", "macro", "low", "high")
    learnable = {"learnable only": row["learnable only"]} if some_unlearnable else {}
    return {name: row[name] for name in shown} | {"against no fault": apart, **learnable, " ": row["comparable"]}
