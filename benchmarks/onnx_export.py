"""Which methods export to ONNX, how far the file's embeddings are from leadwise's, its size, and its speed.

    python benchmarks/onnx_export.py                      # writes the table in docs/export.md
    python benchmarks/onnx_export.py cg_dmer merl         # prints the rows of these methods

Each method with its small settings (100 Hz, 10 s) and random weights, all parts; CG-DMER and MERL also with the papers'
settings (500 Hz, 10 s), the backbone. ECGs are simulated: whole, with every second lead missing, and with the last 3.3 s
missing; in batches of 8 (2 with the papers' settings) and of 1. The difference is relative to the largest value of an
embedding where that is over 1.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import describe, table

from leadwise import run as runs
from leadwise.batch import Batch, Signal
from leadwise.config import Config
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.loader import Recordings
from leadwise.data.sources import simulated
from leadwise.methods import catalogue
from leadwise.onnx_export import OnnxExportError, export_onnx

N_ECGS = 8
PAGE = Path(__file__).resolve().parents[1] / "docs" / "export.md"
MARKS = "<!-- table of benchmarks/onnx_export.py -->\n", "<!-- end of the table -->\n"
PAPERS = {"cg_dmer": {"text_encoder": ""}, "merl": {"text_encoder": ""}}  # rows with the papers' ECG encoders


def main() -> None:
    torch.set_num_threads(1)
    names = sys.argv[1:] or catalogue.method_names()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cohort = simulated_cohort(Path(folder))
        for name in names:
            small = catalogue.small_settings(name)
            if catalogue.find_method(name).method_class.learns_labels:
                small["classes"] = ("normal", "afib", "lbbb")
            rows.append(measure(cohort, "small", small, Signal(rate_hz=100)))
            print(rows[-1], flush=True)
            if name in PAPERS:
                rows.append(measure(cohort, "the paper's", {"name": name, **PAPERS[name]}, Signal(), 2, ("backbone",)))
                print(rows[-1], flush=True)
    text = f"{table(rows)}\n\n{describe()}, ONNX Runtime {runtime().__version__}.\n"
    if sys.argv[1:]:
        print(text)
    else:
        before, after = MARKS
        page = re.sub(f"{before}.*?{after}", lambda _: f"{before}\n{text}\n{after}", PAGE.read_text(), flags=re.S)
        PAGE.write_text(page)


def simulated_cohort(folder: Path) -> Cohort:
    simulated.simulate(folder / "ecgs", 4 * N_ECGS, 0)
    write(simulated.read_source(folder / "ecgs"), folder / "cohort")
    return Cohort.open(folder / "cohort")


def measure(
    cohort: Cohort,
    settings: str,
    method: dict[str, object],
    signal: Signal,
    n_ecgs: int = N_ECGS,
    parts: tuple[str, ...] | None = None,
) -> dict[str, object]:
    """The row of one method with these settings; `parts` is None for all parts."""
    run = runs.create(Config(signal=signal, method=method), cohort.reports.take(np.arange(len(cohort))))
    run.method.eval()
    whole = Recordings(cohort, signal, np.arange(n_ecgs)).batch(np.arange(n_ecgs))
    parts = run.method.parts if parts is None else parts
    row: dict[str, object] = {"method": f"`{method['name']}`", "settings": settings, "exports": "yes"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        differences, sizes = [], []
        for part in reversed(parts):
            try:
                export_onnx(run, path, part)
            except OnnxExportError as error:
                return row | {"exports": str(error)}
            session = open_session(path)
            differences.append(largest_difference(run, part, session, whole))
            sizes.append(path.stat().st_size)

    # the session of the last part, the backbone
    inputs = {"ecg": whole.ecg.numpy(), "observed": whole.observed.numpy()}
    with torch.inference_mode():
        seconds = fastest(lambda: run.method.embed_ecg(whole))
    ratio = fastest(lambda: session.run(None, inputs)) / seconds
    return row | {
        "parts": ", ".join(parts),
        "largest difference": f"{max(differences):.0e}",
        "file, MB": f"{max(sizes) / 1e6:.1f}",
        "time / leadwise's": f"{ratio:.2f}",
    }


def largest_difference(run: runs.Run, part: str, session: object, whole: Batch) -> float:
    largest = 0.0
    for hide in (
        None,
        (slice(None), slice(0, None, 2)),
        (slice(None), slice(None), slice(2 * whole.ecg.shape[-1] // 3, None)),
    ):
        observed = whole.observed.clone()
        if hide is not None:
            observed[hide] = False
        batch = replace(whole, ecg=whole.ecg * observed, observed=observed)
        for rows in (slice(None), slice(1, 2)):
            with torch.no_grad():
                expected = run.method.embed_ecg(batch, part).numpy()
            inputs = {"ecg": batch.ecg[rows].numpy(), "observed": observed[rows].numpy()}
            computed = session.run(None, inputs)[0]  # type: ignore[attr-defined]
            scale = max(1.0, float(np.abs(expected).max()))
            difference = float(np.abs(computed - expected[rows]).max()) / scale
            largest = max(largest, difference if np.isfinite(difference) else np.inf)
    return largest


def fastest(call: Callable[[], object], n: int = 5) -> float:
    """Seconds of the fastest of `n` calls, after one that is not counted."""
    seconds = []
    for _ in range(n + 1):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def open_session(path: Path):  # type: ignore[no-untyped-def]
    """An ONNX Runtime session on one core."""
    options = runtime().SessionOptions()
    options.intra_op_num_threads = 1
    return runtime().InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def runtime():  # type: ignore[no-untyped-def]
    import onnxruntime

    return onnxruntime


if __name__ == "__main__":
    main()
