"""Checks of leads, sampling rates and durations in a cohort's index: every row, no samples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leadwise.batch import LEADS
from leadwise.data.audit.finding import Finding, Severity, first_examples
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.messages import first_few
from leadwise.data.recordings import lead_algebra

LARGEST_MV = 10.0  # larger than any deflection of a heart; an offset, a spike or a wrong unit exceeds it
LENGTHS_S = (5.0, 120.0)  # shorter is mostly padding in a window of 10 s, longer is no resting ECG
RATES_HZ = (100.0, 2000.0)  # sampling rates of electrocardiographs
_MISSING = 0.2  # share of a recorded lead's samples


@dataclass(frozen=True)
class LeadTable:
    """Columns of the index, (n,) or (n, 12)."""

    rate_hz: np.ndarray
    duration_s: np.ndarray
    recorded: np.ndarray  # (n, 12) bool: the file contains the lead
    absent: np.ndarray  # (n, 12) bool: neither recorded nor computed from other leads
    missing: np.ndarray  # (n, 12) share of the samples
    open_gaps: np.ndarray  # (n, 12) bool: recorded, with a gap too long to interpolate
    flat: np.ndarray  # (n, 12) bool
    largest_mv: np.ndarray  # (n, 12), NaN where nothing is observed
    order: np.ndarray  # (n,) text, result of the lead order test


_COLUMNS = (
    "rate_hz", "n_samples", "lead_origin", "lead_missing", "n_long_gaps", "lead_flat", "lead_max_mv", "lead_order",
)  # fmt: skip


def read_index(cohort: Cohort) -> LeadTable:
    """Return the columns of every row; texts are converted to booleans batch by batch."""
    parts = [_columns(batch) for batch in cohort.columns(_COLUMNS)]
    return LeadTable(*(np.concatenate(columns) for columns in zip(*parts)))


def _columns(batch: pa.RecordBatch) -> tuple[np.ndarray, ...]:
    def matrix(values: pa.Array) -> np.ndarray:
        table: np.ndarray = values.to_numpy(zero_copy_only=False)
        return table.reshape(-1, len(LEADS))

    column = {name: batch.column(name) for name in _COLUMNS}
    rate_hz, n_samples = column["rate_hz"].to_numpy(), column["n_samples"].to_numpy()
    origin = column["lead_origin"].flatten()
    recorded, absent = (matrix(pc.equal(origin, what)) for what in ("recorded", "missing"))
    missing = matrix(column["lead_missing"].flatten()) / n_samples[:, None]
    gaps = matrix(column["n_long_gaps"].flatten())
    flat, largest = matrix(column["lead_flat"].flatten()), matrix(column["lead_max_mv"].flatten())
    order = np.array(column["lead_order"].to_pylist(), dtype=np.str_)
    open_gaps = (gaps > 0) & recorded
    return rate_hz, n_samples / rate_hz, recorded, absent, missing.astype(np.float32), open_gaps, flat, largest, order


def check_leads(cohort: Cohort, table: LeadTable) -> list[Finding]:
    """Return findings on leads that are misnamed, flat, absent, full of gaps or too large."""
    findings = []

    def add(check: str, rows: np.ndarray, details: list[str], message: str, severity: Severity = "warning") -> None:
        if len(rows):
            examples = first_examples(cohort, rows, details)
            findings.append(Finding(check, severity, len(rows), len(cohort), "recordings", message, examples))

    # lead names, tested by the equations of the limb leads
    wrong = np.flatnonzero((table.order != lead_algebra.OK) & (table.order != lead_algebra.UNCHECKED))
    kinds = Counter(table.order[wrong].tolist())
    message = (
        "These recordings break III = II - I and the related equations: leads are misnamed, or were filtered separately. "
        f"Suspected: {first_few((f'{kind} {count}' for kind, count in kinds.most_common()), 6)}."
    )
    add("lead order", wrong, table.order[wrong].tolist(), message)
    unchecked = np.flatnonzero(table.order == lead_algebra.UNCHECKED)
    message = "Too few limb leads are recorded to check the lead names."
    add("lead order not checked", unchecked, [], message, "note")

    # flat leads
    flat = table.flat & table.recorded
    rows = _largest_first(flat.sum(axis=1))
    message = f"These leads contain no heart signal: an electrode was off. Leads: {_tally(flat)}"
    add("flat leads", rows, [_lead_names(flat[row]) for row in rows], message)

    # missing samples; recordings above the limit are not listed again for their gaps
    share = np.where(table.recorded, table.missing, 0.0).max(axis=1)
    rows = _largest_first(np.where(share > _MISSING, share, 0.0))
    message = (
        f"More than {_MISSING:.0%} of the samples of a recorded lead are missing. They are marked as not observed."
    )
    add("missing samples", rows, [f"up to {share[row]:.0%}" for row in rows], message)
    rows = _largest_first(np.where(share <= _MISSING, table.open_gaps.sum(axis=1), 0))
    message = "These gaps are too long to interpolate. They are marked as not observed."
    add("gaps", rows, [_lead_names(table.open_gaps[row]) for row in rows], message, "note")

    # absent leads
    rows = _largest_first(table.absent.sum(axis=1))
    message = (
        "These leads are not in the file and cannot be computed from the others. They are marked as not observed. "
        f"Leads: {_tally(table.absent)}"
    )
    add("leads not recorded", rows, [_lead_names(table.absent[row]) for row in rows], message, "note")

    # channels of the files that are none of the twelve leads
    rows, names = _unused_channels(cohort)
    tally = Counter(name for channels in names for name in channels)
    message = (
        "The files have channels that are not among the twelve leads. They are not used; if one is a lead under another "
        f"name, prepare the cohort with --leads. Channels: {first_few((f'{name} {n}' for name, n in tally.most_common()), 12)}."
    )
    add("channels not used", rows, [first_few(channels, 6) for channels in names], message, "note")

    # amplitudes
    largest = np.nan_to_num(table.largest_mv).max(axis=1)
    rows = _largest_first(np.where(largest > LARGEST_MV, largest, 0.0))
    message = f"More than {LARGEST_MV:g} mV from zero: a spike, an offset or a wrong unit, not a heart signal."
    details = [
        f"{largest[row]:.3g} mV; above the limit in {_lead_names(table.largest_mv[row] > LARGEST_MV)}" for row in rows
    ]
    add("implausible amplitudes", rows, details, message)
    return findings


def _unused_channels(cohort: Cohort) -> tuple[np.ndarray, list[list[str]]]:
    """Return the rows whose file has channels that are not used, and the names of these channels."""
    if "unused_leads" not in cohort.column_names:  # prepared by an earlier version
        return np.empty(0, dtype=np.int64), []
    rows, names = [], []
    n_before = 0
    for batch in cohort.columns(["unused_leads"]):
        for place, channels in enumerate(batch.column(0).to_pylist()):
            if channels:
                rows.append(n_before + place)
                names.append(channels)
        n_before += len(batch)
    return np.array(rows, dtype=np.int64), names


def check_lengths(cohort: Cohort, table: LeadTable) -> list[Finding]:
    """Return findings on unusual and on mixed durations and sampling rates."""
    n, findings = len(cohort), []
    for check, values, (low, high), unit, remedy in (
        ("length", table.duration_s, LENGTHS_S, "s", "shorter recordings are padded, longer ones are cut"),
        ("rate", table.rate_hz, RATES_HZ, "Hz", "check the stated sampling rate"),
    ):
        # values outside the usual range, furthest on a logarithmic scale first
        odd = np.flatnonzero((values < low) | (values > high))
        if len(odd):
            rows = odd[np.argsort(-np.abs(np.log(values[odd] / np.sqrt(low * high))), kind="stable")]
            message = f"Outside {low:g} to {high:g} {unit}: {remedy}."
            examples = first_examples(cohort, rows, (f"{values[row]:.4g} {unit}" for row in rows))
            findings.append(Finding(f"odd {check}", "warning", len(odd), n, "recordings", message, examples))

        # different values in one cohort
        kinds = Counter(np.round(values, 2).tolist()).most_common()
        if len(kinds) > 1:
            most_frequent = first_few((f"{value:g} {unit} in {count}" for value, count in kinds), 5)
            message = f"{len(kinds)} different {check}s, most frequent first: {most_frequent}."
            findings.append(Finding(f"mixed {check}s", "note", n - kinds[0][1], n, "recordings", message))
    return findings


def _largest_first(sizes: np.ndarray) -> np.ndarray:
    """Return the rows with a size above 0, largest first."""
    order = np.argsort(-sizes, kind="stable")
    return order[: int((sizes > 0).sum())]


def _lead_names(mask: np.ndarray) -> str:
    return " ".join(lead for lead, selected in zip(LEADS, mask) if selected)


def _tally(mask: np.ndarray) -> str:
    """Return the number of recordings per lead, such as "V1 3, V2 1."."""
    return ", ".join(f"{lead} {n}" for lead, n in zip(LEADS, mask.sum(axis=0).tolist()) if n) + "."
