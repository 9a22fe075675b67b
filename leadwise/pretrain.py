"""The loop: steps as the clock, plain PyTorch, no method known by name."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leadwise import config as settings
from leadwise import run as runs
from leadwise.batch import Batch
from leadwise.config import Config, ConfigError, OptimConfig
from leadwise.data.cohort import Cohort
from leadwise.data.loader import Recordings, Sampler
from leadwise.files import replacing
from leadwise.run import Run, person_hash

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # hears (what|details, done, in all)


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and the term."""


@dataclass(frozen=True)
class Data:
    """What a run learns from and is watched on."""

    train: Recordings
    held_out: Recordings
    texts: list[str]  # the training reports, one each
    n_left_out: int  # training recordings whose report is too short

    @property
    def provenance(self) -> dict[str, Any]:
        """What ties a run to its data: the cohort's fingerprint, and a hash of each person it learns from."""
        cohort = self.train.cohort
        people = sorted({person_hash(cohort.source, cohort.patients[row]) for row in self.train.rows})
        return {"cohort": cohort.name, "source": cohort.source, "fingerprint": cohort.fingerprint, "people": people}


def open_data(config: Config) -> Data:
    """The recordings that a config names.

    Raises:
        ConfigError: no cohort is named, or a split has too few recordings.
    """
    if not config.data.cohort:
        raise ConfigError("setting 'data.cohort' is empty: name a folder that `leadwise prepare` wrote")
    cohort = Cohort.open(Path(config.data.cohort))
    words = config.data.min_report_words
    train = cohort.rows(split=config.data.train_split, min_report_words=words)
    held_out = cohort.rows(split=config.data.val_split, min_report_words=words)[: config.log.validate_records]
    if len(train) < config.optim.batch_size:
        raise ConfigError(
            f"optim.batch_size = {config.optim.batch_size}, but {config.data.cohort} has {len(train)} recordings in "
            f"split '{config.data.train_split}' with a report of {words} words or more"
        )
    if config.log.validate_every and not len(held_out):
        raise ConfigError(
            f"{config.data.cohort} has no recording in split '{config.data.val_split}' with a report of {words} words or "
            "more, so a run cannot be watched on people it does not learn from: split the cohort anew, or set "
            "log.validate_every=0 and log.keep=last"
        )
    n_all = len(cohort.rows(split=config.data.train_split))
    texts = list(dict.fromkeys(cohort.index["report"].iloc[train].tolist()))
    return Data(
        Recordings(cohort, config.signal, train), Recordings(cohort, config.signal, held_out), texts, n_all - len(train)
    )


def learning_rate(step: int, optim: OptimConfig) -> float:
    """The rate at a step: a straight rise over the warm-up, then a cosine down to `final_lr`."""
    rise = max(1, round(optim.warmup * optim.steps))
    if step < rise:
        return optim.lr * (step + 1) / rise
    way = (step - rise) / max(1, optim.steps - rise)
    return optim.final_lr + (optim.lr - optim.final_lr) * (1 + math.cos(math.pi * way)) / 2


def make_optimizer(method: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW without decay on norms, biases and embeddings, and a lower rate for what came pre-trained."""
    pretrained = {id(p) for p in getattr(method, "pretrained_parameters", [])}
    tables = {id(m.weight) for m in method.modules() if isinstance(m, nn.Embedding)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, p in method.named_parameters():
        if p.requires_grad:
            # bare parameters named for what they embed: lead, temporal, mask and class embeddings
            embedding = id(p) in tables or not name.endswith("weight")
            key = (p.ndim >= 2 and not embedding, id(p) in pretrained)
            groups.setdefault(key, []).append(p)
    table = [
        {
            "params": group,
            "weight_decay": optim.weight_decay if decays else 0.0,
            "scale": optim.pretrained_lr_scale if borrowed else 1.0,
        }
        for (decays, borrowed), group in sorted(groups.items())
    ]
    return torch.optim.AdamW(table, lr=optim.lr, betas=optim.betas, fused=True)


def pretrain(config: Config, folder: Path, resume: bool = False, progress: Progress | None = None) -> Run:
    """Train the config's method, leaving a run in `folder`.

    Raises:
        TrainingError: a loss term is not finite.
        RunError: the folder is taken, or there is nothing to resume.
    """
    device = runs.choose_device(config.optim.device)
    if resume:
        run = runs.reopen(folder)
        _refuse_other_settings(run.config, runs.resolve(config))
        data = open_data(config)
        if run.provenance.get("fingerprint") != data.provenance["fingerprint"]:
            raise TrainingError(
                f"{config.data.cohort} is not the cohort that {folder} began with: its contents changed. Prepare the old one "
                "again, or begin a new run"
            )
    else:
        data = open_data(config)
        run = runs.create(config, data.texts, folder, data.provenance)
    config = run.config
    optim, method = config.optim, run.method.to(device)
    after_step = getattr(method, "after_step", None)
    optimizer = make_optimizer(method, optim)
    sampler = Sampler(len(data.train), optim.batch_size, optim.seed)
    start, best = 0, math.inf
    seed_all(optim.seed + 1)
    if resume:
        start, best = _restore(run, optimizer)
        log.info("resumed %s at step %d of %d", folder, start, optim.steps)
    metrics = folder / "metrics.jsonl"
    _cut_after(metrics, start)
    began, counted = time.perf_counter(), start

    for step in range(start, optim.steps):
        method.train()
        rate = learning_rate(step, optim)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        batch = data.train.batch(sampler.positions(step))
        terms = _terms(method, batch, optim.precision)
        loss = _total(terms, step)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(method.parameters(), optim.clip, error_if_nonfinite=False)
        if not bool(norm.isfinite()):
            raise TrainingError(f"step {step}: the gradient is not finite; lower optim.lr, or use precision float32")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if after_step:
            after_step((step + 1) / optim.steps)

        done, last = step + 1, step + 1 == optim.steps
        numbers = {"lr": rate, "grad_norm": float(norm), **_numbers(method, terms)}
        numbers["records_per_s"] = optim.batch_size * (done - counted) / max(time.perf_counter() - began, 1e-9)
        if progress:
            progress(f"pretrain|{_details(numbers)}", done, optim.steps)

        # now and then: a line of metrics
        if done % config.log.every == 0 or last:
            _append(metrics, {"step": done, "split": "train", **numbers})
            began, counted = time.perf_counter(), done

        # now and then: held-out patients, and the gradient of each term
        if last or (config.log.validate_every and done % config.log.validate_every == 0):
            held = validate(method, data.held_out, optim)
            held |= gradient_norms(method, batch, optim.precision)
            _append(metrics, {"step": done, "split": "val", **held})
            if config.log.keep == "last" or held.get("loss", -math.inf) < best:
                best = min(best, held.get("loss", math.inf))
                run.save_weights()
            began, counted = time.perf_counter(), done

        # now and then: enough to go on after a crash
        if last or done % config.log.save_every == 0:
            _save(run, optimizer, done, best)
    method.eval()
    return runs.load(folder, config.optim.device) if config.log.keep == "best" else run


@dataclass(frozen=True)
class Plan:
    """What a run would be, as text and table rows."""

    config: str  # every setting, as TOML
    parameters: list[dict[str, Any]]
    estimate: list[dict[str, Any]]


def plan(config: Config, n_timed: int = 3) -> Plan:
    """What `pretrain` would do: settings, parameters, counts, and time and memory from a few timed steps."""
    data = open_data(config)
    run = runs.create(config, data.texts)
    config, method = run.config, run.method.to(runs.choose_device(config.optim.device))
    optim, sampler = config.optim, Sampler(len(data.train), config.optim.batch_size, 0)
    optimizer = make_optimizer(method, optim)
    for step in range(n_timed + 1):  # the first step also warms up
        if step == 1:
            began = time.perf_counter()
        _total(_terms(method, data.train.batch(sampler.positions(step)), optim.precision), step).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    per_step = (time.perf_counter() - began) / n_timed
    facts: dict[str, Any] = {
        "training recordings": len(data.train),
        "left out, report too short": data.n_left_out,
        "held-out recordings watched": len(data.held_out),
        "distinct training reports": len(data.texts),
        "steps": optim.steps,
        "passes over the data": round(optim.steps * optim.batch_size / len(data.train), 1),
        "seconds a step": round(per_step, 3),
        "records a second": round(optim.batch_size / per_step, 1),
        "hours in all": round(per_step * optim.steps / 3600, 2),
        "peak memory, GB": round(_peak_memory() / 1e9, 2),
    }
    return Plan(
        config=settings.dumps(config),
        parameters=parameter_table(method),
        estimate=[{"what": name, "value": str(value)} for name, value in facts.items()],
    )


def parameter_table(method: nn.Module) -> list[dict[str, Any]]:
    """Trainable and frozen parameters of each part of a method, and their sum."""
    rows: dict[str, dict[str, Any]] = {}
    for name, p in method.named_parameters():
        row = rows.setdefault(name.split(".")[0], {"part": name.split(".")[0], "trainable": 0, "frozen": 0})
        row["trainable" if p.requires_grad else "frozen"] += p.numel()
    table = list(rows.values())
    total = {"part": "all", **{key: sum(row[key] for row in table) for key in ("trainable", "frozen")}}
    return [*table, total]


def _peak_memory() -> float:
    """The most memory held so far, in bytes: the card's where there is one, else this process's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows has no such count
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)  # macOS counts bytes, Linux kilobytes


def _refuse_other_settings(was: Config, asked: Config) -> None:
    """A resumed run is the same run: its settings cannot change on the way."""
    tables = dataclasses.asdict(was), dataclasses.asdict(asked)
    changed = [
        f"{room}.{key} (was {old!r}, asked {tables[1][room].get(key)!r})"
        for room in tables[0]
        for key, old in tables[0][room].items()
        if old != tables[1][room].get(key)
    ]
    if changed:
        raise ConfigError(f"--resume goes on with a run's own settings; these differ: {', '.join(changed[:4])}")


def _terms(method: nn.Module, batch: Batch, precision: str) -> dict[str, Tensor]:
    device = next(method.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        terms: dict[str, Tensor] = method(batch.to(device))
    return terms


def _total(terms: dict[str, Tensor], step: int) -> Tensor:
    """The sum of the terms, each of which must be finite."""
    bad = [name for name, term in terms.items() if not bool(term.isfinite())]
    if bad:
        raise TrainingError(
            f"step {step}: {', '.join(bad)} is not finite ({', '.join(str(terms[n].item()) for n in bad)}); "
            "lower optim.lr, or check the cohort with `leadwise prepare --verify`"
        )
    return torch.stack([term.float() for term in terms.values()]).sum()


def _numbers(method: nn.Module, terms: dict[str, Tensor]) -> dict[str, float]:
    """Each term weighted and raw, and their sum."""
    weights: dict[str, float] = getattr(method, "weights", {})
    values = {name: float(term.detach()) for name, term in terms.items()}
    out = {"loss": sum(values.values())}
    for name, value in values.items():
        out[f"term/{name}"] = value
        out[f"raw/{name}"] = value / weights.get(name, 1.0)
    return out


def _details(numbers: dict[str, float]) -> str:
    """Every term and the rate, short enough for a progress bar."""
    terms = [
        f"{name.removeprefix('term/L_')} {value:.2f}" for name, value in numbers.items() if name.startswith("term/")
    ]
    return f"{' '.join(terms)}, {numbers['records_per_s']:.0f} records/s"


def validate(method: nn.Module, held_out: Recordings, optim: OptimConfig) -> dict[str, float]:
    """The terms on held-out patients, the same masks every time, and what the method measures of itself."""
    measure = getattr(method, "measure", None)
    sums: dict[str, float] = {}
    n = 0
    method.eval()
    with torch.inference_mode(), runs.side_random():
        torch.manual_seed(optim.seed)
        for batch in held_out.batches(optim.batch_size):
            batch = batch.to(next(method.parameters()).device)
            if len(batch) < 2 or (n and len(batch) < optim.batch_size):
                continue  # a contrastive term depends on the batch size: whole batches only
            numbers = _numbers(method, _terms(method, batch, optim.precision))
            if measure:
                numbers |= measure(batch)
            for name, value in numbers.items():
                sums[name] = sums.get(name, 0.0) + value
            n += 1
    method.train()
    return {name: value / n for name, value in sums.items()}


def gradient_norms(method: nn.Module, batch: Batch, precision: str) -> dict[str, float]:
    """The norm of each weighted term's gradient on one batch, so that weights can be judged."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    out = {}
    with runs.side_random():
        terms = _terms(method, batch, precision)
        for name, term in terms.items():
            grads = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            squares = [g.square().sum() for g in grads if g is not None]
            out[f"grad/{name}"] = float(torch.stack(squares).sum().sqrt())
    return out


def seed_all(seed: int) -> None:
    """Start every random state that training may use."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries below may draw from the old global state
    torch.manual_seed(seed)


def _save(run: Run, optimizer: torch.optim.Optimizer, step: int, best: float) -> None:
    state = random.getstate()
    run.save_resume(
        {
            "step": step,
            "best": best,
            "model": run.method.state_dict(),
            "optimizer": optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "python_rng": [state[0], list(state[1]), state[2]],
        }
    )


def _restore(run: Run, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Put a saved state back; the step to go on from and the best held-out loss so far."""
    state: dict[str, Any] = run.load_resume()
    run.method.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["torch_rng"])
    if torch.cuda.is_available():
        if len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        else:
            log.warning("resumed with another number of GPUs than before: the run goes on, but not to the bit")
    version, inner, gauss = state["python_rng"]
    random.setstate((version, tuple(inner), gauss))
    return int(state["step"]), float(state["best"])


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(
            json.dumps({k: round(v, 6) if isinstance(v, float) and abs(v) > 1e-3 else v for k, v in row.items()}) + "\n"
        )


def _cut_after(path: Path, step: int) -> None:
    """Forget lines of steps that a crash undid, so that a resumed log reads like an uninterrupted one."""
    if not path.exists():
        return
    lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return math.inf  # torn by the crash
