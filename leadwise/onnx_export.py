"""Export of a run's ECG encoder to ONNX: one file that runs without leadwise and without torch.

inputs     ecg (B, L, T) float32, millivolts; observed (B, L, T) bool, False in padding, gaps and missing leads
output     embedding (B, D) float32; a record that leadwise refuses, such as one without an observed sample, is NaN

B is free; L and T are those of the run's signal. The normalisation is part of the graph. The file's metadata name leads,
rate, duration, units, normalisation and run (`read_metadata`). A graph computes in float32, whatever the run's precision.

`torch.jit.trace` is not used: it stores the mask and the batch size of its example as constants, without a warning.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.files import first_line, replacing
from leadwise.methods.contract import PretrainingMethod
from leadwise.nn.encoder import check_part
from leadwise.run import Run

if TYPE_CHECKING:
    from torch.export import ExportedProgram

TOLERANCE = 1e-4  # largest difference to `embed_ecg`, relative to the embedding's largest value where that is over 1
PRODUCER = "leadwise"
_OPSET = 20
_DESCRIPTION = (
    "ECG encoder exported by leadwise. Inputs: ecg (batch, leads, samples) float32 in millivolts, not normalised, and "
    "observed of the same shape, False in padding, gaps and missing leads. Output: embedding (batch, width); NaN where too "
    "little was observed. Leads, rate and duration: metadata. Research use only. Not a medical device."
)


class OnnxExportError(ValueError):
    """An encoder that cannot be exported; the message names the run or file, the problem and the remedy."""


class _Encoder(nn.Module):
    """`embed_ecg` of a method as a function of two tensors; several parts, joined by "+", are concatenated along D."""

    def __init__(self, method: PretrainingMethod, part: str) -> None:
        super().__init__()
        self.method, self.parts = method, part.split("+")

    def forward(self, ecg: Tensor, observed: Tensor) -> Tensor:
        """ecg, observed: (B, L, T) -> (B, D)."""
        batch = Batch(ecg, observed, record=(), patient=(), report=())
        out = torch.cat(self.method.embed_parts(batch, self.parts), dim=1)
        # not every operation of ONNX Runtime passes a NaN on: its max-pooling does not
        return out.masked_fill(~observed.flatten(1).any(-1, keepdim=True), torch.nan)


def export_onnx(run: Run, path: Path | str, part: str = "backbone") -> Path:
    """Write the encoder of `run` as one ONNX file and return its path.

    The file is written only after ONNX Runtime has computed the same embeddings from it as `embed_ecg`, also with leads
    and samples missing and with another batch size than that of the export.

    Args:
        part: a part of the method (`method.parts`), or several joined by "+", as in `leadwise embed`.

    Raises:
        OnnxExportError: the extra `onnx` is missing, the name does not end in .onnx, a file of another program is there,
            the method cannot be exported, or its graph computes other embeddings.
        ValueError: no such part; the message lists the parts.
    """
    path = Path(path)
    _check_target(path)
    program = export_graph(run, part)
    content = _to_onnx(program)

    # the metadata and the check
    model = _load(content)
    model.producer_name, model.producer_version = PRODUCER, _version()
    model.doc_string = _DESCRIPTION
    difference = largest_difference(run, part, content)
    for key, value in {**describe(run, part), "largest_difference": f"{difference:.1e}"}.items():
        model.metadata_props.add(key=key, value=value)

    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return path


def describe(run: Run, part: str) -> dict[str, str]:
    """Return the metadata of an exported file: what its inputs must be, and where it comes from."""
    signal = run.config.signal
    return {
        "leads": ",".join(signal.leads),
        "rate_hz": str(signal.rate_hz),
        "duration_s": f"{signal.duration_s:g}",
        "n_samples": str(signal.n_samples),
        "window": signal.window,
        "units": "mV",
        "normalize": signal.normalize,
        "part": part,
        "method": str(run.config.method["name"]),
        "run": run.name,
        "run_fingerprint": run.fingerprint,
        **({"trained_on": run.pretraining_data} if run.pretraining_data != "unknown" else {}),
        "leadwise_version": _version(),
    }


def read_metadata(path: Path | str) -> dict[str, str]:
    """Return the metadata that `export_onnx` wrote to a file.

    Raises:
        OnnxExportError: the extra `onnx` is missing, or leadwise did not write the file.
    """
    path = Path(path)
    model = _load(path.read_bytes(), path)
    if model.producer_name != PRODUCER:
        raise OnnxExportError(f"{path} was not written by leadwise")
    return {entry.key: entry.value for entry in model.metadata_props}


def export_graph(run: Run, part: str = "backbone") -> ExportedProgram:
    """Return the encoder of `run` as a graph of torch.export with a free batch size; the run stays as it is.

    Raises:
        OnnxExportError: the method's embedding depends on data in a way that a graph cannot hold.
        ValueError: no such part; the message lists the parts.
    """
    for name in part.split("+"):
        check_part(name, run.method.parts)
    signal = run.config.signal
    shape = (2, len(signal.leads), signal.n_samples)
    example = torch.zeros(shape), torch.ones(shape, dtype=torch.bool)
    free = {0: torch.export.Dim("batch")}
    encoder = _Encoder(copy.deepcopy(run.method).cpu(), part).eval()
    try:
        with torch.no_grad():
            return torch.export.export(encoder, example, dynamic_shapes={"ecg": free, "observed": free}, strict=False)
    except Exception as error:  # torch.export raises errors of many classes
        name = run.config.method["name"]
        raise OnnxExportError(
            f"method {name} cannot be exported as a graph: {first_line(error)}; embed with `leadwise embed` instead"
        ) from error


def largest_difference(run: Run, part: str, content: bytes) -> float:
    """Return the largest difference between the embeddings of an ONNX model and `embed_ecg`, both in float32.

    It is relative to the largest value of the embedding where that is over 1.

    Raises:
        OnnxExportError: it is more than TOLERANCE.
    """
    session = _session(content)
    device = next(run.method.parameters()).device
    was_training = run.method.training
    run.method.eval()
    largest = 0.0
    try:
        for batch in _check_batches(run.config.signal):
            inputs = {"ecg": batch.ecg.numpy(), "observed": batch.observed.numpy()}
            computed: NDArray[np.float32] = session.run(None, inputs)[0]
            with torch.no_grad():
                parts = run.method.embed_parts(batch.to(device), part.split("+"))
            expected = torch.cat(parts, dim=1).float().cpu().numpy()
            scale = max(1.0, float(np.abs(expected).max()))
            difference = float(np.abs(computed - expected).max()) / scale
            largest = max(largest, difference if np.isfinite(difference) else np.inf)
    finally:
        run.method.train(was_training)
    if largest > TOLERANCE:
        raise OnnxExportError(
            f"{run.name}: the graph's embeddings differ from leadwise's by {largest:.1e} (limit {TOLERANCE:.0e}); "
            "nothing was written, embed with `leadwise embed` instead"
        )
    return largest


def _check_batches(signal: Signal) -> Iterator[Batch]:
    """Batches of one and of three records: whole, with half of the leads missing, and with the last quarter missing."""
    generator = torch.Generator().manual_seed(0)
    n_leads, n_samples = len(signal.leads), signal.n_samples
    time = torch.arange(n_samples) / signal.rate_hz
    beats = torch.exp(-(((time * 1.2) % 1.0 - 0.5) / 0.02).square() / 2)  # 72 per minute
    size = torch.randn(3, n_leads, 1, generator=generator)
    ecg = size * beats + 0.02 * torch.randn(3, n_leads, n_samples, generator=generator)
    observed = torch.ones_like(ecg, dtype=torch.bool)
    observed[1, : n_leads // 2] = False
    observed[2, :, n_samples - n_samples // 4 :] = False
    ecg = ecg * observed
    names = ("whole", "half of the leads", "padded")
    yield Batch(ecg, observed, names, names, ("", "", ""))
    yield Batch(ecg[1:2], observed[1:2], names[1:2], names[1:2], ("",))


def _to_onnx(program: ExportedProgram) -> bytes:
    """Return the graph as a serialised ONNX model, without the source lines and paths that torch stores in it."""
    _require_extra()
    with _quiet():
        converted = torch.onnx.export(
            program, (), dynamo=True, opset_version=_OPSET, input_names=["ecg", "observed"],
            output_names=["embedding"], verbose=False, optimize=True,
        )  # fmt: skip
    assert converted is not None
    model = converted.model_proto
    for field in (model.metadata_props, model.graph.metadata_props, model.graph.value_info):
        del field[:]
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    content: bytes = model.SerializeToString()
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context manager: torch's exporter logs no warning about packages that it does not find."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_target(path: Path) -> None:
    """Raise OnnxExportError if the extra is missing or `path` must not be written."""
    _require_extra()
    if path.suffix.lower() != ".onnx":
        raise OnnxExportError(f"{path}: the name of the file must end in .onnx")
    if path.is_dir():
        raise OnnxExportError(f"{path} is a folder; name a file in it, such as {path / 'encoder.onnx'}")
    if path.exists():
        try:
            read_metadata(path)
        except OnnxExportError:
            raise OnnxExportError(
                f"{path} exists and is no file of `leadwise export`; choose another name or delete it"
            ) from None


def _require_extra() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise OnnxExportError(
            f"the export needs onnx, onnxscript and onnxruntime, and {error.name} is missing: pip install 'leadwise[onnx]'"
        ) from None


def _load(content: bytes, path: Path | None = None) -> Any:
    """Return the ONNX model in `content`; `path` names it in the error."""
    _require_extra()
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(content)
    except DecodeError:
        raise OnnxExportError(f"{path} is no ONNX file") from None


def _session(content: bytes) -> Any:
    """Return an ONNX Runtime session of a model on the CPU, without warnings."""
    _require_extra()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _version() -> str:
    from leadwise import __version__

    return __version__
