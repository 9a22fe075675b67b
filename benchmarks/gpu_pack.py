"""Pack a cohort into a few MiB for a machine without the data, and unpack it there to a cohort folder.

Of 12 leads, eight are independent: I, II and V1 to V6. They are rounded to a step, 5 uV or more, and stored as compressed
differences in time. The other limb leads are computed from I and II as integers, so unpacking is exact. All recordings of the
validation and test splits are packed, then as many of the training split as there is space for, in a random order.

The index has the checksums of the original samples, so that a model that is trained on the packed recordings can be checked
against the original data set. `leadwise prepare --verify` does not accept the unpacked cohort for this reason.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import sha256
from leadwise.data.recordings.recording import MISSING
from leadwise.files import replacing

STORED = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
RATE_HZ, N_SAMPLES = 100.0, 1000  # of the packed recordings
CHUNK = 1024  # recordings in a file
MIB = 1 << 20
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 4, "lp": 0, "pb": 0}]
_COLUMNS = [LEADS.index(lead) for lead in STORED]


def pack(folder: Path, out: Path, most_bytes: int, step_uv: float, seed: int = 0) -> dict[str, int]:
    """Write recordings of the cohort in `folder` to `out`, in at most `most_bytes`, and return their number per split.

    Raises:
        ValueError: the validation and test splits alone need more space.
    """
    cohort = Cohort.open(folder)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*"):
        old.unlink()

    # one index line takes about as much space in the copy as in the original
    n_left = float(most_bytes)
    bytes_a_row = (folder / "index.parquet").stat().st_size / len(cohort) + 1
    rows: list[np.ndarray] = []
    for number, (chunk, packed) in enumerate(_packed_chunks(cohort, step_uv, seed)):
        n_needed = len(packed) + bytes_a_row * len(chunk)
        if n_needed > n_left:
            break
        n_left -= n_needed
        (out / f"samples-{number:05}.xz").write_bytes(packed)
        rows.append(chunk)
    chosen = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    counts = {split: len(np.intersect1d(cohort.rows(split), chosen)) for split in ("train", "val", "test")}
    if not counts["train"]:
        raise ValueError(f"{most_bytes} bytes are too few for the validation and test splits; pass a larger --mib")

    _write_index(cohort, chosen, out, step_uv)
    return counts


def _packed_chunks(cohort: Cohort, step_uv: float, seed: int) -> Iterator[tuple[np.ndarray, bytes]]:
    """Iterate over chunks: their row numbers, and their compressed samples. Validation and test come first."""
    held_out = np.concatenate([cohort.rows("val"), cohort.rows("test")])
    train = np.random.default_rng(seed).permutation(cohort.rows("train"))
    order = np.array([row for row in np.concatenate([held_out, train]) if _is_complete(cohort, int(row))])
    chunks = [order[begin : begin + CHUNK] for begin in range(0, len(order), CHUNK)]

    def compress(chunk: np.ndarray) -> bytes:
        return lzma.compress(_encode(_steps(cohort, chunk, step_uv)), lzma.FORMAT_XZ, filters=_FILTERS)

    with ThreadPoolExecutor(2) as pool:
        yield from zip(chunks, pool.map(compress, chunks))


def _is_complete(cohort: Cohort, row: int) -> bool:
    block = cohort.block(row)
    return cohort.scale(row)[2] == RATE_HZ and block.shape[1] == N_SAMPLES and block.min() != MISSING


def _steps(cohort: Cohort, rows: np.ndarray, step_uv: float) -> np.ndarray:
    """The stored leads (n, T, 8) int32 in steps."""
    out = np.empty((len(rows), N_SAMPLES, len(STORED)), dtype=np.int32)
    for number, row in enumerate(rows.tolist()):
        uv_per_step, baseline, _ = cohort.scale(row)
        block = cohort.block(row)[_COLUMNS].astype(np.float64) - baseline[_COLUMNS, None]
        out[number] = np.rint(block * uv_per_step[_COLUMNS, None] / step_uv).T
    return out


def _encode(steps: np.ndarray) -> bytes:
    """Differences in time as two planes of bytes: a small part, and the rest, which is nearly always 0."""
    differences = np.diff(steps, axis=1, prepend=0)
    low = differences.astype(np.int8)
    high = (differences - low) >> 8
    if np.abs(high).max() > 127:
        raise ValueError("a recording has a jump of more than 32,000 steps; pass a larger --step-uv")
    return low.tobytes() + high.astype(np.int8).tobytes()


def _decode(content: bytes) -> np.ndarray:
    """The inverse of `_encode`: (n, T, 8) int32."""
    planes = np.frombuffer(content, dtype=np.int8).reshape(2, -1, N_SAMPLES, len(STORED)).astype(np.int32)
    out: np.ndarray = (planes[0] + (planes[1] << 8)).cumsum(axis=1, dtype=np.int32)
    return out


def _write_index(cohort: Cohort, rows: np.ndarray, out: Path, step_uv: float) -> None:
    """Write index.parquet and cohort.json of the unpacked cohort."""
    n = len(rows)
    uv_per_step = np.full(len(LEADS), step_uv)
    uv_per_step[[LEADS.index(lead) for lead in ("aVR", "aVL", "aVF")]] = step_uv / 2
    places = np.arange(n)
    replaced = {
        "shard": pa.array(places // CHUNK),
        "offset": pa.array(places % CHUNK * len(LEADS) * N_SAMPLES),
        "uv_per_step": pa.array([uv_per_step.tolist()] * n),
        "baseline": pa.array([[0] * len(LEADS)] * n),
    }
    table = pq.read_table(cohort.index_file).take(pa.array(rows))
    for name, values in replaced.items():
        column = table.schema.get_field_index(name)
        table = table.set_column(column, table.schema.field(name), values.cast(table.schema.field(name).type))
    pq.write_table(table, out / "index.parquet", compression="zstd", compression_level=15)

    # the description: of the original, with these files
    description = json.loads((cohort.folder / "cohort.json").read_text(encoding="utf-8"))
    index = out / "index.parquet"
    description["index"] = {"file": index.name, "size": index.stat().st_size, "sha256": sha256([index])}
    sizes = [min(CHUNK, n - begin) for begin in range(0, n, CHUNK)]
    description["shards"] = [
        {"number": number, "file": f"samples-{number:05}.npy", "size": 128 + 2 * size * len(LEADS) * N_SAMPLES}
        for number, size in enumerate(sizes)
    ]
    description["settings"] |= {"packed_step_uv": step_uv}
    (out / "cohort.json").write_text(json.dumps(description, indent=1) + "\n")


def unpack(folder: Path, out: Path, n_threads: int = 8) -> Path:
    """Write the cohort folder `out` from what `pack` wrote to `folder`, and return it."""
    out.mkdir(parents=True, exist_ok=True)

    def unpack_file(path: Path) -> None:
        with replacing(out / f"{path.stem}.npy") as part, part.open("wb") as file:
            np.save(file, _twelve_leads(_decode(lzma.decompress(path.read_bytes()))).reshape(-1))

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(unpack_file, sorted(folder.glob("samples-*.xz"))))
    for name in ("index.parquet", "cohort.json"):  # cohort.json last: with it, the cohort is whole
        (out / name).write_bytes((folder / name).read_bytes())
    return out


def _twelve_leads(steps: np.ndarray) -> np.ndarray:
    """Stored leads (n, T, 8) as blocks (n, 12, T) little-endian int16; aVR, aVL and aVF in half steps."""
    i, ii = steps[..., 0], steps[..., 1]
    leads = {"III": ii - i, "aVR": -(i + ii), "aVL": 2 * i - ii, "aVF": 2 * ii - i}
    leads |= {lead: steps[..., number] for number, lead in enumerate(STORED)}
    return np.stack([leads[lead] for lead in LEADS], axis=1).astype("<i2")
