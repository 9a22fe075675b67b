"""Text embeddings in the shared space: of cleaned texts, of a class from its prompts, and their cosines to ECGs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from leadwise.data import reports
from leadwise.evaluate.embed import Features, frozen
from leadwise.evaluate.metrics.score import Floats
from leadwise.evaluate.prompts import ClassPrompts
from leadwise.evaluate.speed import embedding_precision
from leadwise.progress import Progress
from leadwise.run import Run

_TEXTS_AT_ONCE = 64


class NoTextEncoderError(ValueError):
    """A run without a text encoder; the message names the run."""


def embed_texts(run: Run, texts: Sequence[str], progress: Progress | None = None) -> Features:
    """Return shared embeddings (P, D) of P texts, cleaned like reports.

    Raises:
        NoTextEncoderError: the run has no text encoder.
    """
    return _of_texts(run, texts, run.method.embed_text, progress)


def text_uncertainties(run: Run, texts: Sequence[str]) -> Floats:
    """Return the uncertainties (P,) of P texts, cleaned like reports, by a method that ranks by distance.

    Raises:
        NoTextEncoderError: the run has no text encoder.
    """
    return _of_texts(run, texts, run.method.text_uncertainty, None).astype(np.float64)


def _of_texts(
    run: Run, texts: Sequence[str], compute: Callable[[list[str]], torch.Tensor], progress: Progress | None
) -> Features:
    """Return what `compute` returns of P cleaned texts, (P, ...)."""
    if not run.method.embeds_text:
        raise NoTextEncoderError(
            f"run {run.name} was trained on ECGs alone: its method has no text encoder (embed_text)"
        )
    cleaned = [reports.clean(text) for text in texts]
    batches: list[NDArray[np.float32]] = []
    with frozen(run.method), embedding_precision(run):
        for start in range(0, len(cleaned), _TEXTS_AT_ONCE):
            batches.append(compute(cleaned[start : start + _TEXTS_AT_ONCE]).float().cpu().numpy())
            if progress is not None:
                progress("embed texts", min(start + _TEXTS_AT_ONCE, len(cleaned)), len(cleaned))
    return np.concatenate(batches)


def embed_prompts(run: Run, of_class: Sequence[ClassPrompts]) -> list[Features]:
    """Return the prompt embeddings (P, D) of each class."""
    vectors = embed_texts(run, [prompt for entry in of_class for prompt in entry.prompts])
    ends = np.cumsum([len(entry.prompts) for entry in of_class])[:-1]
    return list(np.split(vectors, ends))


def class_vector(vectors: Features) -> Floats:
    """Return the unit vector (D,) of a class: the mean direction of its prompt embeddings (P, D)."""
    direction: Floats = unit(unit(vectors).mean(axis=0, keepdims=True))[0]
    return direction


def cosines(ecg: Features, of_class: Sequence[Floats]) -> Floats:
    """Return cosines (N, K) of ECG embeddings (N, D) to K class vectors (D,)."""
    return np.asarray(unit(ecg) @ np.stack(of_class).T)


def unit(vectors: NDArray[np.floating]) -> Floats:
    """Return vectors (N, D) scaled to length 1, in double precision."""
    double = np.asarray(vectors, dtype=np.float64)
    scaled: Floats = double / np.maximum(np.linalg.norm(double, axis=1, keepdims=True), 1e-12)
    return scaled
