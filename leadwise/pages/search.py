"""TODO."""

from __future__ import annotations

from collections.abc import Sequence

from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.search import SearchHit, rows
from leadwise.pages.html import Page
from leadwise.pictures import paper
from leadwise.run import Run


def page(found: Sequence[SearchHit], cohort: Cohort, text: str, run: Run, show_reports: bool = False) -> Page:
    """One offline page: the table, and each ECG on paper grid. Report texts only where `show_reports` asks for them."""
    made = Page("The ECGs nearest to a text")
    made.text(f"Text: {text}")
    made.text(
        f"Read by {run.name}, searched in {cohort.name}: {len(found)} of {len(cohort)} recordings, nearest first. The cosine "
        "is between the text and the ECG in the shared space; labels are the cohort's and were not looked at."
    )
    if show_reports:
        made.text("This page shows report texts: it is patient data.")
    made.table(rows(found), "nearest recordings")
    for at, one in enumerate(found, 1):
        ecg, rate_hz = cohort.signal(one.row)  # (T, 12) mV
        held = "; ".join(f"{task}: {', '.join(names) or 'none'}" for task, names in one.labels.items())
        title = f"{at}. record {one.record}, cosine {one.cosine:.3f}"
        figure = paper.draw(ecg.T, rate_hz, LEADS, title=title, notes=[held] if held else [])
        said = f" Report: {cohort.reports[one.row]}" if show_reports else ""
        made.figure(figure, f"{title}.{said}", alt=f"12-lead ECG of record {one.record} on paper grid")
    return made
