"""The loop: steps as the clock, plain PyTorch, no method known by name; under `torchrun`, every process of it runs this."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from leadwise import ranks
from leadwise import run as runs
from leadwise.config import Config, ConfigError, OptimConfig
from leadwise.data.cohort import Cohort
from leadwise.data.draw import DrawError, labelled
from leadwise.data.loader import Recordings, Sampler, batches_ahead
from leadwise.run import Run, person_hash
from leadwise.step import Objective, TrainingError, backward, device_of, forward, gradient_norms

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # hears (what|details, done, in all)
FREE = {"optim.accumulate", "optim.compile", "optim.device", "data.workers"}  # may change on the way: not the science


@dataclass(frozen=True)
class Data:
    """What a run learns from and is watched on."""

    train: Recordings
    held_out: Recordings
    texts: list[str]  # the training reports, one each
    n_left_out: int  # training recordings whose report is too short, or whose labels are not learnt from

    @property
    def provenance(self) -> dict[str, Any]:
        """What ties a run to its data: the cohort's fingerprint, and a hash of each person it learns from."""
        cohort = self.train.cohort
        people = sorted(person_hash(cohort.source, patient) for patient in cohort.patients.distinct(self.train.rows))
        return {"cohort": cohort.name, "source": cohort.source, "fingerprint": cohort.fingerprint, "people": people}


def open_data(config: Config) -> Data:
    """The recordings that a config names: those with a report, or of a task a share of those with its labels.

    A draw of labels may be smaller than a batch, which then holds its recordings more than once.

    Raises:
        ConfigError: no cohort is named, it has no such task, or a split has too few recordings.
    """
    asked = config.data
    if not asked.cohort:
        raise ConfigError("setting 'data.cohort' is empty: name a folder that `leadwise prepare` wrote")
    cohort = Cohort.open(Path(asked.cohort))
    task, words = asked.task or None, 0 if asked.task else asked.min_report_words
    kind = f"labels of task '{task}'" if task else f"a report of {words} words or more"
    if task:
        train = _drawn(cohort, config)
    else:
        train = cohort.rows(split=asked.train_split, min_report_words=words)
        if len(train) < config.optim.batch_size:
            raise ConfigError(
                f"optim.batch_size = {config.optim.batch_size}, but {asked.cohort} has {len(train)} recordings in "
                f"split '{asked.train_split}' with {kind}"
            )
    held_out = cohort.rows(split=asked.val_split, task=task, min_report_words=words)[: config.log.validate_records]
    if config.log.validate_every and not len(held_out):
        raise ConfigError(
            f"{asked.cohort} has no recording in split '{asked.val_split}' with {kind}, so a run cannot be watched on people "
            "it does not learn from: split the cohort anew, or set log.validate_every=0 and log.keep=last"
        )
    n_all = len(cohort.rows(split=asked.train_split))
    texts = cohort.reports.distinct(train)
    learnt = Recordings(cohort, config.signal, train, task, statements=True)
    return Data(learnt, Recordings(cohort, config.signal, held_out, task), texts, n_all - len(train))


def _drawn(cohort: Cohort, config: Config) -> np.ndarray:
    """The rows whose labels are learnt from, the very ones that a probe of this fraction and seed is fitted on."""
    asked = config.data
    if asked.task not in cohort.tasks:
        near = difflib.get_close_matches(asked.task, cohort.tasks, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(cohort.tasks) or 'none'}"
        raise ConfigError(f"data.task = '{asked.task}' is no task of {asked.cohort}; {hint}")
    try:
        rows = labelled(cohort, asked.task, asked.train_split, asked.label_fraction, asked.label_seed)
    except DrawError as error:
        raise ConfigError(f"data.label_fraction: {error}") from None
    if not len(rows):
        raise ConfigError(
            f"{asked.cohort} has no recording in split '{asked.train_split}' with labels of '{asked.task}'"
        )
    return rows


def with_classes(config: Config, cohort: Cohort) -> Config:
    """The config with the task's classes, where its method learns them: a run knows what its scores are of.

    Raises:
        ConfigError: it names other classes, or classes without a task.
    """
    if not runs.learns_labels(str(config.method["name"])):
        return config
    task, named = config.data.task, list(config.method.get("classes", ()))
    if not task:
        raise ConfigError(
            f"method '{config.method['name']}' learns from labels: name a task of {config.data.cohort} in data.task "
            f"({', '.join(cohort.tasks) or 'it has none'})"
        )
    classes = list(cohort.tasks[task])
    if named and named != classes:
        raise ConfigError(
            f"method.classes = {named}, but task '{task}' of {config.data.cohort} has {classes}: leave the setting empty"
        )
    return dataclasses.replace(config, method={**config.method, "classes": classes})


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
    """Train the config's method, leaving a run in `folder`, which every process must see; rank 0 writes it.

    Raises:
        ConfigError: a setting that cannot be used, here or with this many processes.
        TrainingError: a loss term is not finite, or another process of the run is gone.
        RunError: the folder is taken, or there is nothing to resume.
    """
    device = runs.choose_device(config.optim.device)
    with ranks.joined(device):
        run, data = _begin(config, folder, resume)
        config, first = run.config, ranks.rank() == 0
        optim, method = config.optim, run.method.to(device)
        after_step = getattr(method, "after_step", None)
        optimizer = make_optimizer(method, optim)
        start, best = 0, math.inf
        if resume:
            with ranks.together():
                start, best = _restore(run, optimizer)
            log.info("resumed %s at step %d of %d", folder, start, optim.steps)
        if optim.compile:
            _compile(method)
        model = ddp(method)
        sampler = Sampler(len(data.train), optim.batch_size, optim.seed, ranks.rank(), ranks.n_ranks())
        ahead = batches_ahead(data.train, sampler, start, optim.steps, config.data.workers, optim.accumulate)
        if first:
            run.forget_after(start)
        began, counted, step = time.perf_counter(), start, start

        with closing(ahead) as batches, _told_where(lambda: step):
            for step in range(start, optim.steps):
                method.train()
                rate = learning_rate(step, optim)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["scale"]
                share = [next(batches) for _ in range(optim.accumulate)]
                terms = backward(model, share, step, optim)
                norm = nn.utils.clip_grad_norm_(method.parameters(), optim.clip, error_if_nonfinite=False)
                if not bool(norm.isfinite()):  # the same on every rank
                    raise TrainingError(
                        f"step {step}: the gradient is not finite; lower optim.lr, or use precision float32"
                    )
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
                    if first:
                        run.log({"step": done, "split": "train", **numbers})
                    began, counted = time.perf_counter(), done

                # now and then: held-out patients, and the gradient of each term
                if last or (config.log.validate_every and done % config.log.validate_every == 0):
                    if first:
                        held = validate(method, data.held_out, optim, len(share[0]))
                        held |= gradient_norms(method, share[0], optim.precision)
                        run.log({"step": done, "split": "val", **held})
                        if config.log.keep == "last" or held.get("loss", -math.inf) < best:
                            best = min(best, held.get("loss", math.inf))
                            run.save_weights()
                    began, counted = time.perf_counter(), done

                # now and then: enough to go on after a crash
                if first and (last or done % config.log.save_every == 0):
                    state = {"model": method.state_dict(), "optimizer": optimizer.state_dict()}
                    run.save_resume({"step": done, "best": best, **state})
        with ranks.together():  # rank 0 has written what it had to
            method.eval()
        return runs.load(folder, optim.device) if config.log.keep == "best" else run


def _begin(config: Config, folder: Path, resume: bool) -> tuple[Run, Data]:
    """The run of `folder` and what it learns from. Rank 0 makes a new run; the others open what it wrote."""
    refuse_unequal_shares(config, ranks.n_ranks())
    with ranks.together():
        run = runs.reopen(folder) if resume else None
        data = open_data(config)
        config = with_classes(config, data.train.cohort)
        if run is not None:
            run.config = _same_science(run.config, runs.resolve(config))
        if run is None and ranks.rank() == 0:
            run = runs.create(config, data.texts, folder, data.provenance)
        elif run is not None and run.provenance.get("fingerprint") != data.provenance["fingerprint"]:
            raise TrainingError(
                f"{config.data.cohort} is not the cohort that {folder} began with: its contents changed. Prepare the old one "
                "again, or begin a new run"
            )
    with ranks.together():
        return run or runs.reopen(folder), data


def refuse_unequal_shares(config: Config, n_ranks: int) -> None:
    """A mean over shares is the batch's mean only where the shares are equal; and some methods want theirs in one pass.

    Raises:
        ConfigError: the batch does not divide, or the method does not want it divided.
    """
    optim = config.optim
    if optim.batch_size % (n_ranks * optim.accumulate):
        raise ConfigError(
            f"optim.batch_size = {optim.batch_size} does not divide among {n_ranks} processes with optim.accumulate = "
            f"{optim.accumulate}; choose a multiple of {n_ranks * optim.accumulate}"
        )
    whole = getattr(runs.method_config(config)[1], "whole_batch", "")
    if whole and optim.accumulate > 1:
        raise ConfigError(f"{whole} needs a process's records in one pass; change that, or set optim.accumulate=1")


def _compile(method: nn.Module) -> None:
    """Let torch compile what the method names, in place: names and state stay as they are."""
    parts: list[nn.Module] = getattr(method, "compiles", [])
    if not parts:
        raise ConfigError("optim.compile = true, but this method names nothing to compile; leave it false")
    for part in parts:
        part.compile()


def ddp(method: nn.Module) -> nn.Module:
    """The method as the loop calls it: an Objective; on several processes behind DDP, with the weights of rank 0."""
    model = Objective(method)
    if ranks.n_ranks() == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


@contextmanager
def _told_where(step: Callable[[], int]) -> Iterator[None]:
    """A block in which the loss of another process is told as what it is, with the step and the way to go on."""
    try:
        yield
    except RuntimeError as error:
        why = ranks.lost(error)
        if not why:
            raise
        raise TrainingError(
            f"step {step()}: another process of this run is gone, or the run was stopped ({why}). Go on with the same "
            "command and --resume"
        ) from error


def _same_science(was: Config, asked: Config) -> Config:
    """A resumed run is the same run: only where and in how many passes it computes may change on the way."""
    tables = dataclasses.asdict(was), dataclasses.asdict(asked)
    changed = [
        f"{room}.{key} (was {old!r}, asked {tables[1][room].get(key)!r})"
        for room in tables[0]
        for key, old in tables[0][room].items()
        if old != tables[1][room].get(key) and f"{room}.{key}" not in FREE
    ]
    if changed:
        raise ConfigError(f"--resume goes on with a run's own settings; these differ: {', '.join(changed[:4])}")
    return asked


def _restore(run: Run, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Put a saved state back; the step to go on from and the best held-out loss so far."""
    state: dict[str, Any] = run.load_resume()
    run.method.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["best"])


def _numbers(method: nn.Module, values: dict[str, float]) -> dict[str, float]:
    """Each term weighted and raw, and their sum."""
    weights: dict[str, float] = getattr(method, "weights", {})
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


def validate(method: nn.Module, held_out: Recordings, optim: OptimConfig, n_at_once: int = 0) -> dict[str, float]:
    """The terms on held-out patients, the same masks every time, and what the method measures of itself. One rank does it.

    A batch is as large as in training, and seen `n_at_once` records at a time: as many as a pass of training has.
    """
    n_at_once = n_at_once or optim.batch_size
    measure = getattr(method, "measure", None)
    sums: dict[str, float] = {}
    n = 0
    method.eval()
    with torch.inference_mode(), runs.side_random(), ranks.alone():
        torch.manual_seed(optim.seed)
        for begin in range(0, len(held_out), optim.batch_size):
            size = min(optim.batch_size, len(held_out) - begin)
            if size < 2 or (n and size < optim.batch_size):
                continue  # a contrastive term depends on the batch size: whole batches only
            passes = np.array_split(np.arange(begin, begin + size), -(-size // n_at_once))
            batches = [held_out.batch(places) for places in passes]
            numbers = _numbers(method, forward(method, batches, optim.precision))
            if measure:
                seen = [measure(batch.to(device_of(method))) for batch in batches if len(batch) > 1]
                numbers |= {name: sum(one[name] for one in seen) / len(seen) for name in seen[0]}
            for name, value in numbers.items():
                sums[name] = sums.get(name, 0.0) + value
            n += 1
    method.train()
    return {name: value / n for name, value in sums.items()}
