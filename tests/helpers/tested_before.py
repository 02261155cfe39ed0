"""A pytest plugin for long runs: outcomes are kept in a file, and a run that was broken off goes on where it was.

``pytest -p tested_before --outcomes=FILE`` leaves out the tests that FILE says have passed, or were skipped, with the
same Python, packages and sources. ``python tests/helpers/tested_before.py FILE...`` prints what has passed, failed and
not been run, and exits with 1 unless all have passed.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections import Counter
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DONE = ("passed", "skipped")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, help="where outcomes are kept; tests that have passed are left out")
    parser.addoption("--other-commits", action="store_true", help="also those that have passed with other sources")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--outcomes")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(config, path.absolute()), "outcomes")


@pytest.hookimpl(trylast=True)  # after those that other options leave out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    outcomes = config.pluginmanager.get_plugin("outcomes")
    done = set(config.workerinput["done"] if hasattr(config, "workerinput") else outcomes.done if outcomes else ())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]
    if outcomes:
        outcomes.collected(items)


class Outcomes:
    """The file: a line for each session, with its state; for the tests it begins with; and for each outcome."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        state = {"python": platform.python_version(), "packages": packages(), "commit": commit()}
        other = config.getoption("--other-commits")
        self.done = [
            test
            for test, (outcome, of) in read(path).items()
            if outcome in DONE and all(of[name] == state[name] for name in state if name != "commit" or not other)
        ]
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._write(**state)

    def collected(self, items: list[pytest.Item]) -> None:
        self._write(collected=[item.nodeid for item in items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:  # of pytest-xdist: a worker process
        node.workerinput["done"] = self.done

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._write(collected=ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self._write(test=report.nodeid, outcome=report.outcome)

    def _write(self, **line: Any) -> None:
        self._file.write(json.dumps(line) + "\n")


def read(path: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Return each test's last outcome, "not run" for those that a session began with, and the session's state."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    state: dict[str, str] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        line = json.loads(text)
        if "python" in line:
            state = line
        elif "test" in line:
            found[line["test"]] = line["outcome"], state  # a clean-up that fails comes after its test
        else:  # what has been tested with other packages or sources is to be run again
            found |= dict.fromkeys(line["collected"], ("not run", state))
    return found


def packages() -> str:
    """Return a digest of the versions of all packages, but of petseg itself."""
    found = sorted({f"{each.name}=={each.version}" for each in distributions() if each.name != "petseg"})
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]


def commit() -> str:
    """Return the commit, with a digest of what was changed since."""
    try:
        name, changes = (
            subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout
            for arguments in (("rev-parse", "--short", "HEAD"), ("diff", "HEAD"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.decode().strip() + (f"+{hashlib.sha256(changes).hexdigest()[:6]}" if changes else "")


def main() -> None:
    clean, lines = True, list[str]()
    for path in map(Path, sys.argv[1:]):
        outcomes = read(path)
        counts = Counter(outcome for outcome, _ in outcomes.values())
        clean = clean and set(counts) <= {*DONE} and bool(outcomes)
        lines.append(f"{path.stem}: " + (", ".join(f"{number} {what}" for what, number in counts.items()) or "nothing"))
        for python, versions, source in sorted({tuple(state.values()) for _, state in outcomes.values()}):
            lines.append(f"  with Python {python}, packages {versions}, commit {source}")
        lines += [f"  {what}: {test}" for test, (what, _) in outcomes.items() if what not in DONE]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
