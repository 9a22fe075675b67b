"""The gradient of one training step, equal to that of the whole batch however many processes and passes share it.

A method's local terms are means over records, and the mean over equal shares is the mean of their means. Its batch terms compare
all records of the batch: they need the features of all of them at once, but not the activations. So their gradient is computed
at the features first, and then carried back through the network share by share (GradCache: Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

import math
import random
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from leadwise import distributed
from leadwise import run as runs
from leadwise.batch import Batch
from leadwise.config import OptimConfig
from leadwise.methods.contract import Features, PretrainingMethod, Terms

T = TypeVar("T")


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and the term."""


class Objective(nn.Module):
    """Wraps a method so that `forward` returns its local terms and features. DDP needs every pass to go through `forward`."""

    def __init__(self, method: PretrainingMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> tuple[Terms, Features]:
        """Return the method's local terms and features; a method that compares no records has no features."""
        if not self.method.compares_records:
            return self.method(batch), {}
        return self.method.local_terms(batch)


@dataclass(frozen=True)
class StepTerms:
    """The terms of a step on this rank, still on its device: on a GPU, they may not be computed yet."""

    step: int
    terms: Terms  # the weighted terms, in the order of the method's weights
    differs: Terms  # for each feature, 1 if a second forward pass over the same records gave another one, else 0

    def read(self, norm: Tensor | None = None) -> tuple[dict[str, float], float]:
        """Return the whole batch's terms and the norm of its gradient; the only time in a step that the host waits for a GPU.

        Every rank calls this, and raises if any rank has a reason to. `norm` is the gradient's norm; without it, 0.

        Raises:
            TrainingError: a term or the norm is not finite, on this rank or another; or a second forward pass differs.
        """
        last = torch.zeros((), device=next(iter(self.terms.values())).device) if norm is None else norm
        local_row = torch.stack([x.detach().float() for x in (*self.terms.values(), *self.differs.values(), last)])
        table = distributed.gather(local_row[None]).tolist()  # (ranks, terms + features + 1)
        n = len(self.terms)
        values = _mean_over_ranks(tuple(self.terms), [row[:n] for row in table], self.step)
        _check_same_features(tuple(self.differs), [row[n:-1] for row in table], self.step)
        if not all(math.isfinite(row[-1]) for row in table):
            raise TrainingError(
                f"step {self.step}: the gradient is not finite; lower optim.lr, or use optim.precision=float32"
            )
        return values, table[distributed.rank()][-1]


def backward(
    model: Objective | DistributedDataParallel, batches: list[Batch], step: int, optim: OptimConfig
) -> dict[str, float]:
    """`queue_backward`, and return the whole batch's weighted terms.

    Raises:
        TrainingError: as `StepTerms.read`.
    """
    return queue_backward(model, batches, step, optim).read()[0]


def queue_backward(
    model: Objective | DistributedDataParallel, batches: list[Batch], step: int, optim: OptimConfig
) -> StepTerms:
    """Add the gradient of the step's whole batch to the parameters, and return the weighted terms, without reading a GPU.

    Terms that are not finite give a gradient that is not finite; `StepTerms.read` raises before it is used.

    Args:
        model: the objective, or DDP around it.
        batches: this rank's share of the batch, one Batch for each gradient-accumulation pass.
        step: the step's number, which seeds the random numbers.
        optim: the settings of the optimiser.
    """
    objective = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(objective, Objective)
    method, n_passes = objective.method, len(batches)
    single_pass = n_passes == 1  # then the first forward pass keeps its graph, and there is no second

    def forward_pass(through: nn.Module, number: int) -> tuple[Terms, Features]:
        # seeded by the position in the whole batch, so that the result does not depend on how the batch is shared
        seed_all(optim.seed, step, distributed.rank() * n_passes + number)
        with autocast(method, optim.precision):
            terms_and_features: tuple[Terms, Features] = through(batches[number].to(device_of(method)))
        return terms_and_features

    # forward: local terms and features of every pass; batch terms from the features of all
    with torch.set_grad_enabled(single_pass):
        passes = [forward_pass(model if single_pass else objective, number) for number in range(n_passes)]
    features = {name: torch.cat([rows[name].detach() for _, rows in passes]) for name in passes[0][1]}
    for x in features.values():
        x.requires_grad_(x.is_floating_point())
    batch_terms = method.batch_terms(features) if features else {}
    local_terms = {
        name: torch.stack([terms[name].detach().float() for terms, _ in passes]).mean() for name in passes[0][0]
    }
    values = _in_order({**local_terms, **batch_terms}, method)
    differs: Terms = {}

    # the batch terms' gradient at the features, split into one share per pass
    feature_gradients, parameter_gradients = _batch_term_gradients(batch_terms, features, method)
    sizes = [len(batch) for batch in batches]
    split_gradients = [torch.split(gradient, sizes) for gradient in feature_gradients.values()]
    shares = [dict(zip(feature_gradients, rows)) for rows in zip(*split_gradients)]

    # backward: one pass after another; DDP exchanges gradients in the last
    for number in range(n_passes):
        last = number == n_passes - 1
        with nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync():
            terms, rows = passes[0] if single_pass else forward_pass(model, number)
            if not single_pass:
                for name, is_other in _other_features(rows, passes[number][1]).items():
                    differs[name] = torch.maximum(differs[name], is_other) if name in differs else is_other
            parts = [term.float() / n_passes for term in terms.values()]
            if shares:
                parts += [(rows[name].float() * gradient.float()).sum() for name, gradient in shares[number].items()]
            if last:
                parts += [(p * gradient).sum() for p, gradient in parameter_gradients]
            torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
    return StepTerms(step, values, differs)


def forward(method: PretrainingMethod, batches: list[Batch], precision: str) -> dict[str, float]:
    """Return the weighted terms of one batch, computed in several passes, without any training.

    Local terms are weighted by the sizes of the passes, which may differ by one here.
    """
    sizes = torch.tensor([len(batch) for batch in batches], dtype=torch.float32)
    objective = Objective(method)
    with autocast(method, precision):
        passes: list[tuple[Terms, Features]] = [objective(batch.to(device_of(method))) for batch in batches]
    local_terms = {name: torch.stack([terms[name].float().cpu() for terms, _ in passes]) for name in passes[0][0]}
    values = {name: float((each * sizes).sum() / sizes.sum()) for name, each in local_terms.items()}
    features = {name: torch.cat([rows[name] for _, rows in passes]) for name in passes[0][1]}
    batch_terms = method.batch_terms(features) if features else {}
    values |= {name: float(term) for name, term in batch_terms.items()}
    return _in_order(values, method)


def _in_order(values: dict[str, T], method: PretrainingMethod) -> dict[str, T]:
    """Return the terms in the order of the method's weights."""
    return {name: values[name] for name in (*method.weights, *values) if name in values}


def _batch_term_gradients(
    batch_terms: Terms, features: Features, method: PretrainingMethod
) -> tuple[Features, list[tuple[nn.Parameter, Tensor]]]:
    """Return the batch terms' gradient at the features, and at the parameters that the terms use directly (a scale, a bias)."""
    if not batch_terms:
        return {}, []
    names = [name for name, x in features.items() if x.requires_grad]
    parameters = [p for p in method.parameters() if p.requires_grad]
    inputs = [*(features[name] for name in names), *parameters]
    gradients = torch.autograd.grad(torch.stack([*batch_terms.values()]).sum(), inputs, allow_unused=True)
    feature_gradients = {name: gradient for name, gradient in zip(names, gradients) if gradient is not None}
    return feature_gradients, [
        (p, gradient) for p, gradient in zip(parameters, gradients[len(names) :]) if gradient is not None
    ]


def _mean_over_ranks(terms: tuple[str, ...], table: list[list[float]], step: int) -> dict[str, float]:
    """Return each term's mean over ranks from the `table` of one row per rank; raise TrainingError if one is not finite."""
    for rank, row in enumerate(table):
        not_finite = {name: value for name, value in zip(terms, row) if not math.isfinite(value)}
        if not_finite:
            where = f" on rank {rank}" if len(table) > 1 else ""
            raise TrainingError(
                f"step {step}: {', '.join(not_finite)} is not finite ({', '.join(map(str, not_finite.values()))}){where}; "
                "lower optim.lr, or check the cohort with `leadwise prepare --verify`"
            )
    return {name: sum(column) / len(table) for name, column in zip(terms, zip(*table))}


def _other_features(second: Features, first: Features) -> Terms:
    """Return 1 for each feature of the second forward pass that differs from the first by more than bfloat16 rounding, else 0.

    The gradient was computed at the features of the first pass, and would be wrong for others.
    """
    out = {}
    for name, x in first.items():
        before, after = x.float(), second[name].detach().float()
        out[name] = ((after - before).norm() > 0.05 * before.norm()).float()
    return out


def _check_same_features(features: tuple[str, ...], table: list[list[float]], step: int) -> None:
    """Raise TrainingError if a feature differs (`_other_features`) on any rank; `table` has one row per rank."""
    other = [name for name, column in zip(features, zip(*table)) if any(column)]
    if other:
        raise TrainingError(
            f"step {step}: a second forward pass over the same records gives different features '{other[0]}': the method draws "
            "random numbers from a generator of its own, so set optim.accumulate=1"
        )


def seed_all(*numbers: int) -> None:
    """Seed every random generator that training may use from these numbers alone."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries may draw from the old global generator
    torch.manual_seed(seed)


def device_of(method: nn.Module) -> torch.device:
    """Return the device of a method's weights."""
    return next(method.parameters()).device


def autocast(method: nn.Module, precision: str) -> torch.autocast:
    """Return a context in which a method computes with this precision."""
    return torch.autocast(device_of(method).type, torch.bfloat16, enabled=precision == "bfloat16")


def gradient_norms(method: PretrainingMethod, batch: Batch, precision: str) -> dict[str, float]:
    """Return the norm of each weighted term's gradient on one batch, so that the weights can be compared."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    buffers = [(buffer, buffer.clone()) for buffer in method.buffers()]  # to restore the running statistics
    norms = {}
    with runs.isolated_random_state(), distributed.single_process():
        with autocast(method, precision):
            terms: Terms = method(batch.to(device_of(method)))
        for name, term in terms.items():
            gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            squares = [gradient.square().sum() for gradient in gradients if gradient is not None]
            norms[f"grad/{name}"] = float(torch.stack(squares).sum().sqrt())
    for buffer, before in buffers:
        buffer.copy_(before)
    return norms
