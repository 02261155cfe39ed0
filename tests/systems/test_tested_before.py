"""``make check-versions`` goes on where it was broken off."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import forked_programs

HELPERS = Path(forked_programs.__file__).parent
TESTS = """
import os, pathlib
def test_passes(): pass
def test_fails(): assert pathlib.Path("repaired").exists()
def test_ends(): pathlib.Path("repaired").exists() or os._exit(9)
def test_later(): pass
"""


def test_what_has_passed_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    outcomes = tmp_path / "some.jsonl"
    environment = {**os.environ, "PYTHONPATH": f"{HELPERS}"}

    def run(*arguments: str | Path) -> tuple[int, str]:
        done = forked_programs.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return done.returncode, done.stdout

    def test() -> None:
        run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tested_before", f"--outcomes={outcomes}", tmp_path)

    test()
    code, said = run(HELPERS / "tested_before.py", outcomes)
    assert code == 1
    assert said.splitlines()[0] == "some: 1 passed, 1 failed, 2 not run"
    assert "  failed: test_some.py::test_fails\n  not run: test_some.py::test_ends\n" in said
    (tmp_path / "repaired").touch()
    (tmp_path / "test_some.py").write_text(TESTS.replace("def test_passes(): pass", "def test_passes(): assert 0"))
    test()
    code, said = run(HELPERS / "tested_before.py", outcomes)
    assert (code, said.splitlines()[0]) == (0, "some: 4 passed")
