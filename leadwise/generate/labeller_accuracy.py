"""How well the labeller reads reports whose findings are known: simulated reports, and texts of the 12SL program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from leadwise.data.reports import join_modifiers
from leadwise.data.simulator.findings import FINDINGS
from leadwise.data.simulator.patients import draw_patients, draw_presentation
from leadwise.data.simulator.reports import write_report
from leadwise.data.simulator.tracing import random_stream
from leadwise.generate.labeller import implied, label_report
from leadwise.generate.lexicon import Status, findings_of_code, lexicon


@dataclass(frozen=True)
class LabellerAccuracy:
    """Agreement of the labeller with the known statements of reports."""

    source: str  # which reports
    n_reports: int
    n_statements: int  # known statements in all reports
    f1: float  # micro
    precision: float
    recall: float
    exact: float  # share of reports with all statements right and no other

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    def row(self) -> dict[str, Any]:
        """Return the table row."""
        return dict(vars(self))


@lru_cache(maxsize=8)
def simulated_accuracy(n_reports: int = 2000, seed: int = 0) -> LabellerAccuracy:
    """Return the agreement with what `n_reports` simulated reports state, over the codes of the simulator.

    A statement with a hedge counts as stated. Findings that a report omits are not expected.
    """
    pairs: list[tuple[frozenset[str], frozenset[str]]] = []
    for patient in draw_patients(n_reports, seed):
        for k in range(patient.n_ecgs):
            rng = random_stream(patient, k, seed)
            report = write_report(draw_presentation(patient, rng), float(rng.uniform(40, 160)), rng)
            stated = label_report(report.text).stated()
            codes = {code for code in FINDINGS if stated.intersection(findings_of_code("simulated", code))}
            pairs.append((frozenset(report.stated), frozenset(codes)))
    return _agreement("simulated reports", pairs)


def twelve_sl_accuracy(texts: Sequence[str], acronyms: Sequence[str]) -> LabellerAccuracy:
    """Return the agreement with the acronyms of 12SL texts; a finding counts with its status, stated or stated with doubt.

    Args:
        texts: N texts, their statements separated by semicolons.
        acronyms: N lists of acronyms, separated by blanks, in the order of the statements.

    Raises:
        ValueError: the numbers of texts and of lists differ.
    """
    pairs = []
    for text, listed in zip(texts, acronyms, strict=True):
        labels = {
            f"{key} {status}" for key, status in label_report(join_modifiers(text)).findings.items() if status != "no"
        }
        pairs.append((twelve_sl_statements(listed), frozenset(labels)))
    return _agreement("12SL texts", pairs)


def twelve_sl_statements(acronyms: str) -> frozenset[str]:
    """Return the findings of a list of 12SL acronyms as "KEY yes" or "KEY uncertain"."""
    book = lexicon()
    findings: dict[str, Status] = {}
    doubt = False
    for acronym in acronyms.split():
        for key, status in book.twelve_sl.get(acronym, ()):
            new: Status = "uncertain" if doubt and status == "yes" else status
            if findings.get(key) != "yes" and new != "no":
                findings[key] = new
        doubt = acronym in book.twelve_sl_doubt
    return frozenset(f"{key} {status}" for key, status in {**implied(findings), **findings}.items())


def _agreement(source: str, pairs: Sequence[tuple[frozenset[str], frozenset[str]]]) -> LabellerAccuracy:
    """Return the agreement of (known, labelled) sets."""
    both = sum(len(known & labelled) for known, labelled in pairs)
    n_known = sum(len(known) for known, _ in pairs)
    n_labelled = sum(len(labelled) for _, labelled in pairs)
    return LabellerAccuracy(
        source=source,
        n_reports=len(pairs),
        n_statements=n_known,
        f1=2 * both / max(1, n_known + n_labelled),
        precision=both / max(1, n_labelled),
        recall=both / max(1, n_known),
        exact=sum(known == labelled for known, labelled in pairs) / max(1, len(pairs)),
    )
