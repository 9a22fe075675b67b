"""Build what a release consists of and check it: `make release`. It publishes nothing.

dist/leadwise-*.tar.gz, *.whl   built twice; the two builds must be equal, byte for byte
dist/sbom.cdx.json              CycloneDX list of the packages that a user's install has
dist/licences.md                the licence of each of them
dist/audit.txt                  known vulnerabilities of these versions, from pip-audit

The lists describe an environment into which only the wheel is installed, with all extras but the developers'. Standard library
only: tools are installed into environments of their own, in .release.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
FOLDER = ROOT / ".release"
TOOLS = ("build>=1.2,<2", "twine>=6,<8", "cyclonedx-bom>=7,<8", "pip-licenses>=5,<6", "pip-audit>=2.9,<3")
NOT_FOR_USERS = ("dev", "docs", "bench", "croissant-check")  # extras that only developers install


class ReleaseError(Exception):
    """A check of the release failed."""


def run(*command: str | Path, epoch: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command and return its output.

    Raises:
        ReleaseError: it failed; the message has the end of what it printed.
    """
    environment = {**os.environ, **({"SOURCE_DATE_EPOCH": epoch} if epoch else {})}
    done = subprocess.run([str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ReleaseError(f"{' '.join(map(str, command))} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done


def environment(name: str) -> Path:
    """Return the bin folder of a new environment in .release."""
    folder = FOLDER / name
    venv.EnvBuilder(with_pip=True, clear=True).create(folder)
    return folder / ("Scripts" if os.name == "nt" else "bin")


def hashes(folder: Path) -> dict[str, str]:
    """Return file name -> SHA-256 of the files of a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def build_twice(tools: Path, out: Path) -> dict[str, str]:
    """Build sdist and wheel twice, write them to `out`, and return their hashes.

    Raises:
        ReleaseError: the two builds differ.
    """
    epoch = run("git", "log", "-1", "--format=%ct").stdout.strip()
    built: list[dict[str, str]] = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as part:
            run(tools / "python", "-m", "build", "--outdir", part, epoch=epoch)
            built.append(hashes(Path(part)))
            for path in Path(part).iterdir():
                shutil.copy2(path, out / path.name)
    if built[0] != built[1]:
        changed = [name for name, value in built[0].items() if built[1].get(name) != value]
        raise ReleaseError(f"two builds of the same commit differ: {', '.join(changed)}")
    return built[0]


def check_tracked(folder: Path, tracked: set[str]) -> None:
    """Check that all files of the sdist and of the wheel in a folder are tracked by git, or made by the build.

    Raises:
        ReleaseError: one is not; it may be data or a run that was left in the working tree.
    """
    members: set[str] = set()
    for path in folder.glob("*.tar.gz"):
        with tarfile.open(path) as archive:
            members |= {one.name.partition("/")[2] for one in archive.getmembers() if not one.isdir()} - {"PKG-INFO"}
    for path in folder.glob("*.whl"):
        with zipfile.ZipFile(path) as wheel:
            members |= {name for name in wheel.namelist() if not name.partition("/")[0].endswith(".dist-info")}
    others = sorted(members - tracked)
    if others:
        raise ReleaseError(
            f"{', '.join(others[:5])} would be published and {'is' if len(others) == 1 else 'are'} not tracked by git; move it "
            "out of the working tree, or add it"
        )


def install_as_user(wheel: Path) -> Path:
    """Install the wheel with the extras that users install, and return the environment's bin folder."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = [name for name in pyproject["project"]["optional-dependencies"] if name not in NOT_FOR_USERS]
    user = environment("user")
    pip = [user / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constrain = ["-c", ROOT / "constraints.txt"]
    plain = ["--extra-index-url", "https://download.pytorch.org/whl/cpu", "--retries", "1", "--timeout", "10"]
    run(*pip, *constrain, "torch", *(plain if sys.platform == "linux" else []))
    run(*pip, *constrain, f"leadwise[{','.join(extras)}] @ {wheel.as_uri()}")
    return user


def main() -> int:
    if run("git", "status", "--porcelain", "--untracked-files=no").stdout.strip():
        print("the working tree has changes that are not committed; commit them, since a release is of one commit")
        return 1
    try:
        shutil.rmtree(DIST, ignore_errors=True)
        DIST.mkdir()
        print("tools ...", flush=True)
        tools = environment("tools")
        run(tools / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *TOOLS)
        print("build, twice ...", flush=True)
        built = build_twice(tools, DIST)
        check_tracked(DIST, set(run("git", "ls-files", "-z").stdout.split("\0")))
        run(tools / "python", "-m", "twine", "check", "--strict", *(DIST / name for name in built))
        print("install as a user does ...", flush=True)
        wheel = next(DIST.glob("*.whl"))
        user = install_as_user(wheel)
        run(user / "leadwise", "--help")
        python = user / "python"
        run(tools / "cyclonedx-py", "environment", "--output-reproducible", "-o", DIST / "sbom.cdx.json", python)
        n_components = len(json.loads((DIST / "sbom.cdx.json").read_text(encoding="utf-8"))["components"])
        licences = run(tools / "pip-licenses", f"--python={python}", "--format=markdown", "--order=license").stdout
        (DIST / "licences.md").write_text(licences, encoding="utf-8")
        audit = audit_user(tools, user)
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    for name, value in built.items():
        print(f"{value}  {name}")
    print(f"two equal builds; twine: passed; {n_components} packages in sbom.cdx.json; audit: {audit}")
    return 0


def audit_user(tools: Path, user: Path) -> str:
    """Write the audit of the user's environment, and return one line on its result.

    Raises:
        ReleaseError: a package has a known vulnerability.
    """
    site = run(user / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    command = [str(tools / "pip-audit"), "--path", site, "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    (DIST / "audit.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise ReleaseError("pip-audit gave no result; see dist/audit.txt") from None
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    bad = [one["name"] for one in packages if one.get("vulns")]
    if bad:
        raise ReleaseError(f"known vulnerabilities in {', '.join(bad)}; see dist/audit.txt")
    return f"no known vulnerability in {len(packages) - len(skipped)} packages, {len(skipped)} could not be audited"


if __name__ == "__main__":
    raise SystemExit(main())
