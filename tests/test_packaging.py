"""What is published states the same as pyproject.toml: the conda recipe, the container, the types."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import leadwise

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # other than on PyPI


def test_the_conda_recipe_has_the_dependencies_of_the_wheel() -> None:
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load((ROOT / "packaging/recipe.yaml").read_text(encoding="utf-8"))
    wanted = {f"python {PROJECT['requires-python']}"}
    for dependency in PROJECT["dependencies"]:
        name, version = re.fullmatch(r"([\w.-]+)(.*)", dependency).groups()  # type: ignore[union-attr]
        wanted.add(f"{CONDA_NAMES.get(name, name)} {version}")
    assert set(recipe["requirements"]["run"]) == wanted
    assert recipe["context"]["version"] == leadwise.__version__
    assert recipe["about"]["license"] == PROJECT["license"]


def test_the_container_copies_what_exists_and_installs_extras_that_exist() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "*"
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for word in line.split()]
    assert copied
    for word in copied:
        assert (ROOT / word).exists(), word
        assert f"!{word}" in ignored, word
    extras = re.search(r"^ARG EXTRAS=(.*)$", text, re.MULTILINE)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert text.index("USER leadwise") < text.index("ENTRYPOINT")  # no root


def test_types_are_published() -> None:
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert (ROOT / "leadwise/py.typed").is_file()


PUBLISHED = ("leadwise", "configs", "README.md", "LICENSE", "CHANGELOG.md")
BUILT_FROM = (*PUBLISHED, "pyproject.toml", ".gitignore")


def test_files_that_lie_in_the_working_tree_are_not_published(tmp_path: Path) -> None:
    """Cohorts, runs and tables of reports, under any name; a file inside the package stops the release."""
    pytest.importorskip("hatchling", reason="pip install hatchling")
    project = tmp_path / "project"
    project.mkdir()
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "model.safetensors")
            shutil.copytree(ROOT / name, project / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, project)
    tracked = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    mark = b"Xylophonequartz in a report"
    for folder in ("cohorts/a", "runs/a", "demo/cohort", "torture/leaks.work", "data", "data/leadwise", "data/configs"):
        (project / folder).mkdir(parents=True)
        for name in ("README.md", "LICENSE", "CHANGELOG.md", "reports.csv", "index.parquet", "config.toml"):
            (project / folder / name).write_bytes(mark)

    built = build(project, tmp_path / "dist")
    contents = {name: content for one in built.values() for name, content in one.items()}
    assert not [name for name, content in contents.items() if mark in content]
    sdist, wheel = built[".gz"], built[".whl"]
    assert set(sdist) - {"PKG-INFO"} == tracked
    package = {name for name in tracked if name.startswith("leadwise/")}
    assert {name for name in wheel if not name.startswith(f"leadwise-{leadwise.__version__}.dist-info/")} == package

    # the release compares what was built with what is tracked
    release = release_tool()
    release.check_tracked(tmp_path / "dist", tracked)
    (project / "leadwise" / "reports.csv").write_bytes(mark)
    build(project, tmp_path / "again")
    with pytest.raises(
        release.ReleaseError, match=r"leadwise/reports\.csv would be published and is not tracked by git"
    ):
        release.check_tracked(tmp_path / "again", tracked)


def build(project: Path, out: Path) -> dict[str, dict[str, bytes]]:
    """Build sdist and wheel, and return the files of each by its suffix."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    with tarfile.open(sdist) as packed:
        source = {one.name.partition("/")[2]: packed.extractfile(one).read() for one in packed if one.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        return {".gz": source, ".whl": {name: archive.read(name) for name in archive.namelist()}}


def release_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
