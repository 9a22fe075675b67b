"""Marked reports, names and paths go through every command; afterwards they are only where the documentation states it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import wfdb
from command_line import invoke
from conftest import REPORTS, config_table, make_batch

import leadwise
from leadwise.batch import LEADS
from leadwise.trained_on import TrainedOn, patient_hash

# Each mark once or a few times, spelled so that no other text contains it
MARKS = {
    "report": "Xylophonequartz",
    "patient": "Patcanaryqq",
    "record": "Reccanaryzz",
    "path": "Pathcanaryvv",
    "name in a file": "Namecanarykk",
    "site": "Sitecanarybb",
    "device": "Devcanarygg",
}
# where a mark may be, and the sentence of the documentation that states it
ALLOWED = {
    ("record", "check.html"): "The page draws the worst recordings.",
    ("record", "check.json"): "The page draws the worst recordings.",
    ("record", "emb.npz"): "for each row, `record`, `patient` and `split`",
    ("patient", "emb.npz"): "for each row, `record`, `patient` and `split`",
}


def mark_places(folder: Path, mark: str) -> set[str]:
    """Return the files beneath a folder whose name or content has a mark: as it is, in lower case, in base64, in UTF-16 or 32.

    Members of archives, compressed text in PNG pictures and the rows of tables are read too.
    """
    raw = mark.encode()
    spellings = {mark.encode("utf-16-le"), mark.encode("utf-32-le")}
    spellings |= {base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)}
    places = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        parts = [name.encode(), *(contents(path.read_bytes()) if path.is_file() else ())]
        if any(raw.lower() in data.lower() or any(text in data for text in spellings) for data in parts):
            places.add(name)
    return places


def contents(data: bytes) -> Iterator[bytes]:
    """Yield the bytes of a file, and those of everything that is packed in it."""
    yield data
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from contents(archive.read(name))
    elif data[:2] == b"\x1f\x8b":
        yield from contents(gzip.decompress(data))
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        place = 8
        while place < len(data):
            (size,) = struct.unpack(">I", data[place : place + 4])
            kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
            if kind == b"zTXt":
                yield zlib.decompress(body.split(b"\0", 1)[1][1:])
            place += 12 + size
    for picture in re.findall(rb"base64,([A-Za-z0-9+/=]{200,})", data):
        yield from contents(base64.b64decode(picture + b"=" * (-len(picture) % 4)))


def write_marked_source(folder: Path) -> Path:
    """Write 60 WFDB records of 30 patients with marks, and return their table."""
    folder.mkdir(parents=True)
    lines = ["path,record,patient,report,split,site,device,label.normal,label.afib,label.mi"]
    for i, split in enumerate(["train"] * 40 + ["val"] * 10 + ["test"] * 10):
        ecg = make_batch(4, seed=i).ecg[i % 4].numpy().T.astype(np.float64)
        wfdb.wrsamp(
            f"e{i:02d}", fs=100, units=["mV"] * 12, sig_name=list(LEADS), p_signal=ecg, fmt=["16"] * 12,
            comments=[f"Name: {MARKS['name in a file']}"], write_dir=str(folder),
        )  # fmt: skip
        is_marked = i in (0, 58)  # in train and in test
        record = f"{MARKS['record']}{i}" if is_marked else f"r{i:02d}"
        patient = f"{MARKS['patient']}{i // 2}" if i // 2 in (0, 29) else f"p{i // 2:02d}"
        report = REPORTS[i % 4] + (f" {MARKS['report']}." if is_marked else "")
        labels = f"{i % 4 == 0:d},{i % 4 == 1:d},{i % 4 == 3:d}"
        lines.append(f'e{i:02d}.hea,{record},{patient},"{report}",{split},{MARKS["site"]},{MARKS["device"]},{labels}')
    table = folder / "manifest.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the commands write and print, without the cohort and the files that they read."""
    home = tmp_path_factory.mktemp("marked")
    table, cohort, out = write_marked_source(home / MARKS["path"]), home / "cohort", home / "out"
    (out / "printed").mkdir(parents=True)
    (home / "config.toml").write_text(tomli_w.dumps(config_table(cohort, steps=6)))
    run = out / "run"
    commands: list[tuple[object, ...]] = [
        ("prepare", "folder", table, "-o", cohort),
        ("check", cohort, "-o", out / "check.html", "--json", out / "check.json"),
        ("pretrain", home / "config.toml", "-o", run),
        ("embed", run, cohort, "-o", out / "emb.npz"),
        ("probe", run, cohort, "--task", "own", "--fractions", "1", "--save", out / "probe.safetensors"),
        ("retrieve", run, cohort, "sinus rhythm", "--json", out / "retrieve.json"),
        ("describe", cohort, "-o", out / "croissant.json"),
        ("plot", table.with_name("e00.hea"), "-o", out / "plot.png"),
        ("convert", table.with_name("e00.hea"), out / "converted"),
    ]
    for number, words in enumerate(commands):
        done = invoke(*words, cwd=home)
        assert done.returncode == 0, done.stderr
        (out / "printed" / f"{number}.txt").write_text(done.stdout + done.stderr)
    # reports in wrong columns, a damaged file and a wrong label
    text = f"{MARKS['report']} text of a report"
    mistakes = (
        f"path,patient,split\ne00.hea,p1,{text}\n",
        f"path,patient,rate_hz\ne00.hea,p1,{text}\n",
        f"path,patient,label.x\ne00.hea,p1,{MARKS['report']}-and-more\n",
        f"path,patient,age\ne00.hea,p1,{MARKS['report']}-and-more\n",
        f"path,patient\n{text},p1\n",
        f"path,{text}\ne00.hea\n",
        f"{text}\ne00.hea\n",
    )
    for number, mistake in enumerate(mistakes):
        wrong = table.with_name("wrong.csv")
        wrong.write_text(mistake)
        done = invoke("prepare", "folder", wrong, "-o", home / "wrong", cwd=home)
        assert done.returncode == 1, mistake
        printed = done.stdout + done.stderr
        (out / "printed" / f"wrong{number}.txt").write_text(printed.replace(str(table.parent), ""))
    leadwise.load(str(run)).save_pretrained(out / "shared")
    return out


@pytest.mark.parametrize("kind", MARKS)
def test_marks_are_only_where_the_documentation_states_it(outputs: Path, kind: str) -> None:
    places = mark_places(outputs, MARKS[kind])
    # names of recordings are printed: they are how an error is found again
    allowed = {place for mark, place in ALLOWED if mark == kind}
    rest = {place for place in places - allowed if not (kind == "record" and place.startswith("printed/"))}
    assert not rest


def test_the_documentation_states_each_exception() -> None:
    text = " ".join((Path(__file__).parents[1] / "docs" / "tutorial.md").read_text().split())
    for sentence in ALLOWED.values():
        assert sentence in text


def test_marks_are_found_however_they_are_packed(tmp_path: Path) -> None:
    mark = "Xylophonequartz"
    np.savez_compressed(tmp_path / "a.npz", names=np.array([mark]))
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"  xylophonequartz"))
    (tmp_path / "c.txt").write_bytes(base64.b64encode(b"12" + mark.encode() + b"34567"))
    (tmp_path / "d.txt").write_text("nothing")
    (tmp_path / mark).mkdir()
    assert mark_places(tmp_path, mark) == {"a.npz", "b.gz", "c.txt", mark}


def test_patients_cannot_be_recovered_from_a_shared_run(outputs: Path) -> None:
    candidates = [
        *(f"p{k:02d}" for k in range(100)),
        *(f"{MARKS['patient']}{k}" for k in range(100)),
        *map(str, range(100_000)),
    ]
    # whoever has the run folder has the salt, and finds every patient by trying names: the file stays with its owner
    own = TrainedOn.read(outputs / "run" / "trained_on.json")
    assert len(own.patients("folder", candidates[:200])) == 20
    # a shared run has neither hashes nor salt
    assert not (outputs / "shared" / "trained_on.json").exists()
    shared = b"".join(path.read_bytes() for path in (outputs / "shared").rglob("*") if path.is_file())
    strings = set(re.findall(rb"[0-9a-f]{12,}", shared))
    assert not {word[: len(own.salt)] for word in strings} & {own.salt.encode()}
    hashes = {patient_hash("folder", name).encode() for name in candidates}
    hashes |= {word.encode() for word in own.people} | {word.encode() for word in own.signals or ()}
    windows = {word[begin : begin + 12] for word in strings for begin in range(len(word) - 11)}
    assert not windows & hashes
    assert not {"people", "signals", "salt"} & set(json.loads((outputs / "shared" / "data.json").read_text()))
