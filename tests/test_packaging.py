"""What is published states the same as pyproject.toml: the conda recipe, the container, the types."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

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
