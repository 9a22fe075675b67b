"""The part of a card on numbers of the heart and heart images."""

from __future__ import annotations

from typing import Any

from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.card.heart import HeartSection
from leadwise.evaluate.regress import TRAINED, RegressReport
from leadwise.evaluate.volume_retrieval import N_POOLS, VolumeRetrievalReport
from leadwise.pages.html import Page
from leadwise.pictures import heart_images, predicted

_MOST_PANELS = 6


def add_heart(page: Page, heart: HeartSection | None, cohort: Cohort) -> None:
    """Add the section; nothing without one."""
    if heart is None:
        return
    page.heading("The heart")
    _add_images(page, cohort)
    if heart.numbers:
        _add_numbers(page, heart.numbers)
    if heart.retrieval:
        _add_retrieval(page, heart.retrieval)


def _add_images(page: Page, cohort: Cohort) -> None:
    """Add the heart images of the first test recording that has all phases, as an example."""
    volume, rows = cohort.volumes, cohort.rows("test")
    if volume is None:
        return
    complete = rows[cohort.has_volume(rows).all(axis=1)]
    if not len(complete):
        return
    row = int(complete[0])
    masks = cohort.volume_mask(row)
    figure = heart_images.draw(
        cohort.volume(row), volume.phases, masks if masks.any() else None, pixel_mm=volume.spacing_mm[1:]
    )
    page.figure(
        figure, f"Heart images of test recording {cohort.records[row]}, from base to apex.", "heart images by phase"
    )


def _add_numbers(page: Page, report: RegressReport) -> None:
    n = report.n_recordings
    page.text(
        f"Numbers of the heart, predicted by a {report.model} on the frozen embeddings. It is fitted on {n['fit']} recordings of "
        f"split {report.fit_split} and scored once on {n['test']} recordings of the test split. R² is 1 for perfect predictions "
        "and 0 for the mean; MAE has the unit of the number. Intervals: 95 %, over patients."
    )
    for sentence in report.above_bound:
        page.text(f"LEAK? {sentence}", "bad")
    if report.n_fit_seen:
        page.text(
            f"{report.n_fit_seen} of the people of the fit were in the pre-training; scores may be too low.", "poor"
        )
    page.figure(
        predicted.draw(report.panels(_MOST_PANELS), "predicted against true, test split"),
        "Dashed line: perfect prediction." + (" Bound: the best R² from any ECG." if report.bounds else ""),
        "scatter of predicted against true values by target",
    )

    # R² of each target beside the bound and the controls
    rows = []
    for line in report.class_rows():
        low, high = line.pop("low"), line.pop("high")
        cells: dict[str, Any] = {"target": line.pop("target"), "n": line.pop("n"), "SD": f"{line.pop('SD'):.3g}"}
        r2, mae = line.pop("r2"), line.pop("mae")
        cells["R²"] = "–" if r2 is None else f"{r2:.3f} ({low:.3f} to {high:.3f})".replace("-", "−")
        cells |= {"MAE": "–" if mae is None else f"{mae:.3g}"}
        rows.append({**cells, **line})
    page.table(
        rows,
        f"R² of the {TRAINED} encoder by target, the largest possible one where it is known, and R² of the controls",
    )


def _add_retrieval(page: Page, report: VolumeRetrievalReport) -> None:
    page.text(
        "Retrieval between ECGs and heart images by similarity in the shared space, in pools of fixed size: means over "
        f"{N_POOLS} pools of test patients. {report.remark}"
    )
    page.table(report.rows(), "recall at k and median rank")
