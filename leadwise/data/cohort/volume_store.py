"""Read the heart images of a cohort: one volume per phase of the heartbeat, in memory-mapped shards.

    volumes-00000.npy         float16, each recording (P, D, H, W); times its `volume_scale` it is the file's intensity
    volume-masks-00000.npy    uint8 of the same places: 0 background, 1 LV blood, 2 myocardium, 3 RV blood

Only a cohort with heart images has these files, the index columns `volume_...`, and the entries "volume" and
"volume_shards" of cohort.json.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from leadwise.batch import Volume
from leadwise.config import ConfigError, typed
from leadwise.data.cohort.layout import CohortError, map_shard

_TOLERANCE_MM = 1e-3  # between two spacings that are the same


class VolumeStore:
    """The heart images of an opened cohort."""

    def __init__(
        self, folder: Path, description: dict[str, Any], column: Callable[[str], pa.ChunkedArray], n_rows: int
    ) -> None:
        """`description` is that of cohort.json; `column` reads a column of the index, which has `n_rows` rows."""
        self.folder = folder
        try:
            self.geometry = typed(Volume, description["volume"], "volume")
        except ConfigError as error:
            raise CohortError(f"cohort {folder}: cohort.json is damaged ({error}); prepare it again") from None
        self.files: dict[int, dict[str, Any]] = {shard["number"]: shard for shard in description["volume_shards"]}
        self.left_out: dict[str, int] = dict(
            description.get("volumes_left_out", {})
        )  # phases that are not stored, by reason
        self._column, self._maps = column, dict[str, np.ndarray]()
        n_phases = len(self.geometry.phases)
        self._shard, self._offset = column("volume_shard").to_numpy(), column("volume_offset").to_numpy()
        self.present = _matrix(column("volume_present"), n_rows, n_phases)  # (N, P) bool
        self._scale = _matrix(column("volume_scale"), n_rows, n_phases).astype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # another process maps the shards itself

    @cached_property
    def masked(self) -> np.ndarray:
        """Whether each phase of each recording has a mask: (N, P) bool."""
        return self.matrix("volume_masked")

    def matrix(self, column: str) -> np.ndarray:
        """A column of the index with a value per phase, such as "volume_blood_ml": (N, P)."""
        return _matrix(self._column(column), *self.present.shape)

    def read(self, row: int, phases: Sequence[int] | None = None) -> np.ndarray:
        """The volumes (P, D, H, W) float32 of a recording, of the phases with these numbers; 0 where absent."""
        places = range(len(self.geometry.phases)) if phases is None else phases
        out = np.zeros((len(places), *self.geometry.shape[1:]), dtype=np.float32)
        if self._shard[row] >= 0:
            block = self._block(row)
            for number, phase in enumerate(places):
                if self.present[row, phase]:
                    np.multiply(block[phase], self._scale[row, phase], out=out[number], casting="unsafe")
        return out

    def mask(self, row: int) -> np.ndarray:
        """The masks (P, D, H, W) uint8 of a recording: 0 background, 1 LV blood, 2 myocardium, 3 RV blood; 0 where unknown."""
        number = int(self._shard[row])
        if number < 0 or not self.masked[row].any():
            return np.zeros(self.geometry.shape, dtype=np.uint8)
        return self._part(self.files[number]["masks"], row, np.uint8).copy()

    def places(self, wanted: Volume) -> list[int]:
        """The number of each phase of `wanted` among the stored ones.

        Raises:
            CohortError: the cohort has not these phases, or volumes of another shape or spacing.
        """
        stored, name = self.geometry, self.folder.name
        for phase in wanted.phases:
            if phase not in stored.phases:
                raise CohortError(
                    f"cohort {name}: it has no heart images of phase '{phase}', only of {', '.join(stored.phases)}; set "
                    f"volume.phases to some of these"
                )
        for key in ("slices", "rows", "columns"):
            if getattr(wanted, key) != getattr(stored, key):
                raise CohortError(
                    f"cohort {name}: its heart images have volume.{key} = {getattr(stored, key)}, not {getattr(wanted, key)}; "
                    "set volume.slices, volume.rows and volume.columns to the cohort's, or prepare it again in this shape"
                )
        pairs = zip(stored.spacing_mm, wanted.spacing_mm)
        if not all(math.isclose(one, other, abs_tol=_TOLERANCE_MM) for one, other in pairs):
            raise CohortError(
                f"cohort {name}: its heart images have volume.spacing_mm = {list(stored.spacing_mm)}, not "
                f"{list(wanted.spacing_mm)}; set volume.spacing_mm to the cohort's, or prepare it again with this spacing"
            )
        return [stored.phases.index(phase) for phase in wanted.phases]

    def check_places(self) -> None:
        """Raise CohortError unless the volumes of every recording are inside their shard."""
        n = math.prod(self.geometry.shape)
        used = np.flatnonzero(self._shard >= 0)
        sizes = np.array(
            [self.files.get(int(number), {}).get("size", 0) for number in self._shard[used]], dtype=np.int64
        )
        wrong = (self._offset[used] < 0) | (2 * (self._offset[used] + n) > sizes)
        if wrong.any() or (self.present.any(axis=1) & (self._shard < 0)).any():
            raise CohortError(f"cohort {self.folder}: its index points outside a shard of volumes; prepare it again")

    def check_samples(self, name: Callable[[int], str]) -> None:
        """Raise CohortError unless every checksum is right; `name` gives the name of a row's recording."""
        for row, checksum in enumerate(self._column("volume_sha256").to_pylist()):
            if self._shard[row] < 0:
                continue
            masks = self.mask(row) if self.masked[row].any() else None
            if block_checksum(self._block(row), masks) != checksum:
                file = self.files[int(self._shard[row])]["file"]
                raise CohortError(
                    f"cohort {self.folder}: {file} or its masks have changed at record {name(row)} (checksum differs); "
                    "prepare it again"
                )

    def _block(self, row: int) -> np.ndarray:
        """The volumes (P, D, H, W) float16 of a recording as stored: a view of the memory-mapped shard."""
        return self._part(self.files[int(self._shard[row])]["file"], row, np.float16)

    def _part(self, file: str, row: int, kind: type[np.generic]) -> np.ndarray:
        shard = self._maps.get(file)
        if shard is None:
            shard = self._maps[file] = map_shard(self.folder, file, np.dtype(kind).newbyteorder("<").str)
        begin = int(self._offset[row])
        return shard[begin : begin + math.prod(self.geometry.shape)].reshape(self.geometry.shape)


def block_checksum(volumes: np.ndarray, masks: np.ndarray | None) -> str:
    """The SHA-256 checksum of a recording's volumes as stored, and of its masks if it has any."""
    digest = hashlib.sha256(np.ascontiguousarray(volumes).tobytes())
    if masks is not None:
        digest.update(np.ascontiguousarray(masks).tobytes())
    return digest.hexdigest()


def minmax(volumes: np.ndarray) -> None:
    """Scale each volume of (..., D, H, W) float32 to [0, 1] in place; a constant one becomes 0."""
    low = volumes.min(axis=(-3, -2, -1), keepdims=True)
    span = volumes.max(axis=(-3, -2, -1), keepdims=True) - low
    volumes -= low
    volumes /= np.where(span > 0, span, 1.0)


def stored_geometry(volume: Volume) -> dict[str, Any]:
    """The entry "volume" of cohort.json: lists instead of tuples, and intensities that are not normalised."""
    table = dataclasses.asdict(dataclasses.replace(volume, normalize="none"))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}


def _matrix(column: pa.ChunkedArray, n_rows: int, n_phases: int) -> np.ndarray:
    """A list column as an array (N, P)."""
    values: np.ndarray = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(n_rows, n_phases)
