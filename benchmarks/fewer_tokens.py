"""What it costs in AUROC, and saves in time, to embed an ECG from a part of its patches.

    python benchmarks/fewer_tokens.py runs/ptbxl cohorts/ptbxl

The encoder was trained on a part of the patches, so it can embed from one. Which: staggered, every second (fourth) patch of a
lead, each lead beginning at another; or drawn at random for each recording; or the mean over all two (four) staggered
parts, which sees everything but no attention crosses the parts. Scores are those of the validation split, for choosing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import describe, table, write
from torch import Tensor

from leadwise import run as runs
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.evaluate import prompts
from leadwise.evaluate.embed import embed
from leadwise.evaluate.metrics.auroc import auroc
from leadwise.evaluate.probe import ProbeTask, probe
from leadwise.evaluate.text_embeddings import class_vector, cosines, embed_prompts

Keep = Callable[[Tensor], Tensor]  # usable (B, L, N) bool -> those that the encoder sees


def staggered(every: int, begin: int) -> Keep:
    def keep(usable: Tensor) -> Tensor:
        _, n_leads, n_patches = usable.shape
        place = torch.arange(n_leads)[:, None] + torch.arange(n_patches) + begin
        return usable & (place % every == 0)

    return keep


def at_random(every: int) -> Keep:
    generator = torch.Generator().manual_seed(0)

    def keep(usable: Tensor) -> Tensor:
        rank = torch.rand(usable.shape, generator=generator).argsort(-1).argsort(-1)
        return usable & (rank < usable.shape[-1] // every)

    return keep


WAYS: dict[str, list[Keep]] = {
    "all": [lambda usable: usable],
    "1/2, staggered": [staggered(2, 0)],
    "1/2, at random": [at_random(2)],
    "mean of both halves": [staggered(2, k) for k in range(2)],
    "1/4, staggered": [staggered(4, 0)],
    "1/4, at random": [at_random(4)],
    "mean of all four quarters": [staggered(4, k) for k in range(4)],
}


def embedded(run: runs.Run, cohort: Cohort, rows: np.ndarray, part: str, keeps: list[Keep]) -> tuple[np.ndarray, float]:
    """(N, D) mean embeddings, and the seconds that they took."""
    whole = type(run.method)._patches
    total, began = 0.0, time.perf_counter()
    for keep in keeps:
        run.method._patches = lambda batch, keep=keep: (
            (outputs := whole(run.method, batch))[0],
            keep(outputs[1]),
        )
        total = total + embed(run, Recordings(cohort, run.config.signal, rows), part)
    del run.method._patches
    return total / len(keeps), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--split", default="val", choices=("val", "test"))
    args = parser.parse_args()
    run, cohort = runs.load(args.run), Cohort.open(args.cohort)
    rows = np.concatenate([cohort.rows(split=split) for split in ("train", "val", "test")])
    place = {int(row): k for k, row in enumerate(rows)}
    batch = Recordings(cohort, run.config.signal, rows).batch(range(64))
    lines, first = [], 0.0
    for name, keeps in WAYS.items():
        backbone, _ = embedded(run, cohort, rows, "backbone", keeps)
        shared, _ = embedded(run, cohort, rows, "shared", keeps)
        line: dict[str, object] = {"patches": name}
        probes: dict[float, list[float]] = {0.01: [], 0.1: [], 1.0: []}
        zeros = []
        for task in cohort.main_tasks:
            of_task = cohort.rows(task=task)
            at = np.array([place[int(row)] for row in of_task])
            index = cohort.index.iloc[of_task]
            split, patient = (index[key].astype(str).to_numpy() for key in ("split", "patient"))
            probe_task = ProbeTask(tuple(cohort.tasks[task]), cohort.labels(task, of_task), split, patient)
            for fraction, scores in probes.items():
                result = probe(backbone[at], probe_task, fraction)
                val = statistics.mean(draw.val_macro for draw in result.draws)
                scores.append(val if args.split == "val" else result.score.macro)
            classes = prompts.load(prompts.find(cohort.source, task)).for_classes(tuple(cohort.tasks[task]))
            vectors = [class_vector(texts) for texts in embed_prompts(run, classes)]
            here = probe_task.rows(args.split)
            zeros.append(float(np.nanmean(auroc(probe_task.labels[here], cosines(shared[at][here], vectors)))))
        line |= {f"probe {f:.0%}": f"{100 * statistics.mean(scores):.2f}" for f, scores in probes.items()}
        line["zero-shot"] = f"{100 * statistics.mean(zeros):.2f}"
        seconds = []
        with torch.inference_mode():
            patches, usable = run.method._patches(batch)
            for _ in range(9):
                began = time.perf_counter()
                for keep in keeps:
                    run.method.ecg(patches, keep(usable))
                seconds.append(time.perf_counter() - began)
        first = first or statistics.median(seconds)
        line["encoder's time"] = f"{statistics.median(seconds) / first:.2f}"
        lines.append(line)
        print(line, flush=True)
    n = run.method.ecg.shape.n_leads * run.method.ecg.shape.n_patches
    text = f"""# Embedding from fewer tokens

Command: `python {" ".join(sys.argv)}`. {describe()}.
{args.run.name} ({n} tokens, width {run.method.ecg.shape.width}) on {args.cohort.name}, {args.split} split. Macro AUROC x 100,
mean over the tasks {", ".join(cohort.main_tasks)}; probes at 1 % and 10 % are means over three draws.

{table(lines)}
"""
    print(write("fewer_tokens", text))


if __name__ == "__main__":
    main()
