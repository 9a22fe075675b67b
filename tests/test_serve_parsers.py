"""The processes that read uploads: malformed files, one that hangs, one that needs too much memory, one that is killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_files import example_bytes

from leadwise.serve import parsers
from leadwise.serve.parsers import ParserError, ParserPool
from leadwise.serve.settings import Limits

N_MALFORMED = 1000
QUESTION = {"kind": "read", "facts": {"name": "a.xml"}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return example_bytes(tmp_path_factory.mktemp("examples"))


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file format in the parsers' search path that hangs, eats memory or ends the process, as its content states."""
    (tmp_path / "sitecustomize.py").write_text(HOSTILE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(autouse=True)
def _scratch_folders_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scratch folders are in a folder of the test, which is empty again after it."""
    place = tmp_path / "memory"
    place.mkdir()
    monkeypatch.setattr(parsers, "_MEMORY", place)
    yield
    assert not list(place.iterdir())


HOSTILE = '''
import sys
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    """Replaces `open_upload` when the parser has imported it."""
    def find_spec(self, name, path, target=None):
        if name == "leadwise.serve.tracing":
            import leadwise.serve.upload as upload
            plain = upload.open_upload
            def open_upload(content, *rest):
                if content == b"hang":
                    while True: pass
                if content == b"sleep":
                    import time; time.sleep(3600)
                if content == b"eat":
                    blocks = []
                    while True: blocks.append(bytearray(50_000_000))
                if content == b"leave":
                    (rest[1] / "left.txt").write_text("x"); raise ZeroDivisionError(content)
                return plain(content, *rest)
            upload.open_upload = open_upload
        return None

sys.meta_path.insert(0, Finder())
'''


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return damaged content: cut off, bytes changed, a piece repeated or moved, or numbers replaced."""
    data = bytearray(content)
    kind = rng.randrange(5)
    at = rng.randrange(len(data))
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        for _ in range(rng.randrange(1, 60)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 2:
        data[at:at] = data[: rng.randrange(1, 2000)]
    elif kind == 3:
        end = min(len(data), 1500)
        for _ in range(8):
            data[rng.randrange(end)] = rng.choice(b"0123456789<>&\"'/-e.\0\xff")
    else:
        del data[at : at + rng.randrange(1, 4000)]
    return bytes(data)


def cut(content: bytes, name: str) -> bytes:
    """Return a shorter file of the same format where that is easy, so that many can be read."""
    return b"\n".join(content.split(b"\n")[:300]) if name.endswith(".csv") else content


@pytest.mark.slow
def test_a_thousand_malformed_uploads_end_in_one_sentence(files: dict[str, bytes]) -> None:
    rng = random.Random(0)
    pids = set()
    statuses: dict[int, int] = {}
    with ParserPool(Limits(parse_s=10, parsers=2)) as pool:
        for number in range(N_MALFORMED):
            name, content = rng.choice(sorted(files.items()))
            question = {"kind": "read", "facts": {"name": name, "rate_hz": 500.0, "units": "mV"}}
            started = time.monotonic()
            try:
                status, text = pool.ask(question, mutated(cut(content, name), rng) or b"\0")[0]["status"], ""
            except ParserError as error:
                status, text = error.status, str(error)
                assert text, number
                assert "\n" not in text
                assert "/dev/shm" not in text
            assert time.monotonic() - started < 15
            statuses[status] = statuses.get(status, 0) + 1
        pids = {parser.pid for parser in pool.parsers}
        assert set(statuses) <= {200, 413, 422, 503}
        assert statuses[422] > N_MALFORMED / 4
        assert statuses.get(503, 0) < 10
        assert len(pids) == 2
        assert pool.ask(QUESTION, files["sinus_rhythm.xml"])[0]["status"] == 200


def test_nothing_is_left_of_an_upload(hostile: None, files: dict[str, bytes]) -> None:
    with ParserPool(Limits(parsers=1)) as pool:
        (parser,) = pool.parsers
        archive = {"kind": "read", "facts": {"name": "record.zip"}}
        assert pool.ask(archive, files["record.zip"])[0]["status"] == 200
        assert list(parser.folder.iterdir()) == []
        with pytest.raises(ParserError) as failure:
            pool.ask(QUESTION, b"leave")
        assert (failure.value.status, "ZeroDivisionError" in str(failure.value)) == (422, True)
        folders = [parser.folder, *(one.folder for one in pool.parsers)]
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize(
    ("content", "limits", "text"),
    [
        (b"sleep", Limits(parsers=1, parse_s=2), "longer than 2 s"),
        (b"hang", Limits(parsers=1, parse_s=30, parse_cpu_s=1), "exceeded a limit"),
        (b"eat", Limits(parsers=1, parse_bytes=300_000_000), "300 MB of memory"),
    ],
)
def test_a_file_beyond_a_limit_is_given_up_and_the_next_one_is_read(
    hostile: None, files: dict[str, bytes], content: bytes, limits: Limits, text: str
) -> None:
    with ParserPool(limits) as pool:
        (before,) = (parser.pid for parser in pool.parsers)
        with pytest.raises(ParserError) as failure:
            pool.ask(QUESTION, content)
        assert failure.value.status == 503
        assert text in str(failure.value)
        wait_for_parser(pool)
        assert pool.ask(QUESTION, files["sinus_rhythm.xml"])[0]["status"] == 200
        assert [parser.pid for parser in pool.parsers] != [before]


def wait_for_parser(pool: ParserPool) -> None:
    """Wait until a process is ready again; on a loaded machine it needs longer than the limit of an upload."""
    deadline = time.monotonic() + 60
    while pool._idle.empty() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_killed_process_is_replaced(files: dict[str, bytes]) -> None:
    with ParserPool(Limits(parsers=1, parse_s=60)) as pool:
        (parser,) = pool.parsers
        os.kill(parser.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while parser.is_alive and time.monotonic() < deadline:
            time.sleep(0.05)
        assert pool.ask(QUESTION, files["sinus_rhythm.xml"])[0]["status"] == 200
        assert parser not in pool.parsers
        assert not parser.folder.exists()


def test_when_all_are_busy_the_next_one_is_refused_in_time(hostile: None) -> None:
    with ParserPool(Limits(parsers=1, parse_s=2)) as pool:
        started = time.monotonic()
        errors: list[str] = []

        def ask() -> None:
            try:
                pool.ask(QUESTION, b"sleep")
            except ParserError as error:
                errors.append(str(error))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == 3
        assert any("too many files" in text for text in errors)
        assert time.monotonic() - started < 30


def test_a_parser_imports_no_torch() -> None:
    with ParserPool(Limits(parsers=1)) as pool:
        (parser,) = pool.parsers
        maps = Path(f"/proc/{parser.pid}/maps")
        if not maps.is_file():
            pytest.skip("this system does not list the libraries of a process")
        assert "libtorch" not in maps.read_text()


def test_a_message_without_pickle_survives_and_a_cut_one_is_an_error(tmp_path: Path) -> None:
    from leadwise.serve.frames import FrameError, read_frame, write_frame

    path = tmp_path / "frame"
    with path.open("wb") as file:
        write_frame(file, {"a": [1, None, "µ"]}, [b"", b"\0" * 10])
    content = path.read_bytes()
    with path.open("rb") as file:
        assert read_frame(file) == ({"a": [1, None, "µ"]}, [b"", b"\0" * 10])
        assert read_frame(file) is None
    for n in range(1, len(content)):
        path.write_bytes(content[:n])
        with path.open("rb") as file, pytest.raises(FrameError):
            read_frame(file)
