"""Leads, rates and lengths, as the index has them: every row, no sample read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leadwise.batch import LEADS
from leadwise.data.audit.finding import Finding, Severity, examples
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.messages import first_few
from leadwise.data.recordings import lead_algebra

LARGEST_MV = 10.0  # no heart's deflection is larger; an offset, a spike or a wrong unit is
LENGTHS_S = (5.0, 120.0)  # shorter is mostly padding in a window of 10 s, longer is no resting ECG
RATES_HZ = (100.0, 2000.0)  # what electrocardiographs store
_MISSING = 0.2  # of a recorded lead's samples


@dataclass(frozen=True)
class Table:
    """Columns of the index, (n,) or (n, 12)."""

    rate_hz: np.ndarray
    duration_s: np.ndarray
    recorded: np.ndarray  # (n, 12) bool: the file held the lead
    absent: np.ndarray  # (n, 12) bool: nobody has it
    missing: np.ndarray  # (n, 12) share of the samples
    open_gaps: np.ndarray  # (n, 12) bool: recorded, with a gap too long to bridge
    flat: np.ndarray  # (n, 12) bool
    largest_mv: np.ndarray  # (n, 12), NaN where nothing is observed
    order: np.ndarray  # (n,) text


_COLUMNS = (
    "rate_hz", "n_samples", "lead_origin", "lead_missing", "n_long_gaps", "lead_flat", "lead_max_mv", "lead_order",
)  # fmt: skip


def read(cohort: Cohort) -> Table:
    """The columns of every row; a text becomes a truth value batch by batch."""
    parts = [_part(batch) for batch in cohort.columns(_COLUMNS)]
    return Table(*(np.concatenate(columns) for columns in zip(*parts)))


def _part(batch: pa.RecordBatch) -> tuple[np.ndarray, ...]:
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


def leads(cohort: Cohort, table: Table) -> list[Finding]:
    """Findings on leads that are not there, flat, full of gaps, too large, or named wrongly."""
    n = len(cohort)
    found = []

    def add(check: str, rows: np.ndarray, details: list[str], said: str, severity: Severity = "warning") -> None:
        if len(rows):
            shown = examples(cohort, rows, details)
            found.append(Finding(check, severity, len(rows), n, "recordings", said, shown))

    wrong = np.flatnonzero((table.order != lead_algebra.OK) & (table.order != lead_algebra.UNCHECKED))
    kinds = Counter(table.order[wrong].tolist())
    said = (
        "III = II - I and its kin do not hold: leads are named wrongly, or were processed apart. "
        f"Verdicts: {first_few((f'{kind} {count}' for kind, count in kinds.most_common()), 6)}."
    )
    add("lead order", wrong, table.order[wrong].tolist(), said)
    unchecked = np.flatnonzero(table.order == lead_algebra.UNCHECKED)
    add("lead order not checked", unchecked, [], "Too few limb leads are recorded to check their names.", "note")

    flat = table.flat & table.recorded
    rows = _most(flat.sum(axis=1))
    add(
        "flat leads",
        rows,
        [_named(flat[r]) for r in rows],
        "No heart in these leads: an electrode was off. " + _tally(flat),
    )
    share = np.where(table.recorded, table.missing, 0.0).max(axis=1)
    rows = _most(np.where(share > _MISSING, share, 0.0))
    said = f"More than {_MISSING:.0%} of a recorded lead's samples are missing; they stay unobserved."
    add("missing samples", rows, [f"up to {share[r]:.0%}" for r in rows], said)
    rows = _most(np.where(share <= _MISSING, table.open_gaps.sum(axis=1), 0))
    add("gaps", rows, [_named(table.open_gaps[r]) for r in rows], "Gaps too long to bridge stay unobserved.", "note")
    rows = _most(table.absent.sum(axis=1))
    said = "Leads that nobody has stay unobserved: " + _tally(table.absent)
    add("leads not recorded", rows, [_named(table.absent[r]) for r in rows], said, "note")
    largest = np.nan_to_num(table.largest_mv).max(axis=1)
    rows = _most(np.where(largest > LARGEST_MV, largest, 0.0))
    said = f"Beyond {LARGEST_MV:g} mV from zero: a spike, an offset or a wrong unit, not a heart."
    details = [f"{largest[r]:.3g} mV; beyond in {_named(table.largest_mv[r] > LARGEST_MV)}" for r in rows]
    add("amplitudes beyond a heart's", rows, details, said)
    return found


def lengths(cohort: Cohort, table: Table) -> list[Finding]:
    """Findings on durations and rates."""
    n, found = len(cohort), []
    for check, values, (low, high), unit, remedy in (
        ("length", table.duration_s, LENGTHS_S, "s", "what is short is padded, what is long is cut"),
        ("rate", table.rate_hz, RATES_HZ, "Hz", "is the stated rate right?"),
    ):
        odd = np.flatnonzero((values < low) | (values > high))
        if len(odd):
            rows = odd[np.argsort(-np.abs(np.log(values[odd] / np.sqrt(low * high))), kind="stable")]
            said = f"Outside {low:g} to {high:g} {unit}: {remedy}."
            details = (f"{values[r]:.4g} {unit}" for r in rows)
            found.append(
                Finding(f"odd {check}", "warning", len(odd), n, "recordings", said, examples(cohort, rows, details))
            )
        kinds = Counter(np.round(values, 2).tolist()).most_common()
        if len(kinds) > 1:
            said = f"{len(kinds)} {check}s, most often {first_few((f'{v:g} {unit} {c}' for v, c in kinds), 5)}."
            found.append(Finding(f"mixed {check}s", "note", n - kinds[0][1], n, "recordings", said))
    return found


def _most(sizes: np.ndarray) -> np.ndarray:
    """Rows of sizes above 0, the largest first."""
    order = np.argsort(-sizes, kind="stable")
    return order[: int((sizes > 0).sum())]


def _named(which: np.ndarray) -> str:
    return " ".join(lead for lead, there in zip(LEADS, which) if there)


def _tally(table: np.ndarray) -> str:
    """How often each lead is meant, such as "V1 3, V2 1."."""
    return ", ".join(f"{lead} {n}" for lead, n in zip(LEADS, table.sum(axis=0).tolist()) if n) + "."
