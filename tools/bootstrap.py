"""Set up the virtual environment, then run one command in it. Standard library only: it runs before anything is installed.

    python3 tools/bootstrap.py -- leadwise demo

A stamp in the environment holds the hash of pyproject.toml and constraints.txt, so a second call is instant.
LEADWISE_VENV names another folder than .venv.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("LEADWISE_VENV", ROOT / ".venv"))
BIN = FOLDER / ("Scripts" if os.name == "nt" else "bin")


def set_up() -> None:
    """Create the environment and install leadwise with its development tools, unless that is done already."""
    recipe = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        recipe.update((ROOT / name).read_bytes())
    recipe.update(str(ROOT).encode())  # the install is editable: it points at this folder
    stamp = FOLDER / "leadwise.stamp"
    if stamp.exists() and stamp.read_text() == recipe.hexdigest():
        return
    if not (BIN / "python").exists() and not (BIN / "python.exe").exists():
        venv.create(FOLDER, with_pip=True)
    pip = [str(BIN / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constrain = ["-c", str(ROOT / "constraints.txt")]
    print(f"setting up {FOLDER} (once, a few minutes) ...", flush=True)
    # torch first and pinned: everything after it then accepts the build that is already there. Linux wheels of the public
    # index carry gigabytes of CUDA; torch's own index has the plain build, which pip prefers. Where that index is out of
    # reach, whatever the usual one has.
    plain = ["--extra-index-url", "https://download.pytorch.org/whl/cpu", "--retries", "1", "--timeout", "10"]
    subprocess.run([*pip, *constrain, "torch", *(plain if sys.platform == "linux" else [])], check=True)
    subprocess.run([*pip, *constrain, "-e", f"{ROOT}[dev]"], check=True)
    stamp.write_text(recipe.hexdigest())


def main() -> int:
    if sys.version_info < (3, 11):
        print("leadwise needs Python 3.11 or newer; this is " + sys.version.split()[0], file=sys.stderr)
        return 2
    command = sys.argv[2:] if sys.argv[1:2] == ["--"] else sys.argv[1:]
    set_up()
    if not command:
        return 0
    program = BIN / command[0]
    return subprocess.run([str(program), *command[1:]], cwd=ROOT).returncode


if __name__ == "__main__":
    raise SystemExit(main())
