"""The law of imports, and that what the README shows is there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[1]
PACKAGE = HOUSE / "leadwise"

GROUND = {"files", "ranks"}  # every room may stand on them
LAW = {  # room -> what it may import; a room may always import itself, except papers
    "batch": set(),
    "files": set(),
    "config": {"batch"},
    "nn": {"batch"},
    "data": {"batch"},
    "pictures": {"batch"},
    "methods": {"nn", "batch"},
    "run": {"methods", "config", "batch"},
    "ranks": set(),
    "catalogue": {"methods", "batch"},
    "step": {"run", "config", "batch"},
    "pretrain": {"step", "run", "data", "config", "batch"},
    "plan": {"pretrain", "step", "run", "data", "config"},
    "check": {"data", "pictures", "run", "batch"},
    "evaluate": {"run", "data", "pictures", "batch"},
    "demo": {"pretrain", "evaluate", "pictures", "data", "config", "run", "batch"},
    "reproduce": {"demo", "plan", "pretrain", "evaluate", "pictures", "data", "config", "run", "batch"},
    "cli": {
        "catalogue",
        "reproduce",
        "check",
        "demo",
        "plan",
        "pretrain",
        "evaluate",
        "pictures",
        "data",
        "config",
        "run",
        "batch",
    },
    "__main__": {"cli"},
    "__init__": {"run"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def rooms_imported(path: Path) -> set[str]:
    """The rooms of ours that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "leadwise":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("leadwise.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_room_imports_only_what_lies_below_it(path: Path) -> None:
    inside = path.relative_to(PACKAGE)
    room = inside.parts[0].removesuffix(".py")
    allowed = LAW[room] | GROUND | (set() if room == "methods" else {room})
    assert rooms_imported(path) <= allowed


def test_no_print_outside_the_command_line_and_no_import_effect() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text())
        prints = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"]
        assert not prints or path.parent.name == "cli", path


def test_the_command_line_starts_without_torch() -> None:
    program = "import sys; from leadwise import cli; print('torch' in sys.modules, 'pandas' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_the_readme_tree_is_true() -> None:
    """Every name in the README's tree is there, and every module of the package is in the tree."""
    tree = re.search(r"```tree\n(.*?)```", (HOUSE / "README.md").read_text(), re.S)
    assert tree, "the README has no ```tree block"
    written, folders = set(), []
    for line in tree[1].splitlines()[1:]:
        name = re.match(r"([│ ├└─]*)(\S+)", line)
        assert name, line
        depth = len(name[1]) // 4
        for one in name[2].split("·"):
            folders = [*folders[: depth - 1], one.rstrip("/")]
            written.add("/".join(folders))
    missing = {name for name in written if not (HOUSE / name).exists()}
    assert not missing
    modules = {str(p.relative_to(HOUSE)) for p in FILES if p.name != "__init__.py" and p.name != "__main__.py"}
    assert modules <= written, modules - written


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_commands_in_the_documents_exist(document: str) -> None:
    from typer.main import get_command

    from leadwise.cli import app

    group = get_command(app)
    text = (HOUSE / document).read_text()
    called = re.findall(r"^\s*(?:\$ )?leadwise ([a-z]+)(.*)$", text, re.M)
    assert called or document != "README.md"
    for verb, rest in called:
        assert verb in group.commands, f"{document}: leadwise {verb}"
        command = group.commands[verb]
        if hasattr(command, "commands"):  # a verb of several, such as prompts
            below = rest.split()[0]
            assert below in command.commands, f"{document}: leadwise {verb} {below}"
            command = command.commands[below]
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
        assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest)) <= known, f"{document}: leadwise {verb}{rest}"
    for config in re.findall(r"configs/\w+\.toml", text):
        assert (HOUSE / config).is_file(), config
