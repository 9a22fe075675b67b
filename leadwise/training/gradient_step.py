"""The gradient of one training step, equal to that of the whole batch however many processes and passes share it.

A method's local terms are means over records, and the mean over equal shares is the mean of their means. Its batch terms compare
all records of the batch: they need the features of all of them at once, but not the activations. So their gradient is computed
at the features first, and then carried back through the network share by share (GradCache: Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

import math
import random
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from leadwise import distributed
from leadwise import run as runs
from leadwise.batch import Batch
from leadwise.config import OptimConfig
from leadwise.methods.contract import Features, PretrainingMethod, Terms


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


def backward(
    model: Objective | DistributedDataParallel, batches: list[Batch], step: int, optim: OptimConfig
) -> dict[str, float]:
    """Add the gradient of the step's whole batch to the parameters, and return the whole batch's weighted terms.

    Args:
        model: the objective, or DDP around it.
        batches: this rank's share of the batch, one Batch for each gradient-accumulation pass.
        step: the step's number, which seeds the random numbers.
        optim: the settings of the optimiser.

    Raises:
        TrainingError: a term is not finite, on this rank or another.
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
    values = _mean_over_ranks({**local_terms, **batch_terms}, step)

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
                _check_same_features(rows, passes[number][1], step)
            parts = [term.float() / n_passes for term in terms.values()]
            if shares:
                parts += [(rows[name].float() * gradient.float()).sum() for name, gradient in shares[number].items()]
            if last:
                parts += [(p * gradient).sum() for p, gradient in parameter_gradients]
            torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
    return _in_order(values, method)


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


def _in_order(values: dict[str, float], method: PretrainingMethod) -> dict[str, float]:
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


def _mean_over_ranks(terms: Terms, step: int) -> dict[str, float]:
    """Return each term's mean over ranks. Every rank raises TrainingError if a term is not finite on any rank."""
    local_values = torch.stack([term.detach().float() for term in terms.values()])
    table = distributed.gather(local_values[None]).tolist()  # (ranks, terms)
    for rank, row in enumerate(table):
        not_finite = {name: value for name, value in zip(terms, row) if not math.isfinite(value)}
        if not_finite:
            where = f" on rank {rank}" if len(table) > 1 else ""
            raise TrainingError(
                f"step {step}: {', '.join(not_finite)} is not finite ({', '.join(map(str, not_finite.values()))}){where}; "
                "lower optim.lr, or check the cohort with `leadwise prepare --verify`"
            )
    return {name: sum(column) / len(table) for name, column in zip(terms, zip(*table))}


def _check_same_features(second: Features, first: Features, step: int) -> None:
    """Raise TrainingError if the second forward pass differs from the first by more than bfloat16 rounding.

    The gradient was computed at the features of the first pass, and would be wrong for others.
    """
    for name, x in first.items():
        before, after = x.float(), second[name].detach().float()
        if bool((after - before).norm() > 0.05 * before.norm()):
            raise TrainingError(
                f"step {step}: a second forward pass over the same records gives different features '{name}': the method draws "
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
