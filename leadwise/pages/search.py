"""The HTML page of a text search: the nearest ECGs on paper grid and in a table."""

from __future__ import annotations

from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.search import SearchResult, rows
from leadwise.pages.html import Page
from leadwise.pictures import paper
from leadwise.run import Run


def build_page(result: SearchResult, cohort: Cohort, run: Run, show_reports: bool = False) -> Page:
    """Return the page of the recordings nearest to a text. It contains report texts only if `show_reports` is set."""
    page = Page("The ECGs nearest to a text")
    hits = result.hits
    page.text(f"Text: {result.text}")
    if result.remark:
        page.text(f"Words of the text that were {result.remark}.")
    if result.left_out:
        page.text(f"{result.left_out.line}.")
    ranking = (
        "The cosine compares the text with each ECG in the model's shared space: 1 is the best match."
        if result.text_uncertainty is None
        else f"The cosine compares the text with each ECG in the model's shared space. {result.uncertainty_line}"
    )
    page.text(
        f"Model: {run.name}. Cohort: {cohort.name}. The page lists {len(hits)} of {len(cohort)} recordings, nearest first. "
        f"{ranking} The labels come from the cohort; the search did not use them."
    )
    if show_reports:
        page.text("This page contains report texts. Treat it as patient data.")
    for position, hit in enumerate(hits, 1):
        ecg, rate_hz = cohort.signal(hit.row)  # (T, 12) mV
        labels = "; ".join(f"{task}: {', '.join(names) or 'none'}" for task, names in hit.labels.items())
        title = f"{position}. record {hit.record}, cosine {hit.cosine:.3f}"
        if hit.uncertainty is not None:
            title += f", uncertainty {hit.uncertainty:.3g} (percentile {hit.percentile:.0f})"
        figure = paper.draw(ecg.T, rate_hz, LEADS, title=title, notes=[labels] if labels else [])
        report = f"Report: {cohort.reports[hit.row]}" if show_reports else ""
        page.figure(figure, report, alt=f"12-lead ECG of record {hit.record} on paper grid")
    page.table(rows(hits), "nearest recordings")
    return page
