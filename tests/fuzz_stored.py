"""More readers to be fuzzed: tables of ECGs, resume states, probes, calibrations, results, heart images, requests of the API."""

from __future__ import annotations

import binascii
import functools
import hashlib
import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import heart_files
import numpy as np
import pandas as pd
import serve_files
import test_leaderboard
import torch
from api_run import write_run
from conftest import make_batch
from fuzzing import Target

from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.recordings.recording import RecordError
from leadwise.data.sources.folder import Options, read_source
from leadwise.data.sources.source import Source
from leadwise.data.stored_embeddings import StoredEmbeddingsError, read_embeddings
from leadwise.data.volumes.heart_image import VolumeError
from leadwise.data.volumes.read_image import read_image
from leadwise.evaluate import prompt_calibration
from leadwise.evaluate.leaderboard import Leaderboard, LeaderboardError, entries_of
from leadwise.evaluate.logistic_regression import LogisticModel, ProbeError
from leadwise.evaluate.prompt_calibration import CalibrationError
from leadwise.evaluate.saved_probe import SavedProbe, load_probe
from leadwise.run import RunError


def stored_targets(folder: Path) -> list[Target]:
    """Return the targets; `folder` is an empty one."""
    folder.mkdir()
    return [
        *_tables(folder),
        *_of_runs(folder),
        *_results(folder),
        *_heart_images(folder),
        *_restated_cohort(folder),
        *_requests(folder),
    ]


def with_file(path: Path, read: Callable[[Path], object], content: bytes) -> object:
    """Write the content to `path` and read it."""
    path.write_bytes(content)
    return read(path)


def npz_of(name: str, others: dict[str, np.ndarray], content: bytes) -> bytes:
    """Return an .npz whose array `name` has these bytes, with a correct checksum, beside other arrays."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for other, array in others.items():
            archive.writestr(f"{other}.npy", npy_of(array))
        archive.writestr(f"{name}.npy", content)
    return target.getvalue()


def npy_of(array: np.ndarray) -> bytes:
    """Return an array as the bytes of a .npy file."""
    target = io.BytesIO()
    np.save(target, array)
    return target.getvalue()


def _tables(folder: Path) -> list[Target]:
    """A table of ECGs with its files, and embeddings in both formats."""
    place = folder / "table"
    place.mkdir()
    lines = ["record,path,patient,report,split,age,sex,rate_hz,label.afib,label.mi"]
    for k in range(6):
        np.save(place / f"e{k}.npy", make_batch(4, seed=k).ecg[k % 4].numpy()[:, :50])
        split = ("train", "val", "test")[k // 2]
        lines.append(f'r{k},e{k}.npy,p{k // 2},"sinus rhythm, normal",{split},{40 + k},{"FM"[k % 2]},100,{k % 2},')
    table = "\n".join(lines).encode() + b"\n"
    others = [table.replace(b",", b";"), table.decode().encode("utf-16"), b"\xef\xbb\xbf" + table]
    vectors = pd.DataFrame({"record": ["a", "b"], "embedding": [[0.5, 1.0], [1.5, -2.0]]})
    parquet = io.BytesIO()
    vectors.to_parquet(parquet)
    name = {"record": np.array(["a", "b"])}
    return [
        Target(
            "table of ECGs",
            [table, *others],
            functools.partial(with_file, place / "ecgs.csv", functools.partial(_prepare, place)),
            (CohortError, RecordError),
            share=0.2,
        ),
        Target(
            "embeddings (parquet)",
            [parquet.getvalue()],
            functools.partial(with_file, folder / "e.parquet", read_embeddings),
            (StoredEmbeddingsError,),
        ),
        Target(
            "embeddings (array)",
            [npy_of(np.zeros((2, 4), np.float32))],
            functools.partial(with_file, folder / "e.npz", read_embeddings),
            (StoredEmbeddingsError,),
            wrap=functools.partial(npz_of, "embedding", name),
        ),
    ]


def _prepare(place: Path, path: Path) -> None:
    """Prepare the table's ECGs; every row is in the cohort or is counted with a reason."""
    target = place / "cohort"
    shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(place / "cohort.partial", ignore_errors=True)
    source = read_source(path, Options(LEADS, 100, "mV"))
    n_rows = len(source.rows) + len(source.bad_rows)
    ledger = write(source, target, allow_missing=True, allow_unreadable=True, allow_copies=True)
    cohort = Cohort.open(target, verify=True)
    assert ledger.n_total == n_rows
    assert len(cohort) == ledger.kept


def _of_runs(folder: Path) -> list[Target]:
    """The resume state and the calibrations of a run, and a probe."""
    place = write_run(folder / "run")
    runs.save_state(place, {"step": 3, "best": 0.5, "model": {"w": torch.zeros(3)}, "optimizer": {"state": {}}})
    state = place / "resume" / "state.pt"
    model = LogisticModel(np.zeros(4), np.ones(4), np.zeros((4, 2)), np.zeros(2), 1.0, 0.5)
    probe = SavedProbe(model, ("a", "b"), (), "own", "backbone", None, "c", "r", "0" * 16, "1" * 16, 12)
    probe.save(folder / "p.safetensors")
    other = write_run(folder / "calibrated")
    run = runs.load(other, "cpu")
    classes = {
        "a": prompt_calibration.ClassCalibration("platt", 1.5, -0.2),
        "b": prompt_calibration.ClassCalibration("isotonic", cosines=(0.1, 0.4), values=(0.2, 0.9)),
    }
    one = prompt_calibration.PromptSetCalibration(
        "0" * 16, "own", "set", "file", "folder", "c", "2" * 16, "val", None, 40, 50, 30, classes, {"a": 4, "b": 9}, {}
    )
    path = prompt_calibration.write(run, [one])
    return [
        Target("resume state", [state.read_bytes()], functools.partial(_load_state, place, state), (RunError,)),
        Target(
            "probe",
            [(folder / "p.safetensors").read_bytes()],
            functools.partial(with_file, folder / "p.safetensors", _probabilities),
            (ProbeError,),
        ),
        Target(
            "calibrations",
            [path.read_bytes()],
            functools.partial(with_file, path, lambda _: _calibrated(run)),
            (CalibrationError,),
        ),
    ]


def _load_state(place: Path, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    runs.load_state(place)


def _probabilities(path: Path) -> None:
    probe = load_probe(path)
    values = probe.probabilities(np.ones((3, len(probe.model.mean)), dtype=np.float32))
    assert values.shape == (3, len(probe.classes))


def _calibrated(run: runs.Run) -> None:
    for one in prompt_calibration.read(run):
        scores = np.linspace(-1, 1, 6)[:, None].repeat(len(one.classes), axis=1)
        values = one.probabilities(scores, list(one.classes))
        # (not a number in the file gives none here)
        assert ((values >= 0) & (values <= 1) | np.isnan(values)).all()


def _results(folder: Path) -> list[Target]:
    """Result files of the commands, and a leaderboard."""
    results = [json.dumps(test_leaderboard.result(command), indent=1).encode() for command in ("probe", "zeroshot")]
    path, board = folder / "one.json", Leaderboard()
    path.write_bytes(results[0])
    board.add(entries_of(path))
    board.write(folder / "board.json")
    return [
        Target("result", results, functools.partial(with_file, path, entries_of), (LeaderboardError,)),
        Target(
            "leaderboard",
            [(folder / "board.json").read_bytes()],
            functools.partial(with_file, folder / "board.json", lambda one: Leaderboard.read(one).tables()),
            (LeaderboardError,),
        ),
    ]


def _heart_images(folder: Path) -> list[Target]:
    """Images of the heart: arrays, and NIfTI where its library is installed."""
    frames, _ = heart_files.beating_heart(radii=(9.0, 7.5), shape=(3, 16, 20))
    others = {"spacing_mm": np.array(heart_files.SPACING_MM, np.float32)}
    volume = npy_of(frames)
    read = functools.partial(read_image, item="volume")
    readers = [
        Target(
            "heart image (array)",
            [volume, npy_of(frames[0])],
            functools.partial(with_file, folder / "h.npz", read),
            (VolumeError,),
            wrap=functools.partial(npz_of, "volume", others),
            share=0.5,
        )
    ]
    try:
        path = heart_files.write_nifti(folder / "h.nii", frames)
    except ImportError:
        return readers
    return [
        *readers,
        Target(
            "heart image (NIfTI)",
            [path.read_bytes()],
            functools.partial(with_file, path, read),
            (VolumeError,),
            share=0.5,
        ),
    ]


def six_ecgs(folder: Path, n_samples: int | None = None) -> Source:
    """Write six ECGs of three patients, one in each split, and read their table."""
    folder.mkdir(exist_ok=True)
    lines = ["path,patient,report,split,label.afib"]
    for k in range(6):
        np.save(folder / f"ecg{k}.npy", make_batch(4, seed=k).ecg[k % 4].numpy()[:, :n_samples])
        lines.append(f"ecg{k}.npy,p{k // 2},sinus rhythm,{('train', 'val', 'test')[k // 2]},{k % 2}")
    (folder / "ecgs.csv").write_text("\n".join(lines) + "\n")
    return read_source(folder / "ecgs.csv", Options(LEADS, 100, "mV"))


def _restated_cohort(folder: Path) -> list[Target]:
    """The index of a cohort whose description states the size and the checksum of the changed index."""
    place = folder / "restated"
    write(six_ecgs(folder, n_samples=50), place)
    description = json.loads((place / "cohort.json").read_text())

    def read(content: bytes) -> None:
        index = {"file": "index.parquet", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (place / "index.parquet").write_bytes(content)
        (place / "cohort.json").write_text(json.dumps(description | {"index": index}))
        cohort = Cohort.open(place)
        signal, _ = cohort.signal(0)
        assert signal.shape[1] == 12
        cohort.labels("own", cohort.rows("train"))

    return [
        Target("cohort: index, checksum stated anew", [(place / "index.parquet").read_bytes()], read, (CohortError,))
    ]


# ------------------------------------------------------------------------------------------------------- requests


class Refused(Exception):
    """An answer of the API that refuses a request with a reason."""


def _requests(folder: Path) -> list[Target]:
    """Requests of the API as texts: the path with its query, a header, and the body."""
    try:
        from leadwise.serve.settings import Limits, ServeSettings
    except ImportError:
        return []
    run = write_run(folder / "served")
    body = b",".join(lead.encode() for lead in LEADS) + b"\n"
    body += b"\n".join(b",".join(f"{np.sin(t / 9 + k):.2f}".encode() for k in range(12)) for t in range(400))
    cohort = folder / "restated-api"
    write(six_ecgs(folder / "for-api"), cohort)
    facts = b"rate_hz=100&units=mV"
    requests = [
        b"POST /api/thumbs\nx.json\n" + b'{"rows": [0, 1, 5]}',
        b"GET /api/ecg/3\nx\n",
        b"GET /api/state\nx\n",
        b"GET /api/openapi.json\nx\n",
        b"GET /api/map?colour=own.afib\nx\n",
        b"GET /static/app.js\nx\n",
        *(b"POST /api/" + path + b"?" + facts + b"\na.csv\n" + body for path in (
            b"read", b"embed", b"neighbours")),
        b"POST /api/zeroshot?words=atrial%20fibrillation&" + facts + b"\na.csv\n" + body,
        b"POST /api/neighbours?top=3&" + facts + b"\na.csv\n" + body,
    ]  # fmt: skip
    limits = Limits(upload_bytes=200_000, samples=20_000, parsers=1)
    settings = ServeSettings(str(run), cohort, token=serve_files.TOKEN, limits=limits)
    return [Target("request of the API", requests, functools.partial(_ask, settings), (Refused,), share=0.1)]


@functools.cache
def _client(settings: object, process: int) -> object:
    """The client of a process, whose threads another one does not have."""
    from starlette.testclient import TestClient

    from leadwise.serve.app import create_app

    client = TestClient(
        create_app(settings),
        base_url="http://127.0.0.1:8765",
        headers=serve_files.HEADERS,  # type: ignore[arg-type]
    )
    client.__enter__()
    return client


def _ask(settings: object, content: bytes) -> None:
    """Send a request. An answer without a reason, or of the kind 'our fault', is a fault."""
    first, _, rest = content.partition(b"\n")
    name, _, body = rest.partition(b"\n")
    method, _, url = first.decode("latin-1").partition(" ")
    if method not in ("GET", "POST") or not url.startswith("/"):
        raise Refused("no request")
    url = quote(url, safe="/?&=%+,:;@!$'()*~-._")
    headers = {"X-File-Name": quote(name.decode("latin-1"))[:2000]}
    answer = _client(settings, os.getpid()).request(method, url, content=body, headers=headers)  # type: ignore[attr-defined]
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    if answer.status_code >= 400:
        raise Refused(answer.json()["error"])


def scp_of(content: bytes) -> bytes:
    """State the checksum of an SCP-ECG record anew."""
    return struct.pack("<H", binascii.crc_hqx(content[2:], 0xFFFF)) + content[2:]


def atc_of(content: bytes) -> bytes:
    """State the checksum of each block of an ATC file anew."""
    parts, at = [content[:12]], 12
    while at + 8 <= len(content):
        size = struct.unpack_from("<I", content, at + 4)[0]
        block = content[at : at + 8 + size]
        if len(block) < 8 + size:
            break
        parts.append(block + struct.pack("<I", sum(block) % 2**32))
        at += 12 + size
    return b"".join(parts) + content[at:]
