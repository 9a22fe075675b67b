"""For tests and benchmarks: a folder in the shape of MIMIC-IV-ECG, with flaws in known rows.

The waves are cheap and made up: a beat of five bumps, repeated; the limb leads obey III = II - I and its kin. No text
and no number is of the real data set.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
RATE_HZ = 500
GAIN = 200  # steps per mV
N_REPORTS = 18
MISSING = -32768
SHIFT = 7  # samples between the windows of records that share a file

_RHYTHMS = (
    "Sinus rhythm", "Sinus bradycardia", "Sinus tachycardia", "Atrial fibrillation", "Sinus arrhythmia",
    "Atrial flutter", "Ectopic atrial rhythm", "Ventricular pacing", "Sinus rhythm with first degree AV block",
)  # fmt: skip
_FINDINGS = (
    "Left axis deviation", "Right axis deviation", "Left bundle branch block", "Right bundle branch block",
    "Low voltage in the limb leads", "Possible left atrial enlargement", "Inferior infarct - age undetermined",
    "Anterior ST elevation, consider injury", "Lateral T wave changes are nonspecific", "QT interval is long",
    "Occasional ventricular premature complexes", "Voltage criteria for left ventricular hypertrophy",
    "Poor R wave progression", "Early repolarization pattern", "Baseline wander in V1 and V2",
)  # fmt: skip
_VERDICTS = ("Normal ECG", "Abnormal ECG", "Borderline ECG", "Summary: abnormal tracing")

REPORT_FLAWS = {  # kind -> what the statements of its rows are, in turn
    "no_report": ((), ("***",), ("", "--- *", "")),
    "three_words": (
        ("Sinus rhythm", "borderline"),
        ("Sinus rhythm", "borderline ="),
        ("*** Atrial flutter", "new ***"),
    ),
    "four_words": (("Sinus rhythm", "Normal ECG"), ("Sinus", "rhythm", "Normal", "ECG")),
    "marks": (("*** Sinus rhythm ***", "*** Abnormal ECG ***"), ("=== Atrial flutter", "Abnormal ECG ---")),
    "ekg": (("Sinus rhythm", "Abnormal EKG"), ("ekg shows a sinus rhythm",)),
    "line_break": (("Sinus rhythm\nwith pauses", "Abnormal\r\nECG\t"), ("Normal sinus rhythm\n", "normal ECG")),
    "inner_marks": (("Sinus rhythm", "--- Warning: poor data quality ---", "Abnormal ECG"),),
}
SIGNAL_FLAWS = ("short_gap", "long_gap", "half_missing", "flat", "truncated", "no_dat", "no_hea")


@dataclass(frozen=True)
class Tree:
    """What was written; rows are those of record_list.csv."""

    folder: Path
    subjects: np.ndarray  # (N,) int64
    studies: np.ndarray  # (N,) int64
    paths: tuple[str, ...]
    statements: tuple[tuple[str, ...], ...]  # as the table has them; '' is an empty cell
    flaws: dict[str, tuple[int, ...]]  # kind -> rows; a row has one flaw at most


def write_tree(
    folder: Path,
    n_records: int = 2000,
    seed: int = 0,
    n_samples: int = 10 * RATE_HZ,
    *,
    n_flawed: int = 3,
    shared_files: bool = False,
) -> Tree:
    """A tree of `n_records`, each of `n_samples`; `n_flawed` rows of each flaw.

    With `shared_files` the records of a subject are windows, a few samples apart, of one .dat in the subject's folder
    (format 16+OFFSET), and lie beside it: little disk for many records. Flawed signals still have files of their own.
    """
    tree = plan(folder, n_records, seed, n_flawed=n_flawed, shared_files=shared_files)
    write_tables(tree, seed)
    write_signals(tree, seed, n_samples, shared_files=shared_files)
    return tree


def plan(folder: Path, n_records: int, seed: int = 0, *, n_flawed: int = 3, shared_files: bool = False) -> Tree:
    """Who, what and where; nothing is written."""
    kinds = (*REPORT_FLAWS, *SIGNAL_FLAWS)
    if n_records < n_flawed * len(kinds):
        raise ValueError(f"{n_records} records cannot hold {n_flawed} of {len(kinds)} flaws; ask for more records")
    rng = np.random.default_rng([seed, 1])
    subjects = 10_000_000 + np.cumsum(rng.integers(1, 90, n_records))
    subjects = np.repeat(subjects, rng.integers(1, 11, n_records))[:n_records]  # 1 to 10 records each
    studies = 40_000_000 + rng.permutation(10 * n_records)[:n_records]
    flawed = rng.choice(n_records, n_flawed * len(kinds), replace=False).reshape(len(kinds), n_flawed)
    flaws = {kind: tuple(sorted(rows)) for kind, rows in zip(kinds, flawed.tolist())}
    statements = [_cells(rng) for _ in range(n_records)]
    for kind, reports in REPORT_FLAWS.items():
        for turn, row in enumerate(flaws[kind]):
            statements[row] = reports[turn % len(reports)]
    paths = (
        f"files/p{subject // 10_000}/p{subject}/" + (f"{study}" if shared_files else f"s{study}/{study}")
        for subject, study in zip(subjects.tolist(), studies.tolist())
    )
    return Tree(folder, subjects, studies, tuple(paths), tuple(statements), flaws)


def _cells(rng: np.random.Generator) -> tuple[str, ...]:
    """An unflawed report: a rhythm, up to five findings (rarely all of them), a verdict; four words at least."""
    draw = rng.random(4)
    n_findings = len(_FINDINGS) if draw[0] > 0.995 else int(draw[0] * 6)
    first = int(draw[1] * len(_FINDINGS))
    findings = (_FINDINGS + _FINDINGS)[first : first + n_findings]
    return (_RHYTHMS[int(draw[2] * len(_RHYTHMS))], *findings, _VERDICTS[int(draw[3] * len(_VERDICTS))])


# ----------------------------------------------------------------------------------------------------------- tables


def write_tables(tree: Tree, seed: int = 0) -> None:
    """The two tables; their rows are in different orders."""
    tree.folder.mkdir(parents=True, exist_ok=True)
    subjects, studies = tree.subjects.tolist(), tree.studies.tolist()
    with (tree.folder / "record_list.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["subject_id", "study_id", "file_name", "ecg_time", "path"])
        for row, path in enumerate(tree.paths):
            table.writerow([subjects[row], studies[row], studies[row], time_of(row), path])
    before = ["subject_id", "study_id", "cart_id", "ecg_time"]
    after = ["bandwidth", "filtering", "rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end"]
    after += ["p_axis", "qrs_axis", "t_axis"]
    rng = np.random.default_rng([seed, 2])
    with (tree.folder / "machine_measurements.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*before, *(f"report_{k}" for k in range(N_REPORTS)), *after])
        for row in rng.permutation(len(subjects)).tolist():
            cells = tree.statements[row] + ("",) * (N_REPORTS - len(tree.statements[row]))
            known = [subjects[row], studies[row], 6_800_000 + row % 97, time_of(row)]
            table.writerow(
                [*known, *cells, "0.005-150 Hz", "60 Hz notch", 900 - row % 300, 40, 150, 190, 280, 560, 9, 9, 9]
            )


def time_of(row: int) -> str:
    """When the record of a row was taken."""
    return f"{2110 + row % 90}-{row % 12 + 1:02d}-{row % 28 + 1:02d} {row % 24:02d}:{row % 60:02d}:00"


# ---------------------------------------------------------------------------------------------------------- signals


def write_signals(tree: Tree, seed: int, n_samples: int, *, shared_files: bool) -> None:
    """Header and samples of each record, flawed where the tree says so."""
    rng = np.random.default_rng([seed, 3])
    noise = _noise(rng)
    flaw_of = {row: kind for kind in SIGNAL_FLAWS for row in tree.flaws[kind]}
    begins = np.flatnonzero(np.diff(tree.subjects, prepend=-1)).tolist()
    for begin, end in zip(begins, [*begins[1:], len(tree.subjects)]):
        beat = _beat(rng)
        whole = _tracing(rng, beat, noise, n_samples + SHIFT * (end - begin)) if shared_files else None
        common = tree.folder / Path(tree.paths[begin]).parent / f"p{tree.subjects[begin]}.dat"
        if whole is not None:
            common.parent.mkdir(parents=True, exist_ok=True)
            whole.tofile(common)
        for row in range(begin, end):
            path = tree.folder / tree.paths[row]
            flaw = flaw_of.get(row)
            if whole is not None and flaw is None:
                start = SHIFT * (row - begin)
                _write_header(path, tree, row, whole[start : start + n_samples], common.name, start * whole.strides[0])
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_own(path, tree, row, _tracing(rng, beat, noise, n_samples), flaw)


def _write_own(path: Path, tree: Tree, row: int, samples: np.ndarray, flaw: str | None) -> None:
    """A record with a .dat of its own."""
    n_samples, data = len(samples), path.with_name(path.name + ".dat")
    if flaw == "short_gap":
        samples[n_samples // 2 : n_samples // 2 + 10, 3] = MISSING  # 20 ms of aVR
    elif flaw == "long_gap":
        samples[n_samples // 3 : n_samples // 3 + 100, 8] = MISSING  # 200 ms of V3
    elif flaw == "half_missing":
        samples[: n_samples * 6 // 10] = MISSING
    elif flaw == "flat":
        samples[:] = 0
    if flaw != "no_hea":
        _write_header(path, tree, row, samples, data.name)
    if flaw == "truncated":
        samples[: n_samples * 2 // 3].tofile(data)
    elif flaw != "no_dat":
        samples.tofile(data)


def _write_header(path: Path, tree: Tree, row: int, samples: np.ndarray, data: str, offset: int = 0) -> None:
    form = f"16+{offset}" if offset else "16"
    sums = samples.sum(axis=0, dtype=np.int64).astype(np.int16).tolist()  # modulo 65536, signed
    date, time = time_of(row).split()
    lines = [f"{path.name} 12 {RATE_HZ} {len(samples)} {time} {'/'.join(reversed(date.split('-')))}"]
    for lead, first, total in zip(MIMIC_LEADS, samples[0].tolist(), sums):
        lines.append(f"{data} {form} {GAIN}.0(0)/mV 16 0 {first} {total} 0 {lead}")
    lines.append(f"# <subject_id>: {tree.subjects[row]}")
    path.with_name(path.name + ".hea").write_text("\n".join(lines) + "\n", encoding="ascii")


_PLACES = 512  # of a beat
_BUMPS = np.array([(0.18, 0.022), (0.315, 0.006), (0.335, 0.009), (0.355, 0.008), (0.60, 0.045)])  # centre, width
_SIZES_MV = np.array(  # of P, Q, R, S, T in I, II, V1 ... V6
    [
        [0.08, 0.12, 0.06, 0.07, 0.07, 0.08, 0.08, 0.08],
        [-0.05, -0.06, 0.0, 0.0, 0.0, -0.04, -0.06, -0.06],
        [0.6, 0.9, 0.2, 0.4, 0.7, 1.1, 1.2, 0.9],
        [-0.1, -0.15, -0.8, -1.2, -0.7, -0.4, -0.2, -0.1],
        [0.2, 0.28, 0.1, 0.35, 0.4, 0.38, 0.3, 0.24],
    ]
)


def _beat(rng: np.random.Generator) -> np.ndarray:
    """A person's beat in the eight leads that are free, (512, 8), in steps."""
    places = np.arange(_PLACES)[:, None] / _PLACES
    bumps = np.exp(-(((places - _BUMPS[:, 0]) / _BUMPS[:, 1]) ** 2) / 2)
    beat: np.ndarray = bumps @ (_SIZES_MV * rng.uniform(0.6, 1.4, _SIZES_MV.shape)) * GAIN
    return beat.astype(np.int16)


def _noise(rng: np.random.Generator) -> np.ndarray:
    """Noise and wander to cut pieces from, (40000, 8), in steps."""
    time_s = np.arange(40_000)[:, None] / RATE_HZ
    wander = 8 * np.sin(2 * np.pi * (time_s * rng.uniform(0.1, 0.4, 8) + rng.random(8)))
    mixed: np.ndarray = rng.normal(0, 2.5, (len(time_s), 8)) + wander
    return np.rint(mixed).astype(np.int16)


def _tracing(rng: np.random.Generator, beat: np.ndarray, noise: np.ndarray, n_samples: int) -> np.ndarray:
    """A record (T, 12) in steps, leads in MIMIC's order; no two are alike."""
    beats_per_s, phase, depth, cut = rng.random(4) * (0.9, 1.0, 0.05, 1.0)
    time_s = np.arange(n_samples) / RATE_HZ
    place = time_s * (0.8 + beats_per_s) + phase + depth * np.sin(1.6 * time_s)
    free = beat[(place * _PLACES).astype(np.int64) % _PLACES]
    start = int(cut * (len(noise) - 1))
    free += np.take(noise, np.arange(start, start + n_samples), axis=0, mode="wrap")
    samples = np.empty((n_samples, 12), "<i2")
    one, two = free[:, 0], free[:, 1]
    samples[:, 0], samples[:, 1], samples[:, 2] = one, two, two - one
    samples[:, 3], samples[:, 4], samples[:, 5] = -(one + two) // 2, two - one // 2, one - two // 2
    samples[:, 6:] = free[:, 2:]
    return samples
