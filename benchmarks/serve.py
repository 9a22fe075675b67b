"""Latencies of `leadwise serve` for a 10 s ECG, and the choice of the index: benchmarks/results/serve.md.

    python benchmarks/serve.py

Starts a server on loopback with the shipped weights, sends simulated ECGs of two formats, and measures each answer from the
first byte sent to the last byte received. The index is compared with the exact product on unit vectors in 200 clusters; usearch
and faiss-cpu are left out where they are not installed. `--no-index` leaves this part out; `--answers` are the requests of a row.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from leadwise.files import replacing
from leadwise.serve.search_index import NearestSearch, build_index

RESULT = Path(__file__).parent / "results" / "serve.md"
PORT = 8797
N_VECTORS, WIDTH, N_QUERIES, TOP = 200_000, 64, 200, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=30)
    parser.add_argument("--vectors", type=int, default=N_VECTORS)
    parser.add_argument("--no-index", action="store_true")
    arguments = parser.parse_args()
    loads = os.getloadavg()
    latency = measure_answers(arguments.answers)
    index = [] if arguments.no_index else measure_index(arguments.vectors)
    text = page(latency, index, arguments, loads, os.getloadavg())
    with replacing(RESULT) as temporary:
        temporary.write_text(text)
    print(text)


def measure_answers(n: int) -> list[tuple[str, float, float]]:
    """Return each question, with the median and the 95th percentile of n answers in ms."""
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "leadwise", "serve", "--port", str(PORT), "--token", token, "--no-browser"]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            address = f"http://127.0.0.1:{PORT}"
            with httpx.Client(base_url=address, headers={"X-Leadwise-Token": token}, timeout=120) as client:
                wait_for(client, process)
                return [row for name in ("normal", "fibrillation") for row in rows_of(client, name, n)]
        finally:
            process.terminate()


def wait_for(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit("the server ended; run `leadwise serve` and read its error")
        try:
            client.get("/api/state").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise SystemExit("the server did not start within 5 minutes")


def rows_of(client: httpx.Client, name: str, n: int) -> list[tuple[str, float, float]]:
    example = client.get(f"/api/examples/{name}")
    content, headers = example.content, {"X-File-Name": example.headers["X-File-Name"]}

    def post(path: str) -> None:
        client.post(path, content=content, headers=headers).raise_for_status()

    def findings() -> None:
        post("/api/read")
        post("/api/zeroshot?task=super")

    questions: list[tuple[str, Callable[[], None], int]] = [
        ("read: drop to tracing", lambda: post("/api/read"), n),
        ("read and zeroshot: drop to findings", findings, n),
        ("embed", lambda: post("/api/embed"), n),
        ("own words", lambda: post("/api/zeroshot?words=atrial fibrillation"), n),
        ("explain", lambda: post("/api/explain?task=super&class=NORM"), max(1, n // 10)),
    ]
    return [(f"{what}, {name} ({len(content) / 1000:.0f} kB)", *timed(ask, count)) for what, ask, count in questions]


def timed(ask: Callable[[], Any], n: int) -> tuple[float, float]:
    """Return the median and the 95th percentile in ms, after one call that is not counted."""
    ask()
    times = []
    for _ in range(n):
        started = time.perf_counter()
        ask()
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times)), float(np.percentile(times, 95))


def measure_index(n: int) -> list[tuple[str, float, float, float, float, float]]:
    """Return name, build in s, query median and 95th percentile in ms, recall@10 and file in MB of each search."""
    vectors, queries = clustered(n)
    exact = NearestSearch(vectors, large=n)
    truth = [set(exact.nearest(query, TOP)[0].tolist()) for query in queries]
    rows = [("exact product", 0.0, *query_times(lambda query: exact.nearest(query, TOP)[0], queries), 1.0, 0.0)]
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        started = time.perf_counter()
        chosen = build_index(vectors)
        built = time.perf_counter() - started
        size = faiss.serialize_index(chosen).nbytes
        rows.append(row("faiss HNSW", built, lambda query: chosen.search(query[None], TOP)[1][0], queries, truth, size))
    if importlib.util.find_spec("usearch") is not None:
        from usearch.index import Index

        started = time.perf_counter()
        other = Index(ndim=WIDTH, metric="cos", dtype="f32", connectivity=16, expansion_add=128, expansion_search=128)
        other.add(np.arange(n, dtype=np.uint64), vectors)
        built = time.perf_counter() - started
        rows.append(
            row("usearch HNSW", built, lambda query: other.search(query, TOP).keys, queries, truth, len(other.save()))
        )
    return rows


def row(
    name: str, built: float, search: Callable[[Any], Any], queries: Any, truth: list[set[int]], size: int
) -> tuple[str, float, float, float, float, float]:
    n_equal = sum(len(expected & {int(k) for k in search(query)}) for query, expected in zip(queries, truth))
    return name, built, *query_times(search, queries), n_equal / (TOP * len(queries)), size / 1e6


def query_times(search: Callable[[Any], Any], queries: Any) -> tuple[float, float]:
    times = []
    for query in queries:
        started = time.perf_counter()
        search(query)
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times)), float(np.percentile(times, 95))


def clustered(n: int) -> tuple[Any, Any]:
    """Return unit vectors (n, D) in 200 clusters, and queries near some of them."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, WIDTH))
    vectors = centres[rng.integers(200, size=n)] + 0.7 * rng.standard_normal((n, WIDTH))
    queries = vectors[rng.choice(n, N_QUERIES, replace=False)] + 0.3 * rng.standard_normal((N_QUERIES, WIDTH))
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (vectors, queries))


def page(latency: Any, index: Any, arguments: Any, before: Any, after: Any) -> str:
    lines = [
        "# Latency of the local page",
        "",
        f"Written by `python benchmarks/serve.py`: the shipped run `ptbxl`, {arguments.answers} answers a row, "
        f"{os.cpu_count()} processors. The load of all programs was {before[0]:.1f} before and {after[0]:.1f} after "
        "(1 is one busy processor); above the number of processors, times are too long by about their ratio.",
        "",
        "| answer | median | 95th percentile |",
        "|---|---:|---:|",
        *(f"| {name} | {median:.0f} ms | {most:.0f} ms |" for name, median, most in latency),
        "",
        "The aims are 300 ms to the tracing and 1 s to the findings, for a 10 s ECG on two free processors.",
        "",
    ]
    if index:
        lines += [
            f"## Neighbours among {arguments.vectors:,} recordings of {WIDTH} numbers",
            "",
            "| search | build | query, median | 95th percentile | recall@10 | file |",
            "|---|---:|---:|---:|---:|---:|",
            *(
                f"| {name} | {built:.0f} s | {median:.2f} ms | {most:.2f} ms | {recall:.3f} | {size:.0f} MB |"
                for name, built, median, most, recall, size in index
            ),
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
