"""Minutes on a GPU: prove that the package is right there, measure how fast it is, and train.

    python benchmarks/gpu.py pack --cohort cohorts/ptbxl          # here: writes .gpu/, at most 45 MiB
    python benchmarks/gpu.py run --minutes 8 --out results        # there: needs .gpu/ and no network
    python benchmarks/gpu.py report results                       # here: writes benchmarks/results/gpu.md

`run` has three parts, each a process of its own: fast (steps, kernels, loader, embedding), which has the card alone; then right
(equal to the CPU, resumes, NCCL) and learn (CG-DMER and MERL at equal seconds) side by side. Each result is written when it is
measured, so a run that is cut still counts. `run --device cpu --seconds 60` rehearses the same code with small sizes.

The machine with the GPU needs Python 3.12, torch and the other dependencies of the package; the few that are often missing
there travel as wheels in `.gpu/wheels` (`pip install --no-deps --no-index --target DIR .gpu/wheels/*.whl`).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path

import gpu_pack
import torch
from gpu_common import Part, write_json

HERE = Path(__file__).parent
FOLDER = HERE.parent / ".gpu"
SHARES = {"fast": 0.2, "learn": 0.8, "right": 0.8}  # of the time; right and learn run side by side
WHEELS = ("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "tomli_w", "defusedxml", "wfdb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    pack = commands.add_parser("pack", help="write .gpu/: recordings, reports, labels and wheels")
    pack.add_argument("--cohort", type=Path, required=True, help="folder that `leadwise prepare ptbxl` wrote")
    pack.add_argument("--mib", type=float, default=45.0, help="size of .gpu [%(default)s]")
    pack.add_argument("--step-uv", type=float, default=5.0, help="samples are rounded to this, in uV [%(default)s]")

    run = commands.add_parser("run", help="prove, measure and train")
    run.add_argument("--minutes", type=float, default=8.0)
    run.add_argument("--seconds", type=float, help="in place of --minutes")
    run.add_argument("--device", default="cuda")
    run.add_argument("--parts", default=",".join(SHARES), help="names with commas [%(default)s]")
    run.add_argument("--out", type=Path, default=FOLDER / "out")

    report = commands.add_parser("report", help="write benchmarks/results/gpu.md")
    report.add_argument("results", type=Path, help="folder that `run` wrote")
    report.add_argument("--note", default="", help="a sentence on the run")

    # what `run` starts: one part, and one row of the part learn
    for name in ("part", "row"):
        one = commands.add_parser(name)
        one.add_argument("name")
        one.add_argument("--out", type=Path, required=True)
        one.add_argument("--cohort", type=Path, required=True)
        one.add_argument("--device", required=True)
        one.add_argument("--seconds" if name == "part" else "--until", type=float, required=True)
    args = parser.parse_args()

    if args.command == "pack":
        pack_all(args)
    elif args.command == "run":
        check_run(parser, args)
        run_parts(args)
    elif args.command == "report":
        importlib.import_module("gpu_page").write_page(args.results, args.note)
    elif args.command == "part":
        part = Part(args.name, args.out, args.cohort, args.device, args.seconds)
        importlib.import_module(f"gpu_{args.name}").measure(part)
    else:
        importlib.import_module("gpu_learn").train_row(args.name, args.out, args.cohort, args.device, args.until)


def check_run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a message if `run` cannot start."""
    unknown = set(args.parts.split(",")) - set(SHARES)
    if unknown:
        parser.error(f"--parts {args.parts}: choose from {', '.join(SHARES)}")
    if not (FOLDER / "cohort" / "cohort.json").exists():
        parser.error(
            f"{FOLDER / 'cohort'} has no packed cohort; write it with: python benchmarks/gpu.py pack --cohort DIR"
        )
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch {torch.__version__} sees no GPU here; rehearse with --device cpu")


def pack_all(args: argparse.Namespace) -> None:
    """Write .gpu/wheels and .gpu/cohort."""
    wheels = FOLDER / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    if not list(wheels.glob("*.whl")):
        pins = [f"{name}=={importlib.metadata.version(name)}" for name in WHEELS]
        platforms = [
            word
            for n in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
            for word in ("--platform", f"{n}_x86_64")
        ]
        words = ["pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.12", *platforms]
        subprocess.run([sys.executable, "-m", *words, "-d", str(wheels), *pins], check=True)
    taken = sum(path.stat().st_size for path in wheels.glob("*"))
    counts = gpu_pack.pack(args.cohort, FOLDER / "cohort", int(args.mib * gpu_pack.MIB) - taken, args.step_uv)
    size = taken + sum(path.stat().st_size for path in (FOLDER / "cohort").iterdir())
    print(f"{FOLDER}: {size / gpu_pack.MIB:.1f} MiB, {counts}, steps of {args.step_uv:g} uV")


def run_parts(args: argparse.Namespace) -> None:
    """Unpack the cohort and run each part in a process of its own, which is ended when its time is over."""
    until = time.perf_counter() + (args.seconds or 60 * args.minutes)
    args.out.mkdir(parents=True, exist_ok=True)
    cohort, packed = FOLDER / "unpacked", FOLDER / "cohort" / "cohort.json"
    if not (cohort / "cohort.json").exists() or (cohort / "cohort.json").read_bytes() != packed.read_bytes():
        gpu_pack.unpack(packed.parent, cohort, os.cpu_count() or 1)
    chosen = args.parts.split(",")
    codes: dict[str, int] = {}
    for group in (["fast"], ["right", "learn"]):
        names = [name for name in group if name in chosen]
        left = until - time.perf_counter()
        later = "learn" in chosen or "right" in chosen
        seconds = left * SHARES[group[0]] if group == ["fast"] and later else left
        processes = {name: start_part(name, args, cohort, seconds) for name in names}
        ends = time.perf_counter() + seconds + 10
        for name, process in processes.items():
            try:
                codes[name] = process.wait(timeout=max(0.1, ends - time.perf_counter()))
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        write_json(args.out / "run.json", {"device": args.device, "exit codes": codes})
    print(f"exit codes: {codes}", flush=True)
    sys.exit(int(any(codes.values())))


def start_part(name: str, args: argparse.Namespace, cohort: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Start the process of a part."""
    words = [__file__, "part", name, "--out", str(args.out), "--cohort", str(cohort)]
    env = os.environ if name == "fast" else {**os.environ, "OMP_NUM_THREADS": "4"}  # they share the cores
    return subprocess.Popen([sys.executable, *words, "--device", args.device, "--seconds", f"{seconds:.1f}"], env=env)


if __name__ == "__main__":
    main()
