"""Output whose reader is gone is dropped, and said once."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from petseg.host.lasting_output import LastingOutput


def test_a_closed_pipe() -> None:
    read, write = os.pipe()
    stream, reasons = os.fdopen(write, "w"), list[str]()
    output = LastingOutput(stream, on_failure=reasons.append)
    assert output.write("one\n") == 4
    output.flush()
    os.close(read)
    for _ in range(3):
        assert output.write("two\n") == 4
        output.flush()
    assert reasons == ["Broken pipe"]
    assert output.fileno() == write
    stream.close()  # nothing is left that could not be written


@pytest.mark.parametrize("both", [False, True], ids=["stdout", "both"])
def test_a_program_whose_reader_is_gone(both: bool, tmp_path: Path) -> None:
    program = """
from pathlib import Path
import click
from petseg.host.lasting_output import lasting_output
with lasting_output("work goes on"):
    for number in range(2000):
        click.echo(f"line {number}")
        click.echo("note", err=True)
Path("done").write_text("yes")
"""
    shell = f"{shlex.quote(sys.executable)} -c '{program}' {'2>&1' if both else ''} | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path)
    assert (tmp_path / "done").read_text() == "yes"
    assert result.stdout.splitlines()[0] == "line 0"
    assert result.stdout.splitlines()[-1] == "0"
    assert result.stderr.count("Broken pipe; work goes on") == (0 if both else 1)
    assert "Traceback" not in result.stderr
