"""What the measurements of speed on a GPU share: runs and batches of the packed cohort, a training step, and its time."""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_common import Json, Part, wait
from speed_plain import gigaflop
from torch import Tensor, nn

from leadwise import config as settings
from leadwise import run as runs
from leadwise.batch import Batch, Signal
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.nn.text import freeze
from leadwise.run import Run
from leadwise.training.gradient_step import Objective, autocast, backward
from leadwise.training.optimizer import make_optimizer

CONFIGS = Path(__file__).parent.parent / "configs"
N_RECORDINGS = 256  # distinct recordings of a batch; a larger batch repeats them
N_REPORTS = 4000  # whose distinct texts the tokenizers are made from
FROZEN_LAYERS = 6  # of the text encoder, as in configs/cg_dmer.toml

# a BERT of MedCPT's shape with fresh weights: the card has no network
BERT_BASE = (
    'method.text_encoder=""', "method.text_width=768", "method.text_depth=12", "method.text_heads=12",
    "method.vocab_size=4000",
)  # fmt: skip
FULL_SIZE = {
    "cg_dmer": (*BERT_BASE, "method.checkpointing=false"),
    "cg_dmer_small": (),
    "merl": BERT_BASE,
    "ptbxl": (),
}
_TINY_TEXT = ('method.text_encoder=""', "method.text_width=32", "method.text_depth=2", "method.text_heads=2")
_TINY = (
    *_TINY_TEXT, "method.n_patches=10", "method.width=32", "method.depth=2", "method.heads=4", "method.decoder_width=16",
    "method.decoder_depth=1", "method.decoder_heads=2", "method.vocab_size=400",
)  # fmt: skip
CPU_SIZE = {
    "cg_dmer": (*_TINY, "method.checkpointing=false"),
    "cg_dmer_small": _TINY,
    "merl": (*_TINY_TEXT, "method.resnet_width=8", "method.vocab_size=400"),
    "ptbxl": _TINY,
}


class Trainer:
    """A run with an optimiser: `step` is one step of the training loop on a batch in host memory."""

    def __init__(self, run: Run, *overrides: str) -> None:
        """`overrides` change settings of [optim]."""
        self.optim = settings.override(run.config, list(overrides)).optim
        self.method = run.method.train()
        self.model, self.optimizer = Objective(self.method), make_optimizer(self.method, self.optim)
        self.number = 0

    def gradient(self, batch: Batch) -> None:
        """Transfer the batch, tokenise its reports, and add the gradient to the parameters."""
        self.number += 1
        backward(self.model, [batch], self.number, self.optim)

    def step(self, batch: Batch) -> None:
        """One step: gradient, clipping, optimiser."""
        self.gradient(batch)
        torch.nn.utils.clip_grad_norm_(self.method.parameters(), self.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Bench:
    """Runs on the device, and batches in host memory, by the name of their config."""

    def __init__(self, part: Part) -> None:
        self.part, self.device = part, part.device
        self.on_gpu = part.device.startswith("cuda")
        # few CPUs have bfloat16 products: the rehearsal uses them only where a step must run in them once
        self.precision = "optim.precision=bfloat16" if self.on_gpu else "optim.precision=float32"
        self.peak_tflops = 0.0  # measured bfloat16 products; 0: not measured
        self._runs: dict[str, Run] = {}
        self._recordings: dict[int, Recordings] = {}
        self._batches: dict[int, Batch] = {}

    def size(self, on_gpu: int, on_cpu: int) -> int:
        """Return a size: the first on a GPU, the second in a rehearsal on the CPU."""
        return on_gpu if self.on_gpu else on_cpu

    def config(self, name: str, *overrides: str) -> settings.Config:
        """Return the settings of configs/NAME.toml at the size of the device, on the packed cohort."""
        sizes = (FULL_SIZE if self.on_gpu else CPU_SIZE)[name]
        always = [f"data.cohort={self.part.cohort}", f"optim.device={self.device}", "optim.deterministic=false"]
        return settings.read(CONFIGS / f"{name}.toml", [*always, *sizes, *overrides])

    def recordings(self, name: str) -> Recordings:
        """Return the training recordings at the rate of the config, with other wordings of their reports."""
        signal = Signal(rate_hz=self.config(name).signal.rate_hz)
        if signal.rate_hz not in self._recordings:
            cohort = Cohort.open(self.part.cohort)
            rows = cohort.rows(split="train", min_report_words=2)
            self._recordings[signal.rate_hz] = Recordings(cohort, signal, rows, statements=True, wordings=True)
        return self._recordings[signal.rate_hz]

    def run(self, name: str, new: bool = False) -> Run:
        """Return a run with fresh weights on the device; the same one each time, except with `new`."""
        if new or name not in self._runs:
            recordings = self.recordings(name)
            texts = recordings.cohort.reports.distinct(recordings.rows[: self.size(N_REPORTS, 100)])
            run = runs.create(self.config(name), texts)
            if name in ("cg_dmer", "merl"):
                bert: Any = run.method.text.bert  # type: ignore[union-attr]
                freeze(bert, self.size(FROZEN_LAYERS, 1))
            run.method.to(self.device)
            if new:
                return run
            self._runs[name] = run
        return self._runs[name]

    def batch(self, name: str, n: int) -> Batch:
        """Return n recordings as a batch in host memory: the first ones of the training split, repeated."""
        rate = self.config(name).signal.rate_hz
        if rate not in self._batches:
            recordings = self.recordings(name)
            n_distinct = min(self.size(N_RECORDINGS, 16), len(recordings))
            self._batches[rate] = recordings.batch(np.arange(n_distinct))
        return repeated(self._batches[rate], n)

    def flop(self, name: str) -> float:
        """Return the floating-point operations of a step for one record: all products and attention, with padding."""
        n, run = self.size(32, 2), self.run(name)
        trainer, batch = Trainer(run), self.batch(name, n)
        count = 1e9 * gigaflop(partial(trainer.gradient, batch)) / n
        trainer.optimizer.zero_grad(set_to_none=True)
        return count

    def step_row(self, trainer: Trainer, batch: Batch, flop: float | None = None, n_timed: int = 6) -> Json:
        """Return the time of a step, its records a second, its memory, and its share of the measured peak."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        ms = median_ms(partial(trainer.step, batch), self.device, n_timed=n_timed)
        row: Json = {"batch": len(batch), "ms": round(ms, 3), "records_per_s": round(1000 * len(batch) / ms, 1)}
        if self.on_gpu:
            row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        if flop:
            tflops = flop * len(batch) / ms / 1e9
            row["tflops"] = round(tflops, 2)
            if self.peak_tflops:
                row["share_of_peak"] = round(tflops / self.peak_tflops, 4)
        return row

    def clean(self) -> None:
        """Free gradients and cached memory."""
        for run in self._runs.values():
            run.method.zero_grad(set_to_none=True)
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()


def repeated(batch: Batch, n: int) -> Batch:
    """Return n recordings: those of the batch, repeated in their order."""
    index = torch.arange(n) % len(batch)
    columns: dict[str, Any] = {}
    for column in dataclasses.fields(batch):
        value = getattr(batch, column.name)
        if isinstance(value, Tensor):
            value = value[index]
        elif isinstance(value, tuple):
            value = tuple(value[place] for place in index.tolist())
        columns[column.name] = value
    return Batch(**columns)


def ecg_step(module: nn.Module, loss: Callable[[], Tensor], parameters: list[nn.Parameter]) -> Callable[[], None]:
    """Return a bfloat16 training step, as `Trainer.step`, of a loss that reads ECGs alone."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        with autocast(module, "bfloat16"):
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def median_ms(
    work: Callable[[], object], device: str, seconds: float = 2.0, n_timed: int = 8, n_warmup: int = 2
) -> float:
    """Return the median time of `work` in milliseconds, after warm-up; fewer repetitions if they exceed `seconds`."""
    if not device.startswith("cuda"):  # a rehearsal, whose times do not count
        n_timed, n_warmup = 1, min(n_warmup, 1)
    for _ in range(n_warmup):
        work()
    wait(device)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < n_timed and (len(times) < 2 or time.perf_counter() < end):
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def attempt(work: Callable[[], Any]) -> Any:
    """Return what `work` returns, or {"error": ...}, so that the next measurement goes on."""
    try:
        return work()
    except Exception as error:
        return failure(error)


def failure(error: Exception) -> Json:
    """Return the type and the beginning of the message of an error."""
    return {"error": f"{type(error).__name__}: {error}"[:300]}


@contextmanager
def tf32() -> Iterator[None]:
    """A block in which float32 products may use TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
