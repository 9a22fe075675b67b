"""Write simulated pairs of ECG and heart volumes as files: a table of subjects, WFDB files, volumes, and the true values.

    subjects.csv   record, patient, split, ecg, ed, es, report, age, sex, target.<phenotype>, label.outcome.<name>
    ecg/00/*.hea   12-lead ECGs of 10 s, one per person, with the noise and the devices of `leadwise simulate`
    volumes/00/    *_ed.npz, *_es.npz: volume, spacing_mm, mask (1 left blood, 2 myocardium, 3 right blood), first slice at
                   the base; with infarcts also `scar` in *_ed.npz: the late-enhancement volume
    truth.csv      anatomy, ECG features, sizes of the chambers, device, artefacts, probability of each outcome, infarct
    bounds.json    highest R² possible from the ECG for each phenotype
    oracle.json    highest AUROC possible from the ECG for each outcome; recall of the likelihood oracle in pools of 64 and 256,
                   of people without infarcts, which the file states where infarcts are simulated

The anatomy decides both the ECG and the image. Whoever predicts a phenotype from the ECG better than its bound has a leak.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.data.cohort.layout import CohortError, creating_folder
from leadwise.data.simulator.acquisition import capture, draw_device, write_wfdb
from leadwise.data.simulator.paired.bounds import auroc_bounds, phenotype_bounds, retrieval_bounds
from leadwise.data.simulator.paired.electrical import draw_paired_tracing, draw_patient
from leadwise.data.simulator.paired.geometry import TERRITORIES, Chambers, Infarct, chambers, draw_infarct
from leadwise.data.simulator.paired.population import (
    FEATURES,
    HALF_CONTRACTION,
    LATENTS,
    Array,
    draw_anatomy,
    draw_features,
    draw_splits,
    outcome_probability,
    phenotypes,
    random_stream,
)
from leadwise.data.simulator.paired.voxels import Grid, image, scar_image, tissue
from leadwise.data.simulator.reports import write_report
from leadwise.data.simulator.table import Row, write_table
from leadwise.progress import Progress

log = logging.getLogger(__name__)

INFARCT_SHARE = 0.20  # of the people, where infarcts are simulated
INFARCT_NOTE = (
    "Recall is of people without infarcts; an infarct is in both ECG and image, so that a method may exceed it."
)

_PER_FOLDER = 100
_PER_TASK = 20  # people that a process simulates at once
_POOLS = (64, 256)


@dataclass(frozen=True)
class PairSettings:
    """What is simulated besides ECG and volumes at end-diastole and end-systole."""

    grid: Grid = field(default_factory=Grid)
    infarcts: bool = False
    half: bool = False  # a third volume, in the middle of the RR interval
    slice_shift_mm: float = 0.0  # SD

    def __post_init__(self) -> None:
        if not 0 <= self.slice_shift_mm <= 20:
            raise CohortError(f"a slice shift of {self.slice_shift_mm:g} mm cannot be simulated; give 0 to 20")


def simulate_pairs(
    folder: Path,
    n_people: int,
    seed: int,
    settings: PairSettings | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Write `n_people` simulated pairs into a new folder and return it; the same seed gives the same files.

    `progress` is called with ("simulate", people written, people in total).

    Raises:
        CohortError: the folder exists, or `n_people` or `processes` is not positive.
    """
    for name, number in (("records", n_people), ("processes", processes)):
        if number < 1:
            raise CohortError(f"{number} {name} cannot be used; give 1 or more")
    with creating_folder(folder) as partial:
        write = functools.partial(_write_people, partial, seed, settings or PairSettings())
        subjects: list[Row] = []
        truths: list[Row] = []
        people = tuple(enumerate(draw_splits(n_people, seed)))
        tasks = [people[at : at + _PER_TASK] for at in range(0, n_people, _PER_TASK)]
        for rows in _in_processes(write, tasks, processes):
            subjects += [subject for subject, _ in rows]
            truths += [truth for _, truth in rows]
            if progress is not None:
                progress("simulate", len(subjects), n_people)
        write_table(partial / "truth.csv", truths)
        _write_json(partial / "bounds.json", phenotype_bounds())
        note = {"note": INFARCT_NOTE} if settings is not None and settings.infarcts else {}
        _write_json(partial / "oracle.json", {**oracle(), **note})
        write_table(partial / "subjects.csv", subjects)
    log.info("simulated %d pairs of ECG and heart volumes in %s", n_people, folder)
    return folder


def oracle() -> dict[str, dict[str, float] | dict[str, dict[str, float]]]:
    """Return the content of `oracle.json`: AUROC of each outcome, and recall at 1, 5 and 10 in each pool."""
    return {
        "auroc": {f"outcome.{name}": round(value, 3) for name, value in auroc_bounds().items()},
        "retrieval": {
            str(pool): {f"r_at_{k}": round(value, 3) for k, value in retrieval_bounds(pool).items()} for pool in _POOLS
        },
    }


_Rows = list[tuple[Row, Row]]
_People = tuple[tuple[int, str], ...]


def _in_processes(write: Callable[[_People], _Rows], tasks: list[_People], processes: int) -> Iterator[_Rows]:
    """Yield the rows of each task in order, from this process or several."""
    if processes == 1:
        yield from map(write, tasks)
        return
    from leadwise.data.cohort import executors

    with executors.processes(processes) as pool:
        waiting: list[Future[_Rows]] = [pool.executor.submit(write, people) for people in tasks]
        for future in waiting:
            yield future.result()


def _write_people(folder: Path, seed: int, settings: PairSettings, people: _People) -> _Rows:
    return [_write_person(folder, seed, settings, number, split) for number, split in people]


def _write_person(folder: Path, seed: int, settings: PairSettings, number: int, split: str) -> tuple[Row, Row]:
    """Write the files of one person; return the rows of subjects.csv and truth.csv."""
    # the person: each part from a random stream of its own
    record = f"p{number + 1:05d}"
    stream = functools.partial(random_stream, seed, record)
    anatomy = draw_anatomy(stream("anatomy"), 1)
    features = draw_features(anatomy, stream("features"))[0]
    values = phenotypes(anatomy)
    patient = draw_patient(number, split, stream("traits"))
    infarct = None
    if settings.infarcts:
        rng = stream("infarct")
        infarct = draw_infarct(rng) if rng.random() < INFARCT_SHARE else None
    chance = outcome_probability(values)
    fate = stream("outcome").random(len(chance))

    # the ECG
    rng = stream("ecg")
    device = draw_device(rng)
    tracing = draw_paired_tracing(features, infarct, patient, device.rate_hz, rng)
    captured = capture(tracing.leads, device, rng)
    report = write_report(tracing.presentation, tracing.truth["rate_bpm"], stream("report"))
    place = f"{number // _PER_FOLDER:02d}"
    ecg = folder / "ecg" / place / record
    ecg.parent.mkdir(parents=True, exist_ok=True)
    write_wfdb(ecg, captured.digital, device, (f"age: {patient.age_years}", f"sex: {patient.sex}", "simulated"))

    # the volumes
    paths, hearts = _write_volumes(folder, f"volumes/{place}/{record}", anatomy[0], infarct, settings, stream)

    # the rows of the two tables
    row: Row = {
        "record": record,
        "patient": f"s{seed}-{number + 1:05d}",  # not the record's name, and another person in a cohort of another seed
        "split": split,
        "ecg": ecg.with_name(f"{record}.hea").relative_to(folder).as_posix(),
        **paths,
        "report": report.text,
        "age": patient.age_years,
        "sex": patient.sex,
        **{f"target.{name}": round(float(value[0]), 3) for name, value in values.items()},
        **{f"label.outcome.{name}": int(fate[k] < chance[name][0]) for k, name in enumerate(chance)},
    }
    if settings.infarcts:
        where = infarct.territory if infarct else ""
        row |= {f"label.infarct.{name}": int(where == name) for name in TERRITORIES}
    truth: Row = {
        "record": record,
        **{f"anatomy.{name}": round(float(value), 5) for name, value in zip(LATENTS, anatomy[0])},
        **{f"feature.{name}": round(float(value), 5) for name, value in zip(FEATURES, features)},
        **_sizes(hearts, values),
        **{f"ecg.{name}": round(value, 2) for name, value in tracing.truth.items()},
        **{f"probability.{name}": round(float(value[0]), 4) for name, value in chance.items()},
        "infarct": infarct.territory if infarct else "",
        "report_states": " ".join(report.stated),
        "report_omits": " ".join(report.omitted),
        "rate_hz": device.rate_hz,
        **captured.artefacts,
    }
    return row, truth


def _write_volumes(
    folder: Path,
    stem: str,
    anatomy: Array,
    infarct: Infarct | None,
    settings: PairSettings,
    stream: Callable[[str], np.random.Generator],
) -> tuple[dict[str, str], dict[str, Chambers]]:
    """Write the volume of each phase; return the path and the chambers of each."""
    phases = {"ed": 0.0, "es": 1.0} | ({"half": HALF_CONTRACTION} if settings.half else {})
    hearts = {phase: chambers(anatomy, contraction, infarct) for phase, contraction in phases.items()}
    paths = {}
    for phase, heart in hearts.items():
        # another random stream for each volume: the phases have the anatomy in common and nothing else
        rng = stream(f"volume {phase}")
        parts = tissue(heart, hearts["ed"], settings.grid, rng, settings.slice_shift_mm)
        arrays: dict[str, Any] = {"volume": image(parts, rng), "mask": parts.mask()}
        arrays["spacing_mm"] = np.array(settings.grid.spacing_mm, np.float32)
        if settings.infarcts and phase == "ed":
            arrays["scar"] = scar_image(parts, stream("volume scar"))
        paths[phase] = f"{stem}_{phase}.npz"
        path = folder / paths[phase]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **arrays)
    return paths, hearts


def _sizes(hearts: dict[str, Chambers], values: dict[str, Array]) -> Row:
    """Return the sizes of the chambers, and the volume and ejection fraction at half of the RR interval."""
    ed, es = hearts["ed"], hearts["es"]
    lvedv, lvsv = float(values["lvedv"][0]), float(values["lvsv"][0])
    volumes = ed.volumes()
    return {
        "lv_length_mm": round(ed.length, 2),
        "lv_diameter_mm": round(2 * ed.radius, 2),
        "wall_ed_mm": round(ed.wall, 2),
        "wall_es_mm": round(es.wall, 2),
        "lvedv_ml": round(lvedv, 3),
        "lvesv_ml": round(lvedv - lvsv, 3),
        "lv_half_ml": round(lvedv - HALF_CONTRACTION * lvsv, 3),
        "lvef_half": round(100 * HALF_CONTRACTION * lvsv / lvedv, 3),
        "scar_share": round(volumes["scar"] / volumes["myocardium"], 4),
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
