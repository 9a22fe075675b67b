"""Does a cohort, or two of them, keep apart what learns and what is scored? From the index alone, every row.

Patients in two splits, the same samples twice, the same report many times, and what one cohort shares with another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leadwise.data.audit.finding import (
    Finding,
    Severity,
    codes,
    column_codes,
    examples,
    groups,
    name,
    patient,
    split_codes,
)
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import SPLITS
from leadwise.data.messages import first_few

_CROWDED = 0.2  # of all reports one and the same: contrast then mostly tells equals apart


def people(cohort: Cohort) -> list[Finding]:
    """Patients that stand in several splits; whether patients are named at all; splits without a recording."""
    owner, split = codes(cohort.patients.column), split_codes(cohort)
    places = np.unique(np.stack([owner, split], axis=1), axis=0)
    n_people = int(owner.max()) + 1
    torn = np.flatnonzero(np.bincount(places[:, 0], minlength=n_people) > 1)
    found = []
    if len(torn):
        first = [int(np.flatnonzero(owner == person)[0]) for person in torn[:8]]
        where = [", ".join(SPLITS[k] for k in places[places[:, 0] == person, 1]) for person in torn[:8]]
        details = [f"patient {patient(cohort, row)} in {splits}" for row, splits in zip(first, where)]
        said = "Learnt from in one split and scored in another; move all recordings of a patient into one split."
        found.append(
            Finding(
                "patients across splits",
                "error",
                len(torn),
                n_people,
                "patients",
                said,
                examples(cohort, first, details),
            )
        )
    if n_people == len(cohort) > 1:
        said = "Each recording has its own patient. If the source names no patients, a person may stand in two splits unseen."
        found.append(Finding("one recording a patient", "note", n_people, n_people, "patients", said))
    empty = [split for k, split in enumerate(SPLITS) if not (places[:, 1] == k).any()]
    if empty:
        said = f"No recording in {', '.join(empty)}: weights are chosen on val, scores made on test."
        found.append(Finding("empty splits", "note", len(empty), len(SPLITS), "splits", said))
    return found


def copies(cohort: Cohort) -> list[Finding]:
    """Recordings whose samples are equal to the bit, by their checksums."""
    return judge_copies(cohort, groups(column_codes(cohort, "samples_sha256")), "duplicate signals", len(cohort))


def judge_copies(
    cohort: Cohort, alike: Sequence[np.ndarray], check: str, of: int, how: str = "", worst: Severity = "error"
) -> list[Finding]:
    """Findings of groups of like recordings: `worst` where one spans patients or splits, else a warning."""
    owner, split = codes(cohort.patients.column), split_codes(cohort)
    alone = [len(np.unique(owner[group])) == len(np.unique(split[group])) == 1 for group in alike]
    kinds: tuple[tuple[bool, Severity, str, str], ...] = (
        (False, worst, ", patients or splits differ", "Leave out the copy, or give both the same patient and split."),
        (True, "warning", " of one patient", "They weigh double, and a score looks surer than it is."),
    )
    found = []
    for wanted, severity, where, said in kinds:
        chosen = [group for group, one in zip(alike, alone) if one == wanted]
        if not chosen:
            continue
        partners = (
            first_few((f"{name(cohort, row)} in {SPLITS[split[row]]}" for row in group[1:]), 2) for group in chosen
        )
        details = (f"{SPLITS[split[group[0]]]}, like {others}" for group, others in zip(chosen, partners))
        shown = examples(cohort, (group[0] for group in chosen), details)
        n = sum(map(len, chosen))
        found.append(Finding(check + where, severity, n, of, "recordings", f"{how}{said}", shown))
    return found


def reports(cohort: Cohort) -> list[Finding]:
    """How many reports are the same, and how many of those scored were read word for word in training; counts only."""
    said_something = np.concatenate([b.column(0).to_numpy() > 0 for b in cohort.columns(["report_words"])])
    n, n_silent = int(said_something.sum()), int((~said_something).sum())
    found = []
    if n_silent:
        said = (
            "They have no report: nothing to learn from for a text encoder (`data.min_report_words` leaves them out)."
        )
        rows = np.flatnonzero(~said_something)
        found.append(
            Finding("without a report", "note", n_silent, len(cohort), "recordings", said, examples(cohort, rows))
        )
    if not n:
        return found
    ids, split = codes(cohort.reports.column), split_codes(cohort)
    rows = np.flatnonzero(said_something)
    alike = groups(ids[rows], rows)
    if alike:
        largest, n_shared = len(alike[0]), sum(map(len, alike))
        learnt = np.unique(ids[said_something & (split == 0)])
        scored = rows[split[rows] == 2]
        known = int(np.isin(ids[scored], learnt).sum())
        said = (
            f"They share their report with another, in {len(alike)} groups; the largest has {largest} "
            f"({largest / n:.1%} of all reports). A contrast must count these as the same. "
            f"Of {len(scored)} reports in test, {known} stand in train word for word."
        )
        severity: Severity = "warning" if n >= 50 and largest / n > _CROWDED else "note"
        details = (f"as {len(group) - 1} others" for group in alike)
        firsts = (group[0] for group in alike)
        found.append(
            Finding("duplicate reports", severity, n_shared, n, "recordings", said, examples(cohort, firsts, details))
        )
    return found


def overlap(cohort: Cohort, other: Cohort) -> list[Finding]:
    """What two cohorts share: an error where one learns from it (train) or watches it (val) and the other scores it.

    Patients and record names are the same only where the source is; samples and files wherever their checksums are.
    """
    keys = [("samples_sha256", "signals"), ("source_sha256", "files")]
    if cohort.source == other.source:
        keys = [("patient", "patients"), ("record", "record names"), *keys]
    found = []
    for column, what in keys:
        pairs = _shared(cohort, other, column)
        found += judge_overlap(cohort, other, pairs, f"{what} shared with {other.name}")
    return found


def judge_overlap(
    cohort: Cohort,
    other: Cohort,
    pairs: tuple[np.ndarray, np.ndarray],
    check: str,
    how: str = "",
    worst: Severity = "error",
) -> list[Finding]:
    """Findings of pairs (rows of `cohort`, rows of `other`) that are the same: `worst` where their splits differ."""
    mine, yours = split_codes(cohort)[pairs[0]], split_codes(other)[pairs[1]]
    kinds: tuple[tuple[np.ndarray, Severity, str, str], ...] = (
        (
            mine != yours,
            worst,
            "another",
            "One learns from what the other scores: leave them out of one of the cohorts.",
        ),
        (
            mine == yours,
            "warning",
            "the same",
            "They count twice where both cohorts are learnt from, or both are scored.",
        ),
    )
    found = []
    for chosen, severity, where, said in kinds:
        rows, first = np.unique(pairs[0][chosen], return_index=True)
        if not len(rows):
            continue
        partners, here, there = (values[chosen][first] for values in (pairs[1], mine, yours))
        details = (
            f"{SPLITS[a]}, there {name(other, int(partner))} in {SPLITS[b]}"
            for partner, a, b in zip(partners, here, there)
        )
        shown = examples(cohort, rows, details)
        found.append(
            Finding(f"{check}, in {where} split", severity, len(rows), len(cohort), "recordings", how + said, shown)
        )
    return found


def _shared(cohort: Cohort, other: Cohort, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (rows of `cohort`, rows of `other`) with the same text in a column; for each of ours, one per split there."""
    mine, yours = (pa.chunked_array([b.column(0) for b in c.columns([column])]) for c in (cohort, other))
    both = codes(pa.chunked_array([*mine.chunks, *yours.chunks]))
    ids, their_ids = both[: len(cohort)], both[len(cohort) :]
    split = split_codes(other)
    rows, partners = [], []
    for code in range(len(SPLITS)):
        theirs = np.flatnonzero(split == code)
        known, first = np.unique(their_ids[theirs], return_index=True)
        if not len(known):
            continue
        at = np.searchsorted(known, ids).clip(max=len(known) - 1)
        hit = np.flatnonzero(known[at] == ids)
        rows.append(hit)
        partners.append(theirs[first[at[hit]]])
    return np.concatenate(rows), np.concatenate(partners)


def known_people(cohort: Cohort, known: Iterable[str], run: str) -> list[Finding]:
    """People of the cohort that a run learnt from, `known` by name: an error where they are to be scored (val, test)."""
    owners = cohort.patients.column
    learnt = pc.is_in(owners, value_set=pa.array(list(known), pa.string())).to_numpy(zero_copy_only=False)
    split, owner = split_codes(cohort), codes(owners)
    kinds: tuple[tuple[np.ndarray, Severity, str, str], ...] = (
        (split > 0, "error", "val or test", "The run's scores on these people would be false: it learnt from them."),
        (split == 0, "note", "train", "The run learnt from these people; they are not scored here."),
    )
    found = []
    for inside, severity, where, said in kinds:
        rows = np.flatnonzero(learnt & inside)
        if not len(rows):
            continue
        first = rows[np.unique(owner[rows], return_index=True)[1]]
        check, n_people = f"people that {run} learnt from, in {where}", len(np.unique(owner))
        found.append(Finding(check, severity, len(first), n_people, "patients", said, examples(cohort, first)))
    return found
