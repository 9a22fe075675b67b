"""A fitted probe in one file, so that it can score ECGs without labels: `leadwise probe --save`, `leadwise predict --probe`.

The file is in the safetensors format: scaler, coefficients and intercepts as arrays; classes, task, part, window, cohort and the
fingerprint of the run as text. A probe fits the embeddings of one run only; with another run it is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate import logistic_regression
from leadwise.evaluate.embed import Features, embed_cohort, usable
from leadwise.evaluate.logistic_regression import LogisticModel, ProbeError
from leadwise.evaluate.metrics.score import Floats
from leadwise.evaluate.principal_axes import principal_axes
from leadwise.evaluate.probe import make_probe_task
from leadwise.files import replacing
from leadwise.progress import Progress
from leadwise.run import Run

FORMAT = "leadwise probe 1"
_ARRAYS = ("mean", "inverse_std", "coefficients", "intercepts")
_TEXTS = ("task", "part", "cohort", "run", "cohort_fingerprint", "run_fingerprint")


@dataclass(frozen=True)
class SavedProbe:
    """A fitted probe of one task, and what it was fitted on."""

    model: LogisticModel
    classes: tuple[str, ...]
    unlearnable: tuple[str, ...]  # classes with a single label value in the training recordings: no probability
    task: str
    part: str
    window: str | None
    cohort: str
    run: str  # its name
    cohort_fingerprint: str
    run_fingerprint: str
    n_train: int
    width: int | None = None  # to which wider features were reduced, see `principal_axes`; the coefficients contain it

    def probabilities(self, features: Features) -> Floats:
        """Return (N, K) of embeddings (N, D); NaN for unlearnable classes, and for a row of NaN."""
        values: Floats = expit(self.model.scores(features))
        values[:, [name in self.unlearnable for name in self.classes]] = np.nan
        return values

    def table(self, features: Features, rows: pd.Index | None = None) -> pd.DataFrame:
        """Return the probabilities of embeddings (N, D) as a table, one column per class."""
        return pd.DataFrame(self.probabilities(features), index=rows, columns=list(self.classes))

    def check_run(self, run: Run) -> None:
        """Raise ProbeError if the probe was fitted on the embeddings of another run."""
        if run.fingerprint != self.run_fingerprint:
            raise ProbeError(
                f"the probe was fitted on run {self.run} ({self.run_fingerprint}), not on {run.name} ({run.fingerprint}); "
                "fit one for this run: leadwise probe RUN COHORT --task TASK --save FILE"
            )

    def save(self, path: Path) -> None:
        """Write the probe to one file, atomically."""
        from safetensors.numpy import save_file

        about = {name: getattr(self, name) for name in (*_TEXTS, "window", "n_train", "width")}
        about |= {"format": FORMAT, "classes": list(self.classes), "unlearnable": list(self.unlearnable)}
        about |= {"strength": self.model.strength, "val_macro": self.model.val_macro}
        arrays = {name: np.ascontiguousarray(getattr(self.model, name), dtype=np.float64) for name in _ARRAYS}
        with replacing(path) as temporary:
            save_file(arrays, temporary, metadata={"leadwise": json.dumps(about)})


def fit_probe(
    run: Run,
    cohort: Cohort,
    task: str,
    part: str = "backbone",
    window: str | None = None,
    progress: Progress | None = None,
    width: int | None = None,
) -> SavedProbe:
    """Fit a probe on all training recordings of a task, by the rules of `leadwise probe` at fraction 1.

    Raises:
        ProbeError: a split is empty or shares patients with another, no class can be learned, or `width` is below 1.
    """
    rows, _ = usable(run, cohort, cohort.rows(task=task), window)
    probe_task = make_probe_task(cohort, task, rows)
    features = embed_cohort(run, cohort, part, rows, progress, window=window)
    train, val = probe_task.rows("train"), probe_task.rows("val")
    labels = probe_task.labels
    basis = principal_axes(features[train], width)
    model = logistic_regression.fit(features[train], labels[train], features[val], labels[val], basis)
    constant = labels[train].min(axis=0) == labels[train].max(axis=0)
    return SavedProbe(
        model=model,
        classes=probe_task.classes,
        unlearnable=tuple(name for name, is_constant in zip(probe_task.classes, constant) if is_constant),
        task=task,
        part=part,
        window=window,
        cohort=cohort.name,
        run=run.name,
        cohort_fingerprint=cohort.fingerprint,
        run_fingerprint=run.fingerprint,
        n_train=len(train),
        width=width,
    )


def load_probe(path: Path | str) -> SavedProbe:
    """Return the probe that `SavedProbe.save` wrote.

    Raises:
        ProbeError: the file is absent, damaged, or no probe.
    """
    path = Path(path)
    if not path.is_file():
        raise ProbeError(f"{path}: no such file; write it with: leadwise probe RUN COHORT --task TASK --save {path}")
    about, arrays = _read(path)
    try:
        classes, (mean, inverse_std, coefficients, intercepts) = about["classes"], (arrays[name] for name in _ARRAYS)
        if (
            coefficients.shape != (len(mean), len(classes))
            or len(intercepts) != len(classes)
            or len(mean) != len(inverse_std)
        ):
            raise ValueError(f"coefficients of shape {coefficients.shape} for {len(classes)} classes")
        model = LogisticModel(
            mean, inverse_std, coefficients, intercepts, float(about["strength"]), float(about["val_macro"])
        )
        return SavedProbe(
            model,
            tuple(classes),
            tuple(about["unlearnable"]),
            window=about["window"],
            n_train=int(about["n_train"]),
            width=about.get("width"),
            **{name: str(about[name]) for name in _TEXTS},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProbeError(f"{path}: a damaged probe ({error}); write it again with `leadwise probe --save`") from None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the description and the arrays of a probe file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("leadwise", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, ValueError, OSError) as error:
        raise ProbeError(
            f"{path}: cannot be read as a probe ({error}); write it with `leadwise probe --save`"
        ) from None
    if about.get("format") != FORMAT:
        raise ProbeError(f"{path}: no probe of this version of leadwise; write it with `leadwise probe --save`")
    return about, arrays
