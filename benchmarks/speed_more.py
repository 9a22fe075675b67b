"""Rows beyond the aims: what other decoders, fewer tokens, sorted reports and cached layers would give."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from speed_pair import Against, BenchmarkArgs, Build, Case, Way
from speed_plain import gigaflop, learn
from speed_reports import write_reports
from speed_training import FROZEN_LAYERS, bert_method, ecg_branch, gradient, make_method, make_stmem
from torch import Tensor, nn

from leadwise.evaluate.embed import frozen
from leadwise.nn.text import (
    Tokens,
    bert_from_nothing,
    freeze,
    tokenize,
)

JOINT = "joint, 4 blocks"  # the method's default
DECODERS: dict[str, tuple[str, ...]] = {
    JOINT: ("method.decoder=joint",),
    "joint, 2 blocks": ("method.decoder=joint", "method.decoder_depth=2"),
    "by lead, 4 blocks": ("method.decoder=leadwise",),
    "hidden attend to visible, 4 blocks": ("method.decoder=cross",),
    "hidden attend to visible, 2 blocks": ("method.decoder=cross", "method.decoder_depth=2"),
}
GROUPS = (2, 4, 8)
LONGEST = "padded to the longest"


def decoders(args: BenchmarkArgs) -> Case:
    """The step with each decoder, against the method's default and against ST-MEM."""
    n = args.batch or 4
    ways, gflop = {}, {}
    for name, overrides in DECODERS.items():
        branch, one = ecg_branch(args, n, *overrides), ecg_branch(args, 1, *overrides)
        ways[name] = Way(partial(learn, branch.method, branch.loss), n)
        gflop[name] = partial(gigaflop, partial(learn, one.method, one.loss))
    stmem, ecg = make_stmem(branch), branch.batch.ecg
    ways["ST-MEM"] = Way(partial(learn, stmem, partial(stmem, ecg)), n)
    work = partial(_each, gflop, "{:.1f}")
    return Case(
        what="record",
        ways=ways,
        against=[Against(name, JOINT) for name in DECODERS if name != JOINT]
        + [Against(name, "ST-MEM") for name in DECODERS],
        gflop=gflop,
        note=lambda: (
            f"the step of step-stmem, batch {n}, with the decoder that the row names. GFLOP a record, forward and backward: "
            f"{work()}"
        ),
    )


def _each(table: dict[str, Callable[[], float]], form: str) -> str:
    return ", ".join(f"{name} {form.format(value())}" for name, value in table.items())


def fewer_tokens(args: BenchmarkArgs) -> Case:
    """The encoder over every second and every fourth patch, against all 1,200."""
    n = args.batch or 4
    branch = ecg_branch(args, n)
    patches, usable, _ = branch.draw()
    n_leads, n_patches = usable.shape[1:]
    place = torch.arange(n_leads)[:, None] + torch.arange(n_patches)  # each lead begins at another patch

    def encode(every: int, precision: str) -> None:
        with frozen(branch.method), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            branch.method.ecg(patches, usable & (place % every == 0))

    ways, dtype = {}, {}
    for every in (1, 2, 4):
        for precision in ("float32", "bfloat16")[: 1 if every == 2 else 2]:
            name = f"{n_leads * n_patches // every} tokens, {precision}"
            ways[name], dtype[name] = Way(partial(encode, every, precision), n), precision
    whole = "1200 tokens, float32"
    return Case(
        what="record",
        ways=ways,
        against=[Against(name, whole) for name in ways if name != whole],
        gflop={name: lambda name=name: gigaflop(ways[name].call) / n for name in ways},  # type: ignore[misc]
        dtype=dtype,
        note=lambda: (
            f"batch {n}, patches to pooled embedding; what fewer tokens cost in AUROC: benchmarks/fewer_tokens.py"
        ),
    )


# ---------------------------------------------------------------------------------------------------------------- reports


def in_groups(bert: nn.Module, tokens: Tokens, k: int) -> Tensor:
    """States (B, S, D) of all reports: sorted by length and encoded in k groups, each padded to its own longest."""
    n = tokens.real.sum(-1)  # (B,)
    parts, order = [], n.argsort()
    for rows in order.chunk(k):
        longest = int(n[rows].max())
        part = bert(input_ids=tokens.ids[rows, :longest], attention_mask=tokens.real[rows, :longest].long())
        parts.append(nn.functional.pad(part.last_hidden_state, (0, 0, 0, tokens.ids.shape[1] - longest)))
    return torch.cat(parts)[order.argsort()]


def grouped_reports(args: BenchmarkArgs, n: int, base: bool) -> Case:
    """A batch of reports through the package's text encoder, and padded to the longest or in k groups."""
    texts = write_reports(max(n, 2000), args.ptbxl)
    run = bert_method(args, texts) if base else make_method(args, texts)
    method, bert = run.method, run.method.text.bert
    tokens, _ = tokenize(method.tokenizer, list(texts[:n]), method.config.max_tokens)
    real = tokens.real[..., None]

    def loss(states: Callable[[], Tensor]) -> Tensor:
        return (states() * real).square().sum() / n

    losses: dict[str, Callable[[], Tensor]] = {
        "ours": partial(loss, lambda: method.text(tokens)[0]),
        LONGEST: partial(loss, partial(in_groups, bert, tokens, 1)),
    }
    losses |= {f"{k} groups": partial(loss, partial(in_groups, bert, tokens, k)) for k in (() if base else GROUPS)}

    def note() -> str:
        whole = gradient(bert, losses[LONGEST])
        apart = max(float((gradient(bert, each) - whole).norm() / whole.norm()) for each in losses.values())
        counts = tokens.real.sum(-1)
        size = (
            f"12 x 768, {FROZEN_LAYERS} layers frozen" if base else f"{method.config.text_depth} x {method.text.width}"
        )
        return (
            f"{n} reports, BERT {size}, forward and backward; {counts.float().mean():.0f} tokens on average, {counts.max()} the "
            f"longest, so {1 - counts.float().mean() / counts.max():.0%} is padding. ours: the package's text encoder. The same "
            f"batch and result; loss and gradient of all agree to {apart:.0e}"
        )

    ways = {name: Way(partial(learn, bert, each), n) for name, each in losses.items()}
    return Case("report", ways, [Against(name, LONGEST) for name in ways if name != LONGEST], note)


def cached_layers(args: BenchmarkArgs) -> Case:
    """BERT-base from cached states of its frozen layers, against all of it."""
    n = args.batch or 16
    texts = write_reports(2000, args.ptbxl)
    method = bert_method(args, texts).method
    bert, width = method.text.bert, method.text.width
    upper = bert_from_nothing(len(method.tokenizer), width, 12 - FROZEN_LAYERS, 12, 256)
    freeze(upper, 0)
    upper.embeddings.requires_grad_(False)  # type: ignore[operator, union-attr]
    tokens, _ = tokenize(method.tokenizer, list(texts[:n]), 256)
    mask, states = tokens.real.long(), torch.randn(*tokens.ids.shape, width)

    def whole() -> Tensor:
        return bert(input_ids=tokens.ids, attention_mask=mask).last_hidden_state.square().mean()  # type: ignore[no-any-return]

    def top() -> Tensor:
        return upper(inputs_embeds=states, attention_mask=mask).last_hidden_state.square().mean()  # type: ignore[no-any-return]

    return Case(
        what="report",
        ways={
            "frozen layers cached": Way(partial(learn, upper, top), n),
            "all layers": Way(partial(learn, bert, whole), n),
        },
        against=[Against("frozen layers cached", "all layers")],
        note=lambda: (
            f"{n} reports of {tokens.real.sum(-1).float().mean():.0f} tokens on average, padded to the longest; layers "
            f"{FROZEN_LAYERS + 1} to 12 forward and backward, from cached states, against all 12 with the first "
            f"{FROZEN_LAYERS} frozen. Only an unmasked report can be cached, not one with hidden or shuffled "
            f"words: one of a step's two passes. A report's states are {4 * width / 1024:.0f} KiB a token in float32"
        ),
    )


ROWS: dict[str, Build] = {
    "decoders": decoders,
    "fewer-tokens": fewer_tokens,
    "reports-64": partial(grouped_reports, n=64, base=False),
    "reports-256": partial(grouped_reports, n=256, base=False),
    "reports-32-base": partial(grouped_reports, n=32, base=True),
    "cached-layers": cached_layers,
}
