"""Training at full speed: records/s, share of the card's matrix-multiply peak, memory, and whether the loader keeps up.

    python benchmarks/training.py configs/cg_dmer_small.toml configs/cg_dmer.toml --batch 256 --steps 30

Runs on the GPU where there is one, in bfloat16, else on the CPU as the config says. Records are simulated in the shape of
MIMIC-IV-ECG, prepared in a temporary folder and read from memory-mapped shards; a config that borrows a text encoder gets
one of BERT-base's shape with fresh weights, frozen as the config says. Matrix products are counted by torch on one step,
forward and backward, those of recomputed activations left out; the peak is that of plain products in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import describe, matmul_peak, table, write
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from leadwise import config as settings
from leadwise import run as runs
from leadwise.batch import Batch, Signal
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write as write_cohort
from leadwise.data.loader import Recordings, Sampler, prefetch_batches
from leadwise.data.sources import mimic_iv_ecg
from leadwise.nn.text import train_tokenizer
from leadwise.training.optimizer import make_optimizer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from mimic_tree import write_tree

PAPER = 779_891 * 50  # recordings x passes of the paper's recipe


def base_text(folder: Path, texts: list[str]) -> str:
    """A folder with a BERT of base size, fresh weights, and a tokenizer of these texts."""
    tokenizer = train_tokenizer(texts, 4000)
    tokenizer.save_pretrained(folder)
    BertModel(BertConfig(vocab_size=30_522)).save_pretrained(folder)
    return str(folder)


def loader_alone(recordings: Recordings, batch_size: int, steps: int, workers: int) -> float:
    """Records/s of the loader alone, without training."""
    sampler = Sampler(len(recordings), batch_size, 1)
    began = time.perf_counter()
    for _ in itertools.islice(prefetch_batches(recordings, sampler, 0, steps, workers), steps):
        pass
    return batch_size * steps / (time.perf_counter() - began)


def measure(path: Path, cohort: Cohort, args: argparse.Namespace, home: Path) -> dict[str, object]:
    device = runs.choose_device(args.device)
    on_gpu = device.type == "cuda"
    config = settings.read(path, [f"optim.precision={'bfloat16' if on_gpu else 'float32'}", *args.set])
    config = dataclasses.replace(config, signal=Signal(normalize=config.signal.normalize))
    recordings = Recordings(cohort, config.signal)
    texts = cohort.reports.distinct(recordings.rows)
    if config.method.get("text_encoder"):
        config = dataclasses.replace(
            config, method={**config.method, "text_encoder": base_text(home / path.stem, texts)}
        )
    torch.manual_seed(0)
    run = runs.create(config, texts)
    method = run.method.to(device).train()
    optimizer = make_optimizer(method, run.config.optim)
    precision = config.optim.precision
    step_of = torch.compile(method) if args.compile else method

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            terms = step_of(batch.to(device))
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), run.config.optim.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    sampler = Sampler(len(recordings), args.batch, 0)
    warm_up = 5 if on_gpu else 1
    seconds, batch = [], recordings.batch(sampler.positions(0))
    for number, batch in enumerate(prefetch_batches(recordings, sampler, 0, args.steps + warm_up, args.workers)):
        if number == warm_up:
            wait()
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
        one = time.perf_counter()
        step(batch)
        wait()
        seconds.append(time.perf_counter() - one)
    whole = (time.perf_counter() - began) / args.steps  # waiting for the loader is in it
    memory = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else float("nan")
    checkpointing = run.config.method.get("checkpointing", False)
    if checkpointing:  # recomputed products are work, but no progress
        method.ecg.transformer.checkpointing = False
    with FlopCounterMode(display=False) as counter:
        few = dataclasses.replace(
            batch, **{name: getattr(batch, name)[:8] for name in ("ecg", "observed", "record", "patient", "report")}
        )
        torch.stack([term.float() for term in method(few.to(device)).values()]).sum().backward()
    flop = counter.get_total_flops() / len(few)
    optimizer.zero_grad(set_to_none=True)
    peak = matmul_peak(3.0, torch.bfloat16 if precision == "bfloat16" else torch.float32, device)
    rate = args.batch / whole
    loaded = loader_alone(recordings, args.batch, max(10, args.steps), args.workers)
    return {
        "config": path.stem,
        "precision": precision,
        "records/s": round(rate, 1),
        "median step, s": round(statistics.median(seconds[warm_up:]), 4),
        "GFLOP a record": round(flop / 1e9, 1),
        "share of peak": f"{rate * flop / 1e9 / peak:.0%}",
        "peak, TFLOP/s": round(peak / 1e3, 2),
        "memory, GB": round(memory, 2),
        "loader alone, records/s": round(loaded),
        "loader / step": round(loaded / rate, 2),
        "paper's recipe, hours": f"{PAPER / rate / 3600:,.1f}",
        "on 8 (if it scales)": f"{PAPER / rate / 3600 / 8:,.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=2, help="threads that prepare batches ahead")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], help="settings, such as method.checkpointing=false")
    parser.add_argument("--name", default="training", help="name of the page in benchmarks/results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        write_tree(home / "tree", args.records, n_flawed=0)
        write_cohort(mimic_iv_ecg.read_source(home / "tree"), home / "cohort")
        cohort = Cohort.open(home / "cohort")
        lines = [measure(path, cohort, args, home) for path in args.configs]
    device = runs.choose_device(args.device)
    card = f"{torch.cuda.get_device_name(device)}. " if device.type == "cuda" else "No GPU. "
    text = f"""# Training

Command: `python {" ".join(sys.argv)}`. {describe()}. {card}Batch {args.batch}, {args.steps} timed steps, {args.workers} loader
threads{", compiled" if args.compile else ""}. Aims: 40 % of the card's bfloat16 peak for `cg_dmer`, text included; the
loader alone at 1.5 times what the step eats. The paper's recipe is 50 passes over 779,891 recordings.

{table(lines)}
"""
    print(write(args.name, text))


if __name__ == "__main__":
    main()
