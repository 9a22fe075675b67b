"""Recordings in, embeddings out: frozen weights, eval mode, nothing masked, and a cache beside the run.

A cache file belongs to one state of the weights, one promised signal, one cohort and one part; it grows by the rows
that are asked for, so that tasks sharing recordings share the work, and it is written every 20,000 recordings, so that
work that is cut short goes on from there. A progress callback is told (what, done, total).
"""

from __future__ import annotations

import contextlib
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.files import replacing
from leadwise.progress import Progress, partial_progress
from leadwise.run import Run

log = logging.getLogger(__name__)

Features = NDArray[np.float32]
Rows = NDArray[np.integer]

_ROWS_PER_WRITE = 20_000  # recordings between two writes of the cache


class EmbedError(ValueError):
    """An embedding that cannot be made; the message names the run, part or record and the remedy."""


def embed(
    run: Run,
    recordings: Recordings,
    part: str = "backbone",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Features:
    """(N, D) embeddings of N recordings, in their order.

    Args:
        part: a part of the method (`method.parts`), or several joined by "+", laid side by side.

    Raises:
        EmbedError: no such part, or a recording whose embedding is not finite.
    """
    parts = split_parts(run, part)
    device = next((weight.device for weight in run.method.parameters()), torch.device("cpu"))
    found: list[Features] = []
    done = 0
    with frozen(run.method), training_precision(run):
        for batch in recordings.batches(batch_size):
            moved = batch.to(device)
            pieces = [run.method.embed_ecg(moved, name) for name in parts]
            rows = torch.cat(pieces, dim=1).float().cpu().numpy()
            lost = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            if len(lost):
                raise EmbedError(f"record {batch.record[lost[0]]}: its '{part}' embedding by {run.name} is not finite")
            found.append(rows)
            done += len(batch)
            if progress is not None:
                progress(f"embed {part}", done, len(recordings))
    if not found:
        raise EmbedError("no recordings to embed; check the split and the task")
    return np.concatenate(found)


@contextlib.contextmanager
def frozen(method: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside the block; the mode that was comes back after it."""
    was_training = method.training
    method.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        method.train(was_training)


def training_precision(run: Run) -> torch.autocast:
    """A block that computes in the precision in which the run learnt: bfloat16 takes 0.6 of the time of float32."""
    device = next((weight.device for weight in run.method.parameters()), torch.device("cpu"))
    return torch.autocast(device.type, torch.bfloat16, enabled=run.config.optim.precision == "bfloat16")


def split_parts(run: Run, part: str) -> list[str]:
    """The names in `part`.

    Raises:
        EmbedError: the method has no such part; the message names those it has.
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
    """(n, D) embeddings of a cohort's rows (default: all), read from the cache where they lie there already.

    Args:
        rows: n row numbers of the cohort, in the order wanted.
        cache: the folder of cache files; default `embeddings` in the run's folder, and none for a run without a folder.
        window: which part of each recording, see `data/windows.py`; default: as the run was promised.
    """
    crops.check(window)
    wanted = np.arange(len(cohort)) if rows is None else np.asarray(rows, dtype=np.int64)
    if cache is None and run.folder is not None:
        cache = run.folder / "embeddings"
    if cache is None:
        return _embed_windows(run, cohort, part, wanted, progress, window)
    split_parts(run, part)
    seen = "" if window is None else f"-{window}"
    path = cache / f"{part}-{run.fingerprint[:16]}-{cohort.fingerprint[:16]}{seen}.npz"
    held_rows, held = _read_cache(path, len(cohort))
    fresh = np.setdiff1d(wanted, held_rows)
    for begin in range(0, len(fresh), _ROWS_PER_WRITE):
        piece = fresh[begin : begin + _ROWS_PER_WRITE]
        counted = partial_progress(progress, begin, len(piece), len(fresh))
        made = _embed_windows(run, cohort, part, piece, counted, window)
        if len(held_rows) and made.shape[1] != held.shape[1]:
            log.warning("cache %s is %d wide, not %d: written anew", path, held.shape[1], made.shape[1])
            path.unlink()
            return embed_cohort(run, cohort, part, wanted, progress, cache, window)
        rows_now = np.concatenate([held_rows, piece])
        order = np.argsort(rows_now)
        held_rows = rows_now[order]
        held = (np.concatenate([held, made]) if len(held) else made)[order]
        _write_cache(path, held_rows, held)
    return held[np.searchsorted(held_rows, wanted)]


def _embed_windows(
    run: Run, cohort: Cohort, part: str, rows: Rows, progress: Progress | None, window: str | None
) -> Features:
    """(n, D) embeddings of rows through a window; of several windows of a recording, the mean."""
    recordings, of_row = crops.crop_recordings(cohort, run.config.signal, rows, window)
    return crops.average_crops(embed(run, recordings, part, progress=progress), of_row)


def _read_cache(path: Path, n_rows: int) -> tuple[NDArray[np.int64], Features]:
    nothing = np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)
    if not path.is_file():
        return nothing
    try:
        with np.load(path, allow_pickle=False) as file:
            rows, embedding = file["row"], file["embedding"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("cache %s cannot be read (%s): written anew", path, error)
        return nothing
    sound = (
        rows.ndim == 1
        and rows.dtype == np.int64
        and embedding.ndim == 2
        and embedding.dtype == np.float32
        and len(rows) == len(embedding) > 0
        and bool((np.diff(rows) > 0).all())
        and 0 <= rows[0] <= rows[-1] < n_rows
        and bool(np.isfinite(embedding).all())
    )
    if not sound:
        log.warning("cache %s does not hold what it should: written anew", path)
        return nothing
    return rows, embedding


def _write_cache(path: Path, rows: NDArray[np.int64], embedding: Features) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, row=rows, embedding=embedding)
    except OSError as error:  # a run on read-only storage still evaluates, only slower the next time
        log.warning("embeddings are not kept: %s", error)


def count_training_patients(run: Run, cohort: Cohort, rows: Rows) -> int:
    """How many people of these rows the run learnt from: more than none is a leak, and a warning."""
    people = sorted(cohort.patients.distinct(rows))
    seen = run.learnt_from(cohort.source, people)
    if seen:
        log.warning(
            "%d of the %d people to be scored were in the pre-training of %s: its scores on %s are too high. "
            "Was the cohort split anew?",
            len(seen), len(people), run.name, cohort.name,
        )  # fmt: skip
    return len(seen)


def write_npz(path: Path, embedding: Features, cohort: Cohort, rows: Rows) -> None:
    """Write embedding (N, D) float32 beside its record, patient and split names and row numbers (N each)."""
    if len(embedding) != len(rows):
        raise EmbedError(f"{len(embedding)} embeddings for {len(rows)} rows of {cohort.name}")
    row = np.asarray(rows, dtype=np.int64)
    record, patient = (np.array(texts.take(row), dtype=np.str_) for texts in (cohort.records, cohort.patients))
    split = cohort.splits(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, embedding=embedding.astype(np.float32), record=record, patient=patient, split=split, row=row)


def project(features: NDArray[np.floating], seed: int = 0) -> NDArray[np.float64]:
    """(N, 2) places on a map by t-SNE; the two principal components where there are fewer than ten recordings."""
    centred = np.asarray(features, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    components = (left * size)[:, :50]  # distances beyond fifty components are mostly noise, and cost time
    if len(centred) < 10 or components.shape[1] < 2:
        flat = np.zeros((len(centred), 2))
        flat[:, : min(2, components.shape[1])] = components[:, :2]
        return flat
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(centred) - 1) / 3)
    placed: NDArray[np.float64] = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(
        components
    )
    return placed.astype(np.float64)
