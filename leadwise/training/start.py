"""The runs that a new run starts from: those that `data.init`, `data.init_volume` and `data.init_text` name.

Their methods become part of the new method, with their weights. The new run's folder contains their settings and tokenizers,
so that it is loaded, and resumed, without them. What they were trained on counts as training data of the new run.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from leadwise import hub
from leadwise import run as runs
from leadwise.config import Config, ConfigError
from leadwise.methods.catalogue import starts_from
from leadwise.run import Run
from leadwise.trained_on import TrainedOn
from leadwise.training.inputs import TrainingData

log = logging.getLogger(__name__)

SETTINGS = ("init", "init_volume", "init_text")


def open_start(config: Config, accept_changes: bool = False) -> dict[str, Run]:
    """Return the runs that a config starts from, by setting of [data]; empty if it names none.

    Args:
        accept_changes: log a warning, and raise no error, for files of such a run that were changed after it was saved.

    Raises:
        ConfigError: the method cannot start from a run, or not from this one.
        HubError: there is no such run.
        RunError: its folder is damaged.
    """
    method, out = str(config.method["name"]), {}
    for name in SETTINGS:
        where = getattr(config.data, name)
        if not where:
            continue
        if name not in starts_from(method):
            raise ConfigError(
                f"data.{name} = '{where}', but method '{method}' does not start from another run; leave it empty"
            )
        out[name] = runs.load(hub.find(where), config.optim.device, accept_changes)
        problem = "" if name == "init_text" else _mismatch(config, out[name])  # its ECGs are not read
        if problem:
            raise ConfigError(f"data.{name} = '{where}': {problem}")
    return out


def _mismatch(config: Config, start: Run) -> str:
    """Return why a config cannot start from this run, with the remedy; '' if it can."""
    if not start.method.embeds_ecg:
        return ""  # it reads no ECGs
    for name in ("rate_hz", "duration_s", "leads"):
        a, b = getattr(config.signal, name), getattr(start.config.signal, name)
        if a != b:
            text = f"[{', '.join(b)}]" if isinstance(b, tuple) else f"{b:g}"
            return f"it has signal.{name} = {text}, and this config another value; set signal.{name} to it"
    whole_batch = start.method.config.whole_batch
    if whole_batch and config.optim.accumulate > 1:
        return f"its {whole_batch} needs all records of a process in one pass; set optim.accumulate=1"
    return ""


def hashes_with_earlier(data: TrainingData, earlier: Mapping[str, Run]) -> TrainedOn:
    """Return what a run is trained on: its own recordings, and what earlier runs were trained on as far as this is known.

    Args:
        data: the run's own recordings.
        earlier: the runs that it starts from, and its teacher. Their patients can be found only among those of the cohort,
            because the names are hashed.
    """
    own, cohort = data.hashes, data.train.cohort
    signals, everyone = own.signals, cohort.patients.distinct(np.arange(len(cohort)))
    people = {*cohort.patients.distinct(data.train.rows)}
    is_known = False
    for run in earlier.values():
        listed = run.training_hashes
        if listed is None:
            log.warning(
                "%s does not list what it was trained on: whether a test patient of %s was among them cannot be checked",
                run.name, cohort.name,
            )  # fmt: skip
            continue
        is_known = True
        people |= {*listed.patients(cohort.source, everyone)}
        signals = None if listed.signals is None or signals is None else listed.signals | signals
    if not is_known:
        return own
    return dataclasses.replace(TrainedOn.of(cohort.source, people, []), signals=signals)


def provenance(earlier: Mapping[str, Run]) -> dict[str, Any]:
    """Return the entries of data.json that name the earlier runs: their method and fingerprint."""
    return {
        name: {"method": run.config.method["name"], "fingerprint": run.fingerprint} for name, run in earlier.items()
    }
