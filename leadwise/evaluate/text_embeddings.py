"""Texts in the shared space: embedding them as reports are, a class's vector from its prompts, and cosines to ECGs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leadwise.data import reports
from leadwise.evaluate.embed import Features, frozen, training_precision
from leadwise.evaluate.metrics.score import Floats
from leadwise.evaluate.prompts import ClassPrompts
from leadwise.progress import Progress
from leadwise.run import Run

_TEXTS_AT_ONCE = 64


class NoTextEncoderError(ValueError):
    """A run that cannot read; the message names it."""


def embed_texts(run: Run, texts: Sequence[str], progress: Progress | None = None) -> Features:
    """(P, D) shared embeddings of P texts, cleaned as reports are.

    Raises:
        NoTextEncoderError: the run has no text encoder.
    """
    if not run.method.embeds_text:
        raise NoTextEncoderError(f"run {run.name} learnt from ECGs alone (no embed_text), so it reads no words")
    cleaned = [reports.clean(text) for text in texts]
    made: list[NDArray[np.float32]] = []
    with frozen(run.method), training_precision(run):
        for start in range(0, len(cleaned), _TEXTS_AT_ONCE):
            vectors = run.method.embed_text(cleaned[start : start + _TEXTS_AT_ONCE])
            made.append(vectors.float().cpu().numpy())
            if progress is not None:
                progress("read", min(start + _TEXTS_AT_ONCE, len(cleaned)), len(cleaned))
    return np.concatenate(made)


def embed_prompts(run: Run, of_class: Sequence[ClassPrompts]) -> list[Features]:
    """For each class the (P, D) embeddings of its prompts."""
    vectors = embed_texts(run, [prompt for entry in of_class for prompt in entry.prompts])
    ends = np.cumsum([len(entry.prompts) for entry in of_class])[:-1]
    return list(np.split(vectors, ends))


def class_vector(vectors: Features) -> Floats:
    """(D,) unit vector of a class from its prompts' embeddings (P, D): the mean of their directions."""
    direction: Floats = unit(unit(vectors).mean(axis=0, keepdims=True))[0]
    return direction


def cosines(ecg: Features, of_class: Sequence[Floats]) -> Floats:
    """(N, K) cosine of each ECG embedding (N, D) to each of K class vectors (D,)."""
    return np.asarray(unit(ecg) @ np.stack(of_class).T)


def unit(vectors: NDArray[np.floating]) -> Floats:
    """(N, D) at length 1, in double precision."""
    wide = np.asarray(vectors, dtype=np.float64)
    scaled: Floats = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return scaled
