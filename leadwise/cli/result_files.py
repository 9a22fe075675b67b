"""Files that the scoring commands write in addition to their tables: CSV, LaTeX, the reliability diagram."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from leadwise.cli.output import REMARKS, print_line, window_suffix

if TYPE_CHECKING:
    from leadwise.evaluate.probe import ProbeReport
    from leadwise.run import Run


class ScoreReport(Protocol):
    """Result of a scoring command, as tables."""

    def rows(self) -> list[dict[str, Any]]: ...
    def class_rows(self) -> list[dict[str, Any]]: ...
    def long_rows(self) -> list[dict[str, Any]]: ...


def read_seeds(text: str) -> tuple[int, ...]:
    """Return the distinct whole numbers of a list such as "42,43,44"."""
    try:
        seeds = tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--seeds {text}: must be whole numbers, such as 42,43,44") from None
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise typer.BadParameter(f"--seeds {text}: numbers must be distinct and not below 0")
    return seeds


def read_fractions(text: str) -> tuple[float, ...]:
    """Return the numbers of a list such as "0.01,0.1,1"; whether they are fractions is checked where labels are drawn."""
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--fractions {text}: must be numbers in (0, 1], such as 0.01,0.1,1") from None


def write_tables(csv_file: Path | None, latex_file: Path | None, report: ScoreReport, per_class: bool) -> None:
    """Write all scores as CSV, and the printed tables as LaTeX with the best of each fraction in bold."""
    from leadwise.evaluate import export
    from leadwise.evaluate.metrics.all_metrics import HIGHER_IS_BETTER

    if csv_file is not None:
        export.write(csv_file, export.to_csv(report.long_rows()))
    if latex_file is not None:
        rows = [row for row in report.rows() if row.get("features") != "shuffled pairs"]  # a control is never the best
        best = {name: up for name, up in {"macro": True, "r2": True, **HIGHER_IS_BETTER}.items() if name in rows[0]}
        best = {} if "comparable" in rows[0] else best  # numbers that are not comparable have no best
        within = "fraction" if "fraction" in rows[0] else None
        text = export.to_latex(rows, best, within, hidden=REMARKS)
        if per_class:
            classes = report.class_rows()
            text += "\n" + export.to_latex(classes, within="fraction" if "fraction" in classes[0] else None)
        export.write(latex_file, text)


def print_training_data(run: Run, report: ProbeReport) -> None:
    """Print below the table of a probe or a fine-tuning what is known of the encoder's training, and a leak."""
    if run.origin:
        print_line(f"{run.name}: {run.origin}; pre-training data: {run.pretraining_data}")
    print_line(report.control_remark)
    print_line(report.overlap.remark)


def check_picture(path: Path) -> None:
    """Raise BadParameter if pictures cannot be written with this suffix; called before the computation starts."""
    from leadwise.pictures.ink import SUFFIXES

    if path.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"--picture {path}: the name must end in {' or '.join(SUFFIXES)}")


def draw_reliability(report: ProbeReport, path: Path) -> None:
    """Draw the reliability of the trained encoder at the largest fraction of labels, one panel per class."""
    from leadwise.evaluate.metrics.calibration import CAUTION
    from leadwise.pictures import ink, reliability

    fraction = max(report.results)
    result = report.results[fraction]["trained"]
    curves = []
    for name, curve in result.reliability.items():
        ece = result.measures["ece"].per_class[name]
        low, high = zip(*curve.interval)
        note = f"ECE {ece:.3f}\n{result.score.positives[name]} positives"
        bins = {
            "mean_probability": curve.mean_probability,
            "positive_share": curve.positive_share,
            "count": curve.count,
        }
        curves.append({"name": name, "note": note, "low": low, "high": high, **bins})
    subject = f"{report.run} on {report.cohort}, task {report.task}{window_suffix(report.window)}"
    title = f"probe of {subject}, {fraction:.0%} of labels: reliability on test"
    ink.save(reliability.draw(curves, title, CAUTION), path, dpi=150)
