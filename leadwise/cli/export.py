"""The command export: write a run's ECG encoder as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import Json, RunFolder, out, write_json


def export(
    run: RunFolder,
    target: Annotated[Path, typer.Option("-o", "--out", help="ONNX file to write.")] = Path("encoder.onnx"),
    part: Annotated[
        str, typer.Option(help="Which embedding, as in `leadwise embed`: backbone, shared, ...")
    ] = "backbone",
    json_file: Json = None,
) -> None:
    """Write the ECG encoder of a run as one ONNX file, which runs without leadwise and torch. Needs the extra onnx."""
    from leadwise import hub, onnx_export

    # write the file; the export compares it with leadwise
    loaded = hub.load(run, device="cpu")
    path = onnx_export.export_onnx(loaded, target, part)

    # print what a caller must know
    about = onnx_export.read_metadata(path)
    n_leads = len(loaded.config.signal.leads)
    shape = f"(batch, {n_leads}, {about['n_samples']})"
    for line in (
        f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB: {part} of {loaded.name}",
        f"inputs: ecg {shape} float32 in mV, observed {shape} bool; output: embedding",
        f"leads: {about['leads']}; {about['rate_hz']} Hz, {about['duration_s']} s; not normalised",
        f"largest difference to leadwise in ONNX Runtime: {about['largest_difference']}",
    ):
        out.print(line, highlight=False, soft_wrap=True)
    write_json(json_file, {"command": "export", "file": str(path), "bytes": path.stat().st_size, **about})
