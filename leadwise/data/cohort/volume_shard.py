"""Write the heart images of a shard: a file of volumes, and a file of masks if one of its recordings has any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from leadwise.batch import Volume
from leadwise.data.cohort.volume_store import block_checksum
from leadwise.data.volumes.read_phases import Phases, Problem, read_phases
from leadwise.data.volumes.volume_file import VolumeFile
from leadwise.files import replacing

FIELDS = pa.schema(
    [
        ("volume_shard", pa.int32()),  # -1 for a recording without heart images
        ("volume_offset", pa.int64()),  # in values; -1 without heart images
        ("volume_present", pa.list_(pa.bool_())),  # one entry per phase, here and below
        ("volume_scale", pa.list_(pa.float64())),  # stored value times scale: the intensity of the file
        ("volume_masked", pa.list_(pa.bool_())),
        ("volume_oriented", pa.list_(pa.bool_())),  # whether the file states the orientation
        ("volume_frame", pa.list_(pa.int32())),  # the frame of a cine; -1 for a file of one frame
        ("volume_slices", pa.list_(pa.int32())),  # slices that the file covers
        ("volume_blood_ml", pa.list_(pa.float64())),  # LV blood by the mask at the file's resolution, NaN if unknown
        ("volume_sha256", pa.string()),
    ]
)
"""The index columns of a cohort with heart images."""


def volumes_file(number: int) -> str:
    """The name of a shard's volumes in the cohort's folder."""
    return f"volumes-{number:05d}.npy"


def masks_file(number: int) -> str:
    """The name of a shard's masks in the cohort's folder."""
    return f"volume-masks-{number:05d}.npy"


@dataclass
class VolumeShardWriter:
    """Context manager that writes a shard's volumes and masks; the files have their names when the block succeeds."""

    folder: Path
    number: int
    volume: Volume
    n_values: int = 0
    has_masks: bool = False
    problems: list[tuple[str, Problem]] = field(default_factory=list)  # record, and the phase that is left out

    def __enter__(self) -> VolumeShardWriter:
        self._stack = ExitStack()
        self._volumes = self._open(volumes_file(self.number))
        self._masks = self._open(masks_file(self.number))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for out, descr in ((self._volumes, "<f2"), (self._masks, "|u1")):
                    out.seek(0)
                    _write_header(out, descr, self.n_values)
        except BaseException as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)
        if error is None and not self.has_masks:
            (self.folder / masks_file(self.number)).unlink(missing_ok=True)

    def add(self, record: str, files: Mapping[str, VolumeFile]) -> dict[str, Any]:
        """Write the heart images of a recording and return its cells of the `FIELDS`."""
        phases = read_phases(files, self.volume) if files else Phases.empty(self.volume)
        self.problems += [(record, problem) for problem in phases.problems]
        cells = _cells(phases)
        if not phases.present.any():
            return {**cells, "volume_shard": -1, "volume_offset": -1, "volume_scale": [1.0] * len(phases.present),
                    "volume_sha256": ""}  # fmt: skip

        # float16 of values up to 1: times a power of two they are the file's, to 1 part in 2,048 of the largest
        largest = np.abs(phases.volumes).max(axis=(1, 2, 3))
        scale = np.exp2(np.ceil(np.log2(np.where(largest > 0, largest, 1.0))))
        block = (phases.volumes / scale[:, None, None, None]).astype("<f2")
        masks = phases.masks if phases.masked.any() else None
        self._volumes.write(block.tobytes())
        self._masks.write(phases.masks.tobytes())
        offset, self.n_values = self.n_values, self.n_values + math.prod(self.volume.shape)
        self.has_masks = self.has_masks or masks is not None
        return {
            **cells,
            "volume_shard": self.number,
            "volume_offset": offset,
            "volume_scale": scale.tolist(),
            "volume_sha256": block_checksum(block, masks),
        }

    def _open(self, name: str) -> BinaryIO:
        part = self._stack.enter_context(replacing(self.folder / name))
        out = self._stack.enter_context(part.open("w+b"))
        _write_header(out, "<f2" if name.startswith("volumes") else "|u1", 0)
        return out


def _cells(phases: Phases) -> dict[str, Any]:
    """The cells of the index that describe the phases of a recording."""
    return {
        "volume_present": phases.present.tolist(),
        "volume_masked": phases.masked.tolist(),
        "volume_oriented": phases.oriented.tolist(),
        "volume_frame": phases.frame.tolist(),
        "volume_slices": phases.n_slices.tolist(),
        "volume_blood_ml": phases.blood_ml.tolist(),
    }


def _write_header(out: BinaryIO, descr: str, n_values: int) -> None:
    header = {"descr": descr, "fortran_order": False, "shape": (n_values,)}
    np.lib.format.write_array_header_1_0(out, header)
