"""Training steps that need the card alone, each in a process of its own, because it can hang or fill the memory.

Parts of the GPU check (`benchmarks/gpu.py`): graph, checkpointing, batches and compile.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from gpu_common import Json, Part, wait
from gpu_fast import Measurement, card, collect, collect_all, growing_batches, peak
from gpu_steps import Bench, Trainer, attempt, median_ms
from torch import Tensor

from leadwise.batch import Batch
from leadwise.nn import masking
from leadwise.nn.losses.multimodal import patch_reconstruction
from leadwise.training.gradient_step import autocast

REHEARSAL_S = 60.0
GRAPHS = (("ptbxl", 128), ("cg_dmer_small", 64), ("cg_dmer", 64), ("cg_dmer", 256))  # config and batch size


def measure(part: Part) -> None:
    """Measure the part's only subject, on a GPU after the card and its peak, and store each result in `part`."""
    bench, (key, measurement) = Bench(part), SUBJECTS[part.name]
    if bench.on_gpu:
        collect_all(bench, [("card", 4, card), ("peak", 3, peak), (key, 100, measurement)])
    else:  # small, and always all of it
        collect(part, key, REHEARSAL_S, measurement(bench))


# --- a training step as a CUDA graph


class EcgStep:
    """Forward and backward pass of CG-DMER's ECG part (Eq. 2) on tensors of fixed shapes.

    The host reads no tensor of the device: every record has the same number of visible patches, because all are complete.
    """

    def __init__(self, method: Any, host: Batch, device: str, precision: str) -> None:
        """`host`: a batch in host memory without missing samples."""
        self.method, self.precision = method.train(), precision
        self.host_ecg = host.ecg.pin_memory() if device.startswith("cuda") else host.ecg
        batch = host.to(device)
        self.batch = dataclasses.replace(batch, ecg=batch.ecg.clone())  # the tensor that a graph reads
        _, self.usable, self.on_host = method._patches_and_host(self.batch)
        self.visible, self.count = masking.draw_visible_counted(self.usable, self.on_host, method.config.mask_ratio)

    def set_inputs(self) -> None:
        """Copy the ECGs to the device again, and draw another mask."""
        self.batch.ecg.copy_(self.host_ecg, non_blocking=True)
        self.visible.copy_(masking.draw_visible(self.usable, self.method.config.mask_ratio))

    def gradient(self) -> None:
        """Add the gradient to the parameters."""
        method = self.method
        with autocast(method, self.precision):
            patches, usable, on_host = method._patches_and_host(self.batch)
            encoded = method.ecg(patches, self.visible, count=self.count)
            predicted = method._reconstruct(encoded, usable, on_host, self.visible, method._pool(encoded))
            loss = patch_reconstruction(predicted, method._target(patches, self.batch), usable & ~self.visible)
        loss.backward()  # type: ignore[no-untyped-call]

    def eager(self) -> None:
        """A gradient for new inputs."""
        self.set_inputs()
        self.method.zero_grad(set_to_none=True)
        self.gradient()

    def read_gradient(self) -> Tensor:
        """Return a copy of the gradient as one vector."""
        return torch.cat([p.grad.detach().float().flatten() for p in self.method.parameters() if p.grad is not None])


def step_graph(bench: Bench) -> Iterator[Json]:
    """The ECG part's forward and backward pass by replay of a captured CUDA graph, and eager."""
    if not bench.on_gpu:
        yield {"skipped": "a CUDA graph needs a GPU; here only the step that would be captured was run twice"}
        step = EcgStep(bench.run("ptbxl").method, bench.batch("ptbxl", 4), bench.device, "float32")
        step.eager()
        yield {"eager again": {"gradient, relative": _apart(step, step.read_gradient())}}
        return
    for name, size in GRAPHS:
        yield {f"{name}, batch {size}": attempt(partial(_graph_row, bench, name, size))}
        bench.clean()


def _graph_row(bench: Bench, name: str, size: int) -> Json:
    """Return milliseconds of the step, eager and by replay, and how far the replayed gradient is from the eager one."""
    step = EcgStep(bench.run(name).method, bench.batch(name, size), bench.device, "bfloat16")
    row: Json = {"eager_ms": round(median_ms(step.eager, bench.device), 3)}

    # torch requires warm-up on a side stream, and gradients of None, so that the graph allocates them in its own memory
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step.eager()
    torch.cuda.current_stream().wait_stream(stream)
    step.method.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step.gradient()

    # the replay reads the same tensors, into which new inputs are copied
    def replay() -> None:
        step.set_inputs()
        graph.replay()

    row["graph_ms"] = round(median_ms(replay, bench.device), 3)
    row["replay_alone_ms"] = round(median_ms(graph.replay, bench.device), 3)

    # gradients for inputs that neither the warm-up nor the capture had; the eager one twice, since its sums have no fixed order
    replay()
    row["gradient, relative"] = _apart(step, step.read_gradient())
    row["eager again, relative"] = _apart(step, step.read_gradient())
    return row


def _apart(step: EcgStep, gradient: Tensor) -> float:
    """Return the relative distance of a gradient from the eager one for the same inputs, which is left in the parameters."""
    step.method.zero_grad(set_to_none=True)
    step.gradient()
    eager = step.read_gradient()
    return float((gradient - eager).norm() / eager.norm())


# --- checkpointing, and torch.compile


def checkpointing(bench: Bench) -> Iterator[Json]:
    """Training steps of CG-DMER that recompute the encoder's activations, with growing batches until memory ends."""
    encoder: Any = bench.run("cg_dmer").method.ecg
    encoder.transformer.checkpointing = True
    yield from growing_batches("cg_dmer", (256, 1024, 2048, 4096), bench)


def compiled(bench: Bench) -> Iterator[Json]:
    """The step of CG-DMER with its blocks compiled as `optim.compile` does, against the same step before."""
    run, batch = bench.run("cg_dmer"), bench.batch("cg_dmer", bench.size(256, 2))
    trainer = Trainer(run, bench.precision)
    yield {"eager_ms": round(median_ms(lambda: trainer.step(batch), bench.device, n_timed=4), 3)}
    modules = run.method.compilable_modules
    for module in modules:
        module.compile(backend="inductor" if bench.on_gpu else "eager")
    start = time.perf_counter()
    for number in ("first", "second"):  # the second compiles for sizes that change
        trainer.step(batch)
        wait(bench.device)
        yield {"modules": len(modules), f"after_{number}_step_s": round(time.perf_counter() - start, 1)}
    yield {"compiled_ms": round(median_ms(lambda: trainer.step(batch), bench.device, n_timed=4), 3)}


# part -> key in the results, measurement
SUBJECTS: dict[str, tuple[str, Measurement]] = {
    "graph": ("CUDA graph of a training step", step_graph),
    "checkpointing": ("step cg_dmer 500 Hz bfloat16, checkpointing", checkpointing),
    "batches": (
        "step cg_dmer 500 Hz bfloat16, larger batches",
        partial(growing_batches, "cg_dmer", (512, 768, 1024, 2048)),
    ),
    "compile": ("compile", compiled),
}
