"""Where one heart image of a recording is: a file or folder, what of it, and the mask that belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LARGEST, SMALLEST, HALF = "largest", "smallest", "half"
"""Items of a cine: the frame with the most or the least LV blood by its masks, and the frame in the middle of the heartbeat."""


@dataclass(frozen=True)
class VolumeFile:
    """One phase of a recording. `mask` is a file of the same shape, or the image's own .npz where that has one."""

    path: Path  # .npz, .nii, .nii.gz, or a folder of a DICOM series
    item: str | None = (
        None  # the name of an array in an .npz; of a cine a frame number from 0, or LARGEST, SMALLEST, HALF
    )
    otherwise: str | None = None  # the item where LARGEST or SMALLEST is not known, because no mask has LV blood
    mask: Path | None = None
    labels: tuple[int, int, int] = (1, 2, 3)  # the mask's numbers of LV blood, myocardium and RV blood

    @property
    def is_frame(self) -> bool:
        """Whether `item` selects a frame of a cine."""
        return self.item is not None and (self.item.isdecimal() or self.item in (LARGEST, SMALLEST, HALF))

    def files(self) -> Iterator[Path]:
        """The files that are read, as far as they exist; a folder's files in the order of their names."""
        for path in (self.path, *(() if self.mask is None else (self.mask,))):
            if path.is_dir():
                yield from sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
            else:
                yield path
