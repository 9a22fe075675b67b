"""For tests: a small beating heart in voxels, and its files in the formats that are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SPACING_MM = (8.0, 2.5, 2.0)  # between slices, rows and columns
TO_APEX = np.array([0.62, -0.55, -0.56]) / np.linalg.norm([0.62, -0.55, -0.56])  # left, front, feet
DOWN = np.array([0.0, 0.0, -1.0]) - TO_APEX * (np.array([0.0, 0.0, -1.0]) @ TO_APEX)
DOWN /= np.linalg.norm(DOWN)
DIRECTIONS = np.stack([TO_APEX, DOWN, np.cross(TO_APEX, DOWN)])  # of slices, rows and columns, in LPS


def beating_heart(
    radii: tuple[float, ...] = (9.0, 7.5, 6.0), shape: tuple[int, int, int] = (7, 32, 40), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return frames (T, D, H, W) float32 and masks uint8: a ventricle of each radius in mm that narrows to the apex.

    The right ventricle is at lower columns, the patient's right; a bright spot is in a corner, so that nothing is symmetric.
    """
    rng = np.random.default_rng(seed)
    depth, height, width = shape
    y, x = np.mgrid[:height, :width].astype(float)
    y, x = (y - 0.45 * height) * SPACING_MM[1], (x - 0.6 * width) * SPACING_MM[2]
    frames, masks = [], []
    for radius in radii:
        mask = np.zeros(shape, dtype=np.uint8)
        for number in range(depth):
            size = 1.0 - 0.09 * number  # base first
            distance = np.hypot(y, x)
            mask[number][np.hypot(y, x + 1.9 * radius) < 0.9 * size * radius] = 3
            mask[number][distance < size * (radius + 6.0)] = 2
            mask[number][distance < size * radius] = 1
        values = np.array([40.0, 210.0, 90.0, 190.0], dtype=np.float32)[mask]
        values[:, -5:-2, -6:-2] = 150.0
        frames.append(values + rng.normal(0, 3, shape))
        masks.append(mask)
    return np.array(frames, dtype=np.float32), np.array(masks)


def write_npz(path: Path, volume: np.ndarray, mask: np.ndarray | None = None, **arrays: np.ndarray) -> Path:
    """Write a volume, with its spacing, as .npz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    masks = {} if mask is None else {"mask": mask}
    np.savez(path, volume=volume, spacing_mm=np.array(SPACING_MM, np.float32), **masks, **arrays)
    return path


def write_nifti(
    path: Path, frames: np.ndarray, order: tuple[int, int, int] = (2, 1, 0), flips: tuple[int, ...] = ()
) -> Path:
    """Write frames (T, D, H, W) as NIfTI whose axes are those of `order` (0 slices, 1 rows, 2 columns), some of them reversed."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    array = frames.transpose(*(1 + axis for axis in order), 0)
    steps = [DIRECTIONS[axis] * SPACING_MM[axis] for axis in order]
    corner = np.array([-60.0, -40.0, 30.0])
    for place in flips:
        corner = corner + steps[place] * (array.shape[place] - 1)
        steps[place] = -steps[place]
        array = np.flip(array, place)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.stack(steps, axis=1), corner
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    nibabel.save(
        nibabel.Nifti1Image(np.ascontiguousarray(array.squeeze() if len(frames) == 1 else array), to_ras @ affine), path
    )
    return path


def write_dicom(
    folder: Path,
    frames: np.ndarray,
    from_apex: bool = True,
    mirrored_rows: bool = False,
    left_out: tuple[int, ...] = (),
) -> Path:
    """Write frames (T, D, H, W) as a DICOM series, a file per slice and frame, in no useful order of names."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    n_frames, depth = frames.shape[:2]
    series = generate_uid(entropy_srcs=["series"])
    for number in range(depth):
        if number in left_out:
            continue
        for frame in range(n_frames):
            pixels = np.rint(frames[frame, number]).astype(np.uint16)
            along_column = DIRECTIONS[1]
            corner = number * SPACING_MM[0] * DIRECTIONS[0]
            if mirrored_rows:  # the first row of pixels is the lowest
                corner = corner + DIRECTIONS[1] * SPACING_MM[1] * (pixels.shape[0] - 1)
                pixels, along_column = pixels[::-1], -along_column
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
            meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(number), str(frame)])
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            name = f"{(7 * number + 3 * frame) % 11}_{number}_{frame}.dcm"
            image = FileDataset(str(folder / name), {}, file_meta=meta, preamble=b"\0" * 128)
            image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
            image.SeriesInstanceUID, image.Modality = series, "MR"
            image.InstanceNumber = (depth - number if from_apex else number) * n_frames + frame + 1
            image.TriggerTime = 40.0 * frame
            image.ImagePositionPatient = [round(float(value), 4) for value in corner]
            image.ImageOrientationPatient = [round(float(value), 6) for value in (*DIRECTIONS[2], *along_column)]
            image.PixelSpacing, image.SliceThickness = [SPACING_MM[1], SPACING_MM[2]], 6.0
            image.Rows, image.Columns = pixels.shape
            image.BitsAllocated = image.BitsStored = 16
            image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 0, 1
            image.PhotometricInterpretation = "MONOCHROME2"
            image.PixelData = pixels.tobytes()
            image.save_as(folder / name, enforce_file_format=True)
    return folder
