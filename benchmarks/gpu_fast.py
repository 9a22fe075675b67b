"""How fast a GPU trains and embeds: the part `fast` of the GPU check (`benchmarks/gpu.py`).

Every measurement is a generator of results, the most important first, and has a share of the part's time. Results are
stored as they come; a measurement that exceeds its share ends after the result that it is at.
"""

from __future__ import annotations

import importlib
import itertools
import subprocess
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gpu_common import Json, Part, wait
from gpu_steps import Bench, Trainer, attempt, ecg_step, failure, median_ms, tf32
from speed_plain import EcgBranch, gigaflop
from stmem import StMem
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

import leadwise
from leadwise.batch import Batch, Signal
from leadwise.data.loader import Recordings, Sampler, prefetch_batches
from leadwise.evaluate.embed import embed, frozen
from leadwise.nn.views import report_view
from leadwise.training.deterministic import deterministic_algorithms
from leadwise.training.gradient_step import autocast

Measurement = Callable[[Bench], Iterator[Json]]
BFLOAT16 = "optim.precision=bfloat16"
PRECISIONS = ("float32", "bfloat16")
PACKAGE = str(Path(leadwise.__file__).parent)


def measure(part: Part) -> None:
    """Measure the speed of the device and store each result in `part`."""
    collect_all(Bench(part), MEASUREMENTS)


def collect_all(bench: Bench, measurements: list[tuple[str, float, Measurement]]) -> None:
    """Store the results of measurements, each with its share of the part's time."""
    part = bench.part
    total = sum(share for _, share, _ in measurements)
    for key, share, measurement in measurements:
        # a rehearsal on the CPU has small sizes and no shares
        seconds = share * min(1.0, part.seconds / total) if bench.on_gpu else part.seconds
        if part.left < (0.6 * seconds if bench.on_gpu else 0.0):
            part.store(key, {"skipped": "no time"})
            continue
        collect(part, key, min(seconds, part.left), measurement(bench))
        attempt(bench.clean)


def collect(part: Part, key: str, seconds: float, results: Iterator[Json]) -> None:
    """Store results as they come, until there are no more or `seconds` are over."""
    total: Json = {}
    end = time.perf_counter() + seconds
    try:
        for result in results:
            total |= result
            part.store(key, total)
            if time.perf_counter() > end:
                part.store(key, total | {"cut": f"its {seconds:.0f} s are over"})
                break
    except Exception as error:  # of one measurement; the next ones go on
        part.store(key, total | failure(error))


# --- 1. the card


def card(bench: Bench) -> Iterator[Json]:
    """The device, the versions, and the seconds of the import that the first run with reports needs."""
    yield {"torch": torch.__version__, "cuda": torch.version.cuda, "device": "cpu", "threads": torch.get_num_threads()}
    if bench.on_gpu:
        properties = torch.cuda.get_device_properties(0)
        yield {
            "device": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count, "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }  # fmt: skip
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        output = attempt(lambda: subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout)
        yield {"driver, clock, power": output.strip() if isinstance(output, str) else output}
    start = time.perf_counter()
    importlib.import_module("transformers.models.bert.modeling_bert")
    yield {"import_transformers_s": round(time.perf_counter() - start, 1)}


def peak(bench: Bench) -> Iterator[Json]:
    """Products of random matrices, and copies: what a step is compared with."""
    n, n_products = bench.size(8192, 256), bench.size(20, 2)

    def tflops(dtype: torch.dtype) -> float:
        a, b = (torch.randn(n, n, device=bench.device, dtype=dtype) for _ in range(2))
        ms = median_ms(lambda: [a @ b for _ in range(n_products)], bench.device, n_timed=5) / n_products
        return round(2 * n**3 / ms / 1e9, 3)

    bench.peak_tflops = tflops(torch.bfloat16)
    yield {"size": n, "bfloat16_tflops": bench.peak_tflops}
    with tf32():
        yield {"tf32_tflops": attempt(lambda: tflops(torch.float32))}
    source = torch.empty(bench.size(2**30, 2**22), dtype=torch.uint8, device=bench.device).fill_(1)
    target = torch.empty_like(source)
    ms = median_ms(lambda: [target.copy_(source) for _ in range(10)], bench.device) / 10
    yield {"copy_gb_per_s": round(2 * source.numel() / ms / 1e6, 1)}
    host = torch.empty(bench.size(2**28, 2**20), dtype=torch.uint8).fill_(1)
    for name, memory in {"pageable": host, "pinned": host.pin_memory() if bench.on_gpu else host}.items():
        ms = median_ms(partial(memory.to, bench.device, copy=True), bench.device)
        yield {f"{name}_to_device_gb_per_s": round(host.numel() / ms / 1e6, 1)}


# --- 2. training steps


def full_step(name: str, sizes: Sequence[int], bench: Bench) -> Iterator[Json]:
    """Training steps of a config at 500 Hz, with text, from batches in host memory, at growing batch sizes."""
    yield from growing_batches(name, sizes, bench)

    # the cost of exact repetition
    n = bench.size(256, 2)
    with deterministic_algorithms(True):
        row = attempt(partial(_row_of_size, bench, Trainer(bench.run(name), BFLOAT16), name, n, None))
    yield {"deterministic": {"batch": n, **row}}


def growing_batches(name: str, sizes: Sequence[int], bench: Bench) -> Iterator[Json]:
    """The size of a model, its operations for a record, and its training steps with batches of `sizes` until memory ends."""
    run = bench.run(name)
    flop = attempt(lambda: bench.flop(name))
    count = flop if isinstance(flop, float) else None
    n_parameters = sum(p.numel() for p in run.method.parameters())
    yield {"parameters": n_parameters, "gflop_a_record": round(count / 1e9, 2) if count else flop}
    bench.clean()

    trainer, rows = Trainer(run, BFLOAT16), []
    for size in sizes if bench.on_gpu else (2,):
        row = attempt(partial(_row_of_size, bench, trainer, name, size, count))
        rows.append({"batch": size, **row})
        bench.clean()
        yield {"rows": rows}
        if "error" in row:
            break


def _row_of_size(bench: Bench, trainer: Trainer, name: str, size: int, flop: float | None) -> Json:
    return bench.step_row(trainer, bench.batch(name, size), flop)


def same_step(bench: Bench) -> Iterator[Json]:
    """ST-MEM's and MERL's steps at the same batch, beside CG-DMER's; ratios of records a second to CG-DMER's."""
    n = bench.size(256, 2)
    host, run = bench.batch("cg_dmer", n), bench.run("cg_dmer")
    method: Any = run.method.train()
    config, signal = method.config, method.signal
    ms: dict[str, float] = {}

    def results() -> Json:
        ratios = {name: round(ms["cg_dmer"] / each, 3) for name, each in ms.items()}
        return {"batch": n, "ms": {name: round(each, 3) for name, each in ms.items()}, "speed_over_cg_dmer": ratios}

    # the whole step with text, and its ECG branch alone (tokeniser, encoder, decoder)
    trainer = Trainer(run, BFLOAT16)
    ms["cg_dmer"] = median_ms(lambda: trainer.step(host), bench.device)
    yield results()
    del trainer
    branch = EcgBranch(method, host)

    def branch_loss() -> Tensor:
        branch.batch = host.to(bench.device)
        return branch.loss()

    own = [p for module in (method.ecg, method.ecg_decoder) for p in module.parameters()]
    ms["cg_dmer, ECG only"] = median_ms(ecg_step(method, branch_loss, own), bench.device)
    yield results()
    bench.clean()

    ms["st_mem, ECG only"] = _stmem_ms(bench, host, config, signal)
    yield results()
    bench.clean()

    # MERL's ResNet-18, with the same text encoder
    trainer = Trainer(bench.run("merl"), BFLOAT16)
    ms["merl"] = median_ms(lambda: trainer.step(host), bench.device)
    yield results()
    bert: nn.Module = bench.run("merl").method.text.bert  # type: ignore[assignment, union-attr]
    bert.requires_grad_(False)
    trainer = Trainer(bench.run("merl"), BFLOAT16)
    ms["merl, text frozen whole"] = median_ms(lambda: trainer.step(host), bench.device)
    yield results()


def _stmem_ms(bench: Bench, host: Batch, config: Any, signal: Signal) -> float:
    """Return the time of a step of ST-MEM's architecture: width, depth, heads, tokens and masking of `config`."""
    grid = len(signal.leads), config.n_patches, signal.n_samples // config.n_patches
    decoder = (256, 4, 4) if bench.on_gpu else (16, 1, 2)
    stmem = StMem(*grid, config.width, config.depth, config.heads, decoder).to(bench.device)
    step = ecg_step(stmem, lambda: stmem(host.to(bench.device).ecg), list(stmem.parameters()))
    return median_ms(step, bench.device)


def small_recipe(bench: Bench) -> Iterator[Json]:
    """The small recipe's step in each precision and with each optimiser, and where its host time goes."""
    run, train = bench.run("ptbxl"), bench.recordings("ptbxl")
    method: Any = run.method.train()
    sizes = (128, 256) if bench.on_gpu else (2,)

    # what the host does for 256 records before the step
    places = np.arange(bench.size(256, 16))
    batch = train.batch(places)
    config = method.config
    views = report_view(batch, config.statement_dropout, config.rewording)
    host_ms = {
        "loader": lambda: train.batch(places),
        "report_view": lambda: report_view(batch, config.statement_dropout, config.rewording),
        "tokenise": lambda: method.text.tokenize(list(views)),
        "to device": lambda: batch.to(bench.device),
    }
    yield {
        "host_ms": {"records": len(batch)}
        | {name: attempt(partial(_rounded_ms, work, bench.device)) for name, work in host_ms.items()}
    }

    # the step, and how long the host needs until all of it is queued
    rows = []
    for size, optimizer, precision in itertools.product(sizes, ("muon", "adamw"), PRECISIONS):
        trainer = Trainer(run, f"optim.precision={precision}", f"optim.optimizer={optimizer}")
        with tf32():
            row = attempt(partial(_step_in_parts, bench, trainer, bench.batch("ptbxl", size)))
        rows.append({"optimizer": optimizer, "precision": precision, **row})
        yield {"rows": rows}


def _rounded_ms(work: Callable[[], object], device: str) -> float:
    return round(median_ms(work, device, seconds=0.5, n_timed=5, n_warmup=1), 3)


def _step_in_parts(bench: Bench, trainer: Trainer, batch: Batch) -> Json:
    """Return the row of a step, with the milliseconds of its gradient on the host and until the device is done."""
    row = bench.step_row(trainer, batch, n_timed=10)
    launched, done = [], []
    for _ in range(bench.size(5, 2)):
        wait(bench.device)
        start = time.perf_counter()
        trainer.gradient(batch)
        launched.append(1000 * (time.perf_counter() - start))
        wait(bench.device)
        done.append(1000 * (time.perf_counter() - start))
        trainer.optimizer.zero_grad(set_to_none=True)
    return row | {
        "gradient_launch_ms": round(float(np.median(launched)), 3),
        "gradient_ms": round(float(np.median(done)), 3),
    }


# --- 5. and 6. where the time goes


def step_profile(name: str, size: int, bench: Bench) -> Iterator[Json]:
    """The kernels of three training steps that take longest, their number, and the share of the time they fill."""
    n_steps = bench.size(3, 1)
    trainer, batch = Trainer(bench.run(name), bench.precision), bench.batch(name, size if bench.on_gpu else 2)
    step_ms = median_ms(lambda: trainer.step(batch), bench.device, n_timed=4)
    yield {"batch": len(batch), "step_ms": round(step_ms, 3)}

    # kernels alone on a GPU: with the host's operators, reading the trace takes several times as long
    averages = _averages(
        bench, trainer, batch, n_steps, ProfilerActivity.CUDA if bench.on_gpu else ProfilerActivity.CPU
    )
    if bench.on_gpu:
        events = [e for e in averages if e.device_type.name == "CUDA" and not getattr(e, "is_user_annotation", False)]
        timed = [(e.key, e.self_device_time_total, e.count) for e in events]
    else:
        timed = [(e.key, e.self_cpu_time_total, e.count) for e in averages]
    kernels = [row for row in timed if not row[0].startswith(("Memcpy", "Memset"))]
    busy_ms = sum(microseconds for _, microseconds, _ in timed) / 1000 / n_steps
    yield {
        "busy_ms": round(busy_ms, 3), "busy_share": round(busy_ms / step_ms, 3),
        "kernels_a_step": round(sum(count for *_, count in kernels) / n_steps),
        "copies_a_step": round((sum(count for *_, count in timed) - sum(count for *_, count in kernels)) / n_steps),
        "runtime_calls_a_step": {e.key: round(e.count / n_steps, 1) for e in averages if e.key.startswith("cuda")},
        "top": _longest(timed, n_steps),
    }  # fmt: skip

    # what the host does in one step
    if not bench.on_gpu:
        return
    averages = _averages(bench, trainer, batch, 1, ProfilerActivity.CPU)
    yield {"top_host": _longest([(e.key, e.self_cpu_time_total, e.count) for e in averages], 1)}


def _averages(bench: Bench, trainer: Trainer, batch: Batch, n_steps: int, activity: ProfilerActivity) -> list[Any]:
    """Return the events of some steps, added up by name."""
    with profile(activities=[activity]) as profiler:
        for _ in range(n_steps):
            trainer.step(batch)
        wait(bench.device)
    return list(profiler.key_averages())


def _longest(timed: list[tuple[str, float, int]], n_steps: int) -> list[Json]:
    """Return the ten (name, microseconds, calls) that take longest, for one step."""
    return [
        {"name": key[:80], "ms": round(microseconds / 1000 / n_steps, 3), "calls": round(count / n_steps, 1)}
        for key, microseconds, count in sorted(timed, key=lambda row: -row[1])[:10]
    ]


def synchronisations(bench: Bench) -> Iterator[Json]:
    """The places at which one step of the small recipe waits for the device, and how often."""
    if not bench.on_gpu:
        yield {"skipped": "needs a GPU"}
        return
    for name in ("ptbxl", "cg_dmer"):
        trainer, batch, places = Trainer(bench.run(name), bench.precision), bench.batch(name, 64), Counter[str]()
        for _ in range(2):
            trainer.step(batch)
        wait(bench.device)

        def count(message: Warning | str, *_: object, places: Counter[str] = places, **__: object) -> None:
            if "synchroniz" in str(message):
                places[_place(traceback.extract_stack())] += 1

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = count
            torch.cuda.set_sync_debug_mode("warn")
            try:
                trainer.step(batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        yield {name: {"count": sum(places.values()), "places": dict(places.most_common(40))}}


def _place(stack: traceback.StackSummary) -> str:
    """Return the innermost frame in leadwise, and what it called, as FILE:LINE."""
    frames = [frame for frame in stack if "warnings.py" not in frame.filename and frame.filename != __file__]
    inside = [frame for frame in frames if frame.filename.startswith(PACKAGE)]
    if not inside and not frames:
        return "outside"
    frame = (inside or frames)[-1]
    last = frames[-1]
    called = "" if last is frame else f" > {'/'.join(last.filename.split('/')[-2:])}:{last.lineno}"
    return f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno} {frame.name}{called}"


# --- 7. and 8. loader and embeddings


def loader_alone(bench: Bench) -> Iterator[Json]:
    """Records a second that the loader reads by itself, with several numbers of threads."""
    n = bench.size(256, 16)
    fastest = _fastest_step(bench)
    yield {"batch": n, "fastest_step_records_per_s": fastest}
    for name, workers in itertools.product(("ptbxl", "cg_dmer_small"), (0, 4, 12)):
        recordings = bench.recordings(name)
        key = f"{bench.config(name).signal.rate_hz} Hz, {workers} threads"
        rate = attempt(partial(_loader_rate, recordings, n, workers, bench.size(1000, 150) / 1000))
        row: Json = {"records_per_s": rate} if isinstance(rate, float) else rate
        most = fastest.get(name)
        if most and isinstance(rate, float):
            row["over_step"] = round(rate / most, 2)
        yield {key: row}


def _fastest_step(bench: Bench) -> dict[str, float]:
    """Return the largest number of records a second of the steps that were measured."""
    results = bench.part.results
    keys = {"ptbxl": "small recipe 100 Hz", "cg_dmer_small": "step cg_dmer_small 500 Hz bfloat16"}
    out = {}
    for name, key in keys.items():
        rates = [row["records_per_s"] for row in results.get(key, {}).get("rows", []) if "records_per_s" in row]
        if rates:
            out[name] = max(rates)
    return out


def _loader_rate(recordings: Recordings, batch_size: int, workers: int, seconds: float) -> float:
    """Return the records a second of `prefetch_batches`, after a first batch."""
    sampler, n = Sampler(len(recordings), batch_size, 0), 0
    batches = prefetch_batches(recordings, sampler, 0, 10_000, workers)
    try:
        for _ in range(workers + 1):  # what the threads had read before the clock starts
            next(batches)
        start = time.perf_counter()
        while time.perf_counter() < start + seconds:
            n += len(next(batches))
        return round(n / (time.perf_counter() - start), 1)
    finally:
        batches.close()


def embedding(bench: Bench) -> Iterator[Json]:
    """Records a second of `embed_ecg`, with inputs on the device, and of a cohort that is read from disk."""
    n = bench.size(512, 8)
    for name in ("cg_dmer_small", "ptbxl", "merl"):
        method, batch = bench.run(name).method, bench.batch(name, n).to(bench.device)
        yield {f"{name} gflop a record": attempt(partial(_embedding_gflop, method, batch.rows(0, bench.size(8, 1))))}
        for precision in PRECISIONS:
            rate = attempt(partial(_embedding_rate, bench, method, batch, precision))
            yield {f"{name} {method.signal.rate_hz} Hz {precision}": rate}

    # from the file to the host's array, in the precision of the config
    run, train = bench.run("ptbxl"), bench.recordings("ptbxl")
    n_rows = min(bench.size(4096, 64), len(train))
    recordings = Recordings(train.cohort, train.signal, train.rows[:n_rows])
    with tf32():
        ms = median_ms(lambda: embed(run, recordings), bench.device, n_timed=2, n_warmup=1)
    yield {"ptbxl from disk": {"records": n_rows, "records_per_s": round(1000 * n_rows / ms, 1)}}


def _embedding_gflop(method: Any, batch: Batch) -> float:
    method.eval()
    with torch.no_grad():
        return round(gigaflop(lambda: method.embed_ecg(batch)) / len(batch), 3)


def _embedding_rate(bench: Bench, method: Any, batch: Batch, precision: str) -> Json:
    with frozen(method), autocast(method, precision), tf32():
        ms = median_ms(lambda: method.embed_ecg(batch), bench.device, seconds=1.0)
    return {"batch": len(batch), "ms": round(ms, 3), "records_per_s": round(1000 * len(batch) / ms, 1)}


# --- 9. ways to make a step faster


def fused_attention(bench: Bench) -> Iterator[Json]:
    """Time of torch's fused attention, forward and backward, on the shape of CG-DMER's encoder; and what torch chooses."""
    shape = (256, 12, 300, 64) if bench.on_gpu else (2, 4, 60, 8)
    q, k, v = (
        torch.randn(shape, device=bench.device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
    )  # fmt: skip
    masks = {"no mask": None, "mask": torch.ones(shape[0], 1, 1, shape[2], dtype=torch.bool, device=bench.device)}
    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]

    def work(mask: Tensor | None) -> None:
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()  # type: ignore[no-untyped-call]

    def limited(mask: Tensor | None, backend: SDPBackend) -> float:
        with warnings.catch_warnings(), sdpa_kernel([backend]):
            warnings.simplefilter("ignore")  # why a backend is not available: the error has it
            return _rounded_ms(partial(work, mask), bench.device)

    yield {"shape": list(shape)}
    for name, mask in masks.items():
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            work(mask)
        operators = {event.key for event in profiler.key_averages() if "scaled_dot_product" in event.key}
        row: Json = {"operators": sorted(operators), "default_ms": _rounded_ms(partial(work, mask), bench.device)}
        row |= {f"{backend.name} ms": attempt(partial(limited, mask, backend)) for backend in backends}
        yield {name: row}


def fused_adamw(bench: Bench) -> Iterator[Json]:
    """Time of AdamW's step alone over the parameters of CG-DMER: fused, foreach and one by one."""
    parameters = [p for p in bench.run("cg_dmer").method.parameters() if p.requires_grad]
    for p in parameters:
        p.grad = torch.full_like(p, 1e-3)
    kinds: dict[str, dict[str, bool]] = {
        "fused": {"fused": True},
        "foreach": {"foreach": True},
        "loop": {"foreach": False},
    }
    for name, kind in kinds.items():
        optimizer = torch.optim.AdamW(parameters, lr=1e-6, **kind)  # type: ignore[arg-type]
        yield {f"{name}_ms": _rounded_ms(optimizer.step, bench.device)}


def cuda_graph(bench: Bench) -> Iterator[Json]:
    """Embeddings by a captured CUDA graph, or the reason why they cannot be captured."""
    if not bench.on_gpu:
        yield {"skipped": "needs a GPU"}
        return
    for name, size in (("ptbxl", 64), ("ptbxl", 512), ("cg_dmer_small", 64), ("merl", 64)):
        yield {f"{name}, batch {size}": attempt(partial(_graph_row, bench, name, size))}


def _graph_row(bench: Bench, name: str, size: int) -> Json:
    """Return the milliseconds of an embedding, eager and by replay of a graph, in bfloat16."""
    method, batch = bench.run(name).method, bench.batch(name, size).to(bench.device)
    with frozen(method), autocast(method, "bfloat16"):
        eager = _rounded_ms(lambda: method.embed_ecg(batch), bench.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            method.embed_ecg(batch)
        return {"eager_ms": eager, "graph_ms": _rounded_ms(graph.replay, bench.device)}


LADDER = (64, 256, 512, 1024, 2048, 4096, 8192)  # batch sizes
# key in the results, share of the part's time in seconds, measurement; in the order of importance. What can hang or fill the
# memory is in `gpu_alone`.
MEASUREMENTS: list[tuple[str, float, Measurement]] = [
    ("card", 4, card),
    ("peak", 3, peak),
    ("step cg_dmer 500 Hz bfloat16", 20, partial(full_step, "cg_dmer", LADDER[:2])),
    ("step cg_dmer_small 500 Hz bfloat16", 12, partial(full_step, "cg_dmer_small", LADDER)),
    ("same step", 10, same_step),
    ("small recipe 100 Hz", 10, small_recipe),
    ("profile cg_dmer", 5, partial(step_profile, "cg_dmer", 256)),
    ("profile small recipe", 4, partial(step_profile, "ptbxl", 128)),
    ("synchronisations", 2, synchronisations),
    ("loader alone", 7, loader_alone),
    ("embedding", 10, embedding),
    ("fused attention", 3, fused_attention),
    ("fused AdamW", 2, fused_adamw),
    ("CUDA graph of an embedding", 3, cuda_graph),
]
