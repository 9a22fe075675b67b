"""A Python entry, "module:name" or "file.py:name": the user's own code that embeds ECGs. It runs only because the user names it.

The name is an object, or a function or class that is called without arguments and returns one. The object has

    signal            a leadwise.batch.Signal: leads, rate, duration and scaling that it expects; or [signal] of a description
    embed(batch)      embeddings (B, D) of a leadwise.batch.Batch; a torch.nn.Module can be fine-tuned too
    transform(X)      instead of `embed`, a fitted transformer of scikit-learn: X (B, L x T), lead after lead; (B, L, T) if the
                      transformer's tags ask for three dimensions

and may have `trained_on`, names of data sets, and `normalizes = True`: it scales ECGs itself and gets them in mV. A function
with a parameter `pretrained` is called with pretrained=False for the untrained control.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import nn

from leadwise import digests
from leadwise.batch import Batch, Signal
from leadwise.foreign.foreign_run import ForeignError, ForeignMethod, ForeignRun, PretrainingData, behaviour_digest
from leadwise.run import choose_device

_ENTRY = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*|.+\.py):(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)")
_FIT = "fit it in your function, such as on the training split of a cohort (docs/own-encoder.md shows it)"


def is_entry(word: str) -> bool:
    """Return whether a word has the form of a Python entry: "module:name" or "file.py:name"."""
    return _ENTRY.fullmatch(word) is not None


def open_entry(
    word: str,
    folder: Path,
    name: str = "",
    signal: Signal | None = None,
    sources: tuple[str, ...] | None = None,
    device: str = "auto",
) -> ForeignRun:
    """Return the encoder of a Python entry; its code is run.

    Args:
        folder: modules are imported from here too, and a relative path of a file begins here.
        name: of the encoder in tables; default: the entry's.
        signal, sources: instead of those of the object.

    Raises:
        ForeignError: the entry cannot be imported, or its object cannot be used.
    """
    match = _ENTRY.fullmatch(word)
    if match is None:
        raise ForeignError(f"python = {word!r}: must be module:name or file.py:name")
    module = _import(word, match["module"], folder)
    target: Any = module
    for part in match["name"].split("."):
        if not hasattr(target, part):
            raise ForeignError(
                f"{word}: {module.__file__ or match['module']} has no {part}; correct the name after ':'"
            )
        target = getattr(target, part)

    # the object, and the same with random weights
    entry = _PythonTarget(word, name or match["name"].split(".")[-1], target, signal)
    encoder = entry.encoder(pretrained=True)
    untrained = (lambda: entry.method(entry.encoder(pretrained=False))) if entry.takes_pretrained else None
    method = entry.method(encoder)
    method.to(choose_device(device)).eval()
    if sources is None:
        sources = _sources(word, getattr(encoder, "trained_on", None))

    # what the embeddings depend on: source file, weights, and the embeddings of artificial ECGs
    content = Path(module.__file__).read_bytes() if module.__file__ else b""
    digest = (
        f"{hashlib.sha256(content).hexdigest()} {digests.of_tensors(method.state_dict())} {behaviour_digest(method)}"
    )
    untrainable = (
        "" if isinstance(encoder, nn.Module) else f"its object, a {type(encoder).__name__}, is no torch.nn.Module"
    )
    return ForeignRun(
        entry.name, f"Python entry {word}", method, digest, PretrainingData(sources), untrained, untrainable=untrainable
    )


@dataclass(frozen=True)
class _PythonTarget:
    """The target of an entry, and what the description states about it."""

    word: str
    name: str
    target: Any
    signal: Signal | None

    @property
    def is_called(self) -> bool:
        """Whether the target returns the object; else it is the object."""
        is_object = hasattr(self.target, "embed") or hasattr(self.target, "transform")
        return isinstance(self.target, type) or (callable(self.target) and not is_object)

    @property
    def takes_pretrained(self) -> bool:
        """Whether the target has a parameter `pretrained`."""
        if not self.is_called:
            return False
        try:
            return "pretrained" in inspect.signature(self.target).parameters
        except (TypeError, ValueError):  # of a class that is not written in Python
            return False

    def encoder(self, pretrained: bool) -> Any:
        """Return the object; the target is called if it is a function or a class.

        Raises:
            ForeignError: the call raised an error, or the object has neither `embed` nor `transform`.
        """
        encoder = self.target
        if self.is_called:
            options = {"pretrained": pretrained} if self.takes_pretrained else {}
            try:
                encoder = self.target(**options)
            except Exception as error:
                raise ForeignError(f"{self.word}: calling it raised {_described(error)}; correct it") from error
        if not (callable(getattr(encoder, "embed", None)) or callable(getattr(encoder, "transform", None))):
            raise ForeignError(
                f"{self.word}: its {type(encoder).__name__} has neither embed(batch) nor transform(X); add embed, which returns "
                "(B, D) of a batch"
            )
        return encoder

    def method(self, encoder: Any) -> ForeignMethod:
        """Return the method of an object.

        Raises:
            ForeignError: its signal is missing, or a transformer is not fitted.
        """
        signal = self.signal or getattr(encoder, "signal", None)
        if not isinstance(signal, Signal):
            described = "no `signal`" if signal is None else f"a `signal` of type {type(signal).__name__}"
            raise ForeignError(
                f"{self.word}: its {type(encoder).__name__} has {described}; set it to what the encoder expects, such as "
                "leadwise.batch.Signal(rate_hz=100, duration_s=10.0), or name it under [signal] in a description file"
            )
        normalizes = bool(getattr(encoder, "normalizes", False))
        if not callable(getattr(encoder, "embed", None)):
            encoder = FittedTransformer(self.word, encoder)
        return ForeignMethod(self.name, signal, encoder, normalizes)


class FittedTransformer:
    """A fitted transformer of scikit-learn as an embedder."""

    def __init__(self, word: str, transformer: Any) -> None:
        """
        Raises:
            ForeignError: it is not fitted.
        """
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted

        try:
            if hasattr(transformer, "fit"):
                check_is_fitted(transformer)
        except NotFittedError:
            raise ForeignError(f"{word}: its {type(transformer).__name__} is not fitted; {_FIT}") from None
        self.word, self.transformer = word, transformer
        self.takes_arrays = _takes_three_dimensions(transformer)

    def embed(self, batch: Batch) -> np.ndarray:
        """Return transform(X) as an array (B, D)."""
        from sklearn.exceptions import NotFittedError

        ecg = batch.ecg.cpu().numpy()
        try:
            out = self.transformer.transform(ecg if self.takes_arrays else ecg.reshape(len(ecg), -1))
        except NotFittedError:
            raise ForeignError(f"{self.word}: a part of it is not fitted; {_FIT}") from None
        out = out.toarray() if hasattr(out, "toarray") else out  # of scipy's sparse matrices
        return np.asarray(out, dtype=np.float32)


def _takes_three_dimensions(transformer: Any) -> bool:
    """Return whether the tags of a transformer (scikit-learn 1.6 and newer) name (n, L, T) and not (n, F) as its input."""
    try:
        from sklearn.utils import get_tags

        tags = get_tags(transformer).input_tags
    except (ImportError, AttributeError, TypeError):  # older, or no estimator
        return False
    return bool(tags.three_d_array and not tags.two_d_array)


def _sources(word: str, stated: Any) -> tuple[str, ...] | None:
    """Return the names in an object's `trained_on`: a name or several; None: unknown."""
    if stated is None:
        return None
    names = (
        (stated,) if isinstance(stated, str) else tuple(stated) if isinstance(stated, (list, tuple, set)) else (None,)
    )
    if not all(isinstance(name, str) for name in names):
        raise ForeignError(f"{word}: trained_on = {stated!r}; it must be names of data sets, such as ('mimic_iv_ecg',)")
    return names


def _import(word: str, module: str, folder: Path) -> ModuleType:
    """Import a module or a file; `folder`, or the folder of the file, is searched for its imports."""
    path = folder / module
    if module.endswith(".py") and not path.is_file():
        raise ForeignError(f"{word}: there is no file {path}")
    try:
        with _searched(path.parent.resolve() if module.endswith(".py") else folder.resolve()):
            if not module.endswith(".py"):
                return importlib.import_module(module)
            return _import_file(path.resolve())
    except Exception as error:  # of any kind: the module is the user's
        raise ForeignError(f"{word} cannot be imported: {_described(error)}") from error


def _import_file(path: Path) -> ModuleType:
    name = f"leadwise_entry_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _searched(folder: Path) -> Iterator[None]:
    """Context manager: modules are searched in `folder` first."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _described(error: Exception) -> str:
    """Return type, message and place of an error of the user's code, in one line."""
    message = str(error).strip().splitlines()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_internal(frame.filename)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message[0] if message else ''}{place}"


def _is_internal(filename: str) -> bool:
    return filename.startswith("<") or filename == __file__ or Path(filename).parent.name == "importlib"
