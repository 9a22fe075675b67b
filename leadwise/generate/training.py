"""Training of a writer on the embeddings of a frozen run and the training reports of a cohort.

Only recordings of the training split are used, and held-out recordings of the validation split for the loss that chooses the
weights; the test split is not read. Random numbers and the order of the recordings depend on the step alone, so a resumed
training gives the same weights to the bit as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leadwise import run as runs
from leadwise import trained_on
from leadwise.config import ConfigError, set_override
from leadwise.data import reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Sampler
from leadwise.evaluate.embed import embed_cohort, split_parts, training_overlap, usable
from leadwise.files import make_folder
from leadwise.generate import folder as folders
from leadwise.generate.bank import SPLIT, training_reports
from leadwise.generate.folder import TrainedWriter, WriterConfig
from leadwise.generate.report_model import ReportModel
from leadwise.generate.report_numbers import remove_numbers
from leadwise.generate.writer import WriterError
from leadwise.methods.contract import PretrainingMethod
from leadwise.progress import Progress, relabel
from leadwise.run import Run
from leadwise.trained_on import TrainedOn
from leadwise.training.deterministic import deterministic_algorithms
from leadwise.training.gradient_step import TrainingError, seed_all
from leadwise.training.optimizer import learning_rate, make_optimizer

log = logging.getLogger(__name__)

VAL_SPLIT = "val"
CHANGEABLE = {
    "optim.steps",
    "optim.device",
    "optim.deterministic",
    "log.every",
}  # by a resumed training; steps may grow

# what the folder of a training that ended before its first state may contain
_UNSAVED = {folders.SETTINGS, folders.PROVENANCE, trained_on.FILE, folders.SELECTED_ON, "tokenizer", "resume"}


@dataclass(frozen=True)
class Examples:
    """N recordings of one split: embeddings and reports."""

    rows: NDArray[np.int64]
    features: torch.Tensor  # (N, D)
    texts: list[str]

    def __len__(self) -> int:
        return len(self.texts)


def train_writer(
    run: Run,
    cohort: Cohort,
    folder: Path,
    overrides: Sequence[str] = (),
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainedWriter:
    """Train a writer and return it.

    A training that ended before it saved its first state is started again, with or without `resume`.

    Args:
        run: the frozen encoder.
        cohort: its training split is used for training, its validation split for the held-out loss.
        folder: the writer's folder.
        overrides: dotted settings, such as "writer.fusion=kv" or "optim.steps=500".
        resume: continue the training of `folder`; settings that are not passed are the saved ones, and those that are passed
            must be equal to them, apart from CHANGEABLE.

    Raises:
        ConfigError: settings that cannot be used.
        WriterError: the folder is not empty, or was trained on other data; the cohort has no training reports.
        TrainingError: the loss is not finite.
    """
    config = _requested(folder, overrides, resume)
    resume = resume and not _is_unsaved(folder)
    encoder = folders.encoder_of(run, config)
    if config.ecg.part == folders.TOKENS and not encoder.method.n_token_ids:
        raise WriterError(
            f"run {run.name} has no tokens for writer.input=tokens; train one with method.name=beat_tokenizer, or leave out "
            "writer.input"
        )
    split_parts(encoder, config.ecg.part)
    with ExitStack() as until_end:
        # the data, and the folder
        train, held_out = _examples(run, encoder, cohort, config, progress)
        is_new = not folder.exists()
        make_folder(folder)
        until_end.enter_context(runs.locked(folder))
        try:
            writer = _open(folder, run, cohort) if resume else _create(folder, config, run, cohort, train, held_out)
        except BaseException:
            if is_new and not any(folder.iterdir()):
                folder.rmdir()
            raise
        if resume:
            writer.config = config
            folders.write_settings(folder, config)
        _train(writer, train, held_out, progress)
    return folders.load(folder, config.optim.device)


def _requested(folder: Path, overrides: Sequence[str], resume: bool) -> WriterConfig:
    """Return the settings of a training: the defaults, or with `resume` the saved ones, with the overrides.

    Raises:
        ConfigError: an override that cannot be used, or that a resumed training may not change.
        WriterError: the folder is not empty, or there is nothing to resume.
    """
    is_unsaved = _is_unsaved(folder)
    if resume and not is_unsaved:
        runs.load_state(folder)  # raises if there is nothing to resume
    elif folder.exists() and not is_unsaved:
        raise WriterError(f"{folder} is not empty; choose another folder, or continue that training with --resume")
    saved = folders.read_config(folder) if resume and (folder / folders.SETTINGS).is_file() else None
    table = dataclasses.asdict(saved or WriterConfig())  # with the defaults of a kind only if it is saved
    for one in overrides:
        set_override(table, one)
    config = folders.config_of(table)
    if saved is None or is_unsaved:
        return config

    # a resumed training has the saved settings
    before, after = saved.table(), config.table()
    changed = [
        f"{group}.{key} (saved {before[group].get(key)!r}, requested {value!r})"
        for group, entries in after.items()
        for key, value in entries.items()
        if before[group].get(key) != value and f"{group}.{key}" not in CHANGEABLE
    ]
    if config.optim.steps < saved.optim.steps:
        changed.append(f"optim.steps (saved {saved.optim.steps}, requested {config.optim.steps}; it may only grow)")
    if changed:
        raise ConfigError(
            f"the writer in {folder} has other settings: {', '.join(changed[:6])}; leave them out, or train another writer (-o)"
        )
    return config


def _is_unsaved(folder: Path) -> bool:
    """Return whether `folder` holds at most a training that was killed before its first state: nothing is lost."""
    if not folder.is_dir() or runs.has_resume_state(folder):
        return False
    names = {path.name for path in folder.iterdir() if not (path.name.startswith(".") and path.name.endswith(".part"))}
    return not names - _UNSAVED


def _examples(
    run: Run, encoder: Run, cohort: Cohort, config: WriterConfig, progress: Progress | None
) -> tuple[Examples, Examples]:
    """Return the training and the held-out recordings that have a report and that the run can embed.

    Raises:
        WriterError: a patient is in both splits, or there is no training report.
        ConfigError: too few recordings for a batch, or none to validate on.
    """
    # the rows of both splits
    rows, _ = training_reports(cohort)
    held_out = cohort.rows(VAL_SPLIT, min_report_words=1)[: config.log.validate_records]
    both = set(cohort.patients.take(rows)) & set(cohort.patients.take(held_out))
    if both:
        raise WriterError(
            f"cohort {cohort.name}: {len(both)} patients are in '{SPLIT}' and in '{VAL_SPLIT}'; prepare it with a split by "
            "patient"
        )
    if config.log.keep == "rankme":
        raise ConfigError("log.keep = 'rankme' is for encoders; a writer's weights are chosen by log.keep=best or last")
    if not len(held_out) and (config.log.validate_every or config.log.keep == "best"):
        raise ConfigError(
            f"cohort {cohort.name} has no report in split '{VAL_SPLIT}', so the writer cannot be validated on other patients; "
            "prepare it with such a split, or set log.validate_every=0 log.keep=last"
        )
    if len(held_out):
        training_overlap(run, cohort, held_out, VAL_SPLIT)

    # their embeddings and reports
    parts = []
    for name, some in ((SPLIT, rows), (VAL_SPLIT, held_out)):
        chosen = usable(encoder, cohort, some)[0] if len(some) else some
        texts = [reports.clean(text) for text in cohort.reports.take(chosen)]
        if not config.has_numbers:  # a report that only measures is left without text
            texts = [remove_numbers(text) for text in texts]
            chosen, texts = chosen[np.array([bool(text) for text in texts], dtype=bool)], [*filter(None, texts)]
        step = relabel(progress, f"embed {name}")
        features = (
            embed_cohort(encoder, cohort, config.ecg.part, chosen, step, run.cache_folder)
            if len(chosen)
            else np.empty((0, 1), dtype=np.float32)
        )
        parts.append(Examples(chosen, torch.from_numpy(np.asarray(features, dtype=np.float32)), texts))
    train = parts[0]
    if len(train) < config.optim.batch_size:
        raise ConfigError(
            f"optim.batch_size = {config.optim.batch_size}, but {cohort.name} has {len(train)} training recordings with a "
            f"report; lower optim.batch_size to {len(train)}"
        )
    return train, parts[1]


def _create(
    folder: Path, config: WriterConfig, run: Run, cohort: Cohort, train: Examples, held_out: Examples
) -> TrainedWriter:
    """Return a new writer in `folder`, with its state of step 0: from then on it can be resumed.

    Raises:
        WriterError: the folder holds something else.
    """
    if not _is_unsaved(folder):  # another process may have begun since the settings were read
        raise WriterError(f"{folder} is not empty; choose another folder (-o)")
    for leftover in [*folder.glob(".*.part"), *folder.glob("resume/.*.part")]:
        leftover.unlink()

    # the model, then the folder
    n_token_ids = run.method.n_token_ids if config.ecg.part == folders.TOKENS else 0
    model = folders.new_model(config, train.texts, train.features.shape[1], n_token_ids)
    model.fit_scale(train.features)
    people = cohort.patients.distinct(train.rows)
    hashes = TrainedOn.of(cohort.source, people, cohort.checksums(train.rows))
    chosen_by = None
    if config.log.keep == "best":
        others = cohort.patients.distinct(held_out.rows)
        chosen_by = TrainedOn.of(cohort.source, others, cohort.checksums(held_out.rows))
    provenance: dict[str, Any] = {
        "run": {"name": run.name, "fingerprint": run.fingerprint},
        "n_features": train.features.shape[1],
        **({"n_token_ids": n_token_ids} if n_token_ids else {}),
        **{"cohort": cohort.name, "source": cohort.source, "fingerprint": cohort.fingerprint},
        **{"n_people": len(people), "n_signals": len(train)},
    }
    writer = folders.create(folder, config, model, provenance, hashes, chosen_by)
    optimizer = make_optimizer(cast(PretrainingMethod, model), config.optim)
    _save_state(writer, optimizer, 0, math.inf)
    return writer


def _open(folder: Path, run: Run, cohort: Cohort) -> TrainedWriter:
    """Return the writer of a folder whose training is continued.

    Raises:
        WriterError: it was trained on another run or cohort.
    """
    writer = folders.open_without_weights(folder)
    writer.encoder(run)
    if writer.provenance.get("fingerprint") != cohort.fingerprint:
        raise WriterError(
            f"{cohort.name} is not the cohort that {folder} was started with: its contents have changed; prepare the old one "
            "again, or train another writer (-o)"
        )
    return writer


def _train(writer: TrainedWriter, train: Examples, held_out: Examples, progress: Progress | None) -> None:
    """Train from the saved state to the last step."""
    # the state to start from
    folder, config, optim = writer.folder, writer.config, writer.config.optim
    model = writer.model.to(runs.choose_device(optim.device))
    optimizer = make_optimizer(cast(PretrainingMethod, model), optim)
    state = runs.load_state(folder)
    model.load_own_state(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    start, best = int(state["step"]), float(state["best"])
    runs.truncate_metrics(folder, start)
    if start:
        log.info("resumed %s at step %d of %d", folder, start, optim.steps)
    sampler = Sampler(len(train), optim.batch_size, optim.seed)
    borrowed = {id(parameter) for parameter in model.pretrained_parameters}
    timer_start, timer_step, step = time.perf_counter(), start, start

    with runs.isolated_random_state(), deterministic_algorithms(optim.deterministic, lambda: step):
        for step in range(start, optim.steps):
            # one step of the optimiser
            model.train()
            rate, borrowed_rate = _rates(step, config)
            for group in optimizer.param_groups:
                group["lr"] = borrowed_rate if id(group["params"][0]) in borrowed else rate
            seed_all(optim.seed, step)
            places = sampler.positions(step)
            total, n_tokens = model.losses(train.features[places].to(model.device), [train.texts[k] for k in places])
            loss = total / n_tokens
            if not math.isfinite(float(loss.detach())):
                raise TrainingError(f"step {step}: the loss is not finite; lower optim.lr")
            loss.backward()  # type: ignore[no-untyped-call]
            if step < config.projection_steps:
                for parameter in model.pretrained_parameters:
                    parameter.grad = None  # neither updated nor part of the norm
            norm = nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            n_done, is_last = step + 1, step + 1 == optim.steps
            if progress is not None:
                progress(f"train writer|loss {float(loss.detach()):.2f}", n_done, optim.steps)

            # metrics, held-out loss, and a state from which a crashed training can be resumed
            if n_done % config.log.every == 0 or is_last:
                speed = optim.batch_size * (n_done - timer_step) / max(time.perf_counter() - timer_start, 1e-9)
                line = {"loss": float(loss.detach()), "lr": rate, "grad_norm": float(norm), "records_per_s": speed}
                runs.append_metrics(folder, {"step": n_done, "split": SPLIT, **line})
                timer_start, timer_step = time.perf_counter(), n_done
            if is_last or (config.log.validate_every and n_done % config.log.validate_every == 0):
                value = held_out_loss(model, held_out, optim.batch_size)
                if math.isfinite(value):
                    runs.append_metrics(folder, {"step": n_done, "split": VAL_SPLIT, "loss": value})
                if config.log.keep == "last" or value < best:
                    best = min(best, value)
                    folders.save_weights(writer)
                timer_start, timer_step = time.perf_counter(), n_done
            if is_last or n_done % config.log.save_every == 0:
                _save_state(writer, optimizer, n_done, best)


def _rates(step: int, config: WriterConfig) -> tuple[float, float]:
    """Return the learning rates of a step: of new layers, and of those that change borrowed ones.

    Each of two stages has its own schedule. The first trains new layers alone; in the second they have the lower rate too.
    """
    optim, n_first = config.optim, config.projection_steps
    if step < n_first:
        return learning_rate(step, dataclasses.replace(optim, steps=n_first)), 0.0
    rate = learning_rate(step - n_first, dataclasses.replace(optim, steps=optim.steps - n_first))
    low = rate * optim.pretrained_lr_scale
    return low if n_first else rate, low


def _save_state(writer: TrainedWriter, optimizer: torch.optim.Optimizer, step: int, best: float) -> None:
    state = {"model": writer.model.own_state(), "optimizer": optimizer.state_dict()}
    runs.save_state(writer.folder, {"step": step, "best": best, **state})


def held_out_loss(model: ReportModel, examples: Examples, batch_size: int) -> float:
    """Return the mean loss of a report token; infinity without recordings."""
    model.eval()
    total, n_tokens = 0.0, 0
    with torch.inference_mode():
        for begin in range(0, len(examples), batch_size):
            some = slice(begin, begin + batch_size)
            loss, n = model.losses(examples.features[some].to(model.device), examples.texts[some])
            total, n_tokens = total + float(loss), n_tokens + n
    model.train()
    return total / n_tokens if n_tokens else math.inf
