"""Select the recordings that a model can use, before the first step of training or evaluation.

A model needs one of its leads, and in the window that it reads one whole patch of observed samples in one of its leads.
The index answers this for nearly all recordings. The samples are read only where the index leaves it open: where every lead
of the model has missing samples, or the recording is very short.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from leadwise.batch import LEADS, Signal, Volume
from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.messages import first_few, short_cell

log = logging.getLogger(__name__)

NO_EMBEDDING = "no_embedding"
REASONS = {  # key in JSON -> text
    "no_lead": "none of the model's leads is recorded",
    "not_observed": "no whole patch of any of the model's leads is observed in the window",
    "no_volume": "no heart image of any of the model's phases",
    "no_phenotype": "none of the model's phenotypes is known",
    NO_EMBEDDING: "the file of embeddings has none of it",
}

_INDEX_COLUMNS = ("n_samples", "rate_hz", "lead_missing", "n_short_gaps", "n_long_gaps")
_BATCH_SIZE = 64
_MARGIN = 2  # source samples at each end of an observed part: a resampled sample needs both its neighbours


@dataclass(frozen=True)
class LeftOut:
    """The recordings that are left out, by reason (`REASONS`)."""

    records: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.records.values()))

    def __or__(self, other: LeftOut) -> LeftOut:
        """Return both ledgers as one; a recording in both counts once."""
        records: dict[str, tuple[str, ...]] = {}
        earlier: set[str] = set()
        for reason in REASONS:
            names = dict.fromkeys(self.records.get(reason, ()) + other.records.get(reason, ()))
            records[reason] = tuple(name for name in names if name not in earlier)
            earlier |= set(names)
        return LeftOut({reason: names for reason, names in records.items() if names})

    @property
    def line(self) -> str:
        """One line for a table or a log; '' if nothing is left out."""
        return left_out_line({reason: len(names) for reason, names in self.records.items()})

    def to_json(self) -> dict[str, dict[str, int]]:
        """Return {"left_out": count by reason}, or {} if nothing is left out."""
        counts = {reason: len(names) for reason, names in self.records.items()}
        return {"left_out": counts} if counts else {}


def left_out_line(counts: Mapping[str, int]) -> str:
    """Return one line for a table or a log from the counts by reason; '' if there are none."""
    if not counts:
        return ""
    n = sum(counts.values())
    listed = "; ".join(f"{count}: {REASONS[reason]}" for reason, count in counts.items())
    return f"{n} recording{'s' if n > 1 else ''} left out ({listed})"


def usable_rows(
    cohort: Cohort, signal: Signal, rows: np.ndarray, window: str | None = None, patch_samples: int = 1
) -> tuple[np.ndarray, LeftOut]:
    """Return those of the rows that a model can use, in their order, and a ledger of the others.

    Args:
        signal: what the model reads.
        rows: (n,) row numbers of the cohort, each once.
        window: part of each recording that is read, see `data/crops.py`; None: that of `signal`.
        patch_samples: samples of a patch at the signal's rate; a patch begins at a multiple of it.

    Raises:
        WindowError: the window is unknown.
    """
    crops.check(window)
    requested = np.asarray(rows, dtype=np.int64)
    length_s = min(signal.duration_s, crops.MERL_S) if window == crops.MERL_WINDOW else signal.duration_s
    has_lead, is_certain = _from_index(cohort, signal, length_s, patch_samples)

    # the samples decide where the index does not
    is_usable = is_certain[requested]
    doubtful = np.flatnonzero(has_lead[requested] & ~is_usable)
    if len(doubtful):
        is_usable[doubtful] = _from_samples(cohort, signal, requested[doubtful], window, patch_samples)

    # the ledger
    lost = {
        "no_lead": requested[~has_lead[requested]],
        "not_observed": requested[has_lead[requested] & ~is_usable],
    }
    records = {reason: tuple(cohort.records.take(some)) for reason, some in lost.items() if len(some)}
    return requested[is_usable], LeftOut(records)


def rows_with_inputs(
    cohort: Cohort, rows: np.ndarray, volume: Volume | None, phenotypes: Sequence[str]
) -> tuple[np.ndarray, LeftOut]:
    """Return those of the rows that have a heart image and a phenotype, where they are required, and a ledger of the others.

    Args:
        rows: (n,) row numbers of the cohort, each once.
        volume: a row needs an image of one of its phases; None: no image is required.
        phenotypes: a row needs a value of one of these; (): no phenotype is required.

    Raises:
        CohortError: the cohort has no such heart images or phenotypes.
    """
    remaining = np.asarray(rows, dtype=np.int64)
    records: dict[str, tuple[str, ...]] = {}
    if volume is not None:
        has_one = cohort.has_volume(remaining)[:, cohort.volume_store.places(volume)].any(axis=1)
        records["no_volume"] = tuple(cohort.records.take(remaining[~has_one]))
        remaining = remaining[has_one]
    if phenotypes:
        has_one = np.isfinite(cohort.phenotypes(phenotypes, remaining)).any(axis=1)
        records["no_phenotype"] = tuple(cohort.records.take(remaining[~has_one]))
        remaining = remaining[has_one]
    return remaining, LeftOut({reason: names for reason, names in records.items() if names})


def _from_index(cohort: Cohort, signal: Signal, length_s: float, patch_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row of the cohort, whether it has a lead of the signal, and whether it is certainly usable: (N,) bool each.

    If g gaps leave n samples of a window, at least n / (g + 1) of them are consecutive. Twice a patch of consecutive samples
    contains a whole patch.
    """
    columns = [LEADS.index(lead) for lead in signal.leads]
    has_lead, is_certain = [], []
    for n_samples, rate_hz, n_missing, n_gaps in _index_batches(cohort):
        has_lead.append((n_missing < n_samples[:, None])[:, columns].any(axis=1))
        n_window = np.minimum(n_samples, np.floor(length_s * rate_hz))
        n_consecutive = (n_window[:, None] - n_missing[:, columns]) / (n_gaps[:, columns] + 1)
        n_needed = 2 * patch_samples * rate_hz / signal.rate_hz + 2 * _MARGIN
        is_certain.append((n_consecutive >= n_needed[:, None]).any(axis=1))
    return np.concatenate(has_lead), np.concatenate(is_certain)


def _index_batches(cohort: Cohort) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield samples (n,), rate in Hz (n,), missing samples (n, 12) and gaps (n, 12) of the index, part by part."""
    for batch in cohort.columns(_INDEX_COLUMNS):
        n_samples, rate_hz = (batch[name].to_numpy() for name in _INDEX_COLUMNS[:2])
        n_missing, n_short, n_long = (_matrix(batch[name]) for name in _INDEX_COLUMNS[2:])
        yield n_samples, rate_hz, n_missing, n_short + n_long


def _matrix(column: pa.ListArray) -> np.ndarray:
    values: np.ndarray = column.flatten().to_numpy()
    return values.reshape(-1, len(LEADS)).astype(np.int64)


def _from_samples(
    cohort: Cohort, signal: Signal, rows: np.ndarray, window: str | None, patch_samples: int
) -> np.ndarray:
    """Whether each row has a whole observed patch in every window that is read of it: (n,) bool."""
    recordings, of_row = crops.crop_recordings(cohort, signal, rows, window)
    has_patch = np.concatenate(
        [contains_patch(batch.observed.numpy(), patch_samples) for batch in recordings.batches(_BATCH_SIZE)]
    )
    without: np.ndarray = np.bincount(of_row, ~has_patch, minlength=len(rows))
    return np.asarray(without == 0)


def contains_patch(observed: np.ndarray, patch_samples: int) -> np.ndarray:
    """Whether one lead of each record is observed for a whole patch: (B,) bool, from (B, L, T)."""
    n_records, n_leads, n_samples = observed.shape
    n_patches = n_samples // patch_samples
    patches = observed[..., : n_patches * patch_samples].reshape(n_records, n_leads, n_patches, patch_samples)
    whole = np.asarray(patches.all(axis=-1)).reshape(n_records, -1)
    return np.asarray(whole.any(axis=1))


def log_left_out(left_out: LeftOut, name: str) -> None:
    """Log a warning with the counts and the first records, if anything is left out; `name` is that of the run or cohort."""
    if len(left_out):
        names = (short_cell(record, most=64) for records in left_out.records.values() for record in records)
        log.warning("%s: %s; records %s", name, left_out.line, first_few(names))
