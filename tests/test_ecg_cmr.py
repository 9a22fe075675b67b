"""ECGs with heart images: from a table to shards and batches, resumed, verified and audited; others stay as they are."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from heart_files import SPACING_MM, beating_heart, write_nifti, write_npz
from page_order import assert_pictures_first
from typer.testing import CliRunner

from leadwise.batch import LEADS, Signal, Volume
from leadwise.cli import app
from leadwise.data.audit.audit import audit_cohort
from leadwise.data.audit.finding import Finding
from leadwise.data.audit.volumes import _equal_share, check_volumes
from leadwise.data.cohort import executors, prepare, shard
from leadwise.data.cohort.changed_copy import (
    link_equal_files,
    write_with_other_images,
    write_with_other_reports,
    write_with_texts,
)
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.estimate import estimate
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.left_out import LeftOutError
from leadwise.data.cohort.prepare import finished_ledger, write, write_share
from leadwise.data.croissant import describe
from leadwise.data.loader import Recordings
from leadwise.data.sources import ecg_cmr
from leadwise.data.sources import folder as table_source
from leadwise.data.usable_rows import rows_with_inputs
from leadwise.data.volumes.volume_file import HALF, LARGEST, SMALLEST
from leadwise.pages import audit as audit_page
from leadwise.pictures import heart_images

RATE_HZ = 100
VOLUME = Volume(slices=5, rows=24, columns=28, spacing_mm=(8.0, 2.5, 2.0))
OPTIONS = ecg_cmr.Options(shape="5x24x28", spacing_mm=(8.0, 2.5, 2.0))
Line = dict[str, object]
Change = Callable[[Path, list[Line]], None]


def make_folder(folder: Path, n: int = 12, change: Change | None = None) -> Path:
    """Write `n` people with an ECG and images of both phases, into which `change` may plant faults."""
    lines: list[Line] = []
    (folder / "ecg").mkdir(parents=True)
    for number in range(n):
        rng = np.random.default_rng(number)
        np.save(folder / "ecg" / f"p{number}.npy", rng.normal(0, 0.3, (400, 12)).astype(np.float32))
        radii = (8.0 + rng.uniform(0, 2), 5.0 + rng.uniform(0, 1.5))
        frames, masks = beating_heart(radii, seed=number)
        paths = {}
        for phase, frame, mask in zip(("ed", "es"), frames, masks):
            paths[phase] = f"images/p{number}_{phase}.npz"
            write_npz(folder / paths[phase], frame, mask)
        split = ("train", "train", "val", "test")[number % 4]
        blood = (masks == 1).sum(axis=(1, 2, 3)) * np.prod(SPACING_MM) / 1000
        lines.append({
            "record": f"p{number}", "patient": f"p{number}", "split": split, "ecg": f"ecg/p{number}.npy", **paths,
            "report": "normal ecg", "target.lvedv": round(blood[0], 2), "target.lvesv": round(blood[1], 2),
            "label.outcome.hf": number % 2, "weight_kg": 70 + number,
        })  # fmt: skip
    if change is not None:
        change(folder, lines)
    with (folder / "subjects.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for line in lines for name in line)))
        table.writeheader()
        table.writerows(lines)
    return folder


def options_for(options: ecg_cmr.Options = OPTIONS, **changes: object) -> ecg_cmr.Options:
    return dataclasses.replace(options, leads=LEADS, rate_hz=float(RATE_HZ), units="mV", **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def remove_some(folder: Path, lines: list[Line]) -> None:
        lines[2]["es"] = ""  # one phase only
        lines[3]["ed"] = lines[3]["es"] = ""  # no image
        lines[4]["target.lvedv"] = lines[4]["target.lvesv"] = ""
        (folder / "bounds.json").write_text('{"lvedv": 0.52, "another": 0.1}')

    return make_folder(tmp_path_factory.mktemp("paired") / "source", change=remove_some)


@pytest.fixture(scope="module")
def cohort(folder: Path) -> Cohort:
    out = folder.parent / "cohort"
    write(ecg_cmr.read_source(folder, options_for()), out, shard_records=5)
    return Cohort.open(out, verify=True)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def titles(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


# ------------------------------------------------------------------------------------------------------- the cohort


def test_a_table_becomes_a_cohort_with_images_phenotypes_and_labels(cohort: Cohort, folder: Path) -> None:
    assert cohort.volumes == dataclasses.replace(VOLUME, normalize="none")
    assert cohort.targets == ("lvedv", "lvesv")
    assert cohort.bounds == {"lvedv": 0.52}
    assert cohort.tasks == {"outcome": ("hf",)}
    assert {"weight_kg", "lvedv"} <= set(cohort.column_names)
    assert not [name for name in cohort.column_names if name.startswith(("target.", "table.", "image"))]
    has = cohort.has_volume(np.arange(len(cohort)))
    assert has.sum(axis=0).tolist() == [11, 10]
    assert has[2].tolist() == [True, False]
    assert has[3].tolist() == [False, False]

    # the values are those of the files, at the precision of float16, with the heart in the middle
    volume, mask = cohort.volume(0), cohort.volume_mask(0)
    assert volume.shape == mask.shape == VOLUME.shape
    for phase in range(2):
        assert volume[phase][mask[phase] == 1].mean() == pytest.approx(210, abs=2)
        assert volume[phase][mask[phase] == 2].mean() == pytest.approx(90, abs=2)
    assert not cohort.volume(3).any()
    assert not cohort.volume_mask(3).any()
    phenotypes = cohort.phenotypes(("lvesv", "lvedv"), np.array([0, 4]))
    assert phenotypes[0, 0] < phenotypes[0, 1]
    assert np.isnan(phenotypes[1]).all()


def test_batches_have_images_and_phenotypes_only_where_they_are_requested(cohort: Cohort) -> None:
    signal = Signal(rate_hz=RATE_HZ, duration_s=4.0)
    plain = Recordings(cohort, signal).batch([0])
    assert plain.volume is plain.has_volume is plain.phenotype is None
    recordings = Recordings(cohort, signal, volume=VOLUME, phenotypes=("lvedv",))
    batch = recordings.batch([0, 2, 3, 4])
    assert batch.volume is not None
    assert batch.has_volume is not None
    assert batch.phenotype is not None
    assert batch.volume.shape == (4, *VOLUME.shape)
    assert batch.volume.dtype == torch.float32
    assert batch.has_volume.tolist() == [[True, True], [True, False], [False, False], [True, True]]
    assert not batch.volume[~batch.has_volume].any()
    present = batch.volume[batch.has_volume]
    assert present.amin(dim=(1, 2, 3)).tolist() == [0.0] * 5
    assert present.amax(dim=(1, 2, 3)).tolist() == [1.0] * 5
    assert batch.phenotype.isnan().squeeze(1).tolist() == [False, False, False, True]
    assert recordings.phenotype_table.shape == (12, 1)
    assert recordings.has_volume.sum() == 21

    # every field goes along: rows, devices, one phase, intensities of the files
    part = batch.rows(1, 3).to("cpu")
    assert part.volume is not None
    assert torch.equal(part.volume, batch.volume[1:3])
    one = Recordings(cohort, signal, volume=dataclasses.replace(VOLUME, phases=("es",), normalize="none")).batch([0])
    assert one.volume is not None
    np.testing.assert_array_equal(one.volume[0, 0].numpy(), cohort.volume(0)[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phases": ("scar",)}, "no heart images of phase 'scar', only of ed, es; set volume.phases"),
        ({"slices": 6}, "volume.slices = 5, not 6"),
        ({"spacing_mm": (8.0, 2.5, 2.1)}, "volume.spacing_mm = "),
    ],
)
def test_another_shape_than_the_cohorts_is_one_clear_error(
    cohort: Cohort, change: dict[str, object], message: str
) -> None:
    with pytest.raises(CohortError, match=message):
        Recordings(cohort, Signal(), volume=dataclasses.replace(VOLUME, **change))  # type: ignore[arg-type]
    with pytest.raises(CohortError, match="no phenotype 'lvef'; it has lvedv, lvesv"):
        Recordings(cohort, Signal(), phenotypes=("lvef",))


def test_rows_without_an_image_or_a_phenotype_are_counted(cohort: Cohort) -> None:
    rows, left_out = rows_with_inputs(cohort, np.arange(12), VOLUME, ("lvedv",))
    assert rows.tolist() == [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]
    assert left_out.to_json() == {"left_out": {"no_volume": 1, "no_phenotype": 1}}
    rows, left_out = rows_with_inputs(cohort, np.arange(12), dataclasses.replace(VOLUME, phases=("es",)), ())
    assert left_out.records == {"no_volume": ("p2", "p3")}


# ------------------------------------------------------------------------------------------------------- preparation


def test_the_same_ecgs_without_images_give_the_cohort_of_the_folder_source(folder: Path, tmp_path: Path) -> None:
    """A cohort without heart images has neither their files nor their columns, and the same bytes as ever."""
    paired = ecg_cmr.read_source(folder, options_for())
    bare = dataclasses.replace(
        paired, volume=None, targets=(), bounds={}, rows=[dataclasses.replace(row, volumes={}) for row in paired.rows]
    )
    lines = list(csv.DictReader((folder / "subjects.csv").open()))
    with (tmp_path / "plain.csv").open("w", newline="") as file:
        renamed = {"ecg": "path", "target.lvedv": "lvedv", "target.lvesv": "lvesv"}
        table = csv.writer(file)
        names = [name for name in lines[0] if name not in ("ed", "es")]
        table.writerow([renamed.get(name, name) for name in names])
        table.writerows([[line[name] for name in names] for line in lines])
    given = table_source.Options(leads=LEADS, rate_hz=float(RATE_HZ), units="mV", root=folder)
    plain = dataclasses.replace(table_source.read_source(tmp_path / "plain.csv", given), name="ecg_cmr")
    write(bare, tmp_path / "bare")
    write(plain, tmp_path / "plain")
    assert digests(tmp_path / "bare") == digests(tmp_path / "plain")
    assert sorted(digests(tmp_path / "bare")) == ["cohort.json", "dropped.csv", "index.parquet", "samples-00000.npy"]
    opened = Cohort.open(tmp_path / "bare")
    assert opened.volumes is None
    assert opened.targets == ()
    assert opened.has_volume(np.arange(3)).shape == (3, 0)
    with pytest.raises(CohortError, match="no heart images; prepare one with `leadwise prepare ecg_cmr`"):
        opened.volume(0)


def test_a_killed_preparation_continues_and_a_changed_image_is_read_again(
    folder: Path, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, packed = ecg_cmr.read_source(folder, options_for()), []
    original = prepare.pack_shard

    def pack(job: object, *others: object) -> object:
        if len(packed) == 2:
            raise KeyboardInterrupt
        packed.append(job)
        return original(job, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare, "pack_shard", pack)
    with pytest.raises(KeyboardInterrupt):
        write(source, tmp_path / "out", shard_records=5)
    monkeypatch.setattr(prepare, "pack_shard", original)
    partial = tmp_path / "out.partial"
    times = {path.name: path.stat().st_mtime_ns for path in partial.glob("volume*.npy")}
    assert len(times) == 4
    image = folder / "images" / "p0_ed.npz"
    image.touch()
    write(source, tmp_path / "out", shard_records=5)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("volume*.npy")}
    assert after["volumes-00000.npy"] != times["volumes-00000.npy"]
    assert after["volumes-00001.npy"] == times["volumes-00001.npy"]
    assert digests(tmp_path / "out") == digests(cohort.folder)

    # finished already, until an image is younger
    assert finished_ledger(source, tmp_path / "out", shard_records=5) is not None
    os.utime(image, (time.time() + 60, time.time() + 60))  # the clock of a file system may not have moved since
    assert finished_ledger(source, tmp_path / "out", shard_records=5) is None
    image.touch()  # other tests read these images


def test_a_shard_that_another_plan_began_to_replace_is_not_taken_for_finished(folder: Path, tmp_path: Path) -> None:
    plans = [options_for(), options_for(es="named")]
    sources = [ecg_cmr.read_source(folder, plan) for plan in plans]
    sources[1].rows[0].volumes["es"] = sources[1].rows[0].volumes["ed"]  # other images, files of the same size
    jobs = [
        prepare.ShardJobs(one, tmp_path, 5, 0, {"weight_kg": False, "lvedv": False, "lvesv": False})[0]
        for one in sources
    ]
    first = shard.pack_shard(jobs[0])
    before = (tmp_path / "volumes-00000.npy").read_bytes()

    # the second one is killed after its images have their name and before its marker is written
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            shard.pack_shard(jobs[1])
    assert (tmp_path / "volumes-00000.npy").read_bytes() != before
    assert shard.pack_shard(jobs[0]) == first
    assert (tmp_path / "volumes-00000.npy").read_bytes() == before


def test_a_copy_with_other_reports_has_the_images(cohort: Cohort, tmp_path: Path) -> None:
    rows = cohort.rows("train")
    write_with_other_reports(cohort, tmp_path / "copy", rows, rows[::-1])
    copy = Cohort.open(tmp_path / "copy", verify=True)
    np.testing.assert_array_equal(copy.volume(0), cohort.volume(0))
    np.testing.assert_array_equal(copy.volume_mask(0), cohort.volume_mask(0))


def test_a_copy_with_the_images_of_others_needs_no_space_and_is_verified(cohort: Cohort, tmp_path: Path) -> None:
    rows = cohort.rows("train")
    write_with_other_images(cohort, tmp_path / "copy", rows, np.roll(rows, 1))
    copy = Cohort.open(tmp_path / "copy", verify=True)
    np.testing.assert_array_equal(copy.volume(rows[0]), cohort.volume(rows[-1]))
    np.testing.assert_array_equal(copy.volume_mask(rows[0]), cohort.volume_mask(rows[-1]))
    for row in cohort.rows("test"):
        np.testing.assert_array_equal(copy.volume(row), cohort.volume(row))
    np.testing.assert_array_equal(copy.signal(rows[0])[0], cohort.signal(rows[0])[0])
    np.testing.assert_array_equal(copy.phenotypes(("lvedv",), rows), cohort.phenotypes(("lvedv",), rows))
    for file in (tmp_path / "copy").glob("*.npy"):
        assert file.samefile(cohort.folder / file.name)


def test_a_copy_has_the_texts_that_it_is_given(cohort: Cohort, tmp_path: Path) -> None:
    texts = [f"Known low EF; sinus rhythm {k}" for k in range(len(cohort))]
    write_with_texts(cohort, tmp_path / "copy", texts)
    copy = Cohort.open(tmp_path / "copy", verify=True)
    assert copy.reports[2] == "known low ef. sinus rhythm 2."
    assert copy.statements(np.array([2])) == [["known low ef", "sinus rhythm 2"]]
    assert len(copy.rows(min_report_words=6)) == len(cohort)
    assert not len(copy.rows(min_report_words=7))
    with pytest.raises(ValueError, match="1 texts for the 12 recordings"):
        write_with_texts(cohort, tmp_path / "other", texts[:1])


def test_files_that_two_cohorts_have_in_common_become_links(folder: Path, cohort: Cohort, tmp_path: Path) -> None:
    write(ecg_cmr.read_source(folder, options_for()), tmp_path / "out", shard_records=5)
    before = digests(tmp_path / "out")
    assert link_equal_files(tmp_path / "out", cohort.folder) > 0
    assert all(file.samefile(cohort.folder / file.name) for file in (tmp_path / "out").glob("*.npy"))
    assert digests(tmp_path / "out") == before
    assert link_equal_files(tmp_path / "out", cohort.folder) == 0


def test_a_table_without_any_image_is_an_error(tmp_path: Path) -> None:
    def remove_all(folder: Path, lines: list[Line]) -> None:
        for line in lines:
            line["ed"] = line["es"] = ""

    folder = make_folder(tmp_path / "source", 4, remove_all)
    with pytest.raises(CohortError, match="none of its 4 rows names a heart image; fill the columns ed, es or cine"):
        ecg_cmr.read_source(folder, options_for())


def test_shares_of_a_job_array_give_the_same_cohort(folder: Path, cohort: Cohort, tmp_path: Path) -> None:
    source = ecg_cmr.read_source(folder, options_for())
    assert [write_share(source, tmp_path / "out", (which, 2), shard_records=5) for which in (2, 1)] == [1, 2]
    write(source, tmp_path / "out", shard_records=5)
    assert digests(tmp_path / "out") == digests(cohort.folder)


@pytest.mark.slow
def test_worker_processes_give_the_same_cohort(folder: Path, cohort: Cohort, tmp_path: Path) -> None:
    with executors.processes(2) as pool:
        write(ecg_cmr.read_source(folder, options_for()), tmp_path / "out", shard_records=5, pool=pool)
    assert digests(tmp_path / "out") == digests(cohort.folder)


def test_verify_detects_a_changed_volume_and_a_changed_mask(folder: Path, tmp_path: Path) -> None:
    write(ecg_cmr.read_source(folder, options_for()), tmp_path / "out")
    for name, offset in (("volumes-00000.npy", -40), ("volume-masks-00000.npy", -40)):
        path = tmp_path / "out" / name
        content = bytearray(path.read_bytes())
        content[offset] ^= 1
        path.write_bytes(content)
        Cohort.open(tmp_path / "out")
        with pytest.raises(CohortError, match="checksum differs"):
            Cohort.open(tmp_path / "out", verify=True)
        content[offset] ^= 1
        path.write_bytes(content)
    Cohort.open(tmp_path / "out", verify=True)
    path.unlink()
    with pytest.raises(CohortError, match=r"volume-masks-00000.npy is missing"):
        Cohort.open(tmp_path / "out")


def test_missing_and_broken_images_are_errors_unless_they_may_be_left_out(tmp_path: Path) -> None:
    def plant(folder: Path, lines: list[Line]) -> None:
        (folder / "images" / "p1_es.npz").unlink()
        (folder / "images" / "p2_ed.npz").write_bytes(b"no zip")
        frames, _ = beating_heart((8.0,))
        frames[0, 0, 0, 0] = np.nan
        write_npz(folder / "images" / "p3_ed.npz", frames[0])

    folder = make_folder(tmp_path / "source", 6, plant)
    source = ecg_cmr.read_source(folder, options_for())
    with pytest.raises(
        LeftOutError, match=r"1 heart images have a missing file .*p1_es.npz.*; 2 heart images cannot be used"
    ):
        write(source, tmp_path / "out")
    with pytest.raises(LeftOutError, match="2 heart images cannot be used"):
        write(source, tmp_path / "out", allow_missing=True)
    ledger = write(source, tmp_path / "out", allow_missing=True, allow_unreadable=True)
    assert ledger.kept == 6
    cohort = Cohort.open(tmp_path / "out", verify=True)
    assert cohort.has_volume(np.arange(4)).tolist() == [[True, True], [True, False], [False, True], [False, True]]
    description = json.loads((tmp_path / "out" / "cohort.json").read_text())
    assert description["volumes_left_out"] == {"missing_file": 1, "not_finite": 1, "unreadable": 1}
    assert len((tmp_path / "out" / "volumes_left_out.csv").read_text().splitlines()) == 4
    finding = titles(audit_cohort(cohort).findings)["heart images left out"]
    assert (finding.n, finding.severity) == (3, "warning")


def test_the_estimate_counts_the_images(folder: Path, tmp_path: Path) -> None:
    paired = ecg_cmr.read_source(folder, options_for())
    bare = dataclasses.replace(paired, volume=None, rows=[dataclasses.replace(row, volumes={}) for row in paired.rows])
    larger, smaller = (estimate(source, tmp_path / "out").bytes_per_record for source in (paired, bare))
    n_values = np.prod(VOLUME.shape)
    assert larger - smaller == pytest.approx(11 / 12 * 3 * n_values, rel=0.3)  # float16 and uint8
    assert not list(tmp_path.iterdir())


def test_metadata_lists_the_files_of_images(cohort: Cohort) -> None:
    names = [file["name"] for file in describe(cohort)["distribution"]]
    assert {"volumes-00000.npy", "volume-masks-00002.npy"} <= set(names)


# ---------------------------------------------------------------------------------------------------------- the table


def test_frames_of_a_cine_are_chosen_by_the_options(tmp_path: Path) -> None:
    def as_cine(folder: Path, lines: list[Line]) -> None:
        frames, masks = beating_heart((9.0, 7.0, 6.0, 6.5, 8.0, 8.5))
        write_npz(folder / "images" / "cine.npz", frames, masks)
        for line in lines:
            line |= {"ed": "", "es": "", "cine": "images/cine.npz", "es_frame": ""}
        lines[1]["es_frame"] = "3.0"
        lines[2]["es_frame"] = "soon"

    folder = make_folder(tmp_path / "source", 3, as_cine)
    chosen = {es: ecg_cmr.read_source(folder, options_for(es=es, shape="file")) for es in ("min", "half", "named")}
    assert [chosen["min"].rows[0].volumes[phase].item for phase in ("ed", "es")] == [LARGEST, SMALLEST]
    assert chosen["half"].rows[0].volumes["es"].item == HALF
    assert [row.record for row in chosen["named"].rows] == ["p1"]
    assert chosen["named"].rows[0].volumes["es"].item == "3"
    assert "es_frame is 'soon'; it must be a whole number" in chosen["named"].bad_rows[-1].reason
    assert "ES frame of its cine is not known; name it in es_frame" in chosen["named"].bad_rows[0].reason
    assert chosen["min"].volume == Volume(slices=7, rows=32, columns=40, spacing_mm=SPACING_MM)
    write(chosen["half"], tmp_path / "out", allow_unreadable=True)
    assert Cohort.open(tmp_path / "out").column("volume_frame", np.arange(2)).iloc[0].tolist() == [0, 3]


def test_a_scar_is_read_from_the_file_of_ed(tmp_path: Path) -> None:
    def add_scar(folder: Path, lines: list[Line]) -> None:
        for number, line in enumerate(lines):
            frames, masks = beating_heart((8.0,), seed=number)
            scar = (masks[0] == 2) * np.float32(number)  # the first has none
            write_npz(folder / str(line["ed"]), frames[0], masks[0], scar=scar)

    folder = make_folder(tmp_path / "source", 3, add_scar)
    source = ecg_cmr.read_source(folder, options_for(phases=("ed", "es", "scar")))
    write(source, tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out", verify=True)
    assert cohort.has_volume(np.arange(3)).all()
    assert not cohort.volume(0)[2].any()
    assert cohort.volume(1)[2].max() == 1
    assert cohort.volume(2)[2].max() == 2


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"ed": "../outside.npz"}, "leaves"),
        ({"target.lvedv": "large"}, "subjects.csv row 3: target.lvedv is 'large'; it must be a number or empty"),
        ({"lvedv": "1"}, "column target.lvedv has the name of another column"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    folder = make_folder(tmp_path / "source", 3, lambda _, lines: lines[1].update(cells))
    try:
        reasons = [row.reason for row in ecg_cmr.read_source(folder, options_for()).bad_rows]
    except CohortError as error:
        reasons = [str(error)]
    assert len(reasons) == 1
    assert message in reasons[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shape=6x46"], "give slices x rows x columns such as 6x46x42"),
        (["es=late"], "it must be one of min, half, named"),
        (["mask_labels=1,1,2"], "three different numbers"),
        (["phases=ED"], "lower-case letters"),
    ],
)
def test_a_wrong_option_is_one_clear_error(folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["prepare", "ecg_cmr", str(folder), *words, "-o", str(tmp_path / "out")])
    text = " ".join((result.output + str(result.exception)).replace("│", " ").split())
    assert result.exit_code != 0
    assert message in text


def test_the_command_prepares_nifti_and_verifies(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")

    def as_nifti(folder: Path, lines: list[Line]) -> None:
        for number, line in enumerate(lines):
            frames, masks = beating_heart((9.0, 7.0, 6.0, 8.0), seed=number)
            write_nifti(folder / "images" / f"p{number}.nii.gz", frames, (2, 0, 1), (0, 2))
            write_nifti(folder / "images" / f"p{number}_mask.nii.gz", masks, (2, 0, 1), (0, 2))
            line |= {
                "ed": "",
                "es": "",
                "cine": f"images/p{number}.nii.gz",
                "cine_mask": f"images/p{number}_mask.nii.gz",
            }

    folder, out = make_folder(tmp_path / "source", 4, as_nifti), tmp_path / "out"
    given = ["shape=5x24x28", "spacing_mm=8,2.5,2", "rate_hz=100", "units=mV", f"leads={','.join(LEADS)}"]
    result = CliRunner().invoke(app, ["prepare", "ecg_cmr", str(folder), *given, "-o", str(out)])
    assert result.exit_code == 0, result.output
    cohort = Cohort.open(out, verify=True)
    assert cohort.has_volume(np.arange(4)).all()
    assert cohort.column("volume_frame", np.arange(4)).iloc[3].tolist() == [0, 2]
    assert all(cohort.column("volume_oriented", np.arange(4)).iloc[0])
    blood = np.stack(cohort.column("volume_blood_ml", np.arange(4)).to_list())
    assert (blood[:, 1] < blood[:, 0]).all()


# ----------------------------------------------------------------------------------------------------------- the audit


def test_the_audit_of_clean_images_has_no_fault(cohort: Cohort) -> None:
    names = titles(audit_cohort(cohort).findings)
    about_images = {
        name: finding for name, finding in names.items() if "image" in name or "slice" in name or "ES" in name
    }
    assert {name: finding.severity for name, finding in about_images.items()} == {"heart images absent": "note"}
    assert "1 without es; 1 without ed, es" in about_images["heart images absent"].message


def test_a_heart_at_another_place_is_not_turned(tmp_path: Path) -> None:
    """A heart that is symmetric about a row agrees with its mirror image at once where ES is some rows lower."""

    def move(folder: Path, lines: list[Line]) -> None:
        for number, steps in ((0, 4), (1, 0)):
            path = folder / "images" / f"p{number}_es.npz"
            with np.load(path) as arrays:
                volume, mask = (np.roll(arrays[name], steps, axis=1) for name in ("volume", "mask"))
            write_npz(path, volume, mask)
        with np.load(folder / "images" / "p1_es.npz") as arrays:  # turned, and so moved too
            write_npz(folder / "images" / "p1_es.npz", arrays["volume"][:, :, ::-1], arrays["mask"][:, :, ::-1])

    write(ecg_cmr.read_source(make_folder(tmp_path / "source", 4, move), options_for()), tmp_path / "out")
    store = Cohort.open(tmp_path / "out").volume_store
    masks = store.mask(0)
    assert _equal_share(masks[0], np.flip(masks[1], 1)) > _equal_share(masks[0], masks[1]) + 0.1
    cohort = Cohort.open(tmp_path / "out")
    finding = titles(tuple(check_volumes(cohort, np.arange(4))))["orientation of ED and ES differs"]
    assert [example.record for example in finding.examples] == ["p1"]


def test_the_audit_finds_planted_faults(tmp_path: Path) -> None:
    def plant(folder: Path, lines: list[Line]) -> None:
        images = folder / "images"

        def change(name: str, changed: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
            with np.load(images / name) as arrays:
                write_npz(images / name, *changed(arrays["volume"], arrays["mask"]))

        lines[0]["ed"], lines[0]["es"] = lines[0]["es"], lines[0]["ed"]
        change("p1_es.npz", lambda v, m: (v[:, :, ::-1], m[:, :, ::-1]))
        change("p2_es.npz", lambda v, m: (v[::-1], m[::-1]))
        for phase in ("ed", "es"):  # a short stack, and one from the apex
            change(f"p3_{phase}.npz", lambda v, m: (v[:3], m[:3]))
            change(f"p5_{phase}.npz", lambda v, m: (v[::-1], m[::-1]))
        lines[6]["ed"], lines[6]["es"] = lines[7]["ed"], lines[7]["es"]

        def blacken(volume: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            volume[3] = 0
            return volume, mask

        change("p8_ed.npz", blacken)
        for number, line in enumerate(lines):
            if line["split"] != "train":
                for phase in ("ed", "es"):
                    change(f"p{number}_{phase}.npz", lambda v, m: (1.3 * v, m))

    folder = make_folder(tmp_path / "source", 88, plant)
    write(ecg_cmr.read_source(folder, options_for()), tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out")
    names = titles(tuple(check_volumes(cohort, np.arange(len(cohort)))))
    expected = {
        "ES larger than ED by the masks": ("error", 1, ["p0"]),
        "orientation of ED and ES differs": ("error", 2, ["p1", "p2"]),
        "missing slices": ("warning", 1, ["p3"]),
        "slices from the apex": ("warning", 1, ["p5"]),
        "heart images of another patient": ("error", 1, ["p7"]),
    }
    for name, (severity, n, records) in expected.items():
        assert (names[name].severity, names[name].n) == (severity, n), name
        assert [example.record for example in names[name].examples] == records
    assert [example.record for example in names["empty slices"].examples] == ["p3", "p8"]
    tied = [name for name in names if name.startswith("brightness of heart images differs between splits")]
    assert len(tied) == 4


def test_the_page_shows_images_and_faults(cohort: Cohort, tmp_path: Path) -> None:
    report = audit_page.check_cohort(cohort)
    audit_page.write_page(report, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert_pictures_first(page)
    assert "11 ed, 10 es, of 12 recordings; 5 slices of 24 × 28 pixels, 8 × 2.5 × 2 mm" in page
    for record in ("p0", "p1", "p4"):  # the first that have all phases, and one that has not
        assert f"heart images of {record}" in page
    assert "heart images absent. p2" in page


def test_a_montage_has_a_row_per_phase(cohort: Cohort) -> None:
    figure = heart_images.draw(cohort.volume(2), ("ed", "es"), cohort.volume_mask(2), [True, False], title="a_b $x$")
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["no image"]
    assert len(figure.axes) == 2
    with pytest.raises(ValueError, match="do not fit 3 phases"):
        heart_images.draw(cohort.volume(2), ("ed", "es", "scar"))
