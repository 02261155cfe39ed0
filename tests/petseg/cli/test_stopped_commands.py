"""SIGTERM and SIGHUP end a command wherever it is: what catches errors of files and libraries does not catch them."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from labelled_sets import smooth_image, write_untrained
from PIL import Image, ImageFile

from petseg.cli import evaluate, export, predict, train
from petseg.inference.files.image_files import read_image
from shards.console import FriendlyCommand, raise_stop_signals
from shards.errors import TerminatedError
from shards.format.builtin_labels import PETS

STOPS = [signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", STOPS)
def test_a_decoder_is_stopped(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """What Pillow raises of garbage means a damaged image, which is skipped; a signal ends the command."""
    run = write_untrained(tmp_path / "run", PETS)
    images = [smooth_image(tmp_path / f"{name}.bmp", (40, 30)) for name in "ab"]
    load = ImageFile.ImageFile.load

    def interrupted(self: Image.Image) -> Any:
        signal.raise_signal(number)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", interrupted)
    result = call(predict, run, *images, "-o", tmp_path / "out")
    assert (result.code, result.err) == (128 + number, f"Error: stopped by {number.name}\n")
    assert not any((tmp_path / "out").iterdir())


def test_what_is_predicted_stays_and_is_said(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_untrained(tmp_path / "run", PETS)
    images = [smooth_image(tmp_path / f"{name}.png", (40, 30)) for name in "abc"]

    def interrupted(path: Path) -> tuple[Image.Image, str]:
        if path == images[2]:
            signal.raise_signal(signal.SIGTERM)
        return read_image(path)

    monkeypatch.setattr("petseg.inference.files.file_jobs.read_image", interrupted)
    command = (run, *images, "-o", tmp_path / "out", "--batch-size", 1, "--no-overlay")
    result = call(predict, *command)
    kept = f"2 images predicted into {tmp_path}/out; to go on, run it again and add --skip-existing"
    assert (result.code, result.err) == (143, f"Error: stopped by SIGTERM; {kept}\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    result = call(predict, *command, "--overwrite")
    told = f"2 images predicted into {tmp_path}/out; to go on, run it again and keep --overwrite"
    assert (result.code, result.err) == (143, f"Error: stopped by SIGTERM; {told}\n")
    monkeypatch.undo()
    before = [(tmp_path / "out" / name).stat().st_mtime_ns for name in ("a.png", "b.png")]
    again = call(predict, *command, "--skip-existing")
    assert again.out == f"1 image predicted into {tmp_path}/out, 2 images that had results skipped\n"
    assert [(tmp_path / "out" / name).stat().st_mtime_ns for name in ("a.png", "b.png")] == before
    assert call(predict, *command, "--overwrite").code == 0


def stopped(*_: object, **__: object) -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("command", [evaluate, predict])
def test_reading_a_checkpoint_is_stopped(
    call, synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    run, image = write_untrained(tmp_path / "run", PETS), smooth_image(tmp_path / "a.png", (40, 30))
    monkeypatch.setattr("petseg.runs.checkpoint.read_tensors", stopped)
    arguments = {evaluate: ["--shards", synthetic_set], predict: [image, "-o", tmp_path / "out"]}[command]
    result = call(command, run, *arguments)
    assert (result.code, result.err) == (143, "Error: stopped by SIGTERM\n")


@pytest.mark.parametrize("number", STOPS)
def test_the_start_of_a_training_is_stopped(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Before the first step there is no checkpoint to write, so the exit code does not promise one."""
    monkeypatch.setattr("shards.format.dataset.ShardSet.open", lambda *_, **__: signal.raise_signal(number))
    result = call(train, "--shards", "set", "--run", tmp_path / "run")
    assert (result.code, result.err) == (128 + number, f"Error: stopped by {number.name}\n")
    assert not (tmp_path / "run").exists()


def test_the_check_of_an_export_is_stopped(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_untrained(tmp_path / "run", PETS)
    monkeypatch.setattr("petseg.exporters.onnx_model._to_onnx", lambda *_: b"")
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: SimpleNamespace(run=stopped))
    result = call(export, run, tmp_path / "net.onnx")
    assert (result.code, result.err) == (143, "Error: stopped by SIGTERM\n")
    assert not (tmp_path / "net.onnx").exists()


def catch_all(number: signal.Signals) -> None:
    """As libraries do with what they try."""
    with contextlib.suppress(Exception):
        signal.raise_signal(number)


@pytest.mark.parametrize("number", STOPS)
def test_no_library_takes_a_signal_for_an_error_of_its_own(number: signal.Signals) -> None:
    """torch's exporter catches every exception of what it tries, and goes on."""
    with raise_stop_signals(), pytest.raises(TerminatedError, match=number.name):
        catch_all(number)


SWALLOWING = """
import os, signal, time

def sent():
    os.kill(os.getpid(), signal.{number})
    time.sleep(0.02)

class Dropped:
    def __del__(self):
        sent()

if {place!r} == "import":
    try:
        sent()
    except BaseException:
        pass
elif {place!r} == "optional":
    try:
        sent()
    except BaseException as error:
        raise ImportError from error
"""


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("place", ["import", "optional", "__del__"])
def test_no_signal_is_lost_where_exceptions_are(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, place: str
) -> None:
    """While a module is imported, whose importer takes anything for a missing module, and in a finaliser."""
    (tmp_path / "swallowing.py").write_text(SWALLOWING.format(number=number.name, place=place))
    monkeypatch.syspath_prepend(tmp_path)
    went_on = list[bool]()

    def importing() -> None:
        with contextlib.suppress(ImportError):
            import swallowing  # type: ignore[import-not-found]

            swallowing.Dropped()
        time.sleep(5)
        went_on.append(True)

    monkeypatch.delitem(sys.modules, "swallowing", raising=False)
    result = call(FriendlyCommand("importing", callback=importing))
    assert (result.code, result.err) == (128 + number, f"Error: stopped by {number.name}\n")
    assert not went_on
