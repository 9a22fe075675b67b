"""The trained run of a variant: loaded if it is finished, resumed if it was interrupted, else trained."""

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
    """Lock `out` for the block, since two processes would train and delete the same runs.

    Raises:
        ConfigError: another process has the lock.
    """
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise ConfigError(f"another reproduce is at work in {out}; wait for it, or choose another --out") from None


def with_cohort(variant: Variant, cohort: Path) -> Variant:
    """Return the variant with this cohort as its training data."""
    data: DataConfig = dataclasses.replace(variant.config.data, cohort=str(cohort))
    return dataclasses.replace(variant, config=dataclasses.replace(variant.config, data=data))


def with_seeds(variant: Variant, seeds: Sequence[int]) -> list[Variant]:
    """Return the variant once for each seed; without seeds, once with its own."""
    optims = [dataclasses.replace(variant.config.optim, seed=seed) for seed in seeds] or [variant.config.optim]
    configs = [dataclasses.replace(variant.config, optim=optim) for optim in optims]
    return [dataclasses.replace(variant, config=config) for config in configs]


def with_budget(budget: Budget, out: Path, variant: Variant) -> Variant:
    """Return the variant with the steps of the budget.

    The steps of a budget in minutes are measured once and stored in `out`: another measurement would give another run. They are
    the same for all seeds, and for all runs that it may start from.
    """
    if budget.minutes is None:
        return dataclasses.replace(variant, config=budget.of(variant.config))
    path = out / "budget.json"
    steps: dict[str, int] = json.loads(path.read_text()) if path.is_file() else {}
    alike = dataclasses.replace(
        variant.config,
        data=dataclasses.replace(variant.config.data, init="", init_volume="", init_text=""),
        optim=dataclasses.replace(variant.config.optim, seed=0),
    )
    key, key_before = (f"{_config_hash(config)} {budget}" for config in (alike, variant.config))
    if key not in steps and key_before in steps:  # of an older version, which measured each seed by itself
        key = key_before
    if key not in steps:
        steps[key] = budget.of(variant.config).optim.steps
        with replacing(path) as part:
            part.write_text(json.dumps(steps, indent=1) + "\n")
    log.info("%s: %d steps in %s", variant.label, steps[key], budget)
    return dataclasses.replace(variant, config=Budget(steps=steps[key]).of(variant.config))


def check_variant(variant: Variant) -> None:
    """Check, as far as possible without training, that the variant can be trained.

    Raises:
        ConfigError: a setting that its method cannot use.
    """
    config = variant.config
    inputs.check_batch_split(config, 1)
    n_patches = config.method.get("n_patches")
    if n_patches and config.signal.n_samples % int(n_patches):
        raise ConfigError(
            f"{variant.label}: n_patches = {n_patches} does not divide the {config.signal.n_samples} samples of a lead; "
            "choose another signal.rate_hz or duration_s"
        )


def load_or_train(folder: Path, variant: Variant, progress: Progress) -> Run:
    """Return the trained run of a variant; its folder in `folder` is named by a hash of its config and data."""
    config = variant.config
    run_folder = folder / f"{config.method['name']}-{_config_hash(config)}"
    if _is_finished(run_folder, config):
        return runs.load(run_folder, config.optim.device)

    # Name the variant in the progress, and keep the details after "|".
    task_name = f"{variant.label}, seed {config.optim.seed}"

    def report(what: str, done: int, total: int) -> None:
        progress(f"{task_name}|{what.partition('|')[2]}", done, total)

    # Resume, or begin anew where an earlier attempt was interrupted before its first save.
    if (run_folder / "resume" / "state.pt").is_file():
        return training.pretrain(config, run_folder, resume=True, progress=report)
    if run_folder.exists():
        log.info("%s has no resume state; the run starts again from step 0", run_folder)
        shutil.rmtree(run_folder)
    return training.pretrain(config, run_folder, progress=report)


def _is_finished(run_folder: Path, config: Config) -> bool:
    """Return whether the weights are those of the last step by the run's log; the resume state may have been deleted."""
    metrics = run_folder / "metrics.jsonl"
    if not metrics.is_file() or not (run_folder / "model.safetensors").is_file():
        return False
    lines = metrics.read_text().splitlines()
    try:
        last = json.loads(lines[-1]) if lines else {}
    except ValueError:  # truncated by a crash
        return False
    if last.get("split") != "val" or last.get("step") != config.optim.steps:
        return False
    # The resume state is written after the weights: one of an earlier step means a crash between the two.
    state = run_folder / "resume" / "state.pt"
    return not state.is_file() or int(runs.open_without_weights(run_folder).load_resume()["step"]) == config.optim.steps


def _config_hash(config: Config) -> str:
    """Return a hash of every setting and of the data that the settings name."""
    data = Cohort.open(Path(config.data.cohort)).fingerprint
    table = dataclasses.asdict(config)
    # settings that older versions did not have are left out where they change nothing, so that folders of older runs stay valid
    table["optim"].pop("deterministic")
    table["optim"].pop("timeout_s")
    if config.optim.optimizer == "adamw":
        table["optim"].pop("optimizer")
    if config.optim.state_lr_scale == 1.0:
        table["optim"].pop("state_lr_scale")
    if table["method"].get("w_mem") == 1.0:
        table["method"].pop("w_mem")
    if config.method["name"] == "cg_dmer" and table["method"].get("similar_report") == 1.0:
        table["method"].pop("similar_report")
    for name in ("teacher", "init", "init_volume", "init_text"):
        if not table["data"][name]:
            table["data"].pop(name)
    if (
        not config.data.task
    ):  # the label settings are unused then; leaving them out keeps the folders of older runs valid
        for name in ("task", "label_fraction", "label_seed"):
            table["data"].pop(name)
    return hashlib.sha256((tomli_w.dumps(table) + data).encode()).hexdigest()[:12]
