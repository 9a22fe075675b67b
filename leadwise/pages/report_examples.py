"""Written reports beside the references, with the findings in which they differ in colour, as a section of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from leadwise.pages.html import Page, Tone, Words

Difference = Literal["agrees", "omitted", "invented", ""]  # "": no finding

_TONES: dict[Difference, Tone | None] = {"agrees": "plain", "omitted": "poor", "invented": "bad", "": None}
_MARKS: dict[Difference, str] = {"agrees": "=", "omitted": "−", "invented": "+", "": ""}  # for readers without colours


@dataclass(frozen=True)
class Marked:
    """A statement of a report, or the name of a finding, and how it differs from the other report."""

    text: str
    difference: Difference


@dataclass(frozen=True)
class ReportExample:
    """One ECG: the reference, what was written, and the findings of both."""

    record: str
    reference: Sequence[Marked]  # its statements; none is invented
    written: Sequence[Marked]  # none is omitted
    findings: Sequence[Marked]  # of both reports, by name


@dataclass(frozen=True)
class ReportExamples:
    """Examples of a writer. They contain reports, so they are patient data."""

    writer: str
    note: str  # machine-written, research use only
    n_reports: int  # test recordings with a report, from which the examples are drawn
    seed: int
    examples: Sequence[ReportExample]
    warnings: Sequence[str] = ()  # of recordings that the writer was trained on

    def count(self, difference: Difference) -> int:
        """Return the number of findings that agree, were omitted, or were invented."""
        return sum(one.difference == difference for example in self.examples for one in example.findings)


def add_examples(page: Page, examples: ReportExamples) -> None:
    """Add the section with the examples to a page."""
    page.heading("Examples of written reports")
    page.text(
        f"Reports by {examples.writer}: {examples.note}. This page contains reports of patients: it is patient data, and stays "
        "where the cohort may be.",
        "bad",
    )
    for warning in examples.warnings:
        page.text(warning, "bad")
    page.text(
        f"{len(examples.examples)} of the {examples.n_reports} test recordings with a report, drawn at random (seed "
        f"{examples.seed}) and not by their scores. Findings are read from both texts by rules (leadwise.generate.labeller), "
        "which make errors; a finding that is stated with doubt counts as stated. A statement with several findings has the "
        "mark of a difference if one of them differs. Statements without a mark have no finding that the rules know."
    )
    places: dict[Difference, str] = {
        "agrees": "in both reports",
        "omitted": "in the reference only",
        "invented": "in the written report only",
    }
    page.table(
        [
            {"mark": (_words(one, one),), "the finding is": place, "number": examples.count(one)}
            for one, place in places.items()
        ],
        "marks and colours, and findings of all examples",
    )
    rows = [
        {
            "record": example.record,
            "reference": tuple(_words(one.text, one.difference) for one in example.reference),
            "written": tuple(_words(one.text, one.difference) for one in example.written) or (Words("(empty)"),),
            "findings": tuple(_words(f"{one.text} ({one.difference})", one.difference) for one in example.findings),
        }
        for example in examples.examples
    ]
    page.table(rows, "written reports beside the references")


def _words(text: str, difference: Difference) -> Words:
    """Return text in the colour of a difference, after its mark."""
    mark = _MARKS[difference]
    return Words(f"{mark} {text}" if mark else text, _TONES[difference])
