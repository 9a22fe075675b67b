"""An encoder that leadwise did not train, with the interface of a run: every score treats both alike.

What it does not have is stated by `Run.stored`, `has_untrained` and `check_trainable`: an embeddings file cannot embed changed
ECGs, only a torch module can be trained further, and only some encoders come with an untrained control.

Embeddings are cached for the time of one command: nothing shows that the code of another program has changed. Those of an
encoder whose digest covers all that it computes, an ONNX file, are cached beside the file. Those that `leadwise embed` writes to
a file are used without computing them again.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from leadwise import trained_on
from leadwise.batch import Batch, Signal
from leadwise.config import Config
from leadwise.data.stored_embeddings import StoredEmbeddings
from leadwise.evaluate.embed import EmbedError, frozen
from leadwise.evaluate.speed import device_of
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn.encoder import check_part
from leadwise.nn.normalize import normalize
from leadwise.run import Run, RunError, isolated_random_state
from leadwise.trained_on import ScoredRecordings, TrainedOn, TrainingOverlap

_UNTRAINED_SEED = 0


class ForeignError(RunError):
    """An encoder of another program that cannot be used; the message names it, the problem and the remedy."""


class Embedder(Protocol):
    """An object that embeds batches."""

    def embed(self, batch: Batch) -> Any:
        """Return embeddings (B, D) of a batch, as a tensor or an array."""


@dataclass(frozen=True)
class PretrainingData:
    """What is known of the data that an encoder was trained on."""

    sources: tuple[str, ...] | None = None  # names of data sets; None: unknown
    patients: TrainedOn | None = None  # of the one data set in `sources`

    def __str__(self) -> str:
        return "unknown" if self.sources is None else ", ".join(self.sources) or "none"

    def overlap(self, scored: ScoredRecordings) -> TrainingOverlap:
        """Return how much of the recordings was used for the training, as far as it is known."""
        if self.patients is not None and self.sources:
            return trained_on.compare(self.patients, {"source": self.sources[0]}, scored)
        n_tested = len(scored.patients)
        if self.sources is None:
            reason = "nothing is known of its pre-training data"
        elif not self.sources:
            return TrainingOverlap(n_tested, 0, None, split=scored.split)
        elif scored.source in self.sources:
            reason = (
                f"its pre-training data is stated to contain {scored.source}, which is scored, without the patients"
            )
        else:
            reason = f"stated to be trained on {self}, scored on {scored.source}"
        return TrainingOverlap(n_tested, None, None, reason, scored.split)


class ForeignMethod(PretrainingMethod):
    """An encoder of another program as a method with the single part "backbone"."""

    def __init__(self, name: str, signal: Signal, encoder: Embedder, normalizes: bool = False) -> None:
        """
        Args:
            name: of the encoder, for messages.
            encoder: a torch module becomes part of this one, so that its weights can be trained.
            normalizes: the encoder scales ECGs itself and gets them in mV; else it gets them as `signal.normalize` states.
        """
        super().__init__(MethodConfig(), signal)
        self.name, self.encoder, self.normalizes = name, encoder, normalizes
        self.width: int | None = None  # D, of the first embedding

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """Return (B, D) embeddings of a batch in mV.

        Raises:
            ForeignError: the encoder returned something else.
        """
        check_part(part, self.parts)
        if not self.normalizes:
            batch = replace(batch, ecg=normalize(batch.ecg, batch.observed, self.signal.normalize))
        out = self.encoder.embed(batch)
        embedding = out if isinstance(out, Tensor) else _tensor(out, self.name)
        if embedding.ndim != 2 or len(embedding) != len(batch) or not embedding.shape[1]:
            raise ForeignError(
                f"{self.name}: embed(batch) returned shape {tuple(embedding.shape)} for a batch of {len(batch)}; it must return "
                "(B, D), one vector for each ECG"
            )
        if self.width not in (None, embedding.shape[1]):
            raise ForeignError(
                f"{self.name}: embed(batch) returned vectors of width {embedding.shape[1]}, and before of width {self.width}; "
                "all must have the same"
            )
        self.width = int(embedding.shape[1])
        return embedding.float()


class _NoEncoder(nn.Module):
    """The place of an encoder that there is not: embeddings were computed elsewhere."""

    def __init__(self, name: str, origin: str) -> None:
        super().__init__()
        self.name, self.origin = name, origin

    def embed(self, batch: Batch) -> Tensor:
        """Raise EmbedError."""
        raise EmbedError(
            f"{self.name} is an {self.origin}: without its encoder, no other ECGs can be embedded; give the encoder "
            "(docs/own-encoder.md)"
        )


class ForeignRun(Run):
    """An encoder of another program, or its embeddings, with the interface of a run."""

    def __init__(
        self,
        name: str,
        origin: str,
        method: ForeignMethod,
        digest: str,
        data: PretrainingData,
        untrained: Callable[[], ForeignMethod] | None = None,
        stored: StoredEmbeddings | None = None,
        untrainable: str = "",
        cache: Path | None = None,
    ) -> None:
        """
        Args:
            origin: what the encoder is, such as "ONNX file mine.onnx".
            digest: a hash of what the embeddings depend on.
            untrained: makes the same encoder with random weights; None: there is no such control.
            untrainable: why the encoder cannot be trained further; "": it has weights that may be.
            cache: folder of embeddings for later commands, where `digest` covers all that is computed; None: there is none.
        """
        super().__init__(Config(signal=method.signal, method={"name": "foreign"}), method)
        self.foreign, self.origin, self.stored, self.data = method, origin, stored, data
        self.has_untrained = untrained is not None
        self._name, self._digest, self._untrained, self._untrainable = name, digest, untrained, untrainable
        self._cache = cache
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def of_file(
        cls, name: str, origin: str, stored: StoredEmbeddings, signal: Signal, data: PretrainingData
    ) -> ForeignRun:
        """Return embeddings that were computed elsewhere as a run; `signal` is that of the hand-crafted reference."""
        method = ForeignMethod(name, signal, _NoEncoder(name, origin))
        method.width = stored.width
        reason = "it has no encoder"
        return cls(name, origin, method, stored.digest, data, stored=stored, untrainable=reason)

    @property
    def name(self) -> str:
        """The name in tables."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """A hash of what the embeddings depend on: the digest of the encoder, and its signal."""
        return hashlib.sha256(f"{self._digest} {self.config.signal}".encode()).hexdigest()[:16]

    @property
    def cache_folder(self) -> Path | None:
        """A folder that is deleted at the end of the process, unless `cache` names another; None for embeddings in a file."""
        if self.stored is not None:
            return None
        if self._cache is not None:
            return self._cache
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="leadwise-")
        return Path(self._temporary.name) / "embeddings"

    @property
    def training_hashes(self) -> TrainedOn | None:
        """The hashes of training patients; None if they are not known."""
        return self.data.patients

    @property
    def pretraining_data(self) -> str:
        """The data sets that are stated, "none", or "unknown"."""
        return str(self.data)

    def overlap(self, scored: ScoredRecordings) -> TrainingOverlap:
        """Return how much of the recordings was used for the training, as far as it is known."""
        return self.data.overlap(scored)

    def may_contain(self, source: str) -> bool:
        """Return whether recordings of a data set may have been in the training: it is stated, or nothing is."""
        return self.data.sources is None or source in self.data.sources

    def untrained(self, seed: int = _UNTRAINED_SEED) -> Run:
        """Return the same encoder with random weights from `seed`.

        Raises:
            ForeignError: the encoder gives none (`has_untrained`).
        """
        if self._untrained is None:
            raise ForeignError(f"{self.name} gives no untrained encoder (docs/own-encoder.md)")
        with isolated_random_state():
            torch.manual_seed(seed)
            method = self._untrained()
        method.to(device_of(self)).eval()
        digest = f"untrained {self._digest} {behaviour_digest(method)}"
        return ForeignRun(f"{self.name}, untrained", self.origin, method, digest, PretrainingData(()))

    def check_trainable(self) -> None:
        """Raise ForeignError unless gradients reach weights of the encoder."""
        reason = self._untrainable
        if not reason and not any(weight.requires_grad for weight in self.method.parameters()):
            reason = "none of its weights has requires_grad"
        if not reason:
            with torch.enable_grad():
                out = self.foreign.embed_ecg(example_batch(self.config.signal).to(device_of(self)))
            if not out.requires_grad:
                reason = "its embed(batch) returns vectors without a gradient (torch.no_grad, detach or numpy)"
        if reason:
            raise ForeignError(
                f"{self.name} ({self.origin}) cannot be fine-tuned: {reason}; fine-tuning needs a Python entry whose object is a "
                "torch.nn.Module (docs/own-encoder.md); leadwise probe scores it as it is"
            )


def example_batch(signal: Signal) -> Batch:
    """Return two artificial ECGs, the second with padding, for checks of an encoder before recordings are read."""
    generator = torch.Generator().manual_seed(0)
    time_s = torch.arange(signal.n_samples) / signal.rate_hz
    beats = torch.exp(-(((time_s * 1.2) % 1.0 - 0.5) / 0.02).square() / 2) + 0.1 * torch.sin(2 * math.pi * time_s)
    size = torch.rand(2, len(signal.leads), 1, generator=generator)
    ecg = size * beats + 0.02 * torch.randn(2, len(signal.leads), signal.n_samples, generator=generator)
    observed = torch.ones_like(ecg, dtype=torch.bool)
    observed[1, :, signal.n_samples - signal.n_samples // 4 :] = False
    names = ("first example", "second example")
    return Batch(ecg * observed, observed, names, names, ("", ""))


def behaviour_digest(method: ForeignMethod) -> str:
    """Return a hash of the embeddings of two artificial ECGs, which also checks the encoder's output.

    Raises:
        ForeignError: the output has another shape.
    """
    device = next((weight.device for weight in method.parameters()), torch.device("cpu"))
    with frozen(method):
        embedding = method.embed_ecg(example_batch(method.signal).to(device))
    return hashlib.sha256(embedding.cpu().numpy().tobytes()).hexdigest()


def _tensor(out: Any, name: str) -> Tensor:
    """Return what an encoder returned, an array or a table, as a tensor."""
    try:
        return torch.from_numpy(np.ascontiguousarray(np.asarray(out, dtype=np.float32)))
    except (TypeError, ValueError):
        raise ForeignError(
            f"{name}: embed(batch) returned {type(out).__name__}; it must return a tensor or an array (B, D)"
        ) from None
