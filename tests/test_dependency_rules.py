"""Rules that hold for the whole house: which package may import which, and what --help may load."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("shards", "pipeline", "petseg", "bench")
# What each package may import of the others. shards.errors and shards.console are everybody's.
ARROWS = {
    "shards": set[str](),
    "pipeline": {"shards"},
    "petseg": {"pipeline", "shards"},
    "bench": {"petseg", "pipeline", "shards"},
}
# The format and how to open a set: all that the packages above may know of shards. bench also packs sets to time it.
FORMAT_MODULES = {
    "shards",
    "shards.console",
    "shards.errors",
    "shards.store.atomic",
    "shards.format.layout",
    "shards.format.manifest",
    "shards.format.dataset",
}
HEAVY = ("torch", "torchvision", "nvidia.dali", "matplotlib", "datasets", "webdataset")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def imported_modules(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports, at its top or inside functions."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
    return modules


def module_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_go_one_way(package: str) -> None:
    for path in module_files(package):
        ours = {module for module in imported_modules(path) if module.split(".")[0] in PACKAGES}
        foreign = {module for module in ours if module.split(".")[0] not in {package, *ARROWS[package]}}
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


@pytest.mark.parametrize("package", ["pipeline", "petseg"])
def test_of_shards_only_the_format_is_used(package: str) -> None:
    for path in module_files(package):
        of_shards = {module for module in imported_modules(path) if module.split(".")[0] == "shards"}
        assert of_shards <= FORMAT_MODULES, f"{path.relative_to(ROOT)} imports {sorted(of_shards - FORMAT_MODULES)}"


def test_every_package_says_what_it_does_and_exports_its_names() -> None:
    for package in PACKAGES:
        tree = ast.parse((ROOT / package / "__init__.py").read_text())
        assert len(ast.get_docstring(tree) or "") > 30, package
        names = {
            t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)
        }
        assert "__all__" in names, package


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


@pytest.mark.parametrize("package", ["pipeline", "petseg"])
def test_importing_a_package_is_light(package: str) -> None:
    program = f"import sys, {package}; assert not [n for n in {HEAVY!r} if n in sys.modules]"
    subprocess.run([sys.executable, "-c", program], check=True)
