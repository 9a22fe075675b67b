"""`ECGEmbedder`: a run as a transformer of scikit-learn, for pipelines, cross-validation and grid search.

pipe = make_pipeline(ECGEmbedder("runs/mine"), StandardScaler(), LogisticRegression())
cross_val_score(pipe, table_with_paths, labels, groups=patients, cv=GroupKFold(5))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from leadwise.evaluate.embed import Features
from leadwise.evaluate.embed_ecgs import OnError
from leadwise.model import Model, load
from leadwise.run import RunError


class ECGEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Transform ECGs into embeddings (N, D) of a trained run. Nothing is fitted: `fit` loads the run.

    A pickle contains the settings and the fingerprint of the run, not its weights: the run is loaded again on use.

    Args:
        run: the folder, name or hub id of a run, as for `leadwise.load`.
        part: the embedding, such as "backbone" or "shared".
        rate_hz, leads, units: what the files or arrays do not state.
        path_column: the column of a DataFrame with the paths.
        window: the part of longer recordings; default: the run's own.
        batch_size: ECGs per forward pass.
        device: "auto", "cpu" or "cuda".
        on_error: "raise", or "nan" for a row of NaN where an ECG cannot be embedded.
    """

    def __init__(
        self,
        run: str,
        *,
        part: str = "backbone",
        rate_hz: float | None = None,
        leads: Sequence[str] | None = None,
        units: str | None = None,
        path_column: str = "path",
        window: str | None = None,
        batch_size: int = 64,
        device: str = "auto",
        on_error: OnError = "raise",
    ) -> None:
        self.run = run
        self.part = part
        self.rate_hz = rate_hz
        self.leads = leads
        self.units = units
        self.path_column = path_column
        self.window = window
        self.batch_size = batch_size
        self.device = device
        self.on_error = on_error

    def fit(self, X: Any, y: Any = None) -> ECGEmbedder:
        """Load the run; `X` and `y` are not used.

        Raises:
            TypeError: `run` is not a text or path.
            HubError, RunError: there is no such run, or it is damaged.
        """
        if not isinstance(self.run, str | Path):
            raise TypeError(f"run must be a folder, name or hub id; got {type(self.run).__name__}")
        self._model = load(self.run, device=self.device)
        self.fingerprint_ = self._model.fingerprint
        return self

    def transform(self, X: Any) -> Features:
        """Return embeddings (N, D) of ECGs: paths, a DataFrame with paths, arrays (N, L, T), or a list of ECGs.

        Raises:
            NotFittedError: `fit` was not called.
            RecordError: an ECG cannot be read or is not interpretable, and on_error is "raise".
        """
        check_is_fitted(self)
        features = self._loaded.embed(
            X,
            rate_hz=self.rate_hz,
            leads=self.leads,
            units=self.units,
            part=self.part,
            window=self.window,
            batch_size=self.batch_size,
            on_error=self.on_error,
            path_column=self.path_column,
        )
        return np.asarray(features)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the columns: backbone0, backbone1 ..."""
        check_is_fitted(self)
        return np.array(self._loaded.columns(self.part), dtype=object)

    @property
    def _loaded(self) -> Model:
        """The model; loaded again after unpickling.

        Raises:
            RunError: the run has changed since `fit`.
        """
        model: Model | None = getattr(self, "_model", None)
        if model is None:
            model = load(self.run, device=self.device)
            if model.fingerprint != self.fingerprint_:
                raise RunError(
                    f"run {self.run} has changed since this ECGEmbedder was fitted ({self.fingerprint_}, now "
                    f"{model.fingerprint}); fit it again"
                )
            self._model = model
        return model

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_model"}

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fingerprint_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.no_validation = True
        return tags
