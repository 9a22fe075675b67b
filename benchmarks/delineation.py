"""Errors of the measurements against the marks of cardiologists in LUDB, beside neurokit2 and published delineators.

    python benchmarks/delineation.py LUDB_FOLDER --neurokit

The limits of leadwise.data.delineation were chosen on the first half of the records in the folder, in the order of their
numbers; the page has the errors on the second half. Voltages are the raw steps in uV, because the gains in the headers
scale every lead to the same range. neurokit2 is not a dependency; install it in another environment where its pins do not
fit.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import wfdb
from machine import describe, table, write
from numpy.typing import NDArray

from leadwise.batch import LEADS
from leadwise.data.measurements import Measurements, measure

Floats = NDArray[np.float64]

RATE_HZ = 500
TOLERANCE_MS = 150.0
POINTS = {  # name on the page -> column of Measurements.beats, wave and column of the marks, key of neurokit2
    "P onset": ("p_onset_s", "p", 0, "ECG_P_Onsets"),
    "P offset": ("p_offset_s", "p", 2, "ECG_P_Offsets"),
    "QRS onset": ("qrs_onset_s", "N", 0, "ECG_R_Onsets"),
    "QRS offset": ("qrs_offset_s", "N", 2, "ECG_R_Offsets"),
    "T offset": ("t_offset_s", "t", 2, "ECG_T_Offsets"),
}
_SAME_BEAT_S = 0.18  # marks of one wave in two leads are nearer to each other
_LEAST_LEADS = 6  # a wave counts for the median over leads if as many have a mark

PUBLISHED = (  # delineator, data, then Se / P+ and mean +- SD in ms of each point; "" where not stated
    (
        "Kalyakulina et al. 2020, wavelets, 12 leads corrected together [1]",
        "LUDB, 200",
        "98.46 / 96.41; -2.7 ± 10.2*",
        "98.46 / 96.41*; 0.4 ± 11.4*",
        "99.61 / 99.87; -8.1 ± 7.7*",
        "99.61 / 99.87*; 3.8 ± 8.8*",
        "98.03 / 98.84; 5.7 ± 15.5*",
    ),
    ("ecg-kit, each lead, as evaluated in [1]", "LUDB, 200", "88.26 / 82.43", "", "99.52", "", "85.00"),
    (
        "Martínez et al. 2004, wavelets, one lead [2]",
        "QTDB",
        "98.87 / 91.03*; 2.0 ± 14.8*",
        "98.75 / 91.03*; 1.9 ± 12.8*",
        "99.97*; 4.6 ± 7.7",
        "99.97*; 0.8 ± 8.7*",
        "99.77 / 97.79*; -1.6 ± 18.1",
    ),
    ("Limits of two standard deviations between experts (CSE) [2]", "", "10.2*", "12.7*", "6.5*", "11.6*", "30.6*"),
)


@dataclass(frozen=True)
class MarkedEcg:
    """One record: leads and the marks of cardiologists."""

    number: int
    ecg_mv: Floats  # (12, T)
    marks: dict[str, dict[str, Floats]]  # lead -> "p", "N", "t" -> (n, 3) onset, peak, offset in s; NaN without a mark
    span: dict[str, tuple[float, float]]  # lead -> first and last mark in s


@dataclass
class Score:
    """Matches of one point."""

    errors_ms: list[float] = field(default_factory=list)
    n_reference: int = 0
    n_false: int = 0

    def add(self, reference: Floats, detected: Floats, span: tuple[float, float]) -> None:
        """Match the times of one lead, in s; detections outside of the marked span do not count as false."""
        reference, detected = reference[np.isfinite(reference)], detected[np.isfinite(detected)]
        self.n_reference += len(reference)
        matched: set[int] = set()
        for at in reference:
            free = [k for k in range(len(detected)) if k not in matched]
            if not free:
                break
            best = min(free, key=lambda k: abs(detected[k] - at))
            if 1000 * abs(detected[best] - at) <= TOLERANCE_MS:
                matched.add(best)
                self.errors_ms.append(1000 * (detected[best] - at))
        self.n_false += sum(k not in matched and span[0] <= at <= span[1] for k, at in enumerate(detected))

    def row(self) -> dict[str, object]:
        """The figures of the page."""
        errors = np.array(self.errors_ms)
        n = len(errors)
        return {
            "marks": self.n_reference,
            "Se %": f"{100 * n / max(self.n_reference, 1):.2f}",
            "P+ %": f"{100 * n / max(n + self.n_false, 1):.2f}",
            "mean ms": f"{errors.mean():.1f}",
            "SD ms": f"{errors.std():.1f}",
            "median absolute ms": f"{np.median(np.abs(errors)):.1f}",
        }


def read(folder: Path, number: int) -> MarkedEcg:
    """Return one record of LUDB."""
    path = str(folder / "data" / str(number))
    record = wfdb.rdrecord(path, physical=False)
    marks, span = {}, {}
    for lead in LEADS:
        annotation = wfdb.rdann(path, lead.lower())
        symbols, at = annotation.symbol, np.asarray(annotation.sample) / RATE_HZ
        waves: dict[str, list[tuple[float, float, float]]] = {"p": [], "N": [], "t": []}
        for k, symbol in enumerate(symbols):
            if symbol in waves:
                begins = k > 0 and symbols[k - 1] == "("
                ends = k + 1 < len(symbols) and symbols[k + 1] == ")"
                waves[symbol].append((at[k - 1] if begins else np.nan, at[k], at[k + 1] if ends else np.nan))
        marks[lead] = {wave: np.array(rows, dtype=float).reshape(-1, 3) for wave, rows in waves.items()}
        span[lead] = (float(at[0]), float(at[-1]))
    names = [name.lower() for name in record.sig_name]
    ecg = np.stack([record.d_signal[:, names.index(lead.lower())] for lead in LEADS]) / 1000.0
    return MarkedEcg(number, ecg, marks, span)


def numbers(folder: Path) -> list[int]:
    """Return the numbers of the records in the folder, in order."""
    return sorted(int(path.stem) for path in (folder / "data").glob("*.hea"))


def over_leads(points: Sequence[Floats], least: int = _LEAST_LEADS) -> Floats:
    """Return the median over leads of points (n, 3) of each lead: one row for each wave that `least` leads have."""
    rows = sorted((row for lead in points for row in lead), key=lambda row: row[1])
    groups: list[list[Floats]] = []
    for row in rows:
        if groups and row[1] - groups[-1][0][1] < _SAME_BEAT_S:
            groups[-1].append(row)
        else:
            groups.append([row])
    medians = [_median(np.stack(group)) for group in groups if len(group) >= least]
    return np.stack(medians) if medians else np.empty((0, 3))


def _median(rows: Floats) -> Floats:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no lead has this mark
        result: Floats = np.nanmedian(rows, axis=0)
    return result


def by_neurokit(ecg_mv: Floats) -> list[dict[str, Floats]]:
    """Return for each lead the points that neurokit2 sets with its wavelet method, (n,) s each; empty where it fails."""
    import neurokit2

    leads = []
    for lead in ecg_mv:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                clean = neurokit2.ecg_clean(lead, sampling_rate=RATE_HZ)
                _, peaks = neurokit2.ecg_peaks(clean, sampling_rate=RATE_HZ)
                _, waves = neurokit2.ecg_delineate(clean, peaks, sampling_rate=RATE_HZ, method="dwt")
            leads.append({name: np.asarray(waves[key[3]], dtype=float) / RATE_HZ for name, key in POINTS.items()})
        except Exception:  # of any kind: a lead that it cannot delineate has no points
            leads.append({name: np.empty(0) for name in POINTS})
    return leads


def median_times(times: Sequence[Floats], least: int = _LEAST_LEADS) -> Floats:
    """Return the median over leads of the times (n,) of each lead."""
    rows = [np.column_stack([lead, lead, lead])[np.isfinite(lead)] for lead in times]
    return over_leads(rows, least)[:, 1]


def score_points(ecgs: list[MarkedEcg], detected: list[dict[str, list[Floats]]]) -> tuple[dict[str, Score], ...]:
    """Return the scores against the marks of each lead, and against their median over leads.

    `detected` has for each record and point the times of each lead (12), or of all leads together (1).
    """
    each, median = {name: Score() for name in POINTS}, {name: Score() for name in POINTS}
    for ecg, times in zip(ecgs, detected):
        whole = (min(first for first, _ in ecg.span.values()), max(last for _, last in ecg.span.values()))
        for name, (_, wave, column, _) in POINTS.items():
            own = times[name]
            for k, lead in enumerate(LEADS):
                each[name].add(ecg.marks[lead][wave][:, column], own[k % len(own)], ecg.span[lead])
            together = own[0] if len(own) == 1 else median_times(own)
            reference = over_leads([ecg.marks[lead][wave] for lead in LEADS])[:, column]
            median[name].add(reference, together, whole)
    return each, median


def intervals_ms(ecg: MarkedEcg) -> dict[str, float]:
    """Return heart rate, PR, QRS and QT of a record from the marks: medians over beats of the medians over leads."""
    p, qrs, t = (over_leads([ecg.marks[lead][wave] for lead in LEADS]) for wave in ("p", "N", "t"))
    distances = {"pr_ms": [], "qt_ms": []}  # type: dict[str, list[float]]
    for onset, peak, _ in qrs:
        before = p[(p[:, 1] < peak) & (p[:, 1] > peak - 0.45)]
        after = t[(t[:, 1] > peak) & (t[:, 1] < peak + 0.6)]
        if len(before):
            distances["pr_ms"].append(1000 * (onset - before[-1, 0]))
        if len(after):
            distances["qt_ms"].append(1000 * (after[0, 2] - onset))
    medians = {name: float(np.nanmedian(values)) if values else np.nan for name, values in distances.items()}
    return {
        "heart_rate_bpm": 60 / float(np.diff(qrs[:, 1]).mean()) if len(qrs) > 1 else np.nan,
        "qrs_ms": 1000 * float(np.nanmedian(qrs[:, 2] - qrs[:, 0])),
        **medians,
    }


def interval_rows(ecgs: list[MarkedEcg], measured: list[Measurements]) -> list[dict[str, object]]:
    """Return rows of the errors per record."""
    rows: list[dict[str, object]] = []
    truth = [intervals_ms(ecg) for ecg in ecgs]
    for name in ("heart_rate_bpm", "pr_ms", "qrs_ms", "qt_ms"):
        true = np.array([one[name] for one in truth])
        value = np.array([getattr(one, name) for one in measured])
        both = np.isfinite(true) & np.isfinite(value)
        error = (value - true)[both]
        rows.append(
            {
                "quantity": name,
                "records": int(both.sum()),
                "marked, not measured": int((np.isfinite(true) & ~np.isfinite(value)).sum()),
                "measured, not marked": int((~np.isfinite(true) & np.isfinite(value)).sum()),
                "mean error": f"{error.mean():.1f}",
                "SD": f"{error.std():.1f}",
                "median absolute": f"{np.median(np.abs(error)):.1f}",
            }
        )
    return rows


def main() -> None:
    """Write benchmarks/results/delineation.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="LUDB as PhysioNet has it: data/N.hea, N.dat and N.i to N.v6")
    parser.add_argument("--neurokit", action="store_true", help="also delineate every lead with neurokit2 (slow)")
    parser.add_argument("--half", choices=("first", "second"), default="second", help="records to score [%(default)s]")
    arguments = parser.parse_args()
    names = numbers(arguments.folder)
    if len(names) < 4:
        sys.exit(
            f"{arguments.folder / 'data'}: {len(names)} records; pass the folder of LUDB, with data/1.hea and more"
        )
    halves = {"first": names[: len(names) // 2], "second": names[len(names) // 2 :]}
    ecgs = [read(arguments.folder, number) for number in halves[arguments.half]]

    # the package's own measurements, all leads together
    began = time.process_time()
    measured = [measure(ecg.ecg_mv, LEADS, RATE_HZ) for ecg in ecgs]
    own_ms = 1000 * (time.process_time() - began) / len(ecgs)
    detected = [{name: [one.beats[key[0]]] for name, key in POINTS.items()} for one in measured]
    scores = {"leadwise": score_points(ecgs, detected)}
    seconds = {"leadwise": own_ms}

    # neurokit2, each lead by itself
    if arguments.neurokit:
        import neurokit2

        began = time.process_time()
        per_lead = [by_neurokit(ecg.ecg_mv) for ecg in ecgs]
        name = f"neurokit2 {neurokit2.__version__}, dwt"
        seconds[name] = 1000 * (time.process_time() - began) / len(ecgs)
        points = [{point: [lead[point] for lead in leads] for point in POINTS} for leads in per_lead]
        scores[name] = score_points(ecgs, points)

    # the page
    each = [
        {"delineator": who, "point": point, **both[0][point].row()} for who, both in scores.items() for point in POINTS
    ]
    median = [
        {"delineator": who, "point": point, **both[1][point].row()} for who, both in scores.items() for point in POINTS
    ]
    published = [dict(zip(("delineator", "data", *POINTS), row)) for row in PUBLISHED]
    speed = "; ".join(f"{who} {ms:.0f} ms" for who, ms in seconds.items())
    page = PAGE.format(
        machine=describe(),
        n=len(ecgs),
        total=len(names),
        first=f"{halves['first'][0]} to {halves['first'][-1]}",
        scored=f"{ecgs[0].number} to {ecgs[-1].number}",
        each=table(each),
        median=table(median),
        intervals=table(interval_rows(ecgs, measured)),
        published=table(published),
        speed=speed,
    )
    if arguments.half == "first":
        print(page)
    else:
        print(write("delineation", page))


PAGE = """# Measurements against the marks of cardiologists (LUDB)

{machine}

`python benchmarks/delineation.py LUDB --neurokit`

{n} of {total} records (numbers {scored}; the limits were chosen on {first}), 500 Hz, 12 leads. A point is detected if
it is within 150 ms of the mark. Errors are detected minus marked. `leadwise` sets each point once for all leads;
neurokit2 sets it in each lead by itself, with its own cleaning and R peaks (QRS onset and offset are its R onsets and
offsets). Detections before the first and after the last mark of a lead do not count. Time of one ECG on one core:
{speed}.

## Against the marks of each lead

{each}

A wave that a cardiologist did not mark in a lead, such as a flat P wave, counts as false for `leadwise`, which sets one
point for all leads.

## Against the median over leads

A wave counts if 6 leads have a mark. Of neurokit2, points of 6 leads or more are combined in the same way.

{median}

## Intervals of each record

Marked: the median over beats of the median over leads. PR is not measured where no P wave recurs before the QRS.

{intervals}

## Published delineators, for comparison

Se % / P+ %; mean ± SD in ms. Other data, or all 200 records of LUDB; none of these figures was measured here.

{published}

1. Kalyakulina et al., IEEE Access 8:186181, 2020, Table 6. 2. Martínez et al., IEEE Trans Biomed Eng 51:570, 2004. Figures
with * are cited from memory, the others from a copy of the table by a third party; check them in the papers before you
cite them.
"""

if __name__ == "__main__":
    main()
