"""Minutes on a GPU: prove that the package is right there, measure how fast it is, and train.

    python benchmarks/gpu.py pack --cohort cohorts/ptbxl          # here: writes .gpu/, at most 45 MiB
    python benchmarks/gpu.py run --minutes 8 --out results        # there: needs .gpu/ and no network
    python benchmarks/gpu.py report results                       # here: writes benchmarks/results/gpu.md

`run` has seven parts. Four can hang or fill the memory, so each has the card alone in a process of its own that is ended when its
time is over: graph (a training step as a CUDA graph), checkpointing, batches (above 256) and compile (torch.compile). Then fast
(steps, kernels, loader, embedding) has the card alone, and right (equal to the CPU, resumes, NCCL) and learn (CG-DMER and MERL at
equal seconds) run side by side. `--parts left` runs the four, which no card has measured yet. Each result is written when it is
measured, so a run that is cut still counts, and a second run with the same `--out` adds its parts.

`run --device cpu --seconds 20` rehearses the same code with small sizes: all parts in turn in one process, whose imports do not
count. A measurement that has begun goes on until its end, so a slow machine takes longer.

The machine with the GPU needs Python 3.12, torch and the other dependencies of the package; the few that are often missing
there travel as wheels in `.gpu/wheels` (`pip install --no-deps --no-index --target DIR .gpu/wheels/*.whl`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import gpu_pack
import torch
from gpu_common import Part, read_json, write_json

HERE = Path(__file__).parent
FOLDER = HERE.parent / ".gpu"
STARTED = time.perf_counter()  # of this process
GPU_SECONDS = {"graph": 30, "checkpointing": 35, "batches": 40, "compile": 65, "fast": 80, "right": 230, "learn": 230}
CPU_SECONDS = {"graph": 1, "checkpointing": 1, "batches": 1, "compile": 2, "fast": 4, "right": 4, "learn": 7}
LEFT = tuple(GPU_SECONDS)[:4]  # that no card has measured yet
PRESETS = {"all": tuple(GPU_SECONDS), "left": LEFT}
SIDE_BY_SIDE = ("right", "learn")
GRACE_S = {"cuda": 10.0, "cpu": 300.0}  # a part is ended so long after its time is over
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
    run.add_argument(
        "--parts", default="all", help=f"names with commas: {', '.join([*PRESETS, *GPU_SECONDS])} [%(default)s]"
    )
    run.add_argument("--out", type=Path, default=FOLDER / "out")

    report = commands.add_parser("report", help="write the page of a run")
    report.add_argument("results", type=Path, help="folder that `run` wrote")
    report.add_argument(
        "--page",
        type=Path,
        help="default: benchmarks/results/gpu.md; of a rehearsal or of some of the parts, RESULTS/gpu.md",
    )
    report.add_argument("--note", default="", help="a sentence on the run")

    # what `run` starts: parts, and one row of the part learn
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
        importlib.import_module("gpu_page").write_page(args.results, args.note, args.page)
    elif args.command == "part":
        measure_parts(args)
    else:
        importlib.import_module("gpu_learn").train_row(args.name, args.out, args.cohort, args.device, args.until)


def check_run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a message if `run` cannot start."""
    unknown = set(args.parts.split(",")) - set(GPU_SECONDS) - set(PRESETS)
    if unknown:
        parser.error(f"--parts {args.parts}: choose from {', '.join([*PRESETS, *GPU_SECONDS])}")
    if not (FOLDER / "cohort" / "cohort.json").exists():
        parser.error(
            f"{FOLDER / 'cohort'} has no packed cohort; write it with: python benchmarks/gpu.py pack --cohort DIR"
        )
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch {torch.__version__} sees no GPU here; rehearse with --device cpu")


def chosen_parts(words: str) -> list[str]:
    """Return the parts that `--parts` names, in the order of a run."""
    names = {name for word in words.split(",") for name in PRESETS.get(word, (word,))}
    return [name for name in GPU_SECONDS if name in names]


def planned(names: list[str], on_gpu: bool) -> list[list[str]]:
    """Return the parts in groups that run one after another; on a CPU they share a process, and so are one group."""
    if not on_gpu:
        return [names]
    groups = [[name] for name in names if name not in SIDE_BY_SIDE]
    beside = [name for name in SIDE_BY_SIDE if name in names]
    return groups + ([beside] if beside else [])


def seconds_of(group: list[str], later: list[list[str]], left: float) -> float:
    """Return the seconds of a group on a GPU, of those that are left: what an earlier group did not use is shared again."""
    most = [max(GPU_SECONDS[name] for name in one) for one in [group, *later]]
    return left * most[0] / sum(most)


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
    """Unpack the cohort and run the parts, each for its share of the time."""
    began = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    cohort, packed = FOLDER / "unpacked", FOLDER / "cohort" / "cohort.json"
    if not (cohort / "cohort.json").exists() or (cohort / "cohort.json").read_bytes() != packed.read_bytes():
        gpu_pack.unpack(packed.parent, cohort, os.cpu_count() or 1)
    on_gpu = args.device != "cpu"
    until = (began if on_gpu else time.perf_counter()) + (args.seconds or 60 * args.minutes)

    # one group of processes after another; what an earlier run wrote about other parts is kept
    groups = planned(chosen_parts(args.parts), on_gpu)
    record = read_json(args.out / "run.json") | {"device": args.device}
    codes: dict[str, int] = {}
    for number, group in enumerate(groups):
        left = until - time.perf_counter()
        seconds = seconds_of(group, groups[number + 1 :], left) if on_gpu else left
        names = group if on_gpu else [",".join(group)]
        codes |= run_group(names, args, cohort, seconds)
        record["exit codes"] = record.get("exit codes", {}) | codes
        record["seconds"] = record.get("seconds", {}) | {name: round(seconds, 1) for name in names}
        write_json(args.out / "run.json", record)
    print(f"exit codes: {codes}", flush=True)
    sys.exit(int(any(codes.values())))


def run_group(names: list[str], args: argparse.Namespace, cohort: Path, seconds: float) -> dict[str, int]:
    """Run processes side by side, end those that exceed their time with all that they started, and return the exit codes."""
    processes = {name: start_part(name, args, cohort, seconds) for name in names}
    ends = time.perf_counter() + seconds + GRACE_S["cpu" if args.device == "cpu" else "cuda"]
    codes: dict[str, int] = {}
    try:
        for name, process in processes.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                codes[name] = process.wait(timeout=max(0.1, ends - time.perf_counter()))
    finally:  # also if this process is interrupted
        for name, process in processes.items():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                codes[name] = process.wait()
    return codes


def start_part(name: str, args: argparse.Namespace, cohort: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Start the process of a part, or of several with commas between their names."""
    words = [__file__, "part", name, "--out", str(args.out), "--cohort", str(cohort)]
    # parts side by side share the cores
    env = {**os.environ, "OMP_NUM_THREADS": "4"} if name in SIDE_BY_SIDE else dict(os.environ)
    words += ["--device", args.device, "--seconds", f"{seconds:.1f}"]
    return subprocess.Popen([sys.executable, *words], env=env, start_new_session=True)


def measure_parts(args: argparse.Namespace) -> None:
    """Measure the parts of this process one after another; one that fails does not end the others."""
    names = args.name.split(",")
    modules = [importlib.import_module(f"gpu_{'alone' if name in LEFT else name}") for name in names]
    spent = time.perf_counter() - STARTED
    if args.device == "cpu":  # imports do not count: on two cores, they take as long as a short rehearsal
        importlib.import_module("transformers.models.bert.modeling_bert")
        spent = 0.0
    failed = False
    for name, module in zip(names, modules, strict=True):
        share = CPU_SECONDS[name] / sum(CPU_SECONDS[each] for each in names) if len(names) > 1 else 1.0
        try:
            module.measure(Part(name, args.out, args.cohort, args.device, share * args.seconds - spent))
        except Exception:
            traceback.print_exc()
            failed = True
        except SystemExit as end:  # of a part that has measured, and found a failure
            failed = failed or bool(end.code)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
