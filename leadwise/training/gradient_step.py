"""One step's gradient: that of the whole batch, however many processes and passes share it.

What each record says for itself is a mean, and a mean over equal shares is a mean of means. What records say of each other
(a method's `contrast`) needs the representations of all of them at once, but not their activations: its gradient is taken at
the representations first, and then carried back through the network one share after another. (GradCache: Gao et al. 2021,
arXiv 2101.06983.)
"""

from __future__ import annotations

import math
import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from leadwise import distributed
from leadwise import run as runs
from leadwise.batch import Batch
from leadwise.config import OptimConfig

Terms = dict[str, Tensor]  # weighted loss terms, scalars
Pairs = dict[str, Tensor]  # what records show each other, a row for each


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and the term."""


class Objective(nn.Module):
    """A method as the loop calls it, so that DDP sees every pass: a batch in; its records' own terms, and their pairs, out."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method: Any = method  # keeps the contract of `methods`

    def forward(self, batch: Batch) -> tuple[Terms, Pairs]:
        """A method that sets no records against each other has no pairs."""
        if not hasattr(self.method, "look"):
            return self.method(batch), {}
        out: tuple[Terms, Pairs] = self.method.look(batch)
        return out


def backward(model: nn.Module, batches: list[Batch], step: int, optim: OptimConfig) -> dict[str, float]:
    """Add the gradient of the step's whole batch to the parameters of `model` (an Objective, or DDP around one).

    `batches` is this rank's share, one pass each. Returns the weighted terms of the whole batch.

    Raises:
        TrainingError: a term is not finite, on this rank or another.
    """
    objective: Any = model.module if isinstance(model, DistributedDataParallel) else model
    method, n = objective.method, len(batches)
    once = n == 1  # then the first look keeps its graph, and there is no second

    def look(through: nn.Module, number: int) -> tuple[Terms, Pairs]:
        seed_all(
            optim.seed, step, distributed.rank() * n + number
        )  # by the place in the whole batch, whoever computes it
        with autocast(method, optim.precision):
            out: tuple[Terms, Pairs] = through(batches[number].to(device_of(method)))
        return out

    with torch.set_grad_enabled(once):
        looks = [look(model if once else objective, number) for number in range(n)]
    shown = {name: torch.cat([pairs[name].detach() for _, pairs in looks]) for name in looks[0][1]}
    for x in shown.values():
        x.requires_grad_(x.is_floating_point())
    coupled: Terms = method.contrast(shown) if shown else {}
    terms = {name: torch.stack([own[name].detach().float() for own, _ in looks]).mean() for name in looks[0][0]}
    values = _finite({**terms, **coupled}, step)
    at_pairs, at_parameters = _slopes(coupled, shown, method)

    sizes = [len(batch) for batch in batches]
    shares = [dict(zip(at_pairs, rows)) for rows in zip(*(torch.split(slope, sizes) for slope in at_pairs.values()))]
    for number in range(n):
        last = number == n - 1
        with nullcontext() if last or model is objective else model.no_sync():  # type: ignore[operator]
            own, pairs = looks[0] if once else look(model, number)
            if not once:
                _refuse_another_look(pairs, looks[number][1], step)
            parts = [term.float() / n for term in own.values()]
            if shares:
                parts += [(pairs[name].float() * slope.float()).sum() for name, slope in shares[number].items()]
            if last:
                parts += [(p * slope).sum() for p, slope in at_parameters]
            torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
    order = getattr(method, "weights", values)
    return {name: values[name] for name in (*order, *values) if name in values}


def forward(method: nn.Module, batches: list[Batch], precision: str) -> dict[str, float]:
    """The weighted terms of one batch that is seen in several passes; nothing is learnt.

    Own terms are weighted by the passes' sizes, which may differ by one here.
    """
    sizes = torch.tensor([len(batch) for batch in batches], dtype=torch.float32)
    with autocast(method, precision):
        looks: list[tuple[Terms, Pairs]] = [Objective(method)(batch.to(device_of(method))) for batch in batches]
    own = {name: torch.stack([terms[name].float().cpu() for terms, _ in looks]) for name in looks[0][0]}
    values = {name: float((each * sizes).sum() / sizes.sum()) for name, each in own.items()}
    shown = {name: torch.cat([pairs[name] for _, pairs in looks]) for name in looks[0][1]}
    coupled: Terms = method.contrast(shown) if shown else {}  # type: ignore[operator]
    values |= {name: float(term) for name, term in coupled.items()}
    order = getattr(method, "weights", values)
    return {name: values[name] for name in (*order, *values) if name in values}


def _slopes(coupled: Terms, shown: Pairs, method: nn.Module) -> tuple[Pairs, list[tuple[nn.Parameter, Tensor]]]:
    """The coupled terms' gradient at the pairs, and at those parameters that the terms use themselves (a scale, a bias)."""
    if not coupled:
        return {}, []
    names = [name for name, x in shown.items() if x.requires_grad]
    parameters = [p for p in method.parameters() if p.requires_grad]
    inputs = [*(shown[name] for name in names), *parameters]
    slopes = torch.autograd.grad(torch.stack([*coupled.values()]).sum(), inputs, allow_unused=True)
    at_pairs = {name: slope for name, slope in zip(names, slopes) if slope is not None}
    return at_pairs, [(p, slope) for p, slope in zip(parameters, slopes[len(names) :]) if slope is not None]


def _finite(terms: Terms, step: int) -> dict[str, float]:
    """The terms' mean over ranks; every rank stops where one of them is not finite on any."""
    mine = torch.stack([term.detach().float() for term in terms.values()])
    table = distributed.gather(mine[None]).tolist()  # (ranks, terms)
    for rank, row in enumerate(table):
        bad = {name: value for name, value in zip(terms, row) if not math.isfinite(value)}
        if bad:
            where = f" on rank {rank}" if len(table) > 1 else ""
            raise TrainingError(
                f"step {step}: {', '.join(bad)} is not finite ({', '.join(map(str, bad.values()))}){where}; "
                "lower optim.lr, or check the cohort with `leadwise prepare --verify`"
            )
    return {name: sum(column) / len(table) for name, column in zip(terms, zip(*table))}


def _refuse_another_look(pairs: Pairs, before: Pairs, step: int) -> None:
    """The second look must show what the first did, to the rounding of bfloat16, or the gradient would belong to nothing."""
    for name, x in before.items():
        first, second = x.float(), pairs[name].detach().float()
        if bool((second - first).norm() > 0.05 * first.norm()):
            raise TrainingError(
                f"step {step}: looked at a second time, the same records show another '{name}', so optim.accumulate cannot be "
                "used with this method: it draws its random numbers from a state of its own"
            )


def seed_all(*numbers: int) -> None:
    """Start every random state that training may use from these numbers and nothing else."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries below may draw from the old global state
    torch.manual_seed(seed)


def device_of(method: nn.Module) -> torch.device:
    """Where a method's weights lie."""
    return next(method.parameters()).device


def autocast(method: nn.Module, precision: str) -> torch.autocast:
    """A block in which a method computes with this precision."""
    return torch.autocast(device_of(method).type, torch.bfloat16, enabled=precision == "bfloat16")


def gradient_norms(method: nn.Module, batch: Batch, precision: str) -> dict[str, float]:
    """The norm of each weighted term's gradient on one batch by itself, so that weights can be judged."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    buffers = [(buffer, buffer.clone()) for buffer in method.buffers()]  # running statistics are not to move
    out = {}
    with runs.side_random(), distributed.single_process():
        with autocast(method, precision):
            terms: Terms = method(batch.to(device_of(method)))
        for name, term in terms.items():
            slopes = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            squares = [slope.square().sum() for slope in slopes if slope is not None]
            out[f"grad/{name}"] = float(torch.stack(squares).sum().sqrt())
    for buffer, was in buffers:
        buffer.copy_(was)
    return out
