"""Where a pre-training step's time goes, and its share of the machine's matrix-multiply peak measured in the same run.

    python benchmarks/profile_step.py configs/ptbxl_cpu.toml configs/cg_dmer_small.toml --batch 16

Each part is timed forward and backward by itself on the inputs it gets in a step, parts and whole steps interleaved over
rounds, medians taken; what a part hands on is squared and averaged to have something to go back from. "The rest" is what
whole steps take beyond the sum of parts. Loading recordings is not in it. The batch is noise with reports of real length:
time does not depend on what an ECG shows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from machine import describe, matmul_peak, table, write
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from leadwise import config as settings
from leadwise import run as runs
from leadwise.batch import Batch
from leadwise.nn import masking
from leadwise.nn.losses.multimodal import token_reconstruction
from leadwise.training.optimizer import make_optimizer

REPORTS = (
    "normal sinus rhythm. normal ecg.",
    "sinus bradycardia. left axis deviation. minimal voltage criteria for lvh, may be normal variant. borderline ecg.",
    "atrial fibrillation with rapid ventricular response. nonspecific st and t wave abnormality. abnormal ecg.",
    "sinus rhythm with 1st degree av block. inferior infarct, age undetermined. right bundle branch block. abnormal ecg.",
)


def profile(path: Path, batch_size: int, rounds: int) -> tuple[list[dict[str, object]], dict[str, float]]:
    config = settings.read(path, ["optim.precision=float32"])
    run = runs.create(config, REPORTS)
    method, signal = run.method.train(), run.config.signal
    optimizer = make_optimizer(method, run.config.optim)
    ecg = torch.randn(batch_size, len(signal.leads), signal.n_samples)
    names = tuple(str(i) for i in range(batch_size))
    texts = tuple(f"{REPORTS[i % len(REPORTS)]} study {i}." for i in range(batch_size))
    batch = Batch(ecg, torch.ones_like(ecg, dtype=torch.bool), names, names, texts)

    with torch.no_grad():
        patches, usable = method._patches(batch)
        visible = masking.draw_visible(usable, run.config.method["mask_ratio"])
        index, _ = masking.places(visible.flatten(1))
        chosen = masking.take(patches.flatten(1, 2), index)
        tokens = method.ecg.tokenizer(chosen)
        encoded = method.ecg(patches, visible)
        encoded = replace(encoded, tokens=encoded.tokens.requires_grad_())  # its gradient goes on to the encoder
        words, _ = method.text.tokenize(list(texts))
        cloze = method._hide_words(words)
        e_text = method.text(words)[1]
        memory = method.text(cloze.question)[0]
        e_ecg = method._pool(encoded)
    own = torch.arange(batch_size)[:, None]  # every report another

    def heads() -> Tensor:
        e, t = method.ecg_shared(e_ecg), method.text_shared(e_text)
        apart = method.ecg_specific(e_ecg).square().mean() + method.text_specific(e_text).square().mean()
        total: Tensor = method._info_nce(e, t, own) + method._siglip(e, t, own) + apart
        return total

    @torch.no_grad()
    def prepare() -> Tensor:
        viewed = method.training_view(batch)
        clean, whole = method._patches(viewed)
        method._noisy(clean, whole)
        masking.draw_visible(whole, run.config.method["mask_ratio"])
        return method._target(clean, viewed)

    def hide() -> Tensor:
        return method._hide_words(method.text.tokenize(list(texts))[0]).answer

    parts: dict[str, Callable[[], Tensor]] = {
        "views, scaling, masks, target": prepare,
        "report to tokens": hide,
        "tokeniser": lambda: method.ecg.tokenizer(chosen).square().mean(),
        "encoder": lambda: method.ecg.transformer(tokens.requires_grad_()).square().mean(),
        "ECG decoder": lambda: method.ecg_decoder(encoded, usable, None, visible).square().mean(),
        "text encoder, two passes": lambda: (
            method.text(words)[1].square().mean() + method.text(cloze.question)[0].square().mean()
        ),
        "text decoder and words": lambda: token_reconstruction(method._fill_in(cloze, memory, e_text)),
        "heads and contrast": heads,
    }

    def step() -> None:
        torch.stack([t.float() for t in method(batch).values()]).sum().backward()

    times: dict[str, list[float]] = {name: [] for name in [*parts, "clipping and optimiser", "whole step"]}
    for turn in range(rounds + 1):
        for name, part in parts.items():
            began = time.perf_counter()
            output = part()
            if output.requires_grad:
                output.backward()
            times[name].append(time.perf_counter() - began)
        began = time.perf_counter()
        step()
        middle = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(method.parameters(), run.config.optim.clip)
        optimizer.step()
        times["clipping and optimiser"].append(time.perf_counter() - middle)
        optimizer.zero_grad(set_to_none=True)
        times["whole step"].append(time.perf_counter() - began)
        if turn == 0:  # the first round warms up
            times = {name: [] for name in times}
    with FlopCounterMode(display=False) as counter:
        step()
    medians = {name: statistics.median(values) for name, values in times.items()}
    whole = medians.pop("whole step")
    rows: list[dict[str, object]] = [
        {"part": name, "ms": round(1000 * seconds, 1), "share of step": f"{seconds / whole:.0%}"}
        for name, seconds in medians.items()
    ]
    rest = whole - sum(medians.values())
    rows.append(
        {
            "part": "the rest",
            "ms": round(1000 * rest, 1),
            "share of step": f"{rest / whole:.0%}",
        }
    )
    rows.append({"part": "whole step", "ms": round(1000 * whole, 1), "share of step": "100%"})
    flops, peak = counter.get_total_flops(), matmul_peak()
    facts = {"gflop": flops / 1e9, "rate": flops / whole / 1e9, "peak": peak, "records_per_s": batch_size / whole}
    return rows, facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    pages = []
    for path in args.configs:
        rows, facts = profile(path, args.batch, args.rounds)
        pages.append(f"""## {path.stem}, batch {args.batch}, float32

{table(rows)}

{facts["records_per_s"]:.1f} records/s. Matrix products (forward and backward): {facts["gflop"]:.1f} GFLOP a step, so
{facts["rate"]:.0f} GFLOP/s, {facts["rate"] / facts["peak"]:.0%} of the
{facts["peak"]:.0f} GFLOP/s that plain matrix products reached in the same run.
""")
        print(pages[-1], flush=True)
    head = f"# Where the time of a training step goes\n\nCommand: `python {' '.join(sys.argv)}`. {describe()}.\n\n"
    print(write("profile_step", head + "\n".join(pages)))


if __name__ == "__main__":
    main()
