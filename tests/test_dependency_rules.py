"""The rules of the package structure: who may import whom, no circles, unique names, sizes, and a fast ``--help``."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import forked_programs
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("shards", "pipeline", "petseg", "bench")
# What each package may import of the others.
ALLOWED = {
    "shards": set[str](),
    "pipeline": {"shards"},
    "petseg": {"pipeline", "shards"},
    "bench": {"petseg", "pipeline", "shards"},
}
# What pipeline and petseg may know of shards. Images to predict are read by the audit, which decides what an image is.
# petseg/api.py, the public face, may build shards as well.
OPEN_FOLDERS = {
    "pipeline": ("shards.format", "shards.store"),
    "petseg": ("shards.format", "shards.store", "shards.audit"),
}
OPEN_MODULES = {"shards", "shards.errors", "shards.public_calls", "shards.console", "shards.cores"}
PUBLIC_FACE = {"petseg/__init__.py", "petseg/api.py"}

HEAVY = ("torch", "torchvision", "nvidia.dali", "matplotlib", "datasets", "webdataset", "scipy")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

MAX_LINES, MAX_TEST_LINES, MAX_ENTRIES = 300, 400, 13
# Module names that stand in several packages because each package has one.
COMMON_NAMES = {"__init__", "__main__", "cli"}


def module_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in module_files(*PACKAGES)}


def imported_names(path: Path) -> set[str]:
    """Return the modules that a file imports, at its top, inside functions or for type checkers only."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # ``from folder import module`` imports the module.
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in whole}
    return names


def find_circle(graph: dict[str, set[str]]) -> list[str] | None:
    """Return the nodes of one circle of a graph, or None; depth-first search."""
    done: set[str] = set()
    path: list[str] = []

    def visit(node: str) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        path.append(node)
        for target in sorted(graph.get(node, ())):
            circle = visit(target)
            if circle:
                return circle
        path.pop()
        done.add(node)
        return None

    for start in sorted(graph):
        circle = visit(start)
        if circle:
            return circle
    return None


def folder_of(module: str) -> str:
    """Return the folder that a module stands in; modules of the top level are folders of their own."""
    parts = module.split(".")
    inside = [".".join(parts[:2])] if len(parts) > 2 or MODULES[module].name == "__init__.py" else []
    return inside[0] if inside and len(parts) > 1 else module


GRAPH = {name: {other for other in imported_names(path) if other in MODULES} for name, path in MODULES.items()}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_in_one_direction(package: str) -> None:
    for name, path in MODULES.items():
        if name.split(".")[0] != package:
            continue
        others = {module.split(".")[0] for module in imported_names(path)} & set(PACKAGES)
        assert others <= {package, *ALLOWED[package]}, path.relative_to(ROOT)


@pytest.mark.parametrize("package", ["pipeline", "petseg"])
def test_of_shards_only_the_format_is_used(package: str) -> None:
    for path in module_files(package):
        if path.relative_to(ROOT).as_posix() in PUBLIC_FACE:
            continue
        of_shards = {module for module in imported_names(path) if module.split(".")[0] == "shards"}
        closed = {m for m in of_shards if m not in OPEN_MODULES and not m.startswith(OPEN_FOLDERS[package])}
        assert not closed, f"{path.relative_to(ROOT)} imports {sorted(closed)}"


def test_no_module_imports_itself_in_a_circle() -> None:
    assert find_circle(GRAPH) is None


def test_no_folder_imports_itself_in_a_circle() -> None:
    folders: dict[str, set[str]] = {}
    for name, targets in GRAPH.items():
        home = folder_of(name)
        folders.setdefault(home, set()).update(folder_of(target) for target in targets)
    graph = {home: targets - {home} for home, targets in folders.items()}
    assert find_circle(graph) is None


def test_circles_are_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def stem(name: str) -> str:
    """Return a module's name without what only inflects its last word: predict, predictor and prediction are one."""
    return re.sub(r"(ions?|ors?|ers?|ings?|ed|es|s|e)$", "", name)


def test_module_names_are_unique() -> None:
    names = Counter(path.stem for path in MODULES.values() if path.stem not in COMMON_NAMES)
    assert not [name for name, count in names.items() if count > 1]
    stems = Counter(stem(name) for name in names)
    assert not [name for name in names if stems[stem(name)] > 1]


def test_public_classes_are_unique() -> None:
    classes: Counter[str] = Counter()
    for path in MODULES.values():
        tree = ast.parse(path.read_text())
        classes.update(n.name for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_"))
    assert not [name for name, count in classes.items() if count > 1]


def test_files_and_folders_are_small() -> None:
    too_long = [path for path in MODULES.values() if len(path.read_text().splitlines()) > MAX_LINES]
    too_long += [path for path in module_files("tests") if len(path.read_text().splitlines()) > MAX_TEST_LINES]
    assert not too_long
    folders = {path.parent for path in [*MODULES.values(), *module_files("tests")]}
    full = {}
    for folder in folders:
        entries = [entry.name for entry in folder.iterdir() if entry.name not in ("__pycache__", "py.typed")]
        if len(entries) > MAX_ENTRIES:
            full[str(folder.relative_to(ROOT))] = len(entries)
    assert not full


def test_every_folder_says_what_it_is_for_and_exports_its_names() -> None:
    for path in MODULES.values():
        if path.name == "__init__.py":
            tree = ast.parse(path.read_text())
            assert len(ast.get_docstring(tree) or "") > 60, path
            assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
            names = {name.id for name in ast.walk(ast.Module(body=list(map(ast.Expr, assigned)), type_ignores=[]))
                     if isinstance(name, ast.Name)}  # fmt: skip
            assert "__all__" in names, path


def test_exported_names_exist() -> None:
    """In a process of its own, since it loads everything that exists."""
    folders = [name for name, path in MODULES.items() if path.name == "__init__.py"]
    program = f"""
from importlib import import_module
for folder in map(import_module, {folders!r}):
    for name in folder.__all__:
        getattr(folder, name)
"""
    forked_programs.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_without_loading_heavy_packages(script: str) -> None:
    module, function = SCRIPTS[script].split(":")
    program = (
        f"import sys; from {module} import {function} as command\n"
        "try:\n    command(['--help'])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Usage:")


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_is_light(package: str) -> None:
    program = f"import sys, {package}; assert not [n for n in {HEAVY!r} if n in sys.modules]"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("hidden", ["pipeline.py", "shards.py", "pipeline/__init__.py"])
def test_a_file_that_hides_a_package_is_named(hidden: str, tmp_path: Path) -> None:
    """A user's own pipeline.py or shards.py in the working directory comes first on Python's path."""
    file = tmp_path / hidden
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    result = subprocess.run(
        [sys.executable, "-c", "from petseg import Loader"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith("ImportError: ")
    assert str(file) in last
    assert "rename" in last


def test_a_folder_of_data_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    program = "from petseg import Loader, ShardSet"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_the_packages_say_that_they_are_typed() -> None:
    """A type checker takes all of an installed package for ``Any`` without the file."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in ("petseg", "pipeline", "shards"):
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in data[package]
