"""Embeddings of recordings by a frozen run, with a cache in the run folder. Nothing is masked.

A cache file belongs to one state of the weights, one signal setting, one cohort and one part. It grows by the requested rows,
so tasks that share recordings compute their embeddings once. While they are computed, every 20,480 recordings are a file of
their own beside it, so interrupted work continues from there. Progress callbacks are called with (task name, recordings done,
recordings in total).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadwise.batch import Batch
from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.data.usable_rows import LeftOut, log_left_out, usable_rows
from leadwise.evaluate import speed
from leadwise.evaluate.speed import embedding_precision
from leadwise.files import DamagedNpzError, read_npz, replacing
from leadwise.methods.catalogue import patch_samples
from leadwise.progress import Progress, partial_progress
from leadwise.run import Run
from leadwise.trained_on import ScoredRecordings, TrainingOverlap

log = logging.getLogger(__name__)

Features = NDArray[np.float32]
Rows = NDArray[np.integer]

# recordings in a piece of the cache: whole batches (`speed.largest_batch`), so that continued work has the same batches
_ROWS_PER_PIECE = 20_480


class EmbedError(ValueError):
    """An embedding that cannot be computed; the message names the run, part or record and the remedy."""


def embed(
    run: Run,
    recordings: Recordings,
    part: str = "backbone",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Features:
    """Return embeddings (N, D) of N recordings, in their order.

    Args:
        part: a part of the method (`method.parts`), or several joined by "+", concatenated along D.
        batch_size: recordings that are read at once. A large model embeds fewer at once, see `speed`.

    Raises:
        EmbedError: no such part, or a recording whose embedding is not finite.
    """
    parts = split_parts(run, part)
    batches: list[Features] = []
    done = 0
    for batch in recordings.batches(batch_size or speed.largest_batch(speed.device_of(run))):
        batches.append(embed_batch(run, batch, parts))
        done += len(batch)
        if progress is not None:
            progress(f"embed {part}", done, len(recordings))
    if not batches:
        raise EmbedError("no recordings to embed; check the split and the task")
    return np.concatenate(batches)


def embed_batch(run: Run, batch: Batch, parts: Sequence[str]) -> Features:
    """Return embeddings (B, D) of a batch: those of `parts`, concatenated along D.

    Raises:
        EmbedError: an embedding is not finite.
        ValueError: too little of a record was observed.
    """
    pieces: list[torch.Tensor] = []
    with frozen(run.method), embedding_precision(run), speed.threads_for_processors():
        on_device = batch.to(speed.device_of(run))
        size = speed.batch_size(run.method, on_device)
        for begin in range(0, len(batch), size):
            piece = on_device if size >= len(batch) else on_device.rows(begin, begin + size)
            pieces.append(torch.cat(run.method.embed_parts(piece, parts), dim=1).float().cpu())
    embedding: Features = torch.cat(pieces).numpy()
    invalid = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if len(invalid):
        part = "+".join(parts)
        raise EmbedError(f"record {batch.record[invalid[0]]}: its '{part}' embedding by {run.name} is not finite")
    return embedding


@contextlib.contextmanager
def frozen(method: nn.Module) -> Iterator[None]:
    """Context manager: eval mode and no gradients; restores the previous mode on exit."""
    was_training = method.training
    method.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        method.train(was_training)


def split_parts(run: Run, part: str) -> list[str]:
    """Return the part names in `part`, which joins them by "+".

    Raises:
        EmbedError: the method has no such part; the message lists its parts.
    """
    known = tuple(run.method.parts)
    names = part.split("+")
    for name in names:
        if name not in known:
            raise EmbedError(f"run {run.name} has no part '{name}'; it has {', '.join(known)}")
    return names


def embed_cohort(
    run: Run,
    cohort: Cohort,
    part: str = "backbone",
    rows: Rows | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
    window: str | None = None,
) -> Features:
    """Return embeddings (n, D) of a cohort's rows (default: all); rows in the cache are read from it.

    Args:
        rows: n row numbers of the cohort, in the order of the result.
        cache: folder of cache files; default: `run.cache_folder`.
        window: part of each recording that is embedded, see `data/crops.py`; default: the run's own setting.
    """
    crops.check(window)
    split_parts(run, part)
    requested = np.arange(len(cohort)) if rows is None else np.asarray(rows, dtype=np.int64)
    if run.stored is not None:
        _check_stored(run, window)
        return run.stored.take(cohort, requested)
    cache = cache or run.cache_folder
    if cache is None:
        return _embed_windows(run, cohort, part, requested, progress, window)

    # one file per part, weights, cohort and window
    suffix = "" if window is None else f"-{window}"
    path = cache / f"{part}-{run.fingerprint[:16]}-{cohort.fingerprint[:16]}{suffix}.npz"
    cached_rows, cached = _read_cache(path, len(cohort))

    # embed the missing rows, each piece of them into a file of its own: to rewrite the whole cache takes longer each time
    pieces = [(cached_rows, cached), *_read_pieces(path, len(cohort))]
    missing = np.setdiff1d(requested, np.concatenate([piece_rows for piece_rows, _ in pieces]))
    for begin in range(0, len(missing), _ROWS_PER_PIECE):
        piece = missing[begin : begin + _ROWS_PER_PIECE]
        piece_progress = partial_progress(progress, begin, len(piece), len(missing))
        pieces.append((piece, _embed_windows(run, cohort, part, piece, piece_progress, window)))
        if len(missing) > len(piece):
            _write_cache(_piece_file(path, int(piece[0])), *pieces[-1])
    if len({embedding.shape[1] for _, embedding in pieces if len(embedding)}) > 1:
        log.warning("cache %s has pieces of different widths: rewriting it", path)
        _delete_cache(path)
        return embed_cohort(run, cohort, part, requested, progress, cache, window)

    # one file again
    if len(pieces) > 1:
        cached_rows, cached = _merged(pieces)
        if _write_cache(path, cached_rows, cached):
            _delete_pieces(path)
    return cached if np.array_equal(cached_rows, requested) else cached[np.searchsorted(cached_rows, requested)]


def _check_stored(run: Run, window: str | None) -> None:
    """Raise EmbedError if stored embeddings would have to be those of another window."""
    if window is not None:
        raise EmbedError(
            f"{run.name} is an {run.origin}, whose embeddings are of the window that its encoder read; leave out "
            f"window={window!r} (--window)"
        )


def _embed_windows(
    run: Run, cohort: Cohort, part: str, rows: Rows, progress: Progress | None, window: str | None
) -> Features:
    """Return embeddings (n, D) of one window of each row; with several windows per recording, their mean."""
    recordings, of_row = crops.crop_recordings(cohort, run.config.signal, rows, window)
    return crops.average_crops(embed(run, recordings, part, progress=progress), of_row)


def _read_cache(path: Path, n_rows: int) -> tuple[NDArray[np.int64], Features]:
    """Return the cached row numbers, ascending, and their embeddings; empty arrays if there is no valid cache."""
    empty = np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)
    if not path.is_file():
        return empty
    try:
        stored = read_npz(path)
        rows, embedding = stored["row"], stored["embedding"]
    except (DamagedNpzError, KeyError) as error:
        log.warning("cache %s cannot be read (%s): rewriting it", path, error)
        return empty
    valid = (
        rows.ndim == 1
        and rows.dtype == np.int64
        and embedding.ndim == 2
        and embedding.dtype == np.float32
        and len(rows) == len(embedding) > 0
        and bool((np.diff(rows) > 0).all())
        and 0 <= rows[0] <= rows[-1] < n_rows
        and bool(np.isfinite(embedding).all())
    )
    if not valid:
        log.warning("cache %s has invalid content: rewriting it", path)
        return empty
    return rows, embedding


def _piece_file(path: Path, first_row: int) -> Path:
    """Return the file beside a cache with the piece that begins at a row of the cohort."""
    return path.with_name(f"{path.stem}.piece-{first_row:08d}.npz")


def _piece_files(path: Path) -> list[Path]:
    beginning = f"{path.stem}.piece-"
    return sorted(one for one in path.parent.glob("*.npz") if one.name.startswith(beginning))


def _read_pieces(path: Path, n_rows: int) -> list[tuple[NDArray[np.int64], Features]]:
    """Return rows and embeddings of the pieces that interrupted work left beside a cache."""
    pieces = [_read_cache(file, n_rows) for file in _piece_files(path)]
    return [piece for piece in pieces if len(piece[0])]


def _merged(pieces: list[tuple[NDArray[np.int64], Features]]) -> tuple[NDArray[np.int64], Features]:
    """Return all rows, ascending, each once, and their embeddings. Empties the list: only one copy more is in memory."""
    rows = np.unique(np.concatenate([piece_rows for piece_rows, _ in pieces]))
    merged = np.empty((len(rows), pieces[-1][1].shape[1]), dtype=np.float32)
    while pieces:
        piece_rows, embedding = pieces.pop()
        if len(piece_rows):
            merged[np.searchsorted(rows, piece_rows)] = embedding
    return rows, merged


def _write_cache(path: Path, rows: NDArray[np.int64], embedding: Features) -> bool:
    """Write a cache file or a piece, and return whether that was possible."""
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, row=rows, embedding=embedding)
    except OSError as error:  # a run on read-only storage is still evaluated, but embedded again the next time
        log.warning("embeddings are not cached: %s", error)
        return False
    return True


def _delete_pieces(path: Path) -> None:
    for file in _piece_files(path):
        file.unlink(missing_ok=True)


def _delete_cache(path: Path) -> None:
    path.unlink(missing_ok=True)
    _delete_pieces(path)


def usable(run: Run, cohort: Cohort, rows: Rows, window: str | None = None) -> tuple[NDArray[np.int64], LeftOut]:
    """Return those of the rows that a run can embed, in their order, and a ledger of the others, which is logged.

    Args:
        window: part of each recording that is embedded, see `data/crops.py`; default: the run's own setting.

    Raises:
        EmbedError: there are rows, and the run can embed none of them.
    """
    if run.stored is not None:
        _check_stored(run, window)
        chosen, left_out = run.stored.usable(cohort, rows)
    else:
        chosen, left_out = usable_rows(cohort, run.config.signal, rows, window, patch_samples(run.config))
    log_left_out(left_out, f"{run.name} on {cohort.name}")
    if len(rows) and not len(chosen) and run.stored is not None:
        raise EmbedError(f"cohort {cohort.name}: {left_out.line}; choose a file with embeddings of this cohort")
    if len(rows) and not len(chosen):
        signal = run.config.signal
        raise EmbedError(
            f"cohort {cohort.name}: {left_out.line}, so {run.name} can embed none; it reads {', '.join(signal.leads)} in "
            f"{signal.duration_s:g} s: choose another window (--window best, window='best') or another run"
        )
    return chosen, left_out


def training_overlap(run: Run, cohort: Cohort, rows: Rows, split: str = "test") -> TrainingOverlap:
    """Return how much of these rows of a split was used to train the run, by patient and by samples; a leak logs a warning."""
    overlap = run.overlap(scored_recordings(cohort, rows, split))
    if overlap.is_leak:
        log.warning(
            "%s Its scores on %s are too high. Check whether the cohort was split again after pre-training %s.",
            overlap.sentence, cohort.name, run.name,
        )  # fmt: skip
    return overlap


def scored_recordings(cohort: Cohort, rows: Rows, split: str = "test") -> ScoredRecordings:
    """Return rows of a cohort as a run compares them with what it was trained on."""
    patients = cohort.patients.take(np.asarray(rows))
    names_patients = patients != cohort.records.take(np.asarray(rows))
    distinct, checksums = tuple(sorted(set(patients))), tuple(cohort.checksums(np.asarray(rows)))
    return ScoredRecordings(cohort.source, cohort.fingerprint, distinct, checksums, split, names_patients)


def write_npz(path: Path, embedding: Features, cohort: Cohort, rows: Rows, left_out: LeftOut | None = None) -> None:
    """Write embeddings (N, D) as float32, with the record, patient, split and row number of each.

    If recordings are left out, the file also has their names and reasons, as `left_out` and `left_out_reason`.
    """
    if len(embedding) != len(rows):
        raise EmbedError(f"{len(embedding)} embeddings for {len(rows)} rows of {cohort.name}")
    row = np.asarray(rows, dtype=np.int64)
    record, patient = (np.array(texts.take(row), dtype=np.str_) for texts in (cohort.records, cohort.patients))
    columns: dict[str, Any] = {"record": record, "patient": patient, "split": cohort.splits(row), "row": row}
    if left_out:
        pairs = [(name, reason) for reason, names in left_out.records.items() for name in names]
        columns |= dict(zip(("left_out", "left_out_reason"), np.array(pairs, dtype=np.str_).T))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, embedding=embedding.astype(np.float32), **columns)


def project(features: NDArray[np.floating], seed: int = 0) -> NDArray[np.float64]:
    """Return positions (N, 2) on a map by t-SNE; with fewer than ten recordings, the two principal components."""
    centred = np.asarray(features, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    components = (left * size)[:, :50]  # distances beyond fifty components are mostly noise, and cost time
    if len(centred) < 10 or components.shape[1] < 2:
        positions = np.zeros((len(centred), 2))
        positions[:, : min(2, components.shape[1])] = components[:, :2]
        return positions
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(centred) - 1) / 3)
    embedded: NDArray[np.float64] = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(
        components
    )
    return embedded.astype(np.float64)
