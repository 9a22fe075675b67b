"""The training loop, in plain PyTorch. It counts steps and knows no method; under `torchrun` every process runs it."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from leadwise import distributed
from leadwise import run as runs
from leadwise.config import BY_METHOD, Config, ConfigError, OptimConfig
from leadwise.data.loader import Recordings, Sampler, prefetch_batches
from leadwise.files import make_folder
from leadwise.methods.catalogue import with_defaults
from leadwise.methods.contract import PretrainingMethod
from leadwise.nn.losses import multimodal
from leadwise.progress import Progress, relabel
from leadwise.run import Run
from leadwise.training.deterministic import deterministic_algorithms
from leadwise.training.gradient_step import (
    Objective,
    TrainingError,
    autocast,
    device_of,
    forward,
    gradient_norms,
    queue_backward,
)
from leadwise.training.inputs import TrainingData, check_batch_split, give_phenotypes, open_data, with_classes
from leadwise.training.optimizer import learning_rate, make_optimizer
from leadwise.training.start import hashes_with_earlier, open_start, provenance
from leadwise.training.teacher import give_teacher, open_teacher, with_targets, with_teacher

log = logging.getLogger(__name__)

# settings that a resumed run may change: they do not change the result
CHANGEABLE = {
    "optim.accumulate", "optim.compile", "optim.deterministic", "optim.device", "optim.timeout_s", "data.workers"
}  # fmt: skip
# this one may grow: see `learning_rate` for what that changes
GROWABLE = "optim.steps"


def pretrain(
    config: Config,
    folder: Path,
    resume: bool = False,
    progress: Progress | None = None,
    accept_changes: bool = False,
    on_step: Callable[[Run, int], None] | None = None,
) -> Run:
    """Train the method of a config and return the run.

    A run that ended before it saved a resume state is started again from step 0, with or without `resume`.

    Args:
        config: the run's settings.
        folder: the run's folder; all processes must have access to it, and rank 0 writes it.
        resume: continue the run of `folder` from its last resume state. The settings must be the saved ones, apart from
            CHANGEABLE; `optim.steps` may grow.
        progress: called after every step.
        accept_changes: continue a run whose tokenizer was changed after its weights were saved; the same for a teacher and
            for a run that training starts from.
        on_step: called on the first process after every step, before anything of that step is logged or saved, with the run
            and the number of steps done. It must not change the run or draw random numbers.

    Raises:
        ConfigError: settings that cannot be used, here or with this number of processes.
        TrainingError: a loss term is not finite, or another process of the run has ended.
        RunError: the folder is not empty, another process trains in it, or there is nothing to resume.
    """
    device = runs.choose_device(config.optim.device)
    with distributed.process_group(device, config.optim.timeout_s), ExitStack() as until_end:
        # the run, its data, and where to start
        run, data, resume = _open_or_create(config, folder, resume, accept_changes, until_end, progress)
        config, is_first_rank = run.config, distributed.rank() == 0
        if config.log.keep == "rankme" and not run.method.embeds_ecg:
            raise ConfigError("log.keep = 'rankme' needs a method that embeds ECGs; set log.keep=best or log.keep=last")
        optim, method = config.optim, run.method.to(device)
        optimizer = make_optimizer(method, optim)
        start, best_loss = 0, math.inf
        if resume:
            with distributed.all_ranks_or_none():
                start, best_loss = _restore(run, optimizer)
            if start > optim.steps:
                raise ConfigError(f"{folder} is at step {start}, after the last step optim.steps = {optim.steps}")
            log.info("resumed %s at step %d of %d, learning rate %.3g", folder, start, optim.steps,
                     learning_rate(min(start, optim.steps - 1), optim))  # fmt: skip
        if optim.compile:
            _compile(method)
        model = ddp(method)
        sampler = Sampler(len(data.train), optim.batch_size, optim.seed, distributed.rank(), distributed.n_ranks())
        prefetched = prefetch_batches(
            data.train, sampler, start, optim.steps, config.data.workers, optim.accumulate, pin=device.type == "cuda"
        )
        if is_first_rank:
            run.truncate_log(start)
        timer_start, timer_step, step = time.perf_counter(), start, start  # since the last line of metrics

        repeatable = deterministic_algorithms(optim.deterministic, lambda: step)
        with closing(prefetched) as batches, _report_lost_process(lambda: step), repeatable:
            for step in range(start, optim.steps):
                # one step of the optimiser
                distributed.begin_step(step)
                method.train()
                rate = learning_rate(step, optim)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["scale"]
                local_batches = [next(batches) for _ in range(optim.accumulate)]
                queued = queue_backward(model, local_batches, step, optim)
                norm = nn.utils.clip_grad_norm_(method.parameters(), optim.clip, error_if_nonfinite=False)
                terms, grad_norm = queued.read(norm)  # raises before any weight changes
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                method.after_step((step + 1) / optim.steps)

                n_done, is_last = step + 1, step + 1 == optim.steps
                if on_step is not None and is_first_rank:
                    on_step(run, n_done)
                metrics = {"lr": rate, "grad_norm": grad_norm, **_term_metrics(method, terms)}
                seconds = max(time.perf_counter() - timer_start, 1e-9)
                metrics["records_per_s"] = optim.batch_size * (n_done - timer_step) / seconds
                if progress:
                    progress(f"pretrain|{_progress_text(metrics)}", n_done, optim.steps)

                # every log.every steps: a line of metrics
                if n_done % config.log.every == 0 or is_last:
                    if is_first_rank:
                        run.log({"step": n_done, "split": "train", **metrics})
                    timer_start, timer_step = time.perf_counter(), n_done

                # every log.validate_every steps: metrics on held-out patients, and the gradient of each term
                if is_last or (config.log.validate_every and n_done % config.log.validate_every == 0):
                    if is_first_rank:
                        held_out = validate(method, data.held_out, optim, len(local_batches[0]))
                        held_out |= gradient_norms(method, local_batches[0], optim.precision)
                        run.log({"step": n_done, "split": "val", **held_out})
                        value = _figure_of_choice(held_out, config.log.keep)
                        if value is None or value < best_loss:
                            best_loss = best_loss if value is None else value
                            run.save_weights()
                    timer_start, timer_step = time.perf_counter(), n_done

                # every log.save_every steps: a state from which a crashed run can be resumed
                if is_first_rank and (is_last or n_done % config.log.save_every == 0):
                    state = {"model": method.state_dict(), "optimizer": optimizer.state_dict()}
                    run.save_resume({"step": n_done, "best": best_loss, **state})
        with distributed.all_ranks_or_none():  # wait until rank 0 has written its files
            method.eval()
        return run if config.log.keep == "last" else runs.load(folder, optim.device)


def _open_or_create(
    config: Config,
    folder: Path,
    resume: bool,
    accept_changes: bool,
    until_end: ExitStack,
    progress: Progress | None = None,
) -> tuple[Run, TrainingData, bool]:
    """Return the run of `folder`, its training data, and whether to continue from a resume state.

    Rank 0 creates a new run; the other ranks open what it wrote. `until_end` holds the lock on the folder.
    """
    check_batch_split(config, distributed.n_ranks())
    with distributed.all_ranks_or_none():
        # equal on all ranks: the first state is written long after this block
        resume_state = resume and runs.has_resume_state(folder)
        run = runs.open_without_weights(folder, accept_changes) if resume_state else None
        config = config if run is None else _with_saved_report_words(config, run.config)
        data = open_data(config)
        teacher = None if resume_state else open_teacher(config, accept_changes)
        start = {} if resume_state else open_start(config, accept_changes)
        config = with_classes(config, data.train.cohort)
        config = with_teacher(config, teacher, None if run is None else run.config)
        if run is not None:
            if distributed.rank() == 0:
                until_end.enter_context(runs.locked(folder))
            requested = with_defaults(config)
            _check_same_settings(run.config, requested, folder)
            _check_same_cohort(run, data, folder)
            run.config = requested
            if distributed.rank() == 0:
                run.save_changeable_settings({*CHANGEABLE, GROWABLE})
        elif distributed.rank() == 0:
            run = _start(config, folder, data, resume, until_end, teacher, start)
    with distributed.all_ranks_or_none():
        run = run or runs.open_without_weights(folder)

    # the teacher's embeddings: rank 0 computes and stores them, then the others read them
    for is_turn in (distributed.rank() == 0, distributed.rank() != 0):
        with distributed.all_ranks_or_none():
            if is_turn:
                data = with_targets(data, run, teacher, relabel(progress, "teacher"), write=distributed.rank() == 0)
    if teacher is not None:
        give_teacher(run, teacher, data)
    if not resume_state:
        give_phenotypes(run.method, data)
    return run, data, resume_state


def _start(
    config: Config,
    folder: Path,
    data: TrainingData,
    resume: bool,
    until_end: ExitStack,
    teacher: Run | None,
    start: dict[str, Run],
) -> Run:
    """Return a new run in `folder`, or one that replaces a run which ended before it saved a resume state."""
    if resume and not runs.is_unsaved(folder):
        runs.open_without_weights(folder).load_resume()  # raises, with the reason
    is_new = not folder.exists()
    make_folder(folder)
    until_end.enter_context(runs.locked(folder))
    try:
        restart = runs.is_unsaved(folder)
        if restart and (folder / "config.toml").is_file():
            earlier = runs.open_without_weights(folder, accept_changes=True)
            _check_same_settings(earlier.config, with_defaults(config), folder, steps_may_shrink=True)
            _check_same_cohort(earlier, data, folder)
        origins = start if teacher is None else {"teacher": teacher, **start}
        facts, hashes = data.provenance | provenance(origins), hashes_with_earlier(data, origins)
        run = runs.create(config, data.texts, folder, facts, restart, hashes, teacher, start)
    except BaseException:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
        raise
    if restart:
        log.info("%s has no resume state yet: the run starts again at step 0", folder)
    return run


def _check_same_cohort(run: Run, data: TrainingData, folder: Path) -> None:
    if run.provenance.get("fingerprint") != data.provenance["fingerprint"]:
        raise TrainingError(
            f"{run.config.data.cohort} is not the cohort that {folder} was started with: its contents have changed; prepare "
            "the old one again, or start a new run in another folder (-o)"
        )


def _compile(method: PretrainingMethod) -> None:
    """Compile the method's compilable modules in place: their names and their state do not change."""
    modules = method.compilable_modules
    if not modules:
        raise ConfigError("optim.compile = true, but this method has no modules to compile; set it to false")
    for module in modules:
        module.compile()


def ddp(method: PretrainingMethod) -> Objective | DistributedDataParallel:
    """Return the method as an Objective, with several processes inside DDP, which copies the weights of rank 0 to all."""
    objective = Objective(method)
    if distributed.n_ranks() == 1:
        return objective
    return DistributedDataParallel(objective, gradient_as_bucket_view=True)


@contextmanager
def _report_lost_process(step: Callable[[], int]) -> Iterator[None]:
    """Re-raise a failure of another process as TrainingError, which names the step and how to continue."""
    try:
        yield
    except RuntimeError as error:
        reason = distributed.describe_lost_peer(error)
        if not reason:
            raise
        raise TrainingError(f"step {step()}: {reason}; continue with the same command and --resume") from error


def _with_saved_report_words(config: Config, saved: Config) -> Config:
    """Return the config with the saved `data.min_report_words` if the setting was left to the method."""
    if config.data.min_report_words != BY_METHOD:
        return config
    data = dataclasses.replace(config.data, min_report_words=saved.data.min_report_words)
    return dataclasses.replace(config, data=data)


def _check_same_settings(saved: Config, requested: Config, folder: Path, steps_may_shrink: bool = False) -> None:
    """Check that settings differ from those of a saved run only in CHANGEABLE, and that `optim.steps` is not smaller.

    A setting that did not exist when the run was saved has its default, as it has when the run is loaded.

    Raises:
        ConfigError: another setting differs; the message names the settings, with both values.
    """
    before, after = dataclasses.asdict(with_defaults(saved)), dataclasses.asdict(requested)
    if steps_may_shrink or requested.optim.steps > saved.optim.steps:
        after["optim"]["steps"] = saved.optim.steps
    missing = "none"
    changed = [
        f"{table}.{key} (saved {before[table].get(key, missing)!r}, requested {after[table].get(key, missing)!r})"
        for table in before
        for key in {**before[table], **after[table]}
        if before[table].get(key, missing) != after[table].get(key, missing) and f"{table}.{key}" not in CHANGEABLE
    ]
    if changed:
        more = f" and {len(changed) - 6} more" if len(changed) > 6 else ""
        growth = "; optim.steps may only grow" if any(one.startswith(GROWABLE) for one in changed) else ""
        raise ConfigError(
            f"the run in {folder} has other settings: {', '.join(changed[:6])}{more}{growth}; use the saved values, or start "
            "a new run in another folder (-o)"
        )


def _restore(run: Run, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Load the resume state, and return the step to continue from and the best held-out loss so far."""
    state = run.load_resume()
    run.method.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["best"])


def _figure_of_choice(held_out: dict[str, float], keep: str) -> float | None:
    """Return the figure whose lowest value decides which weights are saved (log.keep); None to save them in any case."""
    if keep == "rankme" and "rankme" in held_out:
        return -held_out["rankme"]
    return held_out.get("loss") if keep == "best" else None


def _term_metrics(method: PretrainingMethod, terms: dict[str, float]) -> dict[str, float]:
    """Return the sum of the weighted terms, and each term weighted ("term/") and unweighted ("raw/")."""
    metrics = {"loss": sum(terms.values())}
    for name, value in terms.items():
        metrics[f"term/{name}"] = value
        metrics[f"raw/{name}"] = value / method.weights.get(name, 1.0)
    return metrics


def _progress_text(metrics: dict[str, float]) -> str:
    """Return the terms and the speed as a short text for a progress bar."""
    terms = [
        f"{name.removeprefix('term/L_')} {value:.2f}" for name, value in metrics.items() if name.startswith("term/")
    ]
    return f"{' '.join(terms)}, {metrics['records_per_s']:.0f} records/s"


def validate(
    method: PretrainingMethod, held_out: Recordings, optim: OptimConfig, pass_size: int = 0
) -> dict[str, float]:
    """Return the mean metrics over batches of held-out patients: the loss terms, and what the method measures.

    "rankme" is `multimodal.rankme` of the embeddings of these batches together, if the method embeds ECGs. Random
    masks are equal in every call. One rank calls this.

    Args:
        method: the method, which is in training mode afterwards.
        held_out: the recordings.
        optim: batch size, precision and seed.
        pass_size: records per pass, as in training; 0 means the batch size.
    """
    pass_size = pass_size or optim.batch_size
    sums: dict[str, float] = {}
    embeddings: list[torch.Tensor] = []
    n_batches = 0
    method.eval()
    with torch.inference_mode(), runs.isolated_random_state(), distributed.single_process():
        torch.manual_seed(optim.seed)
        for start in range(0, len(held_out), optim.batch_size):
            # terms that compare records depend on the batch size, so only full batches count, or the first
            size = min(optim.batch_size, len(held_out) - start)
            if size < 2 or (n_batches and size < optim.batch_size):
                continue
            passes = np.array_split(np.arange(start, start + size), -(-size // pass_size))
            batches = [held_out.batch(positions) for positions in passes]
            metrics = _term_metrics(method, forward(method, batches, optim.precision))
            measured = [method.measure(batch.to(device_of(method))) for batch in batches if len(batch) > 1]
            metrics |= {name: sum(one[name] for one in measured) / len(measured) for name in measured[0]}
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
            if method.embeds_ecg:
                with autocast(method, optim.precision):
                    embeddings += [method.embed_ecg(batch.to(device_of(method))).float() for batch in batches]
            n_batches += 1
        rank = {"rankme": multimodal.rankme(torch.cat(embeddings))} if embeddings else {}
    method.train()
    return {name: value / n_batches for name, value in sums.items()} | rank
