"""A training step on a GPU: the host reads the device once, for the terms and the norm that are logged.

No GPU is needed: the method is on PyTorch's "meta" device, whose tensors have a shape and a type but no values, so that
reading one raises.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
import torch
from conftest import make_batch, unobserve
from test_methods import build
from torch import Tensor, nn

from leadwise.batch import Batch
from leadwise.config import OptimConfig
from leadwise.methods import cg_dmer, merl, st_mem
from leadwise.methods.contract import PretrainingMethod
from leadwise.training import gradient_step
from leadwise.training.optimizer import make_optimizer

GPU = torch.device("meta")


def no_autocast(*_: object, **__: object) -> contextlib.AbstractContextManager[None]:
    """Replaces `torch.autocast`, which has no such device."""
    return contextlib.nullcontext()


def step(
    method: PretrainingMethod, batch: Batch, monkeypatch: pytest.MonkeyPatch, kind: str = "muon", n: int = 1
) -> int:
    """Make a training step in `n` passes on the device without values, and return how often it was read by `StepTerms.read`."""
    reads = []

    def gather(x: Tensor) -> Tensor:
        if len(reads) or x.shape[0] != 1 or x.ndim != 2:
            return x
        reads.append(x)
        return torch.ones(x.shape)

    class Counted(gradient_step.StepTerms):
        def read(self, norm: Tensor | None = None) -> tuple[dict[str, float], float]:
            with monkeypatch.context() as patch:
                patch.setattr(gradient_step.distributed, "gather", gather)
                patch.setattr(gradient_step, "_check_same_features", lambda *_: None)
                return super().read(norm)

    monkeypatch.setattr(gradient_step, "StepTerms", Counted)
    optim = OptimConfig(optimizer=kind)  # type: ignore[arg-type]
    size = len(batch) // n
    parts = [batch.rows(number * size, (number + 1) * size) for number in range(n)]
    monkeypatch.setattr(torch, "autocast", no_autocast)
    method.to(GPU)
    optimizer = make_optimizer(method.train(), optim)
    for group in optimizer.param_groups:
        group["fused"] = False
    queued = gradient_step.queue_backward(gradient_step.Objective(method), parts, 0, optim)
    queued.read(nn.utils.clip_grad_norm_(method.parameters(), 1.0))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    method.after_step(0.9)
    assert all(p.is_meta for p in method.parameters())
    return len(reads)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "cg_dmer": ("cg_dmer", cg_dmer.SMALL),
    "cg_dmer, last steps": ("cg_dmer", {**cg_dmer.SMALL, "final_view": "parts", "final_share": 1.0}),
    "cg_dmer, paper": ("cg_dmer", {"w_t_rec": 1.0}),
    "cg_dmer, in place": ("cg_dmer", {"text_task": "mlm", "contrast_view": "both", "specific_task": "recon"}),
    "merl": ("merl", merl.SMALL),
    "merl, vit": ("merl vit", {"gain": 0.1, "shift_s": 0.4}),
    "st_mem": ("st_mem", st_mem.SMALL),
    "st_mem, paper": ("st_mem", {}),
    "st_mem, times": ("st_mem time", {}),
    "st_mem, leads": ("st_mem lead", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_reads_the_device_once(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, settings = CASES[case]
    batch = make_batch(40)
    words = tuple(report + " sinus rhythm." * (i % 5) for i, report in enumerate(batch.report))  # of different lengths
    assert step(build(name, **settings), dataclasses.replace(batch, report=words), monkeypatch) == 1


def test_accumulation_and_adamw_read_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert step(build("cg_dmer", **cg_dmer.SMALL), make_batch(32), monkeypatch, "adamw", n=2) == 1


def test_this_test_finds_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with a gap: its patches are read from the device."""
    with pytest.raises((RuntimeError, NotImplementedError), match="meta tensor"):
        step(build("cg_dmer"), unobserve(make_batch(8), [3]), monkeypatch)
