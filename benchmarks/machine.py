"""What a result was measured on, in a line."""

from __future__ import annotations

import datetime
import os
import platform
import time
from pathlib import Path

import torch


def describe() -> str:
    """Date, processor, cores and versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    date = datetime.datetime.now(tz=datetime.UTC).date()
    cores, threads = os.cpu_count(), torch.get_num_threads()
    return f"{date}, {cpu}, {cores} cores, {threads} threads, Python {platform.python_version()}, torch {torch.__version__}"


_SHAPES = {
    "cpu": ((2048, 2048, 2048), (4800, 128, 512), (4800, 384, 1536)),
    "cuda": ((8192, 8192, 8192), (16384, 4096, 4096), (65536, 768, 3072)),
}


def matmul_peak(seconds: float = 1.0, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> float:
    """The device's matrix-multiply rate now, GFLOP/s: the best of several shapes."""
    kind, best = torch.device(device).type, 0.0
    at_once = 20 if kind == "cuda" else 1  # a GPU gets many calls before the first wait
    for m, k, n in _SHAPES[kind]:
        a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
        a @ b
        _wait(kind)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / 3:
            for _ in range(at_once):
                a @ b
            _wait(kind)
            count += at_once
        best = max(best, 2 * m * k * n * count / (time.perf_counter() - began) / 1e9)
    return best


def _wait(kind: str) -> None:
    if kind == "cuda":
        torch.cuda.synchronize()


def table(rows: list[dict[str, object]]) -> str:
    """Rows as a Markdown table."""
    heads = list(rows[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [f"{v:.3f}" if isinstance(v, float) else "-" if v is None else str(v) for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(name: str, text: str) -> Path:
    """benchmarks/results/NAME.md, written whole."""
    path = Path(__file__).parent / "results" / f"{name}.md"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_text(text.rstrip() + "\n")
    temporary.replace(path)
    return path
