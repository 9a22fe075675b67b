"""What a parser runs: read uploads from standard input, one at a time, and answer on standard output.

    python -m leadwise.serve.parser_process SETTINGS

The process has its own limits of memory and processor time, writes into its scratch folder only, and logs nothing. It ends
when standard input ends, after an upload that needed too much memory, or by a signal of a limit.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.batch import LEADS
from leadwise.data import measurements
from leadwise.data.formats import reading
from leadwise.data.recordings.recording import RecordError
from leadwise.serve.comparison import compare_ecgs
from leadwise.serve.frames import read_frame, write_frame
from leadwise.serve.settings import Limits
from leadwise.serve.tracing import read_answer
from leadwise.serve.upload import TooLargeError, UploadFacts, message, open_pair, open_upload

Answer = tuple[dict[str, Any], list[bytes]]

_GRACE_S = 5  # after the server's own time limit, in case the server is gone


def main() -> None:
    """Answer uploads until standard input ends."""
    settings = json.loads(sys.argv[1])
    limits, folder = Limits(**settings["limits"]), Path(settings["folder"])

    # libraries that print must not reach the answers; nothing is logged, because messages may quote a file
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    logging.disable(logging.CRITICAL)
    _warm_up()
    _limit_memory(limits)
    write_frame(answers, {"ready": True})
    try:
        while (frame := read_frame(questions)) is not None:
            table, blobs = frame
            _limit_time(limits)
            answer = _answer(table, blobs, folder, limits)
            signal.setitimer(signal.ITIMER_REAL, 0)
            write_frame(answers, *answer)
            if answer[0].get("is_last"):
                return
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answer(table: dict[str, Any], blobs: list[bytes], folder: Path, limits: Limits) -> Answer:
    """Return the answer to one question; with `is_last`, the process ends after it."""
    try:
        leads = table["facts"].get("leads")
        facts = UploadFacts(**{**table["facts"], "leads": None if leads is None else tuple(leads)})
        return _KINDS[table["kind"]](blobs[0], facts, folder, limits)
    except TooLargeError as error:
        return {"status": 413, "error": message(error, folder)}, []
    except RecordError as error:
        return {"status": 422, "error": message(error, folder)}, []
    except MemoryError:
        text = f"the file needs more than {limits.parse_bytes / 1e6:g} MB of memory to be read and was given up"
        return {"status": 503, "error": text, "is_last": True}, []
    except Exception as error:  # a reader has a fault: the user reads that it failed, and the process is replaced
        text = f"the file cannot be read ({type(error).__name__}); export it again"
        return {"status": 422, "error": text, "is_last": True}, []
    finally:
        _empty(folder)


def _read(content: bytes, facts: UploadFacts, folder: Path, limits: Limits) -> Answer:
    ecg = open_upload(content, facts, folder, limits)
    return {"status": 200}, [json.dumps(read_answer(ecg, limits), allow_nan=False).encode()]


def _signal(content: bytes, facts: UploadFacts, folder: Path, limits: Limits) -> Answer:
    ecg = open_upload(content, facts, folder, limits)
    values = np.ascontiguousarray(ecg.twelve.signal, dtype="<f8")
    return {"status": 200, "rate_hz": ecg.rate_hz, "refusal": ecg.refusal}, [values.tobytes()]


def _compare(content: bytes, facts: UploadFacts, folder: Path, limits: Limits) -> Answer:
    pair = open_pair(content, facts, folder, limits)
    table = {"status": 200, "rates_hz": [ecg.rate_hz for ecg in pair], "refusals": [ecg.refusal for ecg in pair]}
    text = json.dumps(compare_ecgs(*pair, limits), allow_nan=False).encode()
    return table, [text, *(np.ascontiguousarray(ecg.twelve.signal, dtype="<f8").tobytes() for ecg in pair)]


_KINDS: dict[str, Callable[[bytes, UploadFacts, Path, Limits], Answer]] = {
    "read": _read,
    "signal": _signal,
    "compare": _compare,
}


def _warm_up() -> None:
    """Import what reading needs, so that the first upload is as fast as the others."""
    reading.all_formats()
    time_s = np.arange(5000) / 500
    wave = np.sin(2 * np.pi * time_s) ** 63
    measurements.measure(np.tile(wave, (len(LEADS), 1)), LEADS, 500.0)


def _limit_memory(limits: Limits) -> None:
    """Limit the address space to what is used now and `parse_bytes`; no core file, no large file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.unpacked_bytes + limits.upload_bytes,) * 2)
    status = Path("/proc/self/statm")
    if status.is_file():  # elsewhere the system does not count it
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + limits.parse_bytes,) * 2)


def _limit_time(limits: Limits) -> None:
    """Limit the processor time of the next upload; and its wall clock, if the server is gone."""
    most = math.ceil(time.process_time()) + limits.parse_cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_REAL, limits.parse_s + _GRACE_S)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
