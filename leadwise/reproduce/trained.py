"""A variant -> its trained run: loaded if it is finished, gone on with if it was begun, else trained."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import tomli_w
from filelock import FileLock, Timeout

from leadwise import run as runs
from leadwise.config import Config, ConfigError, DataConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.files import replacing
from leadwise.progress import Progress
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.variants import Variant
from leadwise.run import Run
from leadwise.training import inputs
from leadwise.training import loop as training

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked_folder(out: Path) -> Iterator[None]:
    """A block that is the only one of all processes to work in `out`: two would train and delete the same runs.

    Raises:
        ConfigError: another is at work there.
    """
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise ConfigError(f"another reproduce is at work in {out}; wait for it, or choose another --out") from None


def with_cohort(variant: Variant, cohort: Path) -> Variant:
    """The variant, learning from this cohort."""
    data: DataConfig = dataclasses.replace(variant.config.data, cohort=str(cohort))
    return dataclasses.replace(variant, config=dataclasses.replace(variant.config, data=data))


def with_seeds(variant: Variant, seeds: Sequence[int]) -> list[Variant]:
    """The variant with each seed; without any, with its own."""
    every = [dataclasses.replace(variant.config.optim, seed=seed) for seed in seeds] or [variant.config.optim]
    configs = [dataclasses.replace(variant.config, optim=optim) for optim in every]
    return [dataclasses.replace(variant, config=config) for config in configs]


def with_budget(budget: Budget, out: Path, variant: Variant) -> Variant:
    """The variant with the steps of the budget. Minutes are timed once: another time would be another run."""
    if budget.minutes is None:
        return dataclasses.replace(variant, config=budget.of(variant.config))
    path = out / "budget.json"
    known: dict[str, int] = json.loads(path.read_text()) if path.is_file() else {}
    key = f"{_config_hash(variant.config)} {budget}"
    if key not in known:
        known[key] = budget.of(variant.config).optim.steps
        with replacing(path) as part:
            part.write_text(json.dumps(known, indent=1) + "\n")
    log.info("%s: %d steps in %s", variant.label, known[key], budget)
    return dataclasses.replace(variant, config=Budget(steps=known[key]).of(variant.config))


def check_variant(variant: Variant) -> None:
    """Nothing, if the variant can be trained as far as can be told without training.

    Raises:
        ConfigError: a setting that its method cannot use.
    """
    config = variant.config
    inputs.refuse_unequal_shares(config, 1)
    n_patches = config.method.get("n_patches")
    if n_patches and config.signal.n_samples % int(n_patches):
        raise ConfigError(
            f"{variant.label}: n_patches = {n_patches} does not divide the {config.signal.n_samples} samples of a lead; "
            "choose another signal.rate_hz or duration_s"
        )


def load_or_train(folder: Path, variant: Variant, progress: Progress) -> Run:
    """The run of a variant, in a folder of `folder` that is named by a hash of its config and data."""
    config = variant.config
    home = folder / f"{config.method['name']}-{_config_hash(config)}"
    if _is_finished(home, config):
        return runs.load(home, config.optim.device)
    what = f"{variant.label}, seed {config.optim.seed}"

    def heard(told: str, done: int, total: int) -> None:
        progress(f"{what}|{told.partition('|')[2]}", done, total)

    if (home / "resume" / "state.pt").is_file():
        return training.pretrain(config, home, resume=True, progress=heard)
    if home.exists():
        log.info("%s was begun and left nothing to go on from; it begins anew", home)
        shutil.rmtree(home)
    return training.pretrain(config, home, progress=heard)


def _is_finished(home: Path, config: Config) -> bool:
    """Whether the weights are those of the last step, as its log says; the resume state may have been deleted."""
    metrics = home / "metrics.jsonl"
    if not metrics.is_file() or not (home / "model.safetensors").is_file():
        return False
    lines = metrics.read_text().splitlines()
    try:
        last = json.loads(lines[-1]) if lines else {}
    except ValueError:  # torn by a crash
        return False
    if last.get("split") != "val" or last.get("step") != config.optim.steps:
        return False
    state = (
        home / "resume" / "state.pt"
    )  # written after the weights: one of an earlier step tells of a crash between them
    return not state.is_file() or int(runs.reopen(home).load_resume()["step"]) == config.optim.steps


def _config_hash(config: Config) -> str:
    """Of every setting and of the data that they name."""
    data = Cohort.open(Path(config.data.cohort)).fingerprint
    table = dataclasses.asdict(config)
    if not config.data.task:  # nothing reads them then: folders of runs from before there were labels stay good
        for name in ("task", "label_fraction", "label_seed"):
            table["data"].pop(name)
    return hashlib.sha256((tomli_w.dumps(table) + data).encode()).hexdigest()[:12]
