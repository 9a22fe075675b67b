"""The page of a leaderboard: for each cohort and task a picture and a table, with the controls beside every score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leadwise.evaluate.export import markdown
from leadwise.evaluate.leaderboard import Leaderboard, LeaderboardEntry, best_first
from leadwise.files import replacing
from leadwise.pictures import bars

INTRO = (
    "Macro AUROC x 100 on the test split with 95 % intervals over patients, from the results that `leadwise submit` was given. "
    "Only rows of one table can be compared: they have the same recordings, splits and labels. Each score has its controls: the "
    "same encoder with random weights, hand-crafted features, and, for zero-shot, every ECG scored against another patient's "
    "labels, which gives 50. An encoder of another program may have none with random weights."
)


def write_page(path: Path, board: Leaderboard) -> None:
    """Write `path` (.md) and a picture for each of its tables beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = ["# Leaderboard", INTRO]
    for number, ((cohort, digest, task), entries) in enumerate(board.tables().items(), 1):
        picture = path.with_name(f"{path.stem}_{number}.png")
        with replacing(picture) as temporary:
            bars.draw(_points(entries), f"{cohort}, {task}: macro AUROC").savefig(temporary, format="png", dpi=110)
        parts += [
            f"## {cohort}, {task}",
            f"![scores of {task} on {cohort}]({picture.name})",
            markdown(rows_of(entries)),
            f"Digest of the cohort: {digest}.",
        ]
    with replacing(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def rows_of(entries: Sequence[LeaderboardEntry]) -> list[dict[str, Any]]:
    """Return the rows of a table, the method with the highest mean first, its columns by command and fraction."""
    lines = []
    for name in best_first(entries):
        for one in sorted((e for e in entries if e.name == name), key=_order):
            low, high = one.interval
            controls = ", ".join(f"{control} {100 * value:.1f}" for control, value in one.controls.items())
            settings = ", ".join(f"{key} {value}" for key, value in one.settings.items())
            lines.append(
                {
                    "method": name,
                    "score": one.column,
                    "macro AUROC": f"{100 * one.macro:.1f} ({100 * low:.1f} to {100 * high:.1f})",
                    "controls": controls,
                    "pre-training": one.pretraining_data,
                    "test persons in it": "not known" if one.people_seen_in_pretraining is None else "none",
                    "test": f"{one.n_records:,} ECGs, {one.n_patients:,} patients",
                    "settings": settings,
                    "leadwise": one.versions.get("leadwise", ""),
                    "source": one.source,
                }
            )
    return lines


def _order(entry: LeaderboardEntry) -> tuple[bool, str, float]:
    """Zero-shot first, then by command and fraction."""
    return entry.fraction is not None, entry.command, entry.fraction or 0.0


def _points(entries: Sequence[LeaderboardEntry]) -> list[dict[str, Any]]:
    """Return the points of the picture; a second score of the same name and column has its settings in its name."""
    points: dict[tuple[str, str], dict[str, Any]] = {}
    for name in best_first(entries):
        for one in sorted((e for e in entries if e.name == name), key=_order):
            low, high = one.interval
            label = name
            if (label, one.column) in points:
                label = f"{name} ({', '.join(f'{key} {value}' for key, value in one.settings.items())})"
            points[label, one.column] = {
                "name": label,
                "group": one.column,
                "value": one.macro,
                "low": low,
                "high": high,
            }
    return list(points.values())
