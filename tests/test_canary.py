"""Marked reports, names and paths go through every command; afterwards they are only where the documentation states it."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import io
import json
import re
import shutil
import signal
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import recovery
import tomli_w
import vendor_files
import wfdb
from command_line import invoke
from conftest import REPORTS, config_table, make_batch
from test_generation import new_run

import leadwise
from leadwise.batch import LEADS
from leadwise.trained_on import TrainedOn

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
NAMES = "of a cohort: `record`"
PATHS = "the path of each file, as it was given"
REPORT_TABLES = "reports: those of the training split with `--writer retrieve`, and the references"
PAGES = "names of recordings; the map of `serve` also sites"
MADE = "reports, names of patients and of recordings of that cohort, beside the synthetic ECGs"
# where a mark may be, and the sentence of the documentation that states it
ALLOWED = {
    ("record", "check.html"): PAGES,
    ("record", "check.json"): PAGES,
    ("record", "emb.npz"): "for each row, `record`, `patient` and `split`",
    ("patient", "emb.npz"): "for each row, `record`, `patient` and `split`",
    ("path", "vectors.npz"): PATHS,
    ("path", "scores.csv"): PATHS,
    ("path", "measure.csv"): PATHS,
    ("path", "measure.json"): PATHS,
    ("path", "nearest.csv"): PATHS,
    ("record", "probabilities.csv"): NAMES,
    ("record", "reports.csv"): NAMES,
    ("record", "texts.csv"): NAMES,
    ("report", "nearest.csv"): REPORT_TABLES,
    ("report", "texts.csv"): REPORT_TABLES,
    ("record", "found.html"): PAGES,
    ("record", "found.json"): PAGES,
    ("record", "questions.jsonl"): PAGES,
    ("record", "answers/neighbours.json"): PAGES,
    ("record", "answers/map.json"): PAGES,
    ("report", "made/ecgs.csv"): MADE,
    ("patient", "made/ecgs.csv"): MADE,
    ("record", "made/ecgs.csv"): MADE,
    **{("record", f"made/ecg/{MARKS['record']}58_synthetic.{kind}"): MADE for kind in ("dat", "hea", "npz")},
    ("site", "answers/map.json"): PAGES,
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


def patient_of(number: int) -> str:
    """Return the name of a patient without a mark: a number of five digits, or of eight with leading zeros."""
    return f"{99_000 + 7 * number:0{8 if number % 2 else 5}d}"


def write_marked_source(folder: Path) -> Path:
    """Write 60 WFDB records of 30 patients with marks, and return their table."""
    folder.mkdir(parents=True)
    lines = ["path,record,patient,report,split,site,device,age,label.normal,label.afib,label.mi"]
    for i, split in enumerate(["train"] * 40 + ["val"] * 10 + ["test"] * 10):
        ecg = make_batch(4, seed=i).ecg[i % 4].numpy().T.astype(np.float64)
        wfdb.wrsamp(
            f"e{i:02d}", fs=100, units=["mV"] * 12, sig_name=list(LEADS), p_signal=ecg, fmt=["16"] * 12,
            comments=[f"Name: {MARKS['name in a file']}"], write_dir=str(folder),
        )  # fmt: skip
        is_marked = i in (0, 58)  # in train and in test
        record = f"{MARKS['record']}{i}" if is_marked else f"r{i:02d}"
        patient = f"{MARKS['patient']}{i // 2}" if i // 2 in (0, 29) else patient_of(i // 2)
        report = REPORTS[i % 4] + (f" {MARKS['report']}." if is_marked else "")
        labels = f"{i % 4 == 0:d},{i % 4 == 1:d},{i % 4 == 3:d}"
        lines.append(
            f'e{i:02d}.hea,{record},{patient},"{report}",{split},{MARKS["site"]},{MARKS["device"]},{40 + i % 30},{labels}'
        )
    table = folder / "manifest.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


PROMPTS = """
source = "folder"
task = "own"
[classes]
normal = {name = "normal", rich = ["normal sinus rhythm."], short = ["normal ecg."]}
afib = {name = "fibrillation", rich = ["atrial fibrillation."], short = ["atrial fibrillation."]}
mi = {name = "infarct", rich = ["inferior infarct."], short = ["infarct."]}
"""
WRITER = (
    "writer.width=16", "writer.depth=1", "writer.heads=2", "writer.vectors=2", "writer.vocabulary=320",
    "writer.max_tokens=24", "writer.positions=32", "optim.batch_size=8", "optim.steps=3", "log.validate_every=2",
    "log.save_every=2", "log.every=1",
)  # fmt: skip
Command = tuple[object, ...]


def training_commands(home: Path, table: Path, out: Path) -> list[Command]:
    """From the table of a source to a run, its checks and its embeddings."""
    cohort, run, one = home / "cohort", out / "run", table.with_name("e00.hea")
    return [
        ("prepare", "folder", table, "-o", cohort),
        ("check", cohort, "-o", out / "check.html", "--json", out / "check.json"),
        ("pretrain", home / "config.toml", "-o", run),
        ("embed", run, cohort, "-o", out / "emb.npz"),
        ("embed", run, one, "-o", out / "vectors.npz", "--json", out / "vectors.json"),
        ("describe", cohort, "-o", out / "croissant.json"),
        ("plot", one, "-o", out / "plot.png"),
        ("convert", one, out / "converted"),
        ("measure", one, "-o", out / "measure.csv", "--json", out / "measure.json"),
    ]


def scoring_commands(home: Path, table: Path, out: Path) -> list[Command]:
    """Every command that scores a run or predicts with it."""
    cohort, run = home / "cohort", out / "run"
    files, own = (table.with_name("e00.hea"), table.with_name("e58.hea")), ("--task", "own")
    prompts, once = ("--prompts", home / "prompts.toml"), ("--fractions", "1", "--seeds", "42")
    probe = (*own, "--fractions", "1", "--save", out / "probe.safetensors", "--per-class", "--csv", out / "probe.csv")
    return [
        ("probe", run, cohort, *probe, "--json", out / "probe.json", "--latex", out / "probe.tex"),
        ("calibrate", run, cohort, *prompts, "--split", "train", "--json", out / "calibrate.json"),
        ("zeroshot", run, cohort, *own, *prompts, "--per-class", "--json", out / "zero.json", "--csv", out / "zero.csv"),
        ("predict", run, *files, "-o", out / "scores.csv", "--prompt", "normal ecg.", "--reference", cohort),
        ("predict", run, cohort, "-o", out / "probabilities.csv", "--probe", out / "probe.safetensors"),
        ("regress", run, cohort, "--targets", "age", "--fit", "train", "--json", out / "regress.json"),
        ("finetune", run, cohort, *own, "--epochs", "1", "--json", out / "finetune.json"),
        ("shift", run, "--train", cohort, *own, *once, "--json", out / "shift.json"),
        ("compare", run, run, cohort, *own, "--resamplings", "100", "--seeds", "42", "--json", out / "compare.json"),
        ("submit", out / "probe.json", "--board", out / "board.json"),
        ("retrieve", run, cohort, "--json", out / "retrieve.json"),
        ("retrieve", run, cohort, "atrial fibrillation", "--split", "test", "--top", "10", "-o", out / "found.html",
         "--json", out / "found.json"),
        ("card", run, cohort, *prompts, "--quick", "--records", "20", "-o", out / "card.html", "--json", out / "card.json"),
        ("export", run, "-o", out / "encoder.onnx", "--json", out / "export.json"),
        ("bench-qa", run, cohort, "--questions", out / "questions.jsonl", "--json", out / "questions.json"),
    ]  # fmt: skip


def writing_commands(home: Path, table: Path, out: Path) -> list[Command]:
    """Reports from ECGs."""
    cohort, run, writer = home / "cohort", out / "run", ("--writer", out / "writer")
    nearest = ("--writer", "retrieve", "--bank", cohort)
    return [
        ("train-writer", run, cohort, "-o", out / "writer", *WRITER, "--json", out / "writer.json"),
        ("report", run, cohort, "--split", "test", *writer, "-o", out / "reports.csv", "--json", out / "report.json"),
        ("report", run, table.with_name("e00.hea"), *nearest, "-o", out / "nearest.csv"),
        ("score-writer", run, cohort, *writer, "-o", out / "texts.csv", "--json", out / "written.json"),
        ("generate", out / "maker", "--cohort", cohort, "--split", "test", "-o", out / "made"),
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the marked source, after every command."""
    home = tmp_path_factory.mktemp("marked")
    table, out = write_marked_source(home / MARKS["path"]), home / "out"
    (out / "printed").mkdir(parents=True)
    (home / "config.toml").write_text(tomli_w.dumps(config_table(home / "cohort", steps=6)))
    (home / "prompts.toml").write_text(PROMPTS)
    new_run(out / "maker")  # untrained: it generates from reports
    commands = [each for of in (training_commands, scoring_commands, writing_commands) for each in of(home, table, out)]
    for number, words in enumerate(commands):
        if words[0] == "export" and importlib.util.find_spec("onnx") is None:
            continue
        done = invoke(*words, cwd=home)
        assert done.returncode == 0, f"{words[0]}: {done.stderr}"
        (out / "printed" / f"{number}.txt").write_text(done.stdout + done.stderr)
    leadwise.load(str(out / "run")).save_pretrained(out / "shared")
    return home


@pytest.fixture(scope="module")
def outputs(home: Path) -> Path:
    """Everything that the commands write and print, without the cohort and the files that they read."""
    return home / "out"


@pytest.mark.parametrize("kind", MARKS)
def test_marks_are_only_where_the_documentation_states_it(outputs: Path, kind: str) -> None:
    assert not undocumented(outputs, kind)


def undocumented(folder: Path, kind: str) -> set[str]:
    """Return the places of a mark that no sentence of the documentation states."""
    allowed = {place for mark, place in ALLOWED if mark == kind}
    rest = mark_places(folder, MARKS[kind]) - allowed
    # names of recordings are printed: they are how an error is found again
    return {place for place in rest if not (kind == "record" and place.startswith("printed/"))}


def test_the_documentation_states_each_exception_and_each_is_needed(outputs: Path) -> None:
    text = " ".join((Path(__file__).parents[1] / "docs" / "tutorial.md").read_text().split())
    for (kind, place), sentence in ALLOWED.items():
        assert sentence in text
        if not place.startswith("answers/"):  # of a server, another test
            assert place in mark_places(outputs, MARKS[kind]), (kind, place)


def mistakes(home: Path) -> dict[str, Command]:
    """Commands with a wrong input that contains a report, by a name; each input has a file of its own."""
    table, run, cohort, text = (
        home / MARKS["path"] / "manifest.csv",
        home / "out" / "run",
        home / "cohort",
        MARKS["report"],
    )
    wrong = home / MARKS["path"]

    def file(name: str, content: str) -> Path:
        path = wrong / name
        path.write_text(content)
        return path

    def manifest(name: str, content: str) -> Command:
        return ("prepare", "folder", file(f"{name}.csv", content), "-o", home / "wrong")

    ecg, prompt, own = table.with_name("e00.hea"), ("-o", home / "x.csv", "--prompt", "normal ecg."), ("--task", "own")
    csv = (*prompt, "--rate-hz", "100")
    return {
        # reports in wrong columns, a damaged file and a wrong label
        "split": manifest("split", f"path,patient,split\ne00.hea,p1,{text} text of a report\n"),
        "rate": manifest("rate", f"path,patient,rate_hz\ne00.hea,p1,{text} text of a report\n"),
        "label": manifest("label", f"path,patient,label.x\ne00.hea,p1,{text}-and-more\n"),
        "age": manifest("age", f"path,patient,age\ne00.hea,p1,{text}-and-more\n"),
        "path": manifest("path", f"path,patient\n{text} text of a report,p1\n"),
        "title": manifest("title", f"path,{text} text of a report\ne00.hea\n"),
        "titles": manifest("titles", f"{text} text of a report\ne00.hea\n"),
        # a report in place of an ECG, or of a part of it, a probe, prompts, settings, results, a board or a writer
        "ecg": ("predict", run, file("ecg.csv", f"7,{text} of a report\n1,2\n"), *prompt),
        "header": ("predict", run, file("ecg.hea", f"{text} of a report\n"), *prompt),
        "cell": ("predict", run, file("cell.csv", "I,II\n" + "0.1,0.2\n" * 300 + f"0.1,{text} of a report\n"), *csv),
        "gain": ("predict", run, file("gain.hea", f"gain 1 100 400\ne00.dat 16 {text}-and-more 16 0 0 0 0 II\n"), *prompt),
        "unit": ("predict", run, file("unit.csv", f"I ({text} of a report),II\n" + "0.1,0.2\n" * 300), *csv),
        "xml": ("predict", run, file("ecg.xml", f"<a>{text}</a>"), *prompt),
        "probe": ("predict", run, ecg, "-o", home / "x.csv", "--probe", file("probe.safetensors", text * 9)),
        "prompts": ("zeroshot", run, cohort, *own, "--prompts", file("p1.toml", f"{text} of a report")),
        "prompt": ("zeroshot", run, cohort, *own, "--prompts", file("p2.toml", PROMPTS + f'x = ["{text} of a report"]\n')),
        "calibrate": ("calibrate", run, cohort, "--prompts", file("p3.toml", f'task = "{text}"\n')),
        "settings": ("pretrain", file("c2.toml", f"{text} of a report"), "-o", home / "x"),
        "results": ("submit", file("r1.json", f'{{"command": "probe", "rows": "{text}"}}'), "--board", home / "b.json"),
        "result": ("submit", file("r2.json", f"{text} of a report"), "--board", home / "b.json"),
        "board": ("submit", home / "out" / "probe.json", "--board", file("board.json", f'{{"{text}": "{text}"}}')),
        "embeddings": ("probe", file("e.npz", text * 9), cohort, *own),
        "writer": ("report", run, ecg, "-o", home / "x.csv", "--writer", file("writer.toml", text).parent),
        "compare": ("compare", run, file("other.parquet", text * 9), cohort, *own),
        "truth": ("bench-qa", run, cohort, "--truth", file("truth.csv", f"record,{text} of a report\nr00,{text}\n")),
    }  # fmt: skip


def test_no_error_on_a_wrong_file_has_its_text(home: Path, tmp_path: Path) -> None:
    commands = mistakes(home)
    (tmp_path / "printed").mkdir()
    for name, words in commands.items():
        done = invoke(*words, cwd=home)
        assert done.returncode != 0, name
        assert "Traceback" not in done.stderr, (name, done.stderr)
        printed = (done.stdout + done.stderr).replace(
            str(home / MARKS["path"]), ""
        )  # the file is named as it was given
        (tmp_path / "printed" / f"{name}.txt").write_text(printed)
    assert {kind: places for kind in MARKS if (places := undocumented(tmp_path, kind))} == {}


@pytest.mark.slow
def test_a_server_leaves_nothing_of_uploads_and_answers_no_report(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="needs the extra serve")
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    httpx = pytest.importorskip("httpx", reason="needs httpx, the client of the tests")
    from serve_files import HEADERS, running_server

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for suffix in (".hea", ".dat"):
            archive.write((home / MARKS["path"] / "e00.hea").with_suffix(suffix), f"e00{suffix}")
    muse = vendor_files.muse().replace("M\u00fcller", MARKS["name in a file"]).encode()
    uploads = {
        f"{MARKS['path']}.zip": buffer.getvalue(),
        f"{MARKS['path']}.xml": muse,
        f"{MARKS['path']}.csv": MARKS["report"].encode(),
    }
    answers = tmp_path / "answers"
    answers.mkdir()
    with running_server(home / "out" / "run", tmp_path, "--cohort", str(home / "cohort")) as (address, process, _):
        with httpx.Client(base_url=address, headers=HEADERS, timeout=120) as client:
            for name in ("map", "state", "ecg/0", "thumb/58"):
                answer = client.get(f"/api/{name}")
                assert answer.status_code == 200, (name, answer.text)
                (answers / f"{name.replace('/', '-')}.json").write_text(answer.text)
            for file, content in uploads.items():
                for name, query in (
                    ("read", {}),
                    ("embed", {}),
                    ("zeroshot", {"words": "atrial fibrillation"}),
                    ("neighbours", {"top": 20}),
                ):
                    answer = client.post(f"/api/{name}", content=content, params=query, headers={"X-File-Name": file})
                    assert answer.status_code == (422 if file.endswith(".csv") else 200), (file, name, answer.text)
                    with (answers / f"{name}.json").open("a") as target:
                        target.write(answer.text)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    shutil.copytree(home / "cohort" / "serve", tmp_path / "stored")  # beside the cohort
    assert {path.suffix for path in (tmp_path / "stored").iterdir()} == {".npz"}
    assert (tmp_path / "server.log").stat().st_size > 0
    assert {kind: places for kind in MARKS if (places := undocumented(tmp_path, kind))} == {}
    for (kind, place), _ in ALLOWED.items():
        assert not place.startswith("answers/") or place in mark_places(tmp_path, MARKS[kind])


def test_marks_are_found_however_they_are_packed(tmp_path: Path) -> None:
    mark = "Xylophonequartz"
    np.savez_compressed(tmp_path / "a.npz", names=np.array([mark]))
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"  xylophonequartz"))
    (tmp_path / "c.txt").write_bytes(base64.b64encode(b"12" + mark.encode() + b"34567"))
    (tmp_path / "d.txt").write_text("nothing")
    (tmp_path / mark).mkdir()
    assert mark_places(tmp_path, mark) == {"a.npz", "b.gz", "c.txt", mark}


def test_patients_cannot_be_recovered_from_what_is_passed_on(outputs: Path) -> None:
    # whoever has the run folder has the salt, and finds every patient by trying names: the file stays with its owner
    n = 100_000
    numbers = [patient_of(k) for k in range(1, 20)]  # the first has a mark as its name
    assert recovery.recovered([outputs / "run" / "trained_on.json"], "folder", 1, n) == set(numbers)
    own = TrainedOn.read(outputs / "run" / "trained_on.json")
    assert len(own.patients("folder", [*numbers, f"{MARKS['patient']}0"])) == 20

    # what is passed on has neither hashes nor salt
    shared = [path for path in (outputs / "shared").rglob("*") if path.is_file()]
    assert "trained_on.json" not in {path.name for path in shared}
    assert not {"people", "signals", "salt"} & set(json.loads((outputs / "shared" / "data.json").read_text()))
    names = ("card.html", "card.json", "board.json", "board.md", "probe.safetensors", "probe.json", "encoder.onnx")
    passed_on = [*shared, *(outputs / name for name in names if (outputs / name).exists())]
    assert recovery.recovered(passed_on, "folder", n, 1000) == set()
    content = b"".join(path.read_bytes() for path in passed_on)
    assert not [word for word in (own.salt, *own.people, *(own.signals or ())) if word.encode() in content]
