"""The layers of the package, and that its tree in CONTRIBUTING.md is true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import leadwise
from leadwise.encoders.catalogue import encoder_names

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "leadwise"

LAYERS = (  # from the top; a module imports only from layers below its own, and from its own package
    {"__main__"},
    {"cli"},
    {"serve"},
    {"reproduce"},
    {"demo"},
    {"__init__"},
    {"sklearn"},
    {"questions"},
    {"model", "generate", "synthesis", "foreign"},
    {"training"},
    {"pages"},
    {"evaluate", "hub"},
    {"ecg_inputs", "onnx_export"},
    {"run", "ecg"},
    {"methods", "encoders"},
    {"nn", "data", "pictures"},
    {"config", "distributed", "trained_on"},
    {"batch", "digests", "files", "heartbeat", "progress", "weights"},
)
LEVEL = {name: len(LAYERS) - depth for depth, layer in enumerate(LAYERS) for name in layer}
METHODS_MAY_USE = {"nn", "batch", "distributed", "config"}  # a method file; never the data, never another method
ENCODERS_MAY_USE = (
    "nn.",
    "batch.",
    "encoders.contract.",
    "encoders.positions.",
    "encoders.preprocessing.",
    "encoders.wav2vec.",
)
BY_CONTRACT = {
    ("methods", "Config"),
    ("methods", "Method"),
    ("sources", "Options"),
    ("encoders", "Encoder"),
}  # in every file
SHARED_BY_METHODS = {"catalogue", "contract", "wrapped_encoder"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Dotted names, without `leadwise.`, of what a file imports from this package, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "leadwise":
            base = node.module.removeprefix("leadwise").removeprefix(".")
            for alias in node.names:
                names.add(".".join(filter(None, [base, alias.name])))
        elif isinstance(node, ast.Import):
            names |= {a.name.removeprefix("leadwise.") for a in node.names if a.name.startswith("leadwise.")}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_layers_below_its_own(path: Path) -> None:
    inside = path.relative_to(PACKAGE)
    own = inside.parts[0].removesuffix(".py")
    for name in imported_modules(path):
        other = name.split(".")[0]
        assert other == own or other not in LEVEL or LEVEL[other] < LEVEL[own], f"{inside} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "methods").glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_a_method_imports_neither_data_nor_another_method(path: Path) -> None:
    if path.stem in SHARED_BY_METHODS:
        return
    for name in imported_modules(path):
        assert name.split(".")[0] in METHODS_MAY_USE or name.startswith(
            ("methods.contract", "methods.wrapped_encoder")
        ), f"{path.name} imports {name}"


@pytest.mark.parametrize("name", encoder_names())
def test_an_encoder_imports_neither_data_nor_another_encoder(name: str) -> None:
    for imported in imported_modules(PACKAGE / "encoders" / f"{name}.py"):
        assert imported.startswith(ENCODERS_MAY_USE), f"{name}.py imports {imported}"


def test_the_code_that_trains_names_no_method() -> None:
    names = {path.stem for path in (PACKAGE / "methods").glob("[a-z]*.py")} - SHARED_BY_METHODS
    for path in (PACKAGE / "training").glob("*.py"):
        texts = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert not names & texts, path


def test_opening_a_cohort_does_not_import_what_prepares_one() -> None:
    program = (
        "import sys; from leadwise.data.cohort.cohort import Cohort; from leadwise.data.loader import Recordings\n"
        "print(*(name for name in sys.modules if name.startswith('leadwise.data')))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    writers = {f"leadwise.data.cohort.{name}" for name in ("prepare", "shard", "index", "estimate", "executors")}
    assert "leadwise.data.cohort.cohort" in out
    assert not writers & set(out)
    assert not [name for name in out if name.startswith(("leadwise.data.formats", "leadwise.data.sources"))]


def test_a_name_is_imported_from_the_module_that_defines_it() -> None:
    """No module passes on another module's names."""
    defined: dict[str, set[str]] = {}
    for path in FILES:
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        defined[module] = {
            name.id if isinstance(name, ast.Name) else name.name
            for node in ast.parse(path.read_text()).body
            for name in ast.walk(node)
            if (isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store))
            or isinstance(name, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        }
    for path in [*FILES, *sorted((ROOT / "tests").glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.ImportFrom) and node.module in defined):
                continue
            for alias in node.names:
                assert (
                    alias.name in defined[node.module]
                    or f"{node.module}.{alias.name}" in defined
                    or (
                        node.module == "leadwise" and alias.name in leadwise.__all__  # served by leadwise.__getattr__
                    )
                ), f"{path.name} imports {alias.name} from {node.module}, which does not define it"


def test_no_two_classes_have_the_same_name() -> None:
    """Except `Config` and `Method` of every method file, `Encoder` of every encoder file, and `Options` of every source."""
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and (path.parent.name, node.name) not in BY_CONTRACT:
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert not {name: files for name, files in places.items() if len(files) > 1}


def test_no_print_outside_the_command_line_and_no_import_effect() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text())
        prints = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"]
        assert not prints or path.parent.name == "cli", path


def test_the_command_line_starts_without_torch() -> None:
    program = "import sys; from leadwise import cli; print('torch' in sys.modules, 'pandas' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_the_tree_in_contributing_is_true() -> None:
    """Every name in the tree exists, and every folder and top-level module of the package is in the tree."""
    tree = re.search(r"```tree\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    assert tree, "CONTRIBUTING.md has no ```tree block"
    written, folders = set(), ["leadwise"]
    for line in tree[1].splitlines()[1:]:
        name = re.match(r"([│ ├└─]*)(\S+)", line)
        assert name, line
        folders = [*folders[: len(name[1]) // 4], name[2].rstrip("/")]
        written.add("/".join(folders))
    assert not {name for name in written if not (ROOT / name).exists()}
    there = {str(p.relative_to(ROOT)) for p in PACKAGE.glob("*.py") if not p.name.startswith("__")}
    there |= {str(p.parent.relative_to(ROOT)) for p in FILES if p.name == "__init__.py" and p.parent != PACKAGE}
    assert there == written
