"""An attack on published files: try all numbers as names of patients, hashed as leadwise hashes them, and look for the hashes.

The attacker has the source of leadwise, and takes every hexadecimal text in the files for a possible salt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tomli_w
from command_line import invoke
from conftest import config_table, make_batch
from evidence import Row

import leadwise
from leadwise.batch import LEADS
from leadwise.trained_on import N_DIGITS

_HEX = re.compile(rb"[0-9a-f]{%d,}" % N_DIGITS)
_DECIMALS = re.compile(rb"[0-9]+")


def texts_in(paths: Iterable[Path]) -> set[bytes]:
    """Return the hexadecimal texts of the files, of N_DIGITS digits or more."""
    return {text for path in paths for text in _HEX.findall(path.read_bytes())}


def recovered(paths: Iterable[Path], source: str, n: int, n_salted: int) -> set[str]:
    """Return the names of patients that the files give away: of 0 to `n`, also with leading zeros (8 digits).

    Args:
        n_salted: with a salt, only names below this number are tried.
    """
    texts = texts_in(paths)
    windows = {text[k : k + N_DIGITS] for text in texts for k in range(len(text) - N_DIGITS + 1)}
    known = {bytes.fromhex(window.decode()) for window in windows}
    # a text as long as a hash is one, and scores have many digits and no letter
    salts = [text for text in texts if len(text) == 32 or (len(text) > N_DIGITS and not _DECIMALS.fullmatch(text))]
    names = set(_matches(hashlib.sha256(f"{source}/".encode()), n, known))
    for salt in salts:
        names |= set(_matches(hashlib.sha256(salt + f"/{source}/".encode()), n_salted, known))
    return names


def _matches(begun: hashlib._Hash, n: int, known: set[bytes]) -> Iterator[str]:
    """Yield the names whose hash, after what is hashed already, is known."""
    for number in range(n):
        for name in (b"%d" % number, b"%08d" % number):
            digest = begun.copy()
            digest.update(name)
            if digest.digest()[: N_DIGITS // 2] in known:
                yield name.decode()


def published_files(folder: Path, patients: list[str]) -> tuple[Path, list[Path]]:
    """Train a run on 60 recordings of these patients; return its folder, and the files that a user would pass on."""
    home = folder / "source"
    home.mkdir(parents=True)
    lines = ["path,patient,report,split,label.a,label.b"]
    for k, split in enumerate(["train"] * 40 + ["val"] * 10 + ["test"] * 10):
        np.save(home / f"e{k:02d}.npy", make_batch(4, seed=k).ecg[k % 4].numpy())
        lines.append(f"e{k:02d}.npy,{patients[k // 2]},sinus rhythm.,{split},{k % 4 == 0:d},{k % 4 == 1:d}")
    (home / "ecgs.csv").write_text("\n".join(lines) + "\n")
    cohort, run, out = folder / "cohort", folder / "run", folder / "out"
    out.mkdir()
    (folder / "config.toml").write_text(tomli_w.dumps(config_table(cohort, steps=1)))
    probe = ("--task", "own", "--fractions", "1", "--save", out / "probe.safetensors", "--json", out / "probe.json")
    stated = (f"leads={','.join(LEADS)}", "rate_hz=100", "units=mV")
    commands: tuple[tuple[object, ...], ...] = (
        ("prepare", "folder", home / "ecgs.csv", *stated, "-o", cohort),
        ("pretrain", folder / "config.toml", "-o", run),
        ("probe", run, cohort, *probe),
        ("submit", out / "probe.json", "--board", out / "board.json"),
        ("card", run, cohort, "--quick", "--records", "20", "-o", out / "card.html", "--json", out / "card.json"),
        ("export", run, "-o", out / "encoder.onnx"),
    )
    for words in commands:
        done = invoke(*words, cwd=folder)
        assert done.returncode == 0, f"{words[0]}: {done.stderr}"
    leadwise.load(str(run)).save_pretrained(out / "shared")
    return run, sorted(path for path in out.rglob("*") if path.is_file())


def rows(folder: Path, n: int) -> list[Row]:
    """Try `n` numbers on what a user would pass on, and on the run folder, which stays with its owner."""
    rng = np.random.default_rng(4)
    numbers = rng.choice(n, 30, replace=False)
    patients = [f"{number:08d}" if k % 2 else f"{number}" for k, number in enumerate(numbers)]
    run, paths = published_files(folder, patients)
    names = recovered(paths, "folder", n, max(1, n // 100))
    listed = recovered([run / "trained_on.json"], "folder", 1, n)
    # a match by chance: 2n names, each among some hundred hashes of 48 bits
    faults = (f"recovered: {sorted(names)[:5]}",) if names else ()
    control = (
        () if listed == set(patients[:20]) else (f"{len(listed)} of 20 in trained_on.json, which the attack must find",)
    )
    what = "patients from a shared run, ONNX file, card, leaderboard and saved probe, by all numbers"
    own = f"{len(listed)} of 20 from trained_on.json, which is not shared"
    return [Row(what, 2 * n, faults + control, f"{len(names)} recovered from {len(paths)} files; {own}")]
