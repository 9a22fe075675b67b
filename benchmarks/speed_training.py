"""Rows of the pre-training step: the ECG branch against the plain way and against ST-MEM, reports, the optimiser."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from speed_pair import Against, BenchmarkArgs, Build, Case, Way
from speed_plain import EcgBranch, gigaflop, learn, padded, written_out
from speed_reports import write_reports
from stmem import StMem
from torch import Tensor, nn

from leadwise import config as settings
from leadwise import run as runs
from leadwise.batch import Batch, Signal
from leadwise.nn.text import freeze
from leadwise.training.optimizer import make_optimizer

BERT_BASE = ("method.text_width=768", "method.text_depth=12", "method.text_heads=12", "method.max_tokens=256")
FROZEN_LAYERS = 6  # as configs/cg_dmer.toml
PADDED_TOKENS = 256


def make_method(args: BenchmarkArgs, texts: tuple[str, ...], *overrides: str, config: str = "cg_dmer_small") -> Any:
    """A method with fresh weights at a config's sizes, float32, and its settings."""
    path = args.root / "configs" / f"{config}.toml"
    config = settings.read(path, ["optim.precision=float32", *overrides])
    torch.manual_seed(0)
    run = runs.create(config, texts)
    run.method.train()
    return run


def noise(signal: Signal, n: int, texts: tuple[str, ...]) -> Batch:
    """n recordings of noise, everything observed: time does not depend on what an ECG shows."""
    ecg = torch.randn(n, len(signal.leads), signal.n_samples, generator=torch.Generator().manual_seed(0))
    names = tuple(str(i) for i in range(n))
    return Batch(
        ecg, torch.ones_like(ecg, dtype=torch.bool), names, names, tuple(texts[i % len(texts)] for i in range(n))
    )


def ecg_branch(args: BenchmarkArgs, n: int, *overrides: str) -> EcgBranch:
    texts = write_reports(20)
    run = make_method(args, texts, *overrides)
    return EcgBranch(run.method, noise(run.config.signal, n, texts))


def gradient(module: nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    """The loss and the whole gradient (1 + P,) with the same random masks every time."""
    torch.manual_seed(1)
    value = loss()
    value.backward()
    parts = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    module.zero_grad(set_to_none=True)
    return torch.cat([value.detach()[None], *parts])


def agree(what: str, a: Tensor, b: Tensor, within: float = 1e-4) -> str:
    """What was found equal, for the page.

    Raises:
        RuntimeError: it was not.
    """
    apart = float((a - b).norm() / a.norm())
    if not apart <= within:
        raise RuntimeError(f"{what}: apart by {apart:.1e} of their size")
    return f"{what} agree to {apart:.0e}"


def step_plain(args: BenchmarkArgs) -> Case:
    """Only visible tokens and fused attention, against all tokens and attention written out."""
    n = args.batch or 4
    branch, one = ecg_branch(args, n), ecg_branch(args, 1)
    method = branch.method

    def written(work: Any) -> None:
        with written_out():
            work()

    def note() -> str:
        fused = gradient(one.method, one.loss)
        with written_out():
            plain = gradient(one.method, one.loss)
        unheard = gradient(one.method, lambda: one.all_tokens_loss(hear_hidden=False))
        checked = agree("loss and gradient with fused and with written-out attention", fused, plain) + "; "
        checked += agree(
            "those of visible tokens alone and of all tokens with the hidden ones masked out", fused, unheard
        )
        return (
            f"batch {n}, {sizes(branch)}; float32. plain: a mask token in hidden places, all 1,200 tokens through the "
            f"encoder, the same decoder, softmax(QK^T)V written out. Checked: {checked}"
        )

    ours, plain = partial(learn, method, branch.loss), partial(learn, method, branch.all_tokens_loss)
    return Case(
        what="record",
        ways={
            "ours": Way(ours, n),
            "plain": Way(partial(written, plain), n),
        },
        against=[
            Against("ours", "plain", 5.0),
        ],
        gflop={"ours": partial(gigaflop, partial(learn, one.method, one.loss))},
        note=note,
    )


def sizes(branch: EcgBranch) -> str:
    c = branch.config
    return (
        f"{c.width} wide, {c.depth} deep, {c.heads} heads, 12 x {c.n_patches} tokens, {c.mask_ratio:.0%} hidden, decoder "
        f"{c.decoder_width} wide, {c.decoder_depth} blocks, {c.decoder}"
    )


def make_stmem(branch: EcgBranch) -> StMem:
    c, signal = branch.config, branch.method.signal
    torch.manual_seed(0)
    return StMem(len(signal.leads), c.n_patches, signal.n_samples // c.n_patches, c.width, c.depth, c.heads)


def step_stmem(args: BenchmarkArgs) -> Case:
    """The package's step as configured, against ST-MEM's architecture."""
    n = args.batch or 8
    branch, one = ecg_branch(args, n), ecg_branch(args, 1)
    stmem, ecg = make_stmem(branch), branch.batch.ecg
    gflop = {
        "ours": partial(gigaflop, partial(learn, one.method, one.loss)),
        "ST-MEM": partial(gigaflop, partial(learn, stmem, partial(stmem, ecg[:1]))),
    }

    def note() -> str:
        ours = sum(p.numel() for part in (one.method.ecg, one.method.ecg_decoder) for p in part.parameters())
        its = sum(p.numel() for p in stmem.parameters())
        return (
            f"batch {n}; ours {sizes(branch)}, {ours / 1e6:.1f} M parameters; ST-MEM of the same width, depth, heads, tokens "
            f"and masking, decoder 256 wide, 4 blocks, 4 heads, each lead alone, 24 separators; {its / 1e6:.1f} M parameters; "
            "the same fused attention. GFLOP a record, forward and backward: "
            + ", ".join(f"{name} {products():.1f}" for name, products in gflop.items())
        )

    return Case(
        what="record",
        ways={
            "ours": Way(partial(learn, branch.method, branch.loss), n),
            "ST-MEM": Way(partial(learn, stmem, partial(stmem, ecg)), n),
        },
        against=[Against("ours", "ST-MEM", 1.3)],
        gflop=gflop,
        note=note,
    )


def bert_method(args: BenchmarkArgs, texts: tuple[str, ...]) -> Any:
    """cg_dmer_small's ECG branch beside a BERT of base size from nothing, its first layers frozen; and its settings."""
    run = make_method(args, texts, *BERT_BASE)
    freeze(run.method.text.bert, FROZEN_LAYERS)
    return run


def step_text(args: BenchmarkArgs) -> Case:
    """The whole step with reports as long as they are, against reports padded to 256 tokens."""
    n = args.batch or 8
    texts = write_reports(2000, args.ptbxl)
    run = bert_method(args, texts)
    method, bert = run.method, run.method.text.bert
    batch = noise(run.config.signal, n, texts)

    def total(of: Batch = batch) -> Tensor:
        return torch.stack([term.float() for term in method(of).values()]).sum()

    def long() -> None:
        with padded(bert, PADDED_TOKENS):
            learn(method, total)

    def note() -> str:
        few = partial(total, noise(run.config.signal, 2, texts))
        short = gradient(method, few)
        with padded(bert, PADDED_TOKENS):
            checked = agree("loss and gradient of both", short, gradient(method, few))
        counts = [len(ids) for ids in method.tokenizer(list(texts))["input_ids"]]
        trainable = sum(p.numel() for p in method.parameters() if p.requires_grad)
        return (
            f"batch {n}; ECG branch of cg_dmer_small, all terms of Eq. 10; BERT 12 x 768 from nothing, embeddings and first "
            f"{FROZEN_LAYERS} layers frozen, {trainable / 1e6:.0f} M trainable in all; float32. Reports: {lengths_of(counts)}; "
            f"of this batch {sum(counts[:n]) / n:.0f} on average, {max(counts[:n])} the longest. Only what BERT reads is "
            f"padded, with what is padded masked; checked: {checked}"
        )

    return Case(
        what="record",
        ways={"ours": Way(lambda: learn(method, total), n), "padded to 256": Way(long, n)},
        against=[Against("ours", "padded to 256", 3.0)],
        gflop={"ours": lambda: gigaflop(lambda: learn(method, total)) / n},
        note=note,
    )


def lengths_of(counts: list[int]) -> str:
    order = sorted(counts)
    return f"{sum(order) / len(order):.0f} tokens on average, 95 % within {order[int(0.95 * len(order))]}"


def optimizer_step(args: BenchmarkArgs) -> Case:
    """One step of the loop's optimiser, against torch's AdamW as it comes."""
    texts = write_reports(20)
    run = make_method(args, texts, 'method.text_encoder=""', *BERT_BASE, config="cg_dmer")
    method, generator = run.method, torch.Generator().manual_seed(0)
    ours = make_optimizer(method, run.config.optim)
    parameters = [p for group in ours.param_groups for p in group["params"]]
    for p in parameters:
        p.grad = 1e-3 * torch.randn(p.shape, generator=generator)
    groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in ours.param_groups]
    first = ours.param_groups[0]
    plain = torch.optim.AdamW(groups, lr=first["lr"], betas=first["betas"])
    foreach = torch.optim.AdamW([dict(g) for g in groups], lr=first["lr"], betas=first["betas"], foreach=True)
    n = sum(p.numel() for p in parameters)
    return Case(
        what="step",
        ways={"ours": Way(ours.step), "torch's default": Way(plain.step), "foreach": Way(foreach.step)},
        against=[Against("ours", "torch's default", 5.0), Against("ours", "foreach")],
        gbytes={"ours": 7 * 4 * n / 1e9},  # reads weight, gradient and two moments, writes all but the gradient
        note=lambda: (
            f"{n / 1e6:.0f} M parameters in {len(parameters)} tensors (configs/cg_dmer.toml with a BERT-base from nothing, "
            "nothing frozen), the same groups; memory: the two moments that the first step makes, and its temporary memory"
        ),
    )


ROWS: dict[str, Build] = {
    "step-plain": step_plain,
    "step-stmem": step_stmem,
    "step-text": step_text,
    "optimiser": optimizer_step,
}
