"""Fine-tuning: test scores of a run's encoder after further training on the labels of a task, with a linear map to the classes.

The third way of judging, beside probe and zero-shot. Draws of the labels, splits, metrics and result object are those of the
probe. Encoder and map are trained with binary cross-entropy by AdamW with a cosine schedule, each with its own rate. After every
epoch the validation split is scored, the weights with the best macro AUROC are chosen, and these score the test split, once. The
control "untrained" is the same training of the same encoder from random weights.

What a draw has computed is stored, so that an interrupted call continues after the last finished epoch, to the same weights.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from leadwise.batch import Batch
from leadwise.config import OptimConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.label_subset import subset
from leadwise.data.loader import Recordings, Sampler
from leadwise.evaluate.embed import frozen, usable
from leadwise.evaluate.logistic_regression import ProbeError
from leadwise.evaluate.metrics.auroc import auroc
from leadwise.evaluate.probe import (
    SEEDS,
    DrawScores,
    ProbeReport,
    ProbeResult,
    ProbeTask,
    make_probe_task,
    result_of_draws,
)
from leadwise.files import replacing
from leadwise.progress import Progress
from leadwise.run import Run, choose_device, isolated_random_state
from leadwise.training.deterministic import deterministic_algorithms
from leadwise.training.gradient_step import TrainingError, device_of, seed_all
from leadwise.training.optimizer import learning_rate

FEATURES = ("trained", "untrained")


@dataclass(frozen=True)
class FinetuneSettings:
    """How a draw is fine-tuned."""

    epochs: int = 30  # passes over the drawn recordings
    batch_size: int = 64  # of a step; a smaller draw is one batch
    encoder_lr: float = 1e-4  # highest rate
    head_lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.05  # share of the steps in which the rates rise
    clip: float = 1.0  # norm of the gradient
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "encoder_lr", "head_lr"):
            if getattr(self, name) <= 0:
                raise ProbeError(f"{name} = {getattr(self, name)}: must be above 0")
        if self.weight_decay < 0:
            raise ProbeError(f"weight_decay = {self.weight_decay}: must be 0 or above")

    def optim(self, steps: int, seed: int) -> OptimConfig:
        """Return these settings with the names of the training loop's."""
        return OptimConfig(
            steps=steps, lr=self.encoder_lr, weight_decay=self.weight_decay, warmup=self.warmup, clip=self.clip, seed=seed,
            device=self.device,
        )  # fmt: skip


class _Classifier(nn.Module):
    """An encoder's features (B, D) and a linear map to K logits, which start at 0."""

    def __init__(self, method: nn.Module, part: str, width: int, n_classes: int) -> None:
        super().__init__()
        self.method, self.part = method, part
        self.head = nn.Linear(width, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, K)."""
        logits: Tensor = self.head(self.method.embed_parts(batch, (self.part,))[0].float())  # type: ignore[operator]
        return logits


def finetune(
    run: Run,
    cohort: Cohort,
    task: str,
    fractions: Sequence[float] = (1.0,),
    seeds: Sequence[int] = SEEDS[:1],
    part: str = "backbone",
    settings: FinetuneSettings | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> ProbeReport:
    """Fine-tune a run's encoder, and the same encoder from random weights, on each fraction of the labels.

    Recordings that the run cannot embed are left out of all splits. Longer recordings are read in the run's own window.

    Args:
        seeds: of the drawn labels, and of the batches. With fraction 1 only the batches differ.
        folder: where what is computed is stored; default: in the run's cache folder.

    Raises:
        ProbeError: a split is empty or shares patients with another, or a setting is not positive.
        DrawError: a fraction outside (0, 1], or one that leaves no training recording.
        TrainingError: a loss is not finite.
        RunError: the encoder of another program cannot be trained.
    """
    # labels, splits and patients of the task's recordings
    chosen = settings or FinetuneSettings()
    run.check_trainable()
    if part not in run.method.parts:
        raise ProbeError(f"run {run.name} has no part '{part}'; it has {', '.join(run.method.parts)}")
    rows, left_out = usable(run, cohort, cohort.rows(task=task))
    probe_task = make_probe_task(cohort, task, rows)
    val_labels = probe_task.labels[probe_task.rows("val")]
    if (val_labels.min(axis=0) == val_labels.max(axis=0)).all():
        raise ProbeError("no class has both label values in split 'val', so no epoch can be chosen")
    recordings = Recordings(cohort, run.config.signal, rows, task=task)
    root = folder or (run.cache_folder.parent / "finetune" if run.cache_folder else None)
    encoders = dict(zip(FEATURES, [run, *([run.untrained()] if run.has_untrained else [])]))

    # every fraction, encoder and draw
    results: dict[float, dict[str, ProbeResult]] = {fraction: {} for fraction in fractions}
    for fraction in fractions:
        for name, encoder in encoders.items():
            draws = []
            for seed in seeds:
                key = _key(encoder, cohort, task, part, chosen, fraction, seed)
                state = root / f"{key}.pt" if root else None
                one = _Draw(encoder, recordings, probe_task, part, fraction, seed, chosen, state)
                draws.append(one.scores(f"finetune|{name}, {fraction:g} of the labels, seed {seed}", progress))
            width = one.width
            results[fraction][name] = result_of_draws(fraction, probe_task, draws, (width, width))
    about = {"command": "finetune", "settings": dataclasses.asdict(chosen)}
    return ProbeReport.of(run, cohort, task, part, rows, probe_task, results, left_out=left_out, **about)


def _key(run: Run, cohort: Cohort, task: str, part: str, settings: FinetuneSettings, fraction: float, seed: int) -> str:
    """Return the name of a draw's state: equal for equal weights, data and settings."""
    about = [run.fingerprint, cohort.fingerprint, task, part, dataclasses.asdict(settings), fraction, seed]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]


class _Draw:
    """The training of one encoder on one draw of the labels."""

    def __init__(
        self,
        run: Run,
        recordings: Recordings,
        task: ProbeTask,
        part: str,
        fraction: float,
        seed: int,
        settings: FinetuneSettings,
        state: Path | None,
    ) -> None:
        """`state` is the file of what is computed; None: nothing is stored."""
        train = task.rows("train")
        self.positions = train[subset(len(train), fraction, seed)]
        self.recordings, self.task, self.seed, self.settings, self.state = recordings, task, seed, settings, state

        # the model, at its start
        method = copy.deepcopy(run.method).to(choose_device(settings.device))
        device = device_of(method)
        with frozen(method):
            probe_batch = recordings.batch(self.positions[:1]).to(device)
            self.width = int(method.embed_parts(probe_batch, (part,))[0].shape[1])
        self.model = _Classifier(method, part, self.width, len(task.classes)).to(device)

        # steps, and the optimiser: the head's rate is a multiple of the encoder's
        self.batch_size = min(settings.batch_size, len(self.positions))  # no recording twice in a batch
        self.steps_an_epoch = -(-len(self.positions) // self.batch_size)
        self.n_steps = settings.epochs * self.steps_an_epoch
        groups = [
            {"params": [p for p in method.parameters() if p.requires_grad], "scale": 1.0},
            {"params": list(self.model.head.parameters()), "scale": settings.head_lr / settings.encoder_lr},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.encoder_lr, weight_decay=settings.weight_decay)

    def scores(self, name: str, progress: Progress | None) -> DrawScores:
        """Train, unless that is done, and return the scores of the validation and the test split."""
        stored = self._stored()
        if "test" not in stored:
            with isolated_random_state(), deterministic_algorithms():
                stored = self._train(stored, name, progress)
        val, test = stored["val"].double().numpy(), stored["test"].double().numpy()
        macro, epoch = float(stored["best_macro"]), int(stored["best_epoch"])
        return DrawScores.of(self.task, self.positions, self.seed, val, test, macro, epoch=epoch)

    def _train(self, stored: dict[str, Any], name: str, progress: Progress | None) -> dict[str, Any]:
        """Return the state of the finished training, which began at `stored`."""
        model, optim = self.model, self.settings.optim(self.n_steps, self.seed)
        start = int(stored.get("step", 0))
        if start:
            model.load_state_dict(stored["model"])
            self.optimizer.load_state_dict(stored["optimizer"])
        val_rows = self.task.rows("val")
        sampler = Sampler(len(self.positions), self.batch_size, optim.seed)
        model.train()
        for step in range(start, self.n_steps):
            # one step
            rate = learning_rate(step, optim)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            batch = self.recordings.batch(self.positions[sampler.positions(step)]).to(device_of(model))
            seed_all(self.seed, step)
            logits = model(batch)
            assert batch.label is not None
            loss = F.binary_cross_entropy_with_logits(logits.float(), batch.label)
            if not torch.isfinite(loss):
                raise TrainingError(f"step {step} of fine-tuning: the loss is not finite; lower the rates")
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if progress is not None:
                progress(name, step + 1, self.n_steps)

            # after an epoch: the validation split, and the best weights so far
            if (step + 1) % self.steps_an_epoch == 0:
                val = self._logits(val_rows)
                macro = float(np.nanmean(auroc(self.task.labels[val_rows], val.double().numpy())))
                if macro > stored.get("best_macro", -np.inf):
                    best = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
                    epoch = (step + 1) // self.steps_an_epoch
                    stored |= {"best": best, "best_macro": macro, "best_epoch": epoch, "val": val}
                stored |= {"step": step + 1, "model": model.state_dict(), "optimizer": self.optimizer.state_dict()}
                self._store(stored)

        # the test split, scored once, by the best weights
        model.load_state_dict(stored["best"])
        done = {key: stored[key] for key in ("best_macro", "best_epoch", "val")}
        done["test"] = self._logits(self.task.rows("test"))
        self._store(done)
        return done

    def _logits(self, rows: NDArray[np.int64]) -> Tensor:
        """Return logits (n, K) of positions of the task, on the CPU."""
        batches = []
        with frozen(self.model):
            for begin in range(0, len(rows), 256):
                batch = self.recordings.batch(rows[begin : begin + 256]).to(device_of(self.model))
                batches.append(self.model(batch).float().cpu())
        return torch.cat(batches)

    def _stored(self) -> dict[str, Any]:
        """Return what earlier calls have computed; empty without it, or if the file is damaged."""
        if self.state is None or not self.state.is_file():
            return {}
        try:
            stored: dict[str, Any] = torch.load(self.state, map_location="cpu", weights_only=True)
        except Exception:  # of many types; the content of a damaged file is computed again
            return {}
        return stored

    def _store(self, content: dict[str, Any]) -> None:
        if self.state is None:
            return
        with replacing(self.state) as temporary:
            torch.save(content, temporary)
