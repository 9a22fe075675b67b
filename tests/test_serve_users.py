"""A server in a process of its own: 50 users at once, nothing of an upload in its log or folders, a clean end by Ctrl-C."""

from __future__ import annotations

import io
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serve_files import CANARY, HEADERS, TOKEN, example_bytes, running_server

from leadwise.serve import parsers

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
httpx = pytest.importorskip("httpx", reason="needs httpx, the client of the tests")

N_USERS = 50


def files_of_users(folder: Path) -> list[tuple[str, bytes]]:
    """Return files that carry a canary in their name, in a lead name, in a comment and in a statement."""
    files = example_bytes(folder)
    aecg = files["fibrillation.xml"].replace(b"simulated", CANARY.encode())
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(files["record.zip"])) as archive, zipfile.ZipFile(buffer, "w") as renamed:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith(".hea"):
                content = content.replace(b"left_bundle_branch_block", CANARY.encode())
                content += f"# {CANARY}: {CANARY}\n".encode()
            renamed.writestr(name.replace("left_bundle_branch_block", CANARY), content)
    wrong = files["table.csv"].replace(b"V6", CANARY.encode(), 1)
    return [
        (f"{CANARY}.xml", aecg),
        (f"{CANARY}.zip", buffer.getvalue()),
        (f"{CANARY}.csv", wrong),
        (f"{CANARY}.dcm", CANARY.encode() * 30),
    ]


@pytest.mark.slow
def test_fifty_users_at_once_and_nothing_is_kept(tmp_path: Path) -> None:
    uploads = files_of_users(tmp_path / "examples")
    with running_server("ptbxl-fast", tmp_path / "server") as (address, process, log):
        barrier = threading.Barrier(N_USERS)
        client = httpx.Client(
            base_url=address, headers=HEADERS, timeout=120, limits=httpx.Limits(max_connections=N_USERS)
        )

        def user(number: int) -> list[tuple[str, int, float]]:
            name, content = uploads[number % len(uploads)]
            barrier.wait()
            results = []
            for path, query in (("/api/read", {}), ("/api/zeroshot", {"words": CANARY}), ("/api/embed", {})):
                started = time.monotonic()
                options = {"rate_hz": 500, "units": "mV"} if name.endswith(".csv") else {}
                answer = client.post(path, content=content, params=options | query, headers={"X-File-Name": name})
                results.append((name, answer.status_code, time.monotonic() - started))
            return results

        with ThreadPoolExecutor(N_USERS) as threads:
            results = [one for answers in threads.map(user, range(N_USERS)) for one in answers]
        good = [status for name, status, _ in results if not name.endswith((".dcm", ".csv"))]
        assert set(good) <= {200, 503}
        assert good.count(200) > len(good) / 2
        assert {status for name, status, _ in results if name.endswith(".dcm")} <= {422, 503}
        assert statistics.median(seconds for _, _, seconds in results) < 60

        # answers are right after the load, and a wrong token is refused
        name, content = uploads[0]
        assert client.post("/api/read", content=content, headers={"X-File-Name": name}).status_code == 200
        assert client.get("/api/state", headers={"X-Leadwise-Token": "wrong"}).status_code == 401
        client.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        text = log.read_text()

    # no trace of the uploads
    assert CANARY not in text
    assert "Traceback" not in text
    left = [path for path in (tmp_path / "server" / "tmp").rglob("*") if path.is_file()]
    assert not [path for path in left if CANARY in path.name or CANARY.encode() in path.read_bytes()]
    if parsers._MEMORY.is_dir():
        owned = [path for path in parsers._MEMORY.glob("leadwise-*") if path.stat().st_uid == os.getuid()]
        assert not [path for folder in owned for path in folder.rglob(f"*{CANARY}*")]


@pytest.mark.slow
def test_two_workers_answer_and_stop(tmp_path: Path) -> None:
    with running_server("ptbxl-fast", tmp_path, "--workers", "2") as (address, process, log):
        headers = {**HEADERS, "Connection": "close"}
        assert [httpx.get(f"{address}/api/state", headers=headers).status_code for _ in range(4)] == [200] * 4
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_workers_end_when_the_server_is_killed(tmp_path: Path) -> None:
    with running_server("ptbxl-fast", tmp_path, "--workers", "2") as (address, process, log):
        assert httpx.get(address).status_code == 200
        process.kill()
        process.wait()

        # the port is free again, no worker answers with the old token
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0:
                    break
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


def test_another_host_is_refused_on_the_command_line() -> None:
    command = [sys.executable, "-m", "leadwise", "serve", "--host", "0.0.0.0", "--no-browser"]
    for options, text in (([], "--allow-remote"), (["--allow-remote"], "--token"), (["--token", "short"], "16")):
        result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
        assert result.returncode == 1
        assert text in " ".join(result.stderr.split())
        assert TOKEN not in result.stdout + result.stderr


def test_without_the_extra_one_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    import typer

    from leadwise.cli import serve

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(typer.BadParameter, match=r"pip install 'leadwise\[serve\]'"):
        serve.serve()
