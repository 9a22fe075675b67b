"""The interface between the file of an encoder with public weights and the rest of the package.

An encoder is one file in this folder, and the name of the file is the encoder's name. The file defines

    Encoder(PublishedEncoder)   the network, with the published names of its weights, and what its input needs
    TINY                        dict: the smallest sizes, on which the contract tests run

The module's docstring has the title, then the source (arXiv id, venue), a blank line, and then what is known of the input, of the
embedding, and of the names of the weights, and which of these could not be verified.

The code is our own, from the published architecture. The names of weights, sizes and filter settings are facts from papers and
public repositories. No published weights were available: `tried_with_real_weights` is False until they have been loaded.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.encoders import weight_file
from leadwise.encoders.weight_file import WeightsError


@dataclass(frozen=True)
class WeightSource:
    """Where the weights of an encoder come from, and what their owners allow."""

    licence: str  # of the weights, or of the repository if they have none of their own
    weights: str  # address of the weights
    code: str  # address of the repository whose names the weights have
    files: Mapping[
        str, tuple[str, ...]
    ]  # file name -> SHA-256 of its versions, as others recorded it; () if it is not known
    trained_on: tuple[str, ...]  # data sets of the pre-training, by leadwise's names where it reads them


class PublishedEncoder(nn.Module):
    """Base class of encoders with public weights.

    An encoder implements `__init__` with the published sizes as defaults, and `encode`.
    """

    source: ClassVar[WeightSource]

    signal: ClassVar[Signal]
    """The input: leads in the published order, sampling rate, duration and normalisation."""

    width: int
    """D, the width of the embedding."""

    normalizes: ClassVar[bool] = True
    """`embed` reads mV: filters and normalisation are its own."""

    tried_with_real_weights: ClassVar[bool] = False

    entries: ClassVar[tuple[str, ...]] = ()
    """Keys under which a checkpoint may hold the tensors."""

    prefixes: ClassVar[tuple[str, ...]] = ()
    """Beginnings that the published names have in some files, in which the encoder is part of a model."""

    ignored: ClassVar[tuple[str, ...]] = ()
    """Patterns of published names, without prefix, of weights that the embedding does not need, such as heads."""

    renamed: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Beginnings of published names, and of the names of this module, where these differ; "#" is any number."""

    _sizes: Mapping[str, Any] = MappingProxyType({})  # those of loaded weights, where they are not the defaults

    @property
    def name(self) -> str:
        """The encoder's name: that of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Data sets of the pre-training."""
        return self.source.trained_on

    # --- embeddings

    def embed(self, batch: Batch) -> Tensor:
        """Return (B, D) float32 embeddings of a batch with the leads, rate and duration of `signal`, in mV.

        What is not observed is 0 after the normalisation: the published models have no mask for it.

        Raises:
            ValueError: the batch has another shape, or nothing of a record was observed.
        """
        expected = (len(self.signal.leads), self.signal.n_samples)
        if tuple(batch.ecg.shape[1:]) != expected:
            raise ValueError(
                f"{self.name} expects ECGs of {expected[0]} leads and {expected[1]} samples, not "
                f"{tuple(batch.ecg.shape[1:])}; read the cohort with its signal"
            )
        empty = (~batch.observed.flatten(1).any(1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"record {batch.record[empty[0]]}: no lead that {self.name} reads is observed; leave it out"
            )
        return self.encode(batch).float()

    def encode(self, batch: Batch) -> Tensor:
        """Return (B, D): the published pre-processing, then the network."""
        raise NotImplementedError(f"{type(self).__module__}: `encode` is missing")

    # --- weights

    @classmethod
    def load(cls, folder: Path | str, **sizes: Any) -> Self:
        """Return the encoder with the weights of a folder, or of a file, in eval mode.

        Args:
            folder: a folder with one weight file, or with one of the published names (`source.files`).
            sizes: other sizes than the published ones.

        Raises:
            WeightsError: no such file, another digest than the published file's, a missing or unexpected name, or a shape that
                differs.
        """
        path = weight_file.find(Path(folder), list(cls.source.files))
        expected = cls.source.files.get(path.name, ())
        if expected and (digest := weight_file.sha256(path)) not in expected:
            raise WeightsError(
                f"{path}: its SHA-256 is {digest}, that of the published file is {' or '.join(expected)}; copy it again from "
                f"{cls.source.weights}, or rename the file if it is another version on purpose"
            )
        tensors = weight_file.read(path, cls.entries)
        encoder, published = cls._matched(path, tensors, sizes)
        encoder._check(path, tensors, published)
        weights = {own: tensors[name] for own, name in published.items()}
        encoder.load_state_dict(
            {own: weight.float() if weight.is_floating_point() else weight for own, weight in weights.items()},
            assign=True,
        )
        return encoder.eval()

    @classmethod
    def _matched(cls, path: Path, tensors: Mapping[str, Tensor], sizes: dict[str, Any]) -> tuple[Self, dict[str, str]]:
        """Return the encoder without weights, and the names of a file by those of the encoder.

        Of the prefixes, and of none, it is the one with which the fewest names are missing.
        """
        candidates: list[tuple[int, Self, dict[str, str]]] = []
        for prefix in (*cls.prefixes, ""):
            published = cls._published_names(path, tensors, prefix)
            of_file = cls.sizes_of({own: tensors[name] for own, name in published.items()})
            with torch.device("meta"):  # allocates nothing: every weight comes from the file
                encoder = cls(**{**of_file, **sizes})
            encoder._sizes = {**of_file, **sizes}
            candidates.append((len(set(encoder.state_dict()) - set(published)), encoder, published))
            if candidates[-1][0] == 0:
                break
        _, encoder, published = min(candidates, key=lambda candidate: candidate[0])
        return encoder, published

    def untrained(self) -> Self:
        """Return an encoder of the same sizes with random weights, in eval mode."""
        return type(self)(**self._sizes).eval()

    @classmethod
    def sizes_of(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the sizes that the weights of a file state, for an encoder that was published in several sizes."""
        return {}

    @classmethod
    def _published_names(cls, path: Path, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, str]:
        """Return the names of a file by those of this module, without those that are ignored."""
        out: dict[str, str] = {}
        for published, tensor in tensors.items():
            own = published.removeprefix("module.")  # of training on several GPUs
            own = own.removeprefix(prefix)
            for spelling, usual in _SPELLINGS:
                own = own.replace(spelling, usual)
            if any(fnmatch.fnmatchcase(own, pattern) for pattern in cls.ignored):
                continue
            own = _translate(own, cls.renamed)
            # a model may hold a weight under two names; then both have the same values
            if own in out and not torch.equal(tensors[out[own]], tensor):
                raise WeightsError(
                    f"{path}: '{out[own]}' and '{published}' are the same weight and differ; remove one of them"
                )
            out[own] = published
        return out

    def published_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights that a file must have, by their published names without prefix."""
        back = tuple((own, published) for published, own in self.renamed)
        return {_translate(own, back): tuple(weight.shape) for own, weight in self.state_dict().items()}

    def _check(self, path: Path, tensors: Mapping[str, Tensor], published: Mapping[str, str]) -> None:
        """Raise WeightsError unless the tensors have the names and shapes of this module's weights."""
        expected = dict(zip(self.state_dict(), self.published_shapes().items()))
        missing = [name for own, (name, _) in expected.items() if own not in published]
        unexpected = [name for own, name in published.items() if own not in expected]
        advice = f"choose the weights of {self.name} from {self.source.weights}"
        if missing:
            raise WeightsError(f"{path}: {_some(missing)} missing; {advice}")
        if unexpected:
            raise WeightsError(f"{path}: {_some(unexpected)} unexpected; {advice}")
        for own, (_, usual) in expected.items():
            shape = tuple(tensors[published[own]].shape)
            if shape != usual:
                raise WeightsError(f"{path}: '{published[own]}' has the shape {shape}, not {usual}; {advice}")


_SPELLINGS = ((".parametrizations.weight.original0", ".weight_g"), (".parametrizations.weight.original1", ".weight_v"))


def _translate(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Return a name with the first of the beginnings that fits replaced."""
    for before, after in pairs:
        match = re.match(re.escape(before).replace(r"\#", r"(\d+)"), name)
        if match:
            beginning = after.replace("#", match[1]) if "#" in after else after
            return beginning + name[match.end() :]
    return name


def _some(names: list[str]) -> str:
    """The first of the names and the number of the others, and the verb."""
    others = f" and {len(names) - 1} others are" if len(names) > 2 else " and 1 other are" if len(names) == 2 else " is"
    return f"'{names[0]}'{others}"
