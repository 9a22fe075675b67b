"""For tests of `leadwise serve`: settings with small limits, files of real formats, and a server in a process of its own."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.simulator.example_files import write_examples

TOKEN = "a-token-of-the-tests"
HEADERS = {"X-Leadwise-Token": TOKEN}
CANARY = "Zebedee-Quillfeather"


def example_bytes(folder: Path) -> dict[str, bytes]:
    """Return simulated ECGs as files of several formats, by name: MUSE, aECG, WFDB as .zip, CSV and EDF-like bytes."""
    files = {one.path.name: one.path.read_bytes() for one in write_examples(folder, 0) if one.path.suffix == ".xml"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for suffix in (".hea", ".dat"):
            path = folder / f"left_bundle_branch_block{suffix}"
            archive.writestr(path.name, path.read_bytes())
    files["record.zip"] = buffer.getvalue()
    time_s = np.arange(2000) / 500
    table = np.sin(2 * np.pi * 1.2 * time_s)[:, None] ** 21 * np.linspace(0.4, 1.2, len(LEADS))
    rows = "\n".join(",".join(f"{value:.4f}" for value in row) for row in table)
    files["table.csv"] = f"{','.join(LEADS)}\n{rows}\n".encode()
    return files


@contextlib.contextmanager
def running_server(run: Path | str, folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes], Path]]:
    """Start `leadwise serve` on a free port; yield its address, its process and the file of all that it prints."""
    log = folder / "server.log"
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "leadwise", "serve", "--run", str(run), "--port", "0", "--token", TOKEN]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--no-browser", *options], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            deadline = time.monotonic() + 400
            while (match := re.search(r"(http://[\d.]+:\d+)/#token=", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.1)
            yield match[1], process, log
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
