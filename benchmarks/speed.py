"""How much faster than the plain way, and than others' ways: one table of ratios.

    python benchmarks/speed.py
    python benchmarks/speed.py --ptbxl cohorts/ptbxl --run runs/ptbxl
    python benchmarks/speed.py --only step-plain reads --rounds 5

Both sides of a ratio take turns in one process, and the ratio is the median over the rounds; peak memory is that of a first
call in a fresh process, above what it held when everything was set up. Where an aim could be missed, the floor is given beside
it: multiply-adds over the rate of plain matrix products, bytes over the rate of memory, both measured in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

import speed_data
import speed_embedding
import speed_evaluation
import speed_more
import speed_options
import speed_training
import torch
from machine import describe, matmul_peak, table, write
from speed_pair import (
    Against,
    BenchmarkArgs,
    Build,
    Case,
    NotGivenError,
    interleave,
    peak_elsewhere,
    quiet,
    ratio,
    stream_rate,
)

ROWS: dict[str, Build] = {**speed_training.ROWS, **speed_data.ROWS, **speed_evaluation.ROWS, **speed_embedding.ROWS}
MORE: dict[str, Build] = {**speed_more.ROWS, **speed_options.ROWS}


def spoken(seconds: float) -> str:
    """A time with three digits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}" if seconds < 1000 else f"{seconds:.0f} s"
    return f"{seconds * 1e6:.3g} us"


def lines(row: str, case: Case, args: BenchmarkArgs, rates: dict[str, float], build: Build) -> list[dict[str, object]]:
    """The table's lines of a case, measured."""
    took = interleave(case.ways, args.rounds, args.seconds)
    median = {name: statistics.median(values) for name, values in took.items()}
    used = dict.fromkeys(name for pair in case.against for name in (pair.ours, pair.plain))
    floors = {pair.ours: _floor(case, pair.ours, rates) for pair in case.against}
    peaks = {name: peak_elsewhere(build, name, args) if case.memory else None for name in used}
    rows = []
    for pair in case.against:
        measured = ratio(took[pair.ours], took[pair.plain])
        floor = floors[pair.ours]
        rows.append(
            {
                "row": row,
                "ours": pair.ours.removeprefix("ours, "),
                "against": pair.plain,
                "per": case.what,
                "time": spoken(median[pair.ours]),
                "its time": spoken(median[pair.plain]),
                "ratio (least-most)": str(measured),
                **_verdict(pair, measured.median, median[pair.ours]),
                "peak MiB": _mib(peaks[pair.ours]),
                "its peak MiB": _mib(peaks[pair.plain]),
                "floor": "-" if floor is None else f"{spoken(floor)}, ratio {median[pair.plain] / floor:.2g}",
            }
        )
    return rows


def _verdict(pair: Against, ratio: float, seconds: float) -> dict[str, object]:
    """The aim, and whether it is reached."""
    if pair.below_s is not None:
        return {"aim": f"< {spoken(pair.below_s)}", "reached": "yes" if seconds < pair.below_s else "**no**"}
    if pair.aim is None:
        return {"aim": "-", "reached": "-"}
    return {"aim": f">= {pair.aim:g}", "reached": "yes" if ratio >= pair.aim else "**no**"}


def _floor(case: Case, way: str, rates: dict[str, float]) -> float | None:
    """Seconds an item that the way's products and bytes would take at the machine's best, the longer of both."""
    floors = []
    if way in case.gflop:
        floors.append(case.gflop[way]() / rates[case.dtype.get(way, "float32")])
    if way in case.gbytes:
        floors.append(case.gbytes[way] / rates["memory"])
    return max(floors) if floors else None


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def measure(
    builds: dict[str, Build], args: BenchmarkArgs, rates: dict[str, float]
) -> tuple[list[dict[str, object]], list[str]]:
    """Table lines and notes of these rows; one that fails or lacks something says so and the others go on."""
    rows: list[dict[str, object]] = []
    notes: list[str] = []
    for row, build in builds.items():
        began = time.perf_counter()
        try:
            case = build(args)
            with case.closing:
                note = case.note()
                fresh = lines(row, case, args, rates, build)
        except NotGivenError as missing:  # a row that asks for what was not given
            notes.append(f"**{row}**: left out, {missing.args[0]}.")
        except Exception as error:  # hours of other rows are not to be lost
            traceback.print_exc()
            notes.append(f"**{row}**: failed, {type(error).__name__}: {error}.")
        else:
            rows += fresh
            notes.append(f"**{row}**: {note}.")
            print(table(fresh), file=sys.stderr)
        print(f"{row}: {time.perf_counter() - began:.0f} s in all\n{notes[-1]}\n", file=sys.stderr, flush=True)
    return rows, notes


def page(args: BenchmarkArgs, only: list[str]) -> str:
    began = time.perf_counter()
    rates = {"float32": matmul_peak(), "bfloat16": matmul_peak(dtype=torch.bfloat16), "memory": stream_rate()}
    parts = []
    for title, every in (("", ROWS), ("## More options", MORE)):
        chosen = {name: build for name, build in every.items() if not only or name in only}
        if chosen:
            rows, notes = measure(chosen, args, rates)
            remarks = "\n".join(f"- {note}" for note in notes)
            parts.append(f"{title}\n\n{table(rows) if rows else ''}\n\n{remarks}\n".strip())
    body = "\n\n".join(parts)
    return f"""# Speed, as ratios

Command: `python {" ".join(sys.argv)}`. {describe()}; {(time.perf_counter() - began) / 60:.1f} minutes.
In the same run plain matrix products reached {rates["float32"]:.0f} GFLOP/s in float32 and {rates["bfloat16"]:.0f} in
bfloat16; copying or scaling 256 MiB read and wrote {rates["memory"]:.0f} GB/s, both counted.

The variants of a row alternate in one process. A ratio is the median over {args.rounds} rounds (two, once a row has taken
{args.seconds:.0f} s) of the other variant's time divided by ours, with the smallest and the largest. Peak memory: the first
call of a variant in a fresh process, above the memory after set-up (weights, inputs), without pages of mapped files; if a
variant starts processes, the sum over all. Floor: multiply-adds divided by the measured matrix-product rate, or bytes divided
by the memory rate, whichever takes longer, and the ratio at that time.

{body}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*ROWS, *MORE], default=[], help="these rows alone")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count; one more warms up")
    parser.add_argument("--seconds", type=float, default=25.0, help="a row that took longer ends with two rounds")
    parser.add_argument("--batch", type=int, default=0, help="recordings a step; 0 = each row's own")
    parser.add_argument("--records", type=int, default=600, help="recordings to prepare, to read and to probe")
    parser.add_argument(
        "--ptbxl", type=Path, help="a prepared cohort with labels, for the probe and for report lengths"
    )
    parser.add_argument(
        "--run", type=Path, help="the frozen network of the probe; default: configs/ptbxl_cpu.toml, untrained"
    )
    parser.add_argument("--name", default="speed", help="page in benchmarks/results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, quiet():
        args = BenchmarkArgs(
            max(1, given.rounds), given.seconds, given.batch, given.records, given.ptbxl, given.run, Path(scratch)
        )  # fmt: skip
        text = page(args, given.only)
    print(text)
    print(write(given.name, text))


if __name__ == "__main__":
    main()
