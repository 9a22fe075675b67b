"""The language of the code: plain technical English, and variable names that say what they hold (see CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("leadwise", "benchmarks", "tests", "tools")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").glob("*.toml")])
DOCUMENTS = [path for path in DOCUMENTS if "_build" not in path.parts]

ACTS = {
    "asked",
    "found",
    "heard",
    "kept",
    "made",
    "said",
    "seen",
    "shown",
    "told",
}  # a variable is named for what it holds
PHRASES = re.compile(
    r"\b(told|said|heard|whom|wants?|learnt|unlearnt|nobody|somebody|asked|stands|lies|house|rooms?)\b", re.IGNORECASE
)
PROSE = (tokenize.STRING, tokenize.COMMENT)
# names that files on disk contain: a field of the ledger in cohort.json, a key of the audit's and the probe's JSON
PERSISTED_NAMES, PERSISTED_KEYS = {"kept"}, {'"said"'}


def names_of_acts(tree: ast.AST) -> list[str]:
    """Variables, parameters, functions and classes whose name is an act."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
    return [name for name in names if name.strip("_") in ACTS]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_what_they_hold(path: Path) -> None:
    allowed = PERSISTED_NAMES if path.name == "layout.py" else set()
    assert not set(names_of_acts(ast.parse(path.read_text(encoding="utf-8")))) - allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_comments_and_messages_are_plain(path: Path) -> None:
    if path == Path(__file__):
        return
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in PROSE and token.string not in PERSISTED_KEYS:
            assert not PHRASES.findall(token.string), f"line {token.start[0]}: {token.string[:200]}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_are_plain(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        assert not PHRASES.findall(line), f"line {number}: {line}"
