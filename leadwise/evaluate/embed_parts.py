"""Embed a cohort in parts, each by a process or a job of its own; joined, they are the file that one process writes.

    emb.npz.parts/part-00003-of-00040.npz     embeddings and row numbers of the third of forty parts
    emb.npz.parts/part-00003-of-00040/        the pieces of it that are finished, until the part is

A part is a number of whole batches in index order. So every recording is in a batch of the same recordings however many parts
there are, and its embedding is the same to the last bit.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.messages import first_few
from leadwise.evaluate import speed
from leadwise.evaluate.embed import EmbedError, Features, Rows, embed_cohort
from leadwise.files import read_npz, replacing
from leadwise.progress import Progress
from leadwise.run import Run


@dataclass(frozen=True)
class EmbeddingJob:
    """What is embedded: the same for all parts."""

    run: Run
    cohort: Cohort
    rows: Rows  # (N,) row numbers of the cohort that the run can embed, ascending
    part: str = "backbone"  # of the method
    window: str | None = None

    @property
    def facts(self) -> dict[str, str | int | None]:
        """What the parts of one file have in common."""
        run, cohort = self.run.fingerprint, self.cohort.fingerprint
        return {"run": run, "cohort": cohort, "part": self.part, "window": self.window, "rows": len(self.rows)}


def parts_folder(target: Path) -> Path:
    """Return the folder of the parts of an embeddings file."""
    return target.with_name(target.name + ".parts")


def embed_share(job: EmbeddingJob, target: Path, share: tuple[int, int], progress: Progress | None = None) -> int:
    """Embed the i-th of n parts, for `share` = (i, n) with 1 <= i <= n, and return its number of recordings.

    Interrupted work continues with the same call; a part that is finished is not computed again.

    Raises:
        EmbedError: there is no such part, or a recording cannot be embedded.
    """
    rows = _rows_of(job, share)
    file = parts_folder(target) / f"{_name(share)}.npz"
    if file.is_file():
        facts, found_share = _facts(file)
        if facts == job.facts and found_share == share:
            return len(rows)
    pieces = file.with_suffix("")
    features = embed_cohort(job.run, job.cohort, job.part, rows, progress, cache=pieces, window=job.window)
    about = json.dumps({**job.facts, "share": share})
    with replacing(file) as temporary, temporary.open("wb") as out:
        np.savez(out, about=np.array(about), row=np.asarray(rows, dtype=np.int64), embedding=features)
    shutil.rmtree(pieces, ignore_errors=True)
    return len(rows)


def join(job: EmbeddingJob, target: Path) -> Features:
    """Return the embeddings (N, D) of all parts beside `target`, in the order of `job.rows`.

    Raises:
        EmbedError: a part is missing, there twice, damaged or of something else; the message names it.
    """
    # which parts there are; nothing of their embeddings is read yet
    folder = parts_folder(target)
    files: dict[tuple[int, int], Path] = {}
    for file in sorted(folder.glob("*.npz")):
        facts, share = _facts(file)
        changed = [name for name, value in job.facts.items() if facts.get(name) != value]
        if changed:
            raise EmbedError(
                f"{file} is a part of other embeddings (it has another {', '.join(changed)}); delete it, and embed part "
                f"{share[0]}/{share[1]} again with --shard, or give run, cohort and options of the parts"
            )
        if share in files:
            raise EmbedError(
                f"part {share[0]}/{share[1]} is there twice, as {files[share].name} and {file.name} in {folder}; delete one"
            )
        files[share] = file
    n_parts = _number_of_parts(files, folder)
    missing = [f"{which}/{n_parts}" for which in range(1, n_parts + 1) if (which, n_parts) not in files]
    if missing:
        raise EmbedError(
            f"{folder}: {len(missing)} of {n_parts} parts missing ({first_few(missing)}); embed each with the same command and "
            f"--shard {missing[0]}"
        )

    # one part in memory beside the whole
    features: Features | None = None
    begin = 0
    for which in range(1, n_parts + 1):
        rows, embedding = _content(files[which, n_parts])
        if features is None:
            features = np.empty((len(job.rows), embedding.shape[1]), dtype=np.float32)
        end = begin + len(rows)
        if embedding.shape[1] != features.shape[1] or not np.array_equal(rows, job.rows[begin:end]):
            raise EmbedError(
                f"{files[which, n_parts]} does not have the recordings of part {which}/{n_parts}; delete it, and embed it again "
                "with --shard (all parts on a CPU, or all on GPUs)"
            )
        features[begin:end] = embedding
        begin = end
    assert features is not None  # there is a part
    if begin != len(job.rows):
        raise EmbedError(f"{folder}: the parts have {begin} of {len(job.rows)} recordings; delete them and embed again")
    return features


def _number_of_parts(files: dict[tuple[int, int], Path], folder: Path) -> int:
    """Return the n of parts i/n, the same in all files."""
    numbers = sorted({n for _, n in files})
    if not numbers:
        raise EmbedError(f"{folder}: no part yet; embed each with the same command and --shard i/n instead of --join")
    if len(numbers) > 1:
        examples = first_few([next(file.name for (_, n), file in files.items() if n == number) for number in numbers])
        raise EmbedError(
            f"{folder} has parts of {' and of '.join(map(str, numbers))} ({examples}); delete those of all but one number"
        )
    return numbers[0]


def _name(share: tuple[int, int]) -> str:
    return f"part-{share[0]:05d}-of-{share[1]:05d}"


def _rows_of(job: EmbeddingJob, share: tuple[int, int]) -> NDArray[np.int64]:
    """Return the rows of a part: whole batches."""
    which, n_parts = share
    if not 1 <= which <= n_parts:
        raise EmbedError(f"there is no part {which}/{n_parts}; use 1/{n_parts} to {n_parts}/{n_parts}")
    batch = speed.largest_batch(speed.device_of(job.run))
    n_batches = -(-len(job.rows) // batch)
    if n_parts > n_batches:
        raise EmbedError(
            f"{n_parts} parts of {len(job.rows)} recordings: a part has at least one batch of {batch}; use at most {n_batches} "
            "parts"
        )
    begin, end = ((k * n_batches // n_parts) * batch for k in (which - 1, which))
    return np.asarray(job.rows[begin:end], dtype=np.int64)


def _facts(file: Path) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return what a part is of, and which part it is."""
    try:
        facts: dict[str, Any] = json.loads(str(read_npz(file, ("about",))["about"]))
        which, n_parts = facts.pop("share")
        if not (isinstance(which, int) and isinstance(n_parts, int) and 1 <= which <= n_parts):
            raise ValueError(f"share {which!r} of {n_parts!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EmbedError(_damaged(file, error)) from None
    return facts, (which, n_parts)


def _content(file: Path) -> tuple[NDArray[np.int64], Features]:
    """Return row numbers (n,) and embeddings (n, D) of a part."""
    try:
        content = read_npz(file, ("row", "embedding"))
        rows, embedding = content["row"], content["embedding"]
        if (
            rows.dtype != np.int64
            or embedding.dtype != np.float32
            or embedding.ndim != 2
            or len(rows) != len(embedding)
        ):
            raise ValueError(f"row {rows.dtype} {rows.shape}, embedding {embedding.dtype} {embedding.shape}")
    except (OSError, ValueError, KeyError) as error:
        raise EmbedError(_damaged(file, error)) from None
    return rows, embedding


def _damaged(file: Path, error: Exception) -> str:
    return f"{file} is damaged or no part of an embedding ({error}); delete it, and embed the part again with --shard"
