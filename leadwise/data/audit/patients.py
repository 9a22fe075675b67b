"""Checks of what training and test data share, within a cohort and between two cohorts; every row of the index.

The checks find patients in two splits, identical samples, repeated reports, and what one cohort shares with another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leadwise.data.audit.finding import (
    Finding,
    Severity,
    column_codes,
    first_examples,
    patient_name,
    record_name,
    repeated_groups,
    split_codes,
    text_codes,
)
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import SPLITS
from leadwise.data.messages import first_few

_LONG_WORDS = 25  # a report that is rarely the same by chance: of 316 such reports of PTB-XL, 4 are
_WORDS_FOR_PATIENT = {"p", "pt", "pat", "patient", "id", "pid", "mrn", "s", "sub", "subj", "subject", "case", "person"}
_CROWDED = 0.2  # share of all reports that are one text: a contrastive loss then mostly compares equal reports


def check_patients(cohort: Cohort) -> list[Finding]:
    """Return findings on patients in several splits, on cohorts without patient names, and on empty splits."""
    patient, split = text_codes(cohort.patients.column), split_codes(cohort)
    pairs = np.unique(np.stack([patient, split], axis=1), axis=0)  # (patient, split), each once
    n_patients = int(patient.max()) + 1
    findings = []

    # patients with recordings in more than one split
    torn = np.flatnonzero(np.bincount(pairs[:, 0], minlength=n_patients) > 1)
    if len(torn):
        first = [int(np.flatnonzero(patient == code)[0]) for code in torn[:8]]
        splits = [", ".join(SPLITS[k] for k in pairs[pairs[:, 0] == code, 1]) for code in torn[:8]]
        details = [f"patient {patient_name(cohort, row)} in {names}" for row, names in zip(first, splits)]
        message = (
            "These patients have recordings in more than one split, so scores include patients of the training split. "
            "Move all recordings of a patient into one split."
        )
        findings.append(
            Finding(
                "patients across splits",
                "error",
                len(torn),
                n_patients,
                "patients",
                message,
                first_examples(cohort, first, details),
            )
        )

    # as many patients as recordings: perhaps the source has no patient names
    if n_patients == len(cohort) > 1:
        message = (
            "Every recording has its own patient. If the source does not identify patients, the same patient may be in two "
            "splits and no check can detect it."
        )
        findings.append(Finding("one recording per patient", "note", n_patients, n_patients, "patients", message))

    empty = [split for k, split in enumerate(SPLITS) if not (pairs[:, 1] == k).any()]
    if empty:
        message = f"No recording in {', '.join(empty)}. Weights are chosen on val, and scores are computed on test."
        findings.append(Finding("empty splits", "note", len(empty), len(SPLITS), "splits", message))
    return findings


def check_patient_names(cohort: Cohort) -> list[Finding]:
    """Return findings on patients whose names differ only in how they are written: an error if their splits differ.

    Ways of writing: case, spaces and separators, leading zeros, a `.0` behind a number, a word before a number.
    """
    names = cohort.patients.column
    codes, split = text_codes(names), split_codes(cohort)
    first = np.unique(codes, return_index=True)[1]  # a row of each patient
    splits_of = np.zeros(len(first), dtype=np.int64)  # of each patient, a bit for each split
    np.bitwise_or.at(splits_of, codes, 1 << split)
    forms: dict[str, list[int]] = {}
    numbers: dict[str, list[int]] = {}
    for row in first.tolist():
        form = _plain_name(cohort.patients[row])
        forms.setdefault(form, []).append(row)
        match = re.fullmatch(r"([a-z]*)(\d+)", form)
        if match and (not match[1] or match[1] in _WORDS_FOR_PATIENT):
            numbers.setdefault(match[2], []).append(row)
    written = [rows for rows in forms.values() if len(rows) > 1]
    already = {tuple(rows) for rows in written}
    prefixed = [rows for rows in numbers.values() if len(rows) > 1 and tuple(rows) not in already]

    findings = []
    for groups, worst, how in (
        (written, "error", "case, spaces, separators, zeros"),
        (prefixed, "warning", "a word before a number"),
    ):
        for torn in (True, False):
            selected = [
                rows for rows in groups if (int(np.bitwise_or.reduce(splits_of[codes[rows]])).bit_count() > 1) == torn
            ]
            if not selected:
                continue
            severity: Severity = "error" if torn and worst == "error" else "warning"
            where = "in two splits" if torn else "in one split"
            details = (
                f"patient {patient_name(cohort, rows[0])} in {SPLITS[split[rows[0]]]}, like "
                + first_few(
                    (
                        f"{patient_name(cohort, row)} of {record_name(cohort, row)} in {SPLITS[split[row]]}"
                        for row in rows[1:]
                    ),
                    2,
                )
                for rows in selected
            )
            message = (
                f"These names differ only in how they are written ({how}), so that one person may count as two. If they are "
                "the same person, write the name in one way and prepare the cohort again."
            )
            examples = first_examples(cohort, (rows[0] for rows in selected), details)
            n = sum(map(len, selected))
            findings.append(
                Finding(
                    f"patients written in two ways, {where}", severity, n, len(first), "patients", message, examples
                )
            )
    return findings


def _plain_name(name: str) -> str:
    """Return a patient's name in one way of writing: lower case, one separator, no leading zeros."""
    plain = re.sub(r"[\W_]+", "-", re.sub(r"^\s*(\d+)\.0+\s*$", r"\1", name).casefold()).strip("-")
    plain = re.sub(r"(?<=[^\W\d])-(?=\d)|(?<=\d)-(?=[^\W\d])", "", plain)
    return re.sub(r"(?<!\d)0+(?=\d)", "", plain)


def check_exact_copies(cohort: Cohort) -> list[Finding]:
    """Return findings on recordings whose samples are bit for bit the same, by their checksums."""
    groups = repeated_groups(column_codes(cohort, "samples_sha256"))
    return copy_findings(cohort, groups, "duplicate signals", len(cohort))


def copy_findings(
    cohort: Cohort, groups: Sequence[np.ndarray], check: str, of: int, prefix: str = "", worst: Severity = "error"
) -> list[Finding]:
    """Return findings on groups of equal recordings: of severity `worst` if a group spans patients or splits, else a warning.

    `prefix` begins the message.
    """
    patient, split = text_codes(cohort.patients.column), split_codes(cohort)
    together = [len(np.unique(patient[group])) == len(np.unique(split[group])) == 1 for group in groups]
    kinds: tuple[tuple[bool, Severity, str, str], ...] = (
        (False, worst, ", patients or splits differ", "Remove the copy, or give both the same patient and split."),
        (True, "warning", " of one patient", "They count twice, so confidence intervals become too narrow."),
    )
    findings = []
    for one_patient, severity, title, message in kinds:
        selected = [group for group, same in zip(groups, together) if same == one_patient]
        if not selected:
            continue
        partners = (
            first_few((f"{record_name(cohort, row)} in {SPLITS[split[row]]}" for row in group[1:]), 2)
            for group in selected
        )
        details = (f"{SPLITS[split[group[0]]]}, like {others}" for group, others in zip(selected, partners))
        examples = first_examples(cohort, (group[0] for group in selected), details)
        n = sum(map(len, selected))
        findings.append(Finding(check + title, severity, n, of, "recordings", f"{prefix}{message}", examples))
    return findings


def check_reports(cohort: Cohort) -> list[Finding]:
    """Return findings on missing and repeated reports, with the number of test reports that also occur in train."""
    n_words = np.concatenate([b.column(0).to_numpy() for b in cohort.columns(["report_words"])])
    has_report = n_words > 0
    n, n_without = int(has_report.sum()), int((~has_report).sum())
    findings = []

    # recordings without a report
    if n_without:
        message = "These recordings have no report: only methods that read no reports are trained on them."
        examples = first_examples(cohort, np.flatnonzero(~has_report))
        findings.append(Finding("without a report", "note", n_without, len(cohort), "recordings", message, examples))
    if not n:
        return findings

    # recordings with the same report
    ids, split = text_codes(cohort.reports.column), split_codes(cohort)
    rows = np.flatnonzero(has_report)
    groups = repeated_groups(ids[rows], rows)
    if groups:
        largest, n_shared = len(groups[0]), sum(map(len, groups))
        train_ids = np.unique(ids[has_report & (split == 0)])
        test_rows = rows[split[rows] == 2]
        n_in_train = int(np.isin(ids[test_rows], train_ids).sum())
        message = (
            f"These recordings share their report with another one, in {len(groups)} groups; the largest has {largest} "
            f"({largest / n:.1%} of all reports). A contrastive loss must not treat equal reports as different. "
            f"Of {len(test_rows)} reports in test, {n_in_train} also occur in train, word for word."
        )
        severity: Severity = "warning" if n >= 50 and largest / n > _CROWDED else "note"
        details = (f"{len(group)} recordings with this report" for group in groups)
        examples = first_examples(cohort, (group[0] for group in groups), details)
        findings.append(Finding("duplicate reports", severity, n_shared, n, "recordings", message, examples))

    # long reports that recordings of different patients and splits share
    patient = text_codes(cohort.patients.column)
    copied = [rows for rows in groups if n_words[rows[0]] >= _LONG_WORDS and len(np.unique(patient[rows])) > 1]
    copied = [rows for rows in copied if len(np.unique(split[rows])) > 1]
    if copied:
        copied.sort(key=lambda rows: -int(n_words[rows[0]]))
        message = (
            f"These reports have {_LONG_WORDS} words or more, and a patient of another split has the same one: chance is "
            "unlikely, so compare their tracings."
        )
        details = (
            f"{n_words[rows[0]]} words, {SPLITS[split[rows[0]]]}, like "
            + first_few((f"{record_name(cohort, row)} in {SPLITS[split[row]]}" for row in rows[1:]), 2)
            for rows in copied
        )
        examples = first_examples(cohort, (rows[0] for rows in copied), details)
        n_copied = sum(map(len, copied))
        findings.append(Finding("long reports in two splits", "note", n_copied, n, "recordings", message, examples))
    return findings


def check_overlap(cohort: Cohort, other: Cohort) -> list[Finding]:
    """Return findings on what two cohorts share: an error if the splits differ, because one trains on what the other scores.

    Patients and record names are compared only if both cohorts have the same source; samples and files by their checksums.
    """
    keys = [("samples_sha256", "signals"), ("source_sha256", "files")]
    if cohort.source == other.source:
        keys = [("patient", "patients"), ("record", "record names"), *keys]
    findings = []
    for column, what in keys:
        pairs = _shared_rows(cohort, other, column)
        findings += overlap_findings(cohort, other, pairs, f"{what} shared with {other.name}")
    return findings


def overlap_findings(
    cohort: Cohort,
    other: Cohort,
    pairs: tuple[np.ndarray, np.ndarray],
    check: str,
    prefix: str = "",
    worst: Severity = "error",
) -> list[Finding]:
    """Return findings on pairs (rows of `cohort`, rows of `other`) that are equal: of severity `worst` if splits differ.

    `prefix` begins the message.
    """
    own_split, other_split = split_codes(cohort)[pairs[0]], split_codes(other)[pairs[1]]
    kinds: tuple[tuple[np.ndarray, Severity, str, str], ...] = (
        (
            own_split != other_split,
            worst,
            "another",
            "One cohort trains or selects on what the other scores. Remove these recordings from one of the cohorts.",
        ),
        (
            own_split == other_split,
            "warning",
            "the same",
            "They count twice if both cohorts are used for training, or both for scoring.",
        ),
    )
    findings = []
    for mask, severity, which, message in kinds:
        # each row of `cohort` once, with the first of its partners
        rows, first = np.unique(pairs[0][mask], return_index=True)
        if not len(rows):
            continue
        partners, own, others = (values[mask][first] for values in (pairs[1], own_split, other_split))
        details = (
            f"{SPLITS[a]}; in {other.name}: {record_name(other, int(partner))} in {SPLITS[b]}"
            for partner, a, b in zip(partners, own, others)
        )
        examples = first_examples(cohort, rows, details)
        title = f"{check}, in {which} split"
        findings.append(Finding(title, severity, len(rows), len(cohort), "recordings", prefix + message, examples))
    return findings


def _shared_rows(cohort: Cohort, other: Cohort, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs (rows of `cohort`, rows of `other`) with equal text in a column; per row, one partner per split."""
    own_column, other_column = (pa.chunked_array([b.column(0) for b in c.columns([column])]) for c in (cohort, other))
    codes = text_codes(pa.chunked_array([*own_column.chunks, *other_column.chunks]))
    own_ids, other_ids = codes[: len(cohort)], codes[len(cohort) :]
    split = split_codes(other)
    rows, partners = [], []
    for code in range(len(SPLITS)):
        candidates = np.flatnonzero(split == code)
        unique_ids, first = np.unique(other_ids[candidates], return_index=True)
        if not len(unique_ids):
            continue
        position = np.searchsorted(unique_ids, own_ids).clip(max=len(unique_ids) - 1)
        matches = np.flatnonzero(unique_ids[position] == own_ids)
        rows.append(matches)
        partners.append(candidates[first[position[matches]]])
    return np.concatenate(rows), np.concatenate(partners)


def check_training_patients(cohort: Cohort, training_patients: Iterable[str], run: str) -> list[Finding]:
    """Return findings on patients that a run was trained on, given by name: an error if they are scored (val, test)."""
    names = cohort.patients.column
    trained = pc.is_in(names, value_set=pa.array(list(training_patients), pa.string())).to_numpy(zero_copy_only=False)
    patient = text_codes(names)
    n_patients = len(np.unique(patient))
    findings = []
    for rows, severity, where, consequence in _scored_and_not(cohort, trained):
        first = rows[np.unique(patient[rows], return_index=True)[1]]
        title, message = (
            f"training patients of {run}, in {where}",
            f"The run was trained on these patients{consequence}",
        )
        examples = first_examples(cohort, first)
        findings.append(Finding(title, severity, len(first), n_patients, "patients", message, examples))
    return findings


def check_training_signals(cohort: Cohort, in_training: np.ndarray, run: str) -> list[Finding]:
    """Return findings on recordings whose samples a run was trained on, (n,) bool: an error if they are scored (val, test)."""
    findings = []
    for rows, severity, where, consequence in _scored_and_not(cohort, in_training):
        what = "recordings with the same samples" if severity == "error" else "the same samples"
        title, message = f"training signals of {run}, in {where}", f"The run was trained on {what}{consequence}"
        examples = first_examples(cohort, rows)
        findings.append(Finding(title, severity, len(rows), len(cohort), "recordings", message, examples))
    return findings


def _scored_and_not(cohort: Cohort, in_training: np.ndarray) -> Iterator[tuple[np.ndarray, Severity, str, str]]:
    """The rows that a run was trained on and scores (val, test), then those that it does not score; each only if there are any.

    With each: severity, splits, and the end of the message.
    """
    split = split_codes(cohort)
    kinds: tuple[tuple[np.ndarray, Severity, str, str], ...] = (
        (split > 0, "error", "val or test", ", so its scores on them are too high."),
        (split == 0, "note", "train", ". They are not scored here."),
    )
    for inside, severity, where, consequence in kinds:
        rows = np.flatnonzero(in_training & inside)
        if len(rows):
            yield rows, severity, where, consequence
