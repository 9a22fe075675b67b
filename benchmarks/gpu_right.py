"""The first part of the GPU check: are loss, gradient, embedding, resume and NCCL right on this device?

The CPU in float32 is the reference. Each result holds its figures, the limit and `ok`. With device "cpu" both sides are the CPU.

    python benchmarks/gpu_right.py COHORT DEVICE FOLDER

trains the run of `resume` in a process group of this one process; `nccl` starts it with torchrun.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_common import Json, Part, write_json
from gpu_draws import HostDraws
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import leadwise
from leadwise import config as settings
from leadwise import distributed, weights
from leadwise import run as runs
from leadwise.batch import Batch
from leadwise.config import Config, OptimConfig
from leadwise.data.loader import Sampler
from leadwise.evaluate.embed import embed_batch, frozen
from leadwise.methods.catalogue import find_method, small_settings
from leadwise.run import Run
from leadwise.training import deterministic, loop
from leadwise.training.gradient_step import Objective, TrainingError, backward
from leadwise.training.inputs import open_data
from leadwise.training.step_time import time_steps

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(leadwise.__file__).resolve().parent
N_STEP, N_EMBED = 32, 64  # recordings; a quarter of them on a CPU, where this is a rehearsal
LIMITS = {"float32": 1e-4, "bfloat16": 1e-2}
EMBEDDING_LIMIT = 1e-3
CPU_SECONDS = {"resume": 10.0, "time": 5.0, "nccl": 30.0}  # that these checks need in a rehearsal
THREADS = "GPU_CHECK_THREADS"  # torchrun sets OMP_NUM_THREADS=1, and sums depend on the number of threads
STEPS, FAIL_AFTER, SAVE_EVERY = 6, 4, 3
CASES: dict[str, Json] = {  # changes of the method's settings
    "cg_dmer": {},
    "cg_dmer joint": {"name": "cg_dmer", "decoder": "joint", "decoder_depth": 2, "depth": 2},
    "merl": {"name": "merl"},
    "st_mem": {"name": "st_mem"},
}
# where the host has to wait for the device in every step: function, part of the line, and why
WAITS = (
    ("read", ".tolist()", "terms and gradient norm are logged, and checked to be finite before the weights change"),
)


class StopRunError(Exception):
    """Ends a run in the middle, as a crash would."""


def measure(part: Part) -> None:
    """Store the results of all checks; one that fails stores its error, and the others go on."""
    # before the first product of matrices: cuBLAS reads it once
    os.environ.setdefault(deterministic.CUBLAS_SETTING, deterministic.CUBLAS_VALUE)
    part.store("conditions", _conditions(part))
    for case in CASES:
        _store(part, f"loss and gradient {case}", partial(check_gradient, part, case))
    _store(part, "embedding", partial(check_embedding, part))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _store(part, "resume", partial(check_resume, part, folder))
        for case in CASES:
            _store(part, f"branches on tensors {case}", partial(check_waits, part, case, folder))
        _store(part, "time of exact repetition", partial(time_repetition, part))
        _store(part, "nccl", partial(check_group, part, folder))


def _store(part: Part, key: str, check: Callable[[], Json]) -> None:
    """Store the result of a check with its seconds, or its error; in a rehearsal, checks begin only while there is time."""
    if part.device == "cpu" and part.left < CPU_SECONDS.get(key.split()[0], 0.0):
        part.store(key, {"skipped": f"{max(part.left, 0.0):.0f} s are too few", "ok": True})
        return
    began = time.perf_counter()
    try:
        result = check()
    except Exception as error:
        traceback.print_exc()
        result = {"error": _first(error), "ok": False}
        if part.device.startswith("cuda"):
            torch.cuda.empty_cache()
    part.store(key, result | {"seconds": round(time.perf_counter() - began, 1)})


def _first(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _conditions(part: Part) -> Json:
    """Return what the results depend on."""
    on_gpu = part.device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        deterministic.CUBLAS_SETTING: os.environ[deterministic.CUBLAS_SETTING],
        "draws": "random numbers and dropout masks are drawn on the host, so that they are equal on both sides",
        "tf32": "off for `loss and gradient` and `embedding`",
    }


def make_config(part: Part, case: str = "cg_dmer", **optim: Any) -> Config:
    """Return the settings of a case: those of configs/ptbxl.toml, trained for a few steps on the validation split.

    That split has about 2,000 recordings, so that a run starts in less than a second.
    """
    rows = ["data.train_split=val", "optim.steps=6", "log.every=1000", "log.validate_every=0"]
    n = n_recordings(part, N_STEP)
    rows += [f"optim.batch_size={n}", f"log.validate_records={n}", f"log.save_every={SAVE_EVERY}"]
    config = settings.read(ROOT / "configs" / "ptbxl.toml", [f'data.cohort="{part.cohort}"', *rows])
    changes = CASES[case]
    name = changes.get("name", "cg_dmer")
    table = config.method if name == "cg_dmer" else small_settings(name)
    device = part.device
    if device == "cpu":  # a rehearsal: the sizes of the contract tests
        table = table | find_method(name).tiny[""]
    return dataclasses.replace(
        config, method=table | changes, optim=dataclasses.replace(config.optim, **{"device": device, **optim})
    )


def n_recordings(part: Part, on_gpu: int) -> int:
    """Return how many recordings a check uses."""
    return on_gpu if part.device.startswith("cuda") else on_gpu // 4


@contextmanager
def exact_float32() -> Iterator[None]:
    """A block without TF32, in which products of float32 matrices have float32's precision."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


# --------------------------------------------------------------------------------------------- loss and gradient


def check_gradient(part: Part, case: str) -> Json:
    """Compare the terms and the gradient of one training step on the CPU and on the device."""
    config = make_config(part, case)
    data = open_data(config)
    run = runs.create(config, data.texts)
    batch = data.train.batch(Sampler(len(data.train), config.optim.batch_size, config.optim.seed).positions(0))
    start = {name: x.clone() for name, x in run.method.state_dict().items()}

    terms, gradient = _step(run, start, batch, "cpu", "float32")
    result: Json = {
        "recordings": len(batch),
        "parameters": sum(p.numel() for p in run.method.parameters()),
        "terms on the CPU": terms,
        "gradient norm on the CPU": float(gradient.norm()),
    }
    n_draws = 4 if part.device.startswith("cuda") else 1
    result["samples changed by 1e-7, gradient"] = _effect_of_rounding(run, start, batch, gradient, n_draws)
    for precision, limit in LIMITS.items():
        result[precision] = _compare(terms, gradient, *_step(run, start, batch, part.device, precision), limit)

    # the device's own repetition, with deterministic algorithms
    try:
        with deterministic.deterministic_algorithms():
            first, second = (_step(run, start, batch, part.device, "float32")[1] for _ in range(2))
        result["repeated"] = {"equal to the bit": torch.equal(first, second), "ok": torch.equal(first, second)}
    except Exception as error:  # an operation without a deterministic version
        result["repeated"] = {"error": _first(error), "ok": False}
    return result | {"ok": all(result[key]["ok"] for key in (*LIMITS, "repeated"))}


def _effect_of_rounding(run: Run, start: dict[str, Tensor], batch: Batch, gradient: Tensor, n_draws: int) -> float:
    """Return how far the CPU's own gradient moves if samples change by one part in ten million: the largest of some draws.

    Where a maximum or a ReLU changes sides, the gradient jumps by far more than the change.
    """
    moved = []
    for seed in range(n_draws):
        change = 1 + 1e-7 * torch.randn(batch.ecg.shape, generator=torch.Generator().manual_seed(seed))
        _, other = _step(run, start, dataclasses.replace(batch, ecg=batch.ecg * change), "cpu", "float32")
        moved.append(float((other - gradient).norm() / gradient.norm()))
    return max(moved)


def _step(
    run: Run, start: dict[str, Tensor], batch: Batch, device: str, precision: Any
) -> tuple[dict[str, float], Tensor]:
    """Return the weighted terms of a training step from the weights `start`, and its gradient (P,) in float64."""
    method = run.method
    method.load_state_dict(start)
    method.to(device).train().zero_grad(set_to_none=True)
    optim: OptimConfig = dataclasses.replace(run.config.optim, precision=precision)
    with HostDraws(), exact_float32():
        terms = backward(Objective(method), [batch], 0, optim)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in method.parameters() if p.requires_grad]
    gradient = torch.cat([x.detach().cpu().double().flatten() for x in parts])
    method.zero_grad(set_to_none=True)
    return terms, gradient


def _compare(
    terms: dict[str, float], gradient: Tensor, its_terms: dict[str, float], its_gradient: Tensor, limit: float
) -> Json:
    """Return how far the device's terms and gradient are from the CPU's, relative to the CPU's."""
    loss, its_loss = sum(terms.values()), sum(its_terms.values())
    apart = {name: abs(its_terms[name] - value) for name, value in terms.items()}
    relative = {name: apart[name] / max(abs(value), 1e-12) for name, value in terms.items()}
    difference = float((its_gradient - gradient).norm() / gradient.norm())
    cosine = float(torch.dot(its_gradient, gradient) / (its_gradient.norm() * gradient.norm()))
    return {
        "terms, relative": relative,
        "largest": max(relative.values()),
        "loss, relative": abs(its_loss - loss) / abs(loss),
        "gradient, relative": difference,
        "gradient, 1 - cosine": 1 - cosine,
        "limit": limit,
        "ok": max(*relative.values(), difference) <= limit,
    }


# ----------------------------------------------------------------------------------------------------- embedding


def check_embedding(part: Part) -> Json:
    """Compare embeddings of ECGs and texts on the CPU and on the device, in float32."""
    n = n_recordings(part, N_EMBED)
    result: Json = {"recordings": n, "limit": EMBEDDING_LIMIT}
    differences = []
    for name in ("cg_dmer", "merl", "st_mem", "shipped ptbxl"):
        config = make_config(part, "cg_dmer" if name == "shipped ptbxl" else name)
        data = open_data(config)
        if name == "shipped ptbxl":
            run = runs.load(weights.FOLDER / "ptbxl", "cpu")
        else:
            run = runs.create(config, data.texts)
        batch = data.train.batch(np.arange(n))
        with exact_float32():
            ours = _embeddings(run, batch)
            run.method.to(part.device)
            its = _embeddings(run, batch)
        result[name] = {
            kind: float((its[kind] - x).abs().max() / x.abs().max().clamp_min(1e-12)) for kind, x in ours.items()
        }
        differences += result[name].values()
    return result | {"largest": max(differences), "ok": max(differences) <= EMBEDDING_LIMIT}


def _embeddings(run: Run, batch: Batch) -> dict[str, Tensor]:
    """Return the embeddings of a batch's ECGs by part, and of its reports."""
    out = {
        name: torch.from_numpy(embed_batch(run, batch, [name]))
        for name in run.method.parts
        if name in ("backbone", "shared")
    }
    if run.method.embeds_text:
        with frozen(run.method):
            out["text"] = run.method.embed_text(list(batch.report)).float().cpu()
    return out


# -------------------------------------------------------------------------------------- resume and exact repetition


def check_resume(part: Part, folder: Path) -> Json:
    """Compare a run in one go with a second one, and with one that is interrupted and resumed."""
    # without a deterministic version of an operation, the rest is still compared
    result: Json = {"steps": STEPS, "interrupted after": FAIL_AFTER, "resumed from": SAVE_EVERY, "deterministic": True}
    try:
        loop.pretrain(make_config(part), folder / "straight")
    except TrainingError as error:
        result |= {"deterministic": False, "deterministic error": _first(error)}
        loop.pretrain(make_config(part, deterministic=False), folder / "other")
        (folder / "other").rename(folder / "straight")
    config = make_config(part, deterministic=result["deterministic"])

    # the same run again, and the same run with an interruption
    loop.pretrain(config, folder / "again")

    def stop(_: Run, n_done: int) -> None:
        if n_done == FAIL_AFTER:
            raise StopRunError

    try:
        loop.pretrain(config, folder / "resumed", on_step=stop)
    except StopRunError:
        result["saved at the interruption"] = runs.has_resume_state(folder / "resumed")
    loop.pretrain(config, folder / "resumed", resume=True)
    for name in ("again", "resumed"):
        result[name] = largest_difference(folder / "straight", folder / name)
    result["optimiser and buffers equal"] = _same_state(folder / "straight", folder / "resumed")

    # two runs without deterministic algorithms
    free = make_config(part, deterministic=False)
    for name in ("free 1", "free 2"):
        loop.pretrain(free, folder / name)
    result["two runs with deterministic=false"] = largest_difference(folder / "free 1", folder / "free 2")
    is_equal = result["again"] == result["resumed"] == 0.0 and result["optimiser and buffers equal"]
    return result | {"limit": 0.0, "ok": bool(is_equal and result["deterministic"])}


def largest_difference(first: Path, second: Path) -> float:
    """Return the largest difference between the weights of two runs; 0 if they are equal to the bit."""
    ours, its = (load_file(one / "model.safetensors") for one in (first, second))
    if ours.keys() != its.keys():
        raise ValueError(f"the weights of {first.name} and {second.name} have other names")
    if all(torch.equal(x, its[name]) for name, x in ours.items()):
        return 0.0
    return max(float((x.double() - its[name].double()).abs().max()) for name, x in ours.items())


def _same_state(first: Path, second: Path) -> bool:
    """Return whether the last resume states of two runs are equal to the bit: weights, moments of the optimiser, step."""
    flat: list[list[Any]] = []
    for folder in (first, second):
        state = torch.load(folder / "resume" / "state.pt", weights_only=True, map_location="cpu")
        flat.append(list(_leaves(state)))
    same = [torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(*flat, strict=True)]
    return all(same)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the tensors and numbers of nested dicts and lists, in order."""
    if isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _leaves(one)
    else:
        yield value


def time_repetition(part: Part) -> Json:
    """Return the time of a training step with and without deterministic algorithms; both take turns."""
    n_timed = 20 if part.device.startswith("cuda") else 3
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for exact in (True, False) * 2:
        config = make_config(part, deterministic=exact)
        data = open_data(config)
        run = runs.create(config, data.texts)
        run.method.to(part.device)
        seconds[exact].append(time_steps(run, data.train, n_timed, n_warmup=3 if n_timed > 3 else 1).wall)
    exact_s, free_s = min(seconds[True]), min(seconds[False])
    figures = {"deterministic, ms": 1e3 * exact_s, "not deterministic, ms": 1e3 * free_s, "ratio": exact_s / free_s}
    return figures | {"limit": "none", "ok": True, "timed steps": n_timed, "recordings": config.optim.batch_size}


# ------------------------------------------------------------------------------------------ host waits for device


def check_waits(part: Part, case: str, folder: Path) -> Json:
    """Collect the lines at which one step of the training loop waits for the device, by torch's warnings."""
    if not part.device.startswith("cuda"):
        return {"skipped": "torch reports waiting for a GPU only", "ok": True}
    places: dict[str, int] = {}
    further: set[str] = set()

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if "called a synchronizing" not in str(message):
            return
        place, is_expected = "outside leadwise", False
        for frame in reversed(traceback.extract_stack()):
            if Path(frame.filename).resolve().is_relative_to(PACKAGE):
                name, line = frame.name, frame.line or ""
                place = f"{Path(frame.filename).resolve().relative_to(PACKAGE)}:{frame.lineno} {name}: {line}"[:160]
                is_expected = any(name == function and text in line for function, text, _ in WAITS)
                break
        places[place] = places.get(place, 0) + 1
        if not is_expected:
            further.add(place)

    def switch(_: Run, n_done: int) -> None:
        torch.cuda.set_sync_debug_mode("warn" if n_done == 2 else "default")  # the third step is watched

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        try:
            config = make_config(part, case, deterministic=False, steps=4)
            loop.pretrain(config, folder / f"waits {case}", on_step=switch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    most = dict(sorted(places.items(), key=lambda pair: -pair[1])[:40])
    return {"places": most, "further": sorted(further), "limit": 0, "ok": bool(places) and not further}


# ---------------------------------------------------------------------------------------------- a process group


def check_group(part: Part, folder: Path) -> Json:
    """Compare a run in a process group of one process, through DDP and collectives, with the run without."""
    if not (folder / "straight" / "model.safetensors").is_file():
        raise FileNotFoundError("the run of `resume` has no weights to compare with")
    program = [str(Path(__file__).resolve()), str(part.cohort), part.device]
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": search, THREADS: str(torch.get_num_threads())}
    result: Json = {}

    # torchrun first; where it cannot start, its variables
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    limit = max(60.0, min(120.0, part.left))  # each process imports torch and the package first
    try:
        _launch([*launcher, *program, str(folder / "group")], environment, limit)
        result["started by"], trained = "torchrun --standalone", folder / "group"
    except (subprocess.SubprocessError, OSError) as error:
        result["torchrun"] = _failure(error)
        variables = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        variables |= {"MASTER_PORT": str(_free_port()), "NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
        trained = folder / "group 2"
        try:
            _launch([sys.executable, *program, str(trained)], environment | variables, limit)
        except (subprocess.SubprocessError, OSError) as second:
            return result | {"error": _failure(second), "ok": False}
        result["started by"] = "RANK, WORLD_SIZE and MASTER_ADDR"

    result |= json.loads(trained.with_suffix(".json").read_text())
    result["largest difference"] = largest_difference(folder / "straight", trained)
    right_backend = result["backend"] == ("nccl" if part.device.startswith("cuda") else "gloo")
    return result | {"limit": 0.0, "ok": right_backend and result["largest difference"] == 0.0}


def _launch(command: list[str], environment: dict[str, str], seconds: float) -> None:
    """Run a command without its output; it and its processes end after `seconds`."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            _, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)


def _failure(error: BaseException) -> str:
    """Return the last line of the errors that a command printed, or what ended it."""
    printed = (getattr(error, "stderr", None) or "").strip().splitlines()
    causes = [line for line in printed if "Error" in line and "ChildFailedError" not in line]
    return f"{type(error).__name__}: {(causes or printed or [str(error)])[-1]}"[:300]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def train_in_group(part: Part, folder: Path) -> None:
    """Train the run of `resume` in a process group, and write which backend it used beside the run's folder.

    The package makes no group for one process, and neither gathers nor averages there: this process has it do all of it.
    """
    counts = {"gathers": 0}

    def gather(x: Tensor) -> Tensor:
        counts["gathers"] += 1
        out: Tensor = distributed._Gather.apply(x)  # type: ignore[no-untyped-call]
        return out

    def wrapped(method: Any) -> DistributedDataParallel:
        return DistributedDataParallel(Objective(method), gradient_as_bucket_view=True)

    facts: Json = {}

    def note(_: Run, n_done: int) -> None:
        group = torch.distributed
        facts.update(backend=group.get_backend(), processes=group.get_world_size(), **counts)

    patches: list[tuple[Any, str, Any]] = [
        (distributed, "n_launched", lambda: 2),  # so that it makes a group, and takes the GPU of the local rank
        (distributed, "gather", gather),
        (loop, "ddp", wrapped),
    ]
    for module, name, replacement in patches:
        setattr(module, name, replacement)
    torch.set_num_threads(int(os.environ.get(THREADS, torch.get_num_threads())))
    loop.pretrain(make_config(part), folder, on_step=note)
    write_json(folder.with_suffix(".json"), facts)


if __name__ == "__main__":
    cohort, device, trained_folder = sys.argv[1:]
    os.environ.setdefault(deterministic.CUBLAS_SETTING, deterministic.CUBLAS_VALUE)
    target = Path(trained_folder)
    train_in_group(Part("right", target.parent, Path(cohort), device, 60.0), target)
