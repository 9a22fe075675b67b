"""The simulated pairs of the target `dual_phase`: one set of people, prepared three times.

paired     every ECG with the images of its own heart
shuffled   the images of the training people are exchanged between them: a control that has nothing to learn
half       the systolic image is the middle of the RR interval, as in the paper's code, and not the smallest volume

Validation and test people are the same in all of them, with the images of their own heart. Files that two cohorts have in
common are on the disk once, as links.
"""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leadwise.batch import LEADS
from leadwise.data.cohort.changed_copy import link_equal_files, write_with_other_images
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.simulator.paired.cohort import PairSettings, simulate_pairs
from leadwise.data.sources import ecg_cmr
from leadwise.evaluate.volume_retrieval import Oracle, read_oracle
from leadwise.files import replacing
from leadwise.pictures import heart_pairs
from leadwise.progress import Progress

PAIRED, SHUFFLED, HALF = "dual_phase_paired", "dual_phase_shuffled", "dual_phase_half"  # names of the cohort folders
SEED = 0

_TRUTH, _ORACLE = "dual_phase_truth.csv", "dual_phase_oracle.json"
_OF_HEARTS, _LEADS_OF_HEARTS = ("lvef", "lvedv", "lvmass"), ("II", "V2", "V5")  # of the picture of pairs
Subjects = list[dict[str, str]]


@dataclass(frozen=True)
class PairedData:
    """The prepared cohorts and what the simulation knows of them."""

    folders: dict[str, Path]  # PAIRED, SHUFFLED, HALF
    oracle: Oracle
    ef_shift: float  # mean of the measured EF at half of the RR interval minus the true EF, in points

    def open(self, name: str = PAIRED) -> Cohort:
        """Return one of the cohorts."""
        return Cohort.open(self.folders[name])


def paired_data(out: Path, n_people: int, progress: Progress) -> PairedData:
    """Return the cohorts in `out`; simulate and prepare those that do not exist.

    Raises:
        CohortError: the folder has a cohort of another number of people.
    """
    folders = {name: out / name for name in (PAIRED, SHUFFLED, HALF)}
    truth, oracle = out / _TRUTH, out / _ORACLE
    if not (truth.is_file() and oracle.is_file() and all((one / "cohort.json").is_file() for one in folders.values())):
        pairs = out / "dual_phase_pairs"
        if not (pairs / "truth.csv").is_file():  # a folder that was simulated is complete
            simulate_pairs(pairs, n_people, SEED, PairSettings(half=True), progress=progress)
        for old in folders.values():
            shutil.rmtree(old, ignore_errors=True)
        for table, name in (("subjects.csv", PAIRED), ("half.csv", HALF)):
            write_subjects(pairs, pairs / table, name)
            write(ecg_cmr.read_source(pairs / table, ecg_cmr.Options()), folders[name], progress=progress)
        link_equal_files(folders[HALF], folders[PAIRED])  # the ECGs
        paired = Cohort.open(folders[PAIRED])
        write_with_other_images(paired, folders[SHUFFLED], *shuffled(paired.rows("train")))
        for file, copy in (("oracle.json", oracle), ("truth.csv", truth)):
            with replacing(copy) as part:
                shutil.copyfile(pairs / file, part)
        shutil.rmtree(pairs)
    with truth.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    if len(rows) != n_people:
        raise CohortError(
            f"{out} has {len(rows):,} simulated people, not {n_people:,}; choose another --out, or delete this one"
        )
    true_ef = {row["record"]: 100 * (1 - float(row["lvesv_ml"]) / float(row["lvedv_ml"])) for row in rows}
    shift = float(np.mean([float(row["lvef_half"]) - true_ef[row["record"]] for row in rows]))
    return PairedData(folders, read_oracle(oracle), shift)


def write_subjects(pairs: Path, table: Path, name: str) -> None:
    """Write the table of subjects of one of the cohorts; that of the pairs themselves has the images under `half` removed."""
    original = pairs / "all_subjects.csv"
    if not original.is_file():
        shutil.copyfile(pairs / "subjects.csv", original)
    with original.open(encoding="utf-8", newline="") as lines:
        subjects = list(csv.DictReader(lines))
    subjects = half(subjects) if name == HALF else subjects
    columns = [column for column in subjects[0] if column != "half"]
    with replacing(table) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(subjects)


def shuffled(rows: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return rows of the training people in random order, and for each the row of the person whose images it gets."""
    order = rows[np.random.default_rng(SEED).permutation(len(rows))]
    return order, np.roll(order, 1)


def half(subjects: Subjects) -> Subjects:
    """Return the subjects with the image at half of the RR interval as the systolic one."""
    return [{**row, "es": row["half"]} for row in subjects]


def describe(data: PairedData) -> str:
    """Return one sentence on the people."""
    cohort = data.open()
    n = {split: len(cohort.rows(split)) for split in ("train", "val", "test")}
    return (
        f"{len(cohort):,} simulated people with one ECG and a heart volume in two phases each, which show how the method works "
        f"and nothing about patients: {n['train']:,} for pre-training, {n['val']:,} for the fit of the probes, "
        f"{n['test']:,} for the test."
    )


def hearts(cohort: Cohort) -> Figure:
    """Return a picture of the test people with the lowest, the middle and the highest ejection fraction of a sample."""
    volumes = cohort.volumes
    assert volumes is not None
    rows = cohort.rows("test")[:100]
    rows = rows[cohort.has_volume(rows).all(axis=1)]
    values = cohort.phenotypes(_OF_HEARTS, rows)
    order = np.argsort(values[:, 0])
    places = [LEADS.index(lead) for lead in _LEADS_OF_HEARTS]
    pairs = []
    for k in (order[0], order[len(order) // 2], order[-1]):
        signal, rate_hz = cohort.signal(int(rows[k]))
        ef, edv, mass = values[k]
        pairs.append(
            heart_pairs.Pair(
                f"EF {ef:.0f} %, EDV {edv:.0f} mL, mass {mass:.0f} g",
                signal[: int(2.5 * rate_hz), places].T,
                rate_hz,
                cohort.volume(int(rows[k])),
                cohort.volume_mask(int(rows[k])),
            )
        )
    slices = np.unique(np.linspace(0, volumes.slices - 1, 5).round().astype(int)[1:4]).tolist()
    title = "Simulated pairs of ECG and heart: blood of the left and right ventricle outlined"
    return heart_pairs.draw(pairs, _LEADS_OF_HEARTS, volumes.phases, slices, volumes.spacing_mm[1:], title)
