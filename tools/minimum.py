"""Run the tests with the lowest versions that pyproject.toml allows, in an environment of its own: `.minimum`.

    python3 tools/minimum.py                 # the tests that are not slow
    python3 tools/minimum.py tests/test_cohort.py

uv chooses the versions: of each direct requirement the lowest that fits the others. torch is the pinned one of constraints.txt,
since each of its builds pulls gigabytes. Development tools have their newest versions.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".minimum"
EXTRAS = ("cluster", "formats", "cmr", "datasets", "reports", "onnx", "reports-llm", "serve", "index")
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "httpx", "pyedflib", "hatchling")
NOT_FOR_CPU = re.compile(r"(nvidia|cuda|triton|torch)\b")


def lowest(python: Path) -> list[str]:
    """The lowest versions, as lines name==version."""
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    solved = subprocess.run(
        [python, "-m", "uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header", "--resolution", "lowest-direct",
         "--constraint", "constraints.txt", *extras, "pyproject.toml"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return [line for line in solved.splitlines() if "==" in line and not NOT_FOR_CPU.match(line)]


def main() -> int:
    """Set up the environment and run the tests; return their exit code."""
    python = FOLDER / "bin" / "python"
    if not python.exists():
        venv.create(FOLDER, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "uv"], check=True)
    versions = lowest(python)
    print("\n".join(versions))
    with tempfile.TemporaryDirectory() as folder:
        limits = Path(folder) / "lowest.txt"
        limits.write_text("\n".join(versions) + "\n" + (ROOT / "constraints.txt").read_text())
        plain = ["--extra-index-url", "https://download.pytorch.org/whl/cpu", "--retries", "1", "--timeout", "10"]
        subprocess.run([*pip, "-c", limits, "torch", *plain], check=True)
        subprocess.run([*pip, "-c", limits, "-e", f"{ROOT}[{','.join(EXTRAS)}]", *TOOLS], check=True)
    tests = sys.argv[1:] or ["-n", "auto", "--dist", "loadfile", "-m", "not slow"]
    return subprocess.run([python, "-m", "pytest", *tests], cwd=ROOT).returncode


if __name__ == "__main__":
    raise SystemExit(main())
