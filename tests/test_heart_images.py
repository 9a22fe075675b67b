"""Heart images of files: one orientation, one grid, the right frames; and one patient's fitted meshes by the same code."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from heart_files import DIRECTIONS, SPACING_MM, beating_heart, write_dicom, write_nifti, write_npz

from leadwise.batch import Volume
from leadwise.data.volumes import geometry
from leadwise.data.volumes.heart_image import VolumeError
from leadwise.data.volumes.read_image import read_image
from leadwise.data.volumes.read_phases import read_phases
from leadwise.data.volumes.volume_file import HALF, LARGEST, SMALLEST, VolumeFile

MESHES = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "cmr" / "biv-me"
FRAMES, MASKS = beating_heart()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_nifti_of_any_axis_order_gives_one_orientation(
    tmp_path: Path, order: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    pytest.importorskip("nibabel")
    image = read_image(write_nifti(tmp_path / "cine.nii", FRAMES, order, flips))
    assert image.is_oriented
    assert image.spacing_mm == pytest.approx(SPACING_MM, rel=1e-5)
    np.testing.assert_allclose(image.frames, FRAMES, rtol=1e-5)


@pytest.mark.parametrize(("from_apex", "mirrored_rows"), [(True, False), (False, False), (True, True)])
def test_a_dicom_series_gives_the_same_orientation(tmp_path: Path, from_apex: bool, mirrored_rows: bool) -> None:
    pytest.importorskip("pydicom")
    folder = write_dicom(tmp_path / "series", FRAMES, from_apex, mirrored_rows)
    (folder / "notes.txt").write_text("no image")
    image = read_image(folder)
    assert image.is_oriented
    assert image.spacing_mm == pytest.approx(SPACING_MM, rel=1e-3)
    np.testing.assert_array_equal(image.frames, np.rint(FRAMES))


def test_a_mask_of_nifti_belongs_to_a_dicom_series(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    pytest.importorskip("pydicom")
    folder = write_dicom(tmp_path / "series", FRAMES, mirrored_rows=True)
    mask = write_nifti(
        tmp_path / "mask.nii.gz", np.where(MASKS == 1, 3, np.where(MASKS == 3, 1, MASKS)), (0, 2, 1), (1,)
    )
    image = read_image(folder, mask=mask, labels=(3, 2, 1))
    np.testing.assert_array_equal(image.mask, MASKS)
    blood = (MASKS == 1).sum(axis=(1, 2, 3)) * np.prod(SPACING_MM) / 1000
    np.testing.assert_allclose(image.blood_ml(), blood, rtol=1e-3)


def test_a_missing_slice_or_another_view_is_an_error(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    with pytest.raises(VolumeError, match="one is missing"):
        read_image(write_dicom(tmp_path / "gap", FRAMES[:1], left_out=(3,)))
    folder = write_dicom(tmp_path / "frames", FRAMES)
    next(iter(sorted(folder.iterdir()))).unlink()
    with pytest.raises(VolumeError, match="have 2 to 3 frames"):
        read_image(folder)
    folder = write_dicom(tmp_path / "views", FRAMES[:1])
    file = next(iter(sorted(folder.iterdir())))
    other = pydicom.dcmread(file)
    other.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    other.save_as(file)
    with pytest.raises(VolumeError, match="several directions"):
        read_image(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(VolumeError, match="no DICOM image"):
        read_image(tmp_path / "empty")


def test_an_invented_orientation_is_not_believed(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    array = np.ascontiguousarray(FRAMES[0].transpose(2, 1, 0))
    nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2.5, 8.0, 1.0])), tmp_path / "lost.nii.gz")
    image = read_image(tmp_path / "lost.nii.gz")
    assert not image.is_oriented
    np.testing.assert_allclose(image.frames[0], FRAMES[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"no zip", "damaged or no .npz"),
        ("a.nii", b"no image", "damaged or no NIfTI"),
        ("a.jpg", b"", "no heart image that can be read"),
        ("b.npz", None, "no such file"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if name.endswith(".nii"):
        pytest.importorskip("nibabel")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VolumeError, match=message) as error:
        read_image(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_compression_and_an_infinite_spacing_are_clear_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    values = np.random.default_rng(0).integers(0, 9, (4, 20, 20)).astype(np.float32)
    np.savez_compressed(path, volume=values, spacing_mm=np.ones(3))
    content = bytearray(path.read_bytes())
    content[200:600] = bytes(byte ^ 0x5A for byte in content[200:600])
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=r"array 'volume' is damaged .*; write it again"):
        read_image(path)
    for spacing_mm in ([8.0, np.inf, 2.0], [8.0, np.nan, 2.0], [8.0, 0.0, 2.0]):
        np.savez(path, volume=values, spacing_mm=np.array(spacing_mm))
        with pytest.raises(VolumeError, match="spacing_mm must be three distances > 0 in mm"):
            read_image(path)


def test_a_damaged_nifti_is_a_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    path = write_nifti(tmp_path / "a.nii.gz", FRAMES[:1])
    content = bytearray(path.read_bytes())
    content[3000:4000] = bytes(byte ^ 0x5A for byte in content[3000:4000])
    path.write_bytes(content)
    with pytest.raises(VolumeError, match="damaged or no NIfTI file") as error:
        read_image(path)
    assert "\n" not in str(error.value)


def test_a_mask_of_another_spacing_is_not_that_of_the_image(tmp_path: Path) -> None:
    image = write_npz(tmp_path / "a.npz", FRAMES[0])
    mask = tmp_path / "mask.npz"
    np.savez(mask, mask=MASKS[0], spacing_mm=np.array([8.0, 2.5, 4.0]))
    with pytest.raises(
        VolumeError, match=r"the mask has a spacing of 8 x 2\.5 x 4 mm, but a\.npz has 8 x 2\.5 x 2; give the mask"
    ):
        read_image(image, mask=mask)
    np.savez(mask, mask=MASKS[0], spacing_mm=np.array([8.0, 2.5, 2.0]))
    assert read_image(image, mask=mask).mask is not None


def test_frames_are_chosen_by_blood_number_or_half(tmp_path: Path) -> None:
    frames, masks = beating_heart((9.0, 8.0, 6.0, 7.0, 8.5))
    cine = write_npz(tmp_path / "cine.npz", frames, masks)
    volume = Volume(phases=("ed", "es"))
    chosen = {
        rule: read_phases({"ed": VolumeFile(cine, LARGEST), "es": VolumeFile(cine, rule)}, volume)
        for rule in (SMALLEST, HALF, "4")
    }
    assert [chosen[rule].frame.tolist() for rule in chosen] == [[0, 2], [0, 2], [0, 4]]
    blood = (masks == 1).sum(axis=(1, 2, 3)) * np.prod(SPACING_MM) / 1000
    np.testing.assert_allclose(chosen["4"].blood_ml, blood[[0, 4]], rtol=1e-5)

    # without masks the rule fails with a remedy, unless another frame is named
    bare = write_npz(tmp_path / "bare.npz", frames)
    phases = read_phases({"ed": VolumeFile(bare, "0"), "es": VolumeFile(bare, SMALLEST)}, volume)
    assert phases.present.tolist() == [True, False]
    assert [problem.reason for problem in phases.problems] == ["unreadable"]
    assert "give masks, or the frame's number" in phases.problems[0].detail
    named = read_phases({"es": VolumeFile(bare, SMALLEST, otherwise="3")}, volume)
    assert named.frame.tolist() == [-1, 3]
    gone = read_phases({"es": VolumeFile(bare, "9"), "ed": VolumeFile(tmp_path / "none.npz")}, volume)
    assert {problem.reason for problem in gone.problems} == {"unreadable", "missing_file"}


def test_the_heart_is_in_the_middle_of_both_phases(tmp_path: Path) -> None:
    files = {
        phase: VolumeFile(write_npz(tmp_path / f"{phase}.npz", FRAMES[number], MASKS[number]))
        for phase, number in (("ed", 0), ("es", 2))
    }
    volume = Volume(slices=5, rows=24, columns=26, spacing_mm=(8.0, 4.0, 4.0))
    phases = read_phases(files, volume)
    assert phases.present.all()
    assert phases.masked.all()
    assert phases.n_slices.tolist() == [5, 5]
    heart = np.argwhere(phases.masks.any(axis=0))
    middle = (heart.min(axis=0) + heart.max(axis=0)) / 2
    np.testing.assert_allclose(middle, (np.array(volume.shape[1:]) - 1) / 2, atol=1.0)
    for number in range(2):  # the left ventricle stays at one place
        left = np.argwhere(phases.masks[number] == 1).mean(axis=0)
        np.testing.assert_allclose(left[1:], np.argwhere(phases.masks[0] == 1).mean(axis=0)[1:], atol=0.5)
    assert phases.volumes[0][phases.masks[0] == 1].mean() == pytest.approx(210, rel=0.12)


def test_a_volume_of_the_requested_shape_is_unchanged(tmp_path: Path) -> None:
    file = VolumeFile(write_npz(tmp_path / "ed.npz", FRAMES[0], MASKS[0]))
    volume = Volume(("ed",), *FRAMES.shape[1:], SPACING_MM)
    phases = read_phases({"ed": file}, volume)
    np.testing.assert_array_equal(phases.volumes[0], FRAMES[0])
    np.testing.assert_array_equal(phases.masks[0], MASKS[0])


def test_constant_and_infinite_volumes_are_left_out_and_an_empty_scar_is_not(tmp_path: Path) -> None:
    broken = FRAMES[0].copy()
    broken[2, 3, 4] = np.nan
    files = {
        "ed": VolumeFile(write_npz(tmp_path / "ed.npz", broken)),
        "es": VolumeFile(write_npz(tmp_path / "es.npz", np.ones_like(broken))),
        "scar": VolumeFile(write_npz(tmp_path / "scar.npz", FRAMES[0], scar=np.zeros_like(broken)), "scar"),
    }
    phases = read_phases(files, Volume(("ed", "es", "scar")))
    assert phases.present.tolist() == [False, False, True]
    assert [problem.reason for problem in phases.problems] == ["not_finite", "constant"]
    assert not phases.volumes.any()


def test_resampling_keeps_amount_and_does_not_blur_slices() -> None:
    rng = np.random.default_rng(0)
    values = np.pad(rng.random((6, 20, 20)), ((0, 0), (8, 8), (8, 8)))
    spacing_mm, middle = (10.0, 2.0, 2.0), np.array([2.5, 17.5, 17.5])
    coarse = geometry.resample(values, spacing_mm, Volume(("ed",), 6, 18, 18, (10.0, 4.0, 4.0)), middle)
    np.testing.assert_allclose(coarse.sum(axis=(1, 2)) * 4, values.sum(axis=(1, 2)), rtol=1e-6)
    shifted = geometry.resample(
        values, spacing_mm, Volume(("ed",), 4, 36, 36, spacing_mm), middle + np.array([0.5, 0.0, 0.0])
    )
    np.testing.assert_allclose(shifted, values[2:6], atol=1e-6)
    outside = geometry.resample(values + 5, spacing_mm, Volume(("ed",), 8, 36, 36, spacing_mm), middle)
    assert (outside[0] == 5).all()
    assert geometry.n_covered(6, 10.0, Volume(("ed",), 8), 2.5) == 6


# ------------------------------------------------------------------------------------------------- a real patient


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The points (n, 3) in LPS and the triangles (m, 3) of a VTK file of text."""
    words = path.read_text().split()
    at = words.index("POINTS")
    n = int(words[at + 1])
    points = np.array(words[at + 3 : at + 3 + 3 * n], dtype=float).reshape(n, 3)
    corners = words[words.index("CONNECTIVITY") + 2 :]
    n_corners = int(words[words.index("POLYGONS") + 2])
    return close_holes(points, np.array(corners[:n_corners], dtype=int).reshape(-1, 3))


def close_holes(points: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A surface with a lid on each hole, such as a valve: triangles from the middle of its border."""
    _, same = np.unique(np.round(points, 4), axis=0, return_inverse=True)
    edges = Counter(tuple(sorted(pair)) for one in same[triangles] for pair in itertools.combinations(one.tolist(), 2))
    border = [edge for edge, n in edges.items() if n == 1]
    place = {number: at for at, number in enumerate(same.tolist())}
    lids = []
    while border:
        # the border that begins with an edge: all that hangs together
        loop, corners = [border.pop()], set()
        while True:
            corners = {corner for edge in loop for corner in edge}
            more = [edge for edge in border if corners & set(edge)]
            if not more:
                break
            loop += more
            border = [edge for edge in border if edge not in more]
        points = np.concatenate([points, points[[place[corner] for corner in corners]].mean(axis=0, keepdims=True)])
        lids += [(place[a], place[b], len(points) - 1) for a, b in loop]
    return points, np.concatenate([triangles, np.array(lids, dtype=int).reshape(-1, 3)])


def fill_mesh(points: np.ndarray, triangles: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Which voxels (D, H, W) are inside a closed surface in voxel coordinates: crossings of lines along the columns."""
    crossings = np.zeros((*shape[:2], shape[2] + 1), dtype=int)
    for corner in points[triangles]:
        low, high = np.ceil(corner[:, :2].min(axis=0)).astype(int), np.floor(corner[:, :2].max(axis=0)).astype(int)
        (a, b), c = corner[1:, :2] - corner[0, :2], corner[0, :2]
        area = a[0] * b[1] - a[1] * b[0]
        for line in itertools.product(range(low[0], high[0] + 1), range(low[1], high[1] + 1)):
            d = np.array(line) + 1e-7 * np.array([1.0, 2.0]) - c
            u, v = (d[0] * b[1] - d[1] * b[0]) / area, (a[0] * d[1] - a[1] * d[0]) / area
            if area and u >= 0 and v >= 0 and u + v <= 1:
                place = corner[0, 2] + u * (corner[1, 2] - corner[0, 2]) + v * (corner[2, 2] - corner[0, 2])
                crossings[(*line, int(np.clip(np.ceil(place), 0, shape[2])))] += 1
    return np.asarray(crossings.cumsum(axis=2)[:, :, :-1] % 2 == 1)


@pytest.mark.real
@pytest.mark.skipif(not MESHES.is_dir(), reason="the fitted meshes of a patient are not here")
def test_a_real_heart_has_the_published_volumes_and_orientation(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    spacing = np.array([4.0, 1.83, 1.83])
    names = {1: "LV_ENDOCARDIAL", 2: "EPICARDIAL", 3: "RV_ENDOCARDIAL"}
    meshes = [
        {part: read_mesh(MESHES / f"patient1_{name}_{frame:03d}.vtk") for part, name in names.items()}
        for frame in (0, 12, 9)
    ]

    # a short-axis stack from the apex to the base, with its axes along the ventricle's own
    ventricle = meshes[0][1][0]
    n = np.linalg.svd(ventricle - ventricle.mean(axis=0), full_matrices=False)[2][0]
    n = n if n @ DIRECTIONS[0] < 0 else -n
    r = np.array([0.0, 0.0, 1.0]) - n * n[2]
    axes = np.stack([n, r / np.linalg.norm(r), np.cross(n, r / np.linalg.norm(r))])
    every = np.concatenate([points for frame in meshes for points, _ in frame.values()]) @ axes.T / spacing
    corner, shape = np.floor(every.min(axis=0)) - 6, tuple(np.ceil(np.ptp(every, axis=0)).astype(int) + 12)
    masks = np.zeros((3, *shape), dtype=np.uint8)
    for number, frame in enumerate(meshes):
        filled = {
            part: fill_mesh(points @ axes.T / spacing - corner, triangles, shape)
            for part, (points, triangles) in frame.items()
        }
        for part in (2, 3, 1):
            masks[number][filled[part]] = part
    affine = np.eye(4)
    affine[:3, :3] = (axes[[2, 1, 0]] * spacing[[2, 1, 0], None]).T
    affine[:3] = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
    files = []
    for name, values in (
        ("cine", np.where(masks == 2, 80, np.where(masks > 0, 200, 20)).astype(np.int16)),
        ("mask", masks),
    ):
        nibabel.save(nibabel.Nifti1Image(values.transpose(3, 2, 1, 0), affine), tmp_path / f"{name}.nii.gz")
        files.append(tmp_path / f"{name}.nii.gz")

    # the closed surfaces enclose 174.5, 72.0 and 88.1 mL by the divergence theorem; ES by the masks, and by the middle frame
    volume = Volume(slices=12, rows=92, columns=85, spacing_mm=(10.0, 1.83, 1.83))
    rules = {rule: VolumeFile(files[0], rule, None, files[1]) for rule in (LARGEST, SMALLEST, HALF)}
    phases = read_phases({"ed": rules[LARGEST], "es": rules[SMALLEST]}, volume)
    half = read_phases({"es": rules[HALF]}, volume)
    assert phases.frame.tolist() == [0, 2]
    assert phases.blood_ml == pytest.approx([174.5, 72.0], rel=0.02)
    assert half.blood_ml[1] == pytest.approx(88.1, rel=0.02)
    ejected = 1 - phases.blood_ml[1] / phases.blood_ml[0]
    assert ejected == pytest.approx(0.587, abs=0.01)
    assert (phases.masks[0] == 1).sum() * volume.voxel_ml == pytest.approx(174.5, rel=0.06)

    # base first, the right ventricle at the patient's right, in both phases
    assert phases.oriented.all()
    for mask in phases.masks:
        area = (mask == 1).sum(axis=(1, 2))
        used = area[area > 0]
        assert used[: len(used) // 3].sum() > used[-(len(used) // 3) :].sum()
        assert np.argwhere(mask == 3)[:, 2].mean() < np.argwhere(mask == 1)[:, 2].mean() - 5
