"""The documents: their commands and Python blocks run, their links exist, and the site builds without a warning.

A block under a comment `<!-- test: parse only, since ... -->` is not run: its commands are parsed by the command line, which
refuses unknown commands, options and values.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
import wfdb
from conftest import REPORTS, TINY, make_batch
from typer.main import get_command

from leadwise.batch import LEADS, Signal
from leadwise.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "NOTES.md",
    "CHANGELOG.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
)
GENERATED = ("docs/notes.md", "docs/changelog.md")  # copies, written when the site is built
WRITTEN = tuple(name for name in DOCUMENTS if name not in GENERATED)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str
    above: str  # the paragraph or comment above it

    @property
    def is_run(self) -> bool:
        return "test: parse only" not in self.above

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block, comments and line continuations resolved."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@cache
def command_line() -> Any:
    """The command line as a click group."""
    return get_command(app)


@cache
def blocks(document: str) -> tuple[Block, ...]:
    text = (ROOT / document).read_text()
    return tuple(
        Block(
            document,
            text[: match.start()].count("\n") + 1,
            match[1],
            match[2],
            text[: match.start()].strip().split("\n\n")[-1],
        )
        for match in re.finditer(r"^```(\S*)\n(.*?)^```$", text, re.M | re.S)
    )


def arguments(words: list[str]) -> list[str] | None:
    """The arguments of a call of leadwise, started directly or by torchrun; None for another program."""
    if words[0] == "leadwise":
        return words[1:]
    if "torchrun" in words and "leadwise" in words:
        return words[words.index("leadwise") + 1 :]
    return None


def parse(words: list[str]) -> None:
    """Have the command line parse a call without running it; an unknown name, option or value raises."""
    command, name = command_line(), "leadwise"
    while hasattr(command, "commands"):  # a group: the verbs, or those of `prompts`
        assert words[0] in command.commands, f"{name} has no command {words[0]}"
        command, name, words = command.commands[words[0]], words[0], words[1:]
    if "--help" not in words:
        command.make_context(name, list(words))


@pytest.mark.parametrize("document", WRITTEN)
def test_every_command_parses(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for block in blocks(document):
        for words in block.commands if block.language == "sh" else ():
            where = f"{document}:{block.line}: {' '.join(words)}"
            called = arguments(words)
            if called is not None:
                try:
                    parse(called)
                except Exception as error:  # typer's own click or the system's, whichever is installed
                    pytest.fail(f"{where}: {error}")
            if words[0] == "make":
                assert words[1] in targets, where
        if block.language == "python":
            compile(block.text, f"{document}:{block.line}", "exec")
    for command in re.findall(r"`leadwise ([a-z][^`]*)`", (ROOT / document).read_text()):
        assert command.split()[0] in command_line().commands, f"{document}: leadwise {command}"


@pytest.mark.parametrize("document", WRITTEN)
def test_every_named_file_and_link_exists(document: str) -> None:
    text, folder = (ROOT / document).read_text(), (ROOT / document).parent
    for config in re.findall(r"configs/\w+\.toml", text):
        assert (ROOT / config).is_file(), config
    for script in re.findall(r"(?:benchmarks|tools|tests)/\w+\.py", text):
        assert (ROOT / script).is_file(), script
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        made_at_build_time = document.startswith("docs/") and (
            link.startswith(("api/", "results/")) or f"docs/{link}" in GENERATED
        )
        assert link.startswith("http") or made_at_build_time or (folder / link).exists(), f"{document}: {link}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def run_blocks(document: str, folder: Path, monkeypatch: pytest.MonkeyPatch, without: frozenset[str]) -> None:
    """Write the files that a document contains and run its commands and Python blocks in `folder`, in order.

    An error of a block, or a document of which nothing is run, fails the test.
    """
    monkeypatch.chdir(folder)
    n_run = 0
    names: dict[str, Any] = {}  # the Python blocks of a document share their names
    for block in blocks(document):
        where = f"{document}:{block.line}"
        file = re.search(r"Save\s+this\s+as\s+`([^`]+)`", block.above)
        if file:
            write_beside(folder / file[1], block.text)
        elif block.language == "python" and block.is_run:
            exec(compile(block.text, where, "exec"), names)
            n_run += 1
        for words in block.commands if block.language == "sh" and block.is_run else ():
            called = arguments(words)
            if words[0] == "make" or (called and called[0] in without):
                continue
            assert called is not None, f"{where}: {' '.join(words)} is not run by this test; mark the block"
            code = command_line().main(args=called, standalone_mode=False)
            assert not code or called[0] == "check", f"{where}: {' '.join(words)} ends with {code}"
            n_run += 1
    assert n_run, f"{document}: no block of it was run"


def write_beside(path: Path, text: str) -> None:
    """Write a file that a document shows; a manifest gets more lines and the recordings that it lists."""
    path.write_text(text)
    if path.name != "manifest.csv":
        return
    with path.open("a") as file:
        for i in range(3, 31):
            split = "train" if i <= 18 else "val" if i <= 24 else "test"
            file.write(f'ecgs/{i:04d}.hea,P{i},"{REPORTS[i % 2]}",{split},{i % 2},{1 - i % 2}\n')
    signal = Signal(rate_hz=100, duration_s=10.0)
    (path.parent / "ecgs").mkdir()
    for i in range(1, 31):
        ecg = make_batch(4, seed=i, signal=signal).ecg[i % 2].numpy()
        ecg[2:6] = (
            ecg[1] - ecg[0],
            -(ecg[0] + ecg[1]) / 2,
            ecg[0] - ecg[1] / 2,
            ecg[1] - ecg[0] / 2,
        )  # III, aVR, aVL, aVF
        wfdb.wrsamp(
            f"{i:04d}", fs=100, units=["mV"] * 12, sig_name=list(LEADS), p_signal=ecg.T.astype(float), fmt=["16"] * 12,
            write_dir=str(path.parent / "ecgs"),
        )  # fmt: skip
    eight = [LEADS.index(lead) for lead in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")]
    rows = ["path"]
    for i in range(3, 6):
        ecg = make_batch(1, seed=i, signal=Signal(rate_hz=250, duration_s=10.0)).ecg[0].numpy()
        np.save(path.parent / "ecgs" / f"{i:04d}.npy", ecg[eight] * 1000)  # uV
        rows.append(f"ecgs/{i:04d}.npy")
    (path.parent / "arrays.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `leadwise demo` leaves (ecgs, cohort, run), made small."""
    from leadwise.config import read
    from leadwise.data.cohort.prepare import write
    from leadwise.data.sources import simulated
    from leadwise.training import loop

    demo = tmp_path_factory.mktemp("documents") / "demo"
    simulated.simulate(demo / "ecgs", 160, seed=0)
    write(simulated.read_source(demo / "ecgs"), demo / "cohort")
    table = {
        "signal": {"rate_hz": 100, "duration_s": 10.0},
        "data": {"cohort": str(demo / "cohort")},
        "method": {"name": "cg_dmer", **TINY["cg_dmer"], "n_patches": 20},
        "optim": {"steps": 4, "batch_size": 8, "lr": 1e-3},
        "log": {"every": 1, "validate_every": 4, "validate_records": 8, "save_every": 4},
    }
    (demo / "tiny.toml").write_text(tomli_w.dumps(table))
    loop.pretrain(read(demo / "tiny.toml", None), demo / "run")
    return demo


@pytest.fixture
def home(demo: Path, tmp_path: Path) -> Path:
    """A folder with what the documents assume: demo, configs, and a run in runs/mine."""
    (tmp_path / "demo").symlink_to(demo)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(demo / "run", tmp_path / "runs" / "mine")
    return tmp_path


LONG = frozenset({"check", "probe", "card"})  # commands that take a few seconds each
ALL_OR_SHORT = pytest.mark.parametrize(
    "without", [pytest.param(LONG, id="short"), pytest.param(frozenset(), id="all", marks=pytest.mark.slow)]
)


@ALL_OR_SHORT
def test_the_readme_runs(without: frozenset[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_blocks("README.md", home, monkeypatch, without)


@ALL_OR_SHORT
def test_the_tutorial_runs(without: frozenset[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_blocks("docs/tutorial.md", home, monkeypatch, without)
    assert np.load(home / "mine.npz")["embedding"].shape[0] == 30


@pytest.mark.parametrize("document", ["docs/benchmark.md", "docs/methods.md", "docs/python.md"])
def test_the_other_pages_run(document: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_blocks(document, home, monkeypatch, frozenset())


def test_the_page_of_own_encoders_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = "docs/own-encoder.md"
    names: dict[str, Any] = {}
    exec(blocks(document)[0].text, names)
    torch.save(names["MyModel"]().state_dict(), home / "my_weights.pt")
    assert len([line for line in blocks(document)[0].text.splitlines() if line.strip()]) <= 20
    run_blocks(document, home, monkeypatch, frozenset())


def test_the_pictures_are_drawn_by_their_script(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import make_images

    make_images.main(str(home / "demo" / "run"), str(home / "demo" / "cohort"), str(home / "images"))
    for name in ("reconstruction.png", "embeddings.png"):
        for path in (home / "images" / name, ROOT / "docs" / "images" / name):
            assert path.read_bytes().startswith(b"\x89PNG"), path


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="the extra 'docs' is not installed")
    pytest.importorskip("myst_parser", reason="the extra 'docs' is not installed")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "trees")]
    done = subprocess.run([*command, "docs", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in ("index", "tutorial", "methods", "api/evaluate", "results/ptbxl_cpu"):
        assert (tmp_path / "site" / f"{page}.html").is_file()
