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


def matmul_peak(seconds: float = 1.0, dtype: torch.dtype = torch.float32) -> float:
    """The machine's matrix-multiply rate now, GFLOP/s: the best of several shapes."""
    best = 0.0
    for m, k, n in ((2048, 2048, 2048), (4800, 128, 512), (4800, 384, 1536)):
        a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
        a @ b
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / 3:
            a @ b
            count += 1
        best = max(best, 2 * m * k * n * count / (time.perf_counter() - began) / 1e9)
    return best


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
