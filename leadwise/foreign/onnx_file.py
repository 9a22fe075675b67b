"""An ONNX file as an encoder: a file of `leadwise export`, or one of another program.

The graph has an input of ECGs (batch, leads, samples) in floating point and, if it reads one, an input of bool of the same
shape: which samples are observed. Its output is (batch, width). The signal is in the file's metadata, as `leadwise export`
writes it, or in a description. A file of leadwise scales ECGs itself; others get them scaled as the signal states.

Embeddings are cached in a folder beside the file, such as mine.onnx.embeddings: the digests of the file and of the files with its
weights state all that is computed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import Batch, Signal
from leadwise.config import ConfigError, typed
from leadwise.foreign.foreign_run import ForeignError, ForeignMethod, ForeignRun, PretrainingData, behaviour_digest
from leadwise.onnx_export import PRODUCER

_FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


def open_onnx(
    path: Path,
    name: str = "",
    signal: Signal | None = None,
    sources: tuple[str, ...] | None = None,
    output: str = "",
) -> ForeignRun:
    """Return the encoder in an ONNX file; it is computed on the CPU.

    Args:
        name: in tables; default: that of the file.
        signal, sources: instead of those in the file's metadata.
        output: which output of the graph is the embedding; default: its only one, or `embedding`.

    Raises:
        ForeignError: the extra is missing, or the file is absent, damaged, or has other inputs and outputs.
    """
    if not path.is_file():
        raise ForeignError(f"{path}: no such file; write one with: leadwise export RUN -o {path}")
    session = _session(path)
    about = session.get_modelmeta()
    metadata = dict(about.custom_metadata_map)
    is_ours = about.producer_name == PRODUCER
    signal = signal or _signal(path, metadata)
    if sources is None and "trained_on" in metadata:
        sources = tuple(part.strip() for part in metadata["trained_on"].split(",") if part.strip())
    encoder = OnnxEncoder(path, session, signal, output)
    method = ForeignMethod(name or path.stem, signal, encoder, normalizes=is_ours)
    method.eval()
    external = external_files(path)
    files = (path, *(external or ()))
    digest = f"{' '.join(map(_sha256, files))} {output} {behaviour_digest(method)}"
    beside = path.with_name(f"{path.name}.embeddings")
    can_write = os.access(beside if beside.exists() else path.parent, os.W_OK)
    cache = beside if external is not None and can_write else None  # None: for one command
    origin, reason = f"ONNX file {path.name}", "the graph of an ONNX file has no trainable weights"
    return ForeignRun(method.name, origin, method, digest, PretrainingData(sources), untrainable=reason, cache=cache)


def external_files(path: Path) -> tuple[Path, ...] | None:
    """Return the files beside an ONNX file that have some of its tensors, sorted; None if the package onnx is missing."""
    try:
        import onnx
    except ImportError:
        return None
    model = onnx.load(path, load_external_data=False)
    return tuple(sorted({path.parent / name for name in _locations(model, onnx.TensorProto)}))


def _locations(message: Any, tensor: Any) -> Iterator[str]:
    """Yield the file of each external tensor anywhere in a protobuf message: of graphs, subgraphs and functions."""
    if isinstance(message, tensor) and message.data_location == tensor.EXTERNAL:
        yield from (entry.value for entry in message.external_data if entry.key == "location")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _locations(part, tensor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class OnnxEncoder:
    """A session of ONNX Runtime as an embedder."""

    def __init__(self, path: Path, session: Any, signal: Signal, output: str = "") -> None:
        """
        Raises:
            ForeignError: inputs or outputs other than those that the module's docstring describes.
        """
        self.path, self.session = path, session
        self._find_inputs(signal)
        self._find_output(output)

    def _find_inputs(self, signal: Signal) -> None:
        inputs = self.session.get_inputs()
        ecgs = [one for one in inputs if one.type in _FLOATS]
        masks = [one for one in inputs if one.type == "tensor(bool)"]
        if len(ecgs) != 1 or len(masks) > 1 or len(inputs) != len(ecgs) + len(masks):
            described = ", ".join(f"{one.name} {one.type}" for one in inputs)
            raise ForeignError(
                f"{self.path}: its inputs are {described}; it must have one of floating point, (batch, leads, samples), and may "
                "have one of bool; wrap other graphs in a Python entry"
            )
        shape = ecgs[0].shape
        expected = (len(signal.leads), signal.n_samples)
        if len(shape) != 3 or any(isinstance(n, int) and n != m for n, m in zip(shape[1:], expected)):
            raise ForeignError(
                f"{self.path}: its input {ecgs[0].name} is {tuple(shape)}, and the signal has {expected[0]} leads of "
                f"{expected[1]} samples; correct leads, rate_hz and duration_s of [signal]"
            )
        self.ecg, self.kind = ecgs[0].name, _FLOATS[ecgs[0].type]
        self.observed = masks[0].name if masks else None
        self.batch_size = shape[0] if isinstance(shape[0], int) else None  # None: free

    def _find_output(self, output: str) -> None:
        names = [one.name for one in self.session.get_outputs()]
        chosen = output or ("embedding" if "embedding" in names else names[0] if len(names) == 1 else "")
        if chosen not in names:
            problem = f"no output {output!r}" if output else "several outputs"
            raise ForeignError(
                f'{self.path}: {problem}; set output = "NAME" in a description to one of {", ".join(names)}'
            )
        self.output = chosen

    def embed(self, batch: Batch) -> NDArray[Any]:
        """Return embeddings (B, D)."""
        ecg = batch.ecg.cpu().numpy().astype(self.kind)
        observed = batch.observed.cpu().numpy()
        n = self.batch_size or len(ecg)
        pieces = [self._run(ecg[begin : begin + n], observed[begin : begin + n], n) for begin in range(0, len(ecg), n)]
        return np.concatenate(pieces)

    def _run(self, ecg: NDArray[Any], observed: NDArray[np.bool_], n: int) -> NDArray[Any]:
        """Return the output of one call; a graph for exactly n ECGs gets the last one several times."""
        count = len(ecg)
        if count < n:
            ecg, observed = (np.concatenate([one, np.repeat(one[-1:], n - count, axis=0)]) for one in (ecg, observed))
        inputs = {self.ecg: ecg} | ({self.observed: observed} if self.observed else {})
        try:
            out: NDArray[Any] = self.session.run([self.output], inputs)[0]
        except Exception as error:  # onnxruntime has no base class of its errors
            message = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ForeignError(
                f"{self.path} cannot compute ECGs of shape {ecg.shape}: {message}; check [signal], or export it again"
            ) from None
        return out[:count] if out.ndim else out


def _session(path: Path) -> Any:
    """Return an ONNX Runtime session on the CPU."""
    try:
        import onnxruntime
    except ImportError:
        raise ForeignError(f"{path} needs onnxruntime, which is missing: pip install 'leadwise[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        # by its path: the weights may be in a second file beside it
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no base class of its errors
        message = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ForeignError(f"{path} cannot be read as an ONNX file ({message}); export it again") from None


def _signal(path: Path, metadata: dict[str, str]) -> Signal:
    """Return the signal in the metadata of a file.

    Raises:
        ForeignError: it is not there, or cannot be used.
    """
    remedy = "name it under [signal] in a description file (docs/own-encoder.md)"
    missing = [key for key in ("leads", "rate_hz", "duration_s") if key not in metadata]
    if missing:
        raise ForeignError(f"{path}: its metadata have no {', '.join(missing)}, so the signal is not known; {remedy}")
    try:
        table: dict[str, Any] = {"leads": [lead.strip() for lead in metadata["leads"].split(",")]}
        table |= {"rate_hz": int(metadata["rate_hz"]), "duration_s": float(metadata["duration_s"])}
        table |= {key: metadata[key] for key in ("window", "normalize") if key in metadata}
        return typed(Signal, table, "signal")
    except (ConfigError, ValueError) as error:
        raise ForeignError(f"{path}: its metadata cannot be used as a signal ({error}); {remedy}") from None
