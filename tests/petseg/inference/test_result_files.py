"""What is written for a prediction: the source's own values and colours, complete files or none, a readable overlay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_programs import ForkedPopen
from labelled_sets import many_labels, smooth_image, write_untrained
from PIL import Image

import petseg
from petseg.cli import predict
from petseg.host.stop_signals import delay_stop_signals
from petseg.inference.files import result_files
from petseg.inference.files.result_files import ResultMark, draw_overlay, result_of, write_results
from petseg.inference.probabilities import Prediction
from shards.console import raise_stop_signals
from shards.errors import TerminatedError
from shards.format.builtin_labels import PETS
from shards.format.labels import Labels
from shards.format.overlays import overlay
from shards.store import atomic


def prediction(labels: Labels, height: int = 20, width: int = 30) -> Prediction:
    index = (np.arange(height * width).reshape(height, width) // 7 % len(labels)).astype(np.uint8)
    return Prediction(index=index, coarse=torch.zeros(len(labels), 4, 4), labels=labels)


@pytest.mark.parametrize("rgb", [False, True])
def test_masks_have_the_sources_values_and_colours(call, tmp_path: Path, rgb: bool) -> None:
    labels = many_labels(21, rgb=rgb)
    run = write_untrained(tmp_path / "run", labels, fit="contain")
    image = smooth_image(tmp_path / "a.png", (90, 50))
    arguments = (run, image, "-o", tmp_path / "out", "--probabilities", "--precision", "fp32")
    assert call(predict, *arguments).code == 0
    index = petseg.load(run, precision="fp32").predict(image).index
    with Image.open(tmp_path / "out" / "a.png") as mask:
        found = np.asarray(mask)
        if rgb:
            assert mask.mode == "RGB"
            np.testing.assert_array_equal(found, labels.source_palette[index])
        else:
            assert mask.mode == "P"
            np.testing.assert_array_equal(found, index + 3)  # class n has the value n + 3
            palette = np.array(mask.getpalette()).reshape(-1, 3)
            np.testing.assert_array_equal(palette[found], labels.palette[index])
    with np.load(tmp_path / "out" / "a.probabilities.npz") as file:
        assert file["probabilities"].shape == (21, 50, 90)
        np.testing.assert_array_equal(file["probabilities"].argmax(0), index)


def write(folder: Path, *, endings: tuple[str, ...] = (".png", ".overlay.png", ".probabilities.npz")) -> None:
    outputs = [folder / f"a{ending}" for ending in endings]
    write_results(outputs, Image.new("RGB", (30, 20)), prediction(PETS), PETS)


@pytest.mark.parametrize("failing", ["overlay", "fsync", "write_array_header_1_0"])
def test_all_files_appear_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    (tmp_path / "a.png").write_text("before")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("disk full")

    owner = {"overlay": result_files, "fsync": os, "write_array_header_1_0": np.lib.format}[failing]
    monkeypatch.setattr(owner, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.png", "before")]
    monkeypatch.undo()
    write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.overlay.png", "a.png", "a.probabilities.npz"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_while_files_are_renamed_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        signal.raise_signal(number)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with raise_stop_signals(), pytest.raises(KeyboardInterrupt if number == signal.SIGINT else TerminatedError):
        write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.overlay.png", "a.png", "a.probabilities.npz"]


def test_signals_have_their_usual_effect_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with raise_stop_signals():
        with delay_stop_signals():
            pass
        with pytest.raises(TerminatedError, match="SIGTERM") as error:
            signal.raise_signal(signal.SIGTERM)
    assert error.value.exit_code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_command_leaves_no_partial_file(
    tmp_path: Path, number: signal.Signals, campaign: Callable[[int, int], int]
) -> None:
    if number == signal.SIGHUP and not campaign(0, 1):
        pytest.skip("with --campaign: a signal like the other")
    run = write_untrained(tmp_path / "run", many_labels(21))
    (tmp_path / "in").mkdir()
    image = smooth_image(tmp_path / "image.png", (600, 450)).read_bytes()
    for index in range(60):
        (tmp_path / "in" / f"{index:02d}.png").write_bytes(image)
    program = Path(sys.executable).parent / "petseg-predict"
    out = tmp_path / "out"
    arguments = [program, run, tmp_path / "in", "-o", out, "--batch-size", "1"]
    with ForkedPopen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while len(list(out.glob("*.png")) if out.is_dir() else []) < 6 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}" in err
    names = sorted(path.name for path in out.iterdir())
    assert 6 <= len(names) < 120
    assert not [name for name in names if not name.endswith(".png")]
    assert {name.removesuffix(".overlay.png") for name in names if "overlay" in name} == {
        name.removesuffix(".png") for name in names if "overlay" not in name
    }


def test_strips_of_an_overlay_have_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    labels = many_labels(21)
    pixels = random.integers(0, 256, (90, 150, 3), dtype=np.uint8)
    blocks = Image.fromarray(random.integers(0, 21, (9, 15), dtype=np.uint8))
    index = np.asarray(blocks.resize((150, 90), Image.Resampling.NEAREST))
    monkeypatch.setattr(result_files, "outline_width", lambda height, width: 3)
    whole = overlay(pixels, index, labels, wide=3)
    for strip in (150, 1000, 10**6):
        monkeypatch.setattr(result_files, "STRIP_PIXELS", strip)
        np.testing.assert_array_equal(np.asarray(draw_overlay(Image.fromarray(pixels), index, labels)), whole)


def test_an_overlay_has_a_border_on_any_image_and_a_legend_of_what_is_drawn() -> None:
    index = np.ones((120, 200), np.uint8)
    index[30:90, 50:150] = 0
    for grey in (0, 128, 255):
        drawn = np.asarray(draw_overlay(Image.new("RGB", (200, 120), (grey, grey, grey)), index, PETS)).astype(int)
        assert drawn.shape[0] > 120
        assert drawn.shape[1] == 200
        np.testing.assert_array_equal(drawn[10, 10], [grey] * 3)  # background stays as it is
        assert np.abs(drawn[30, 100] - drawn[10, 100]).max() > 60  # the outline, against the background
        legend = drawn[120:].reshape(-1, 3)
        assert (legend == PETS.palette[0]).all(axis=1).any()
        assert not (legend == PETS.palette[2]).all(axis=1).any()  # no border was predicted
    small = draw_overlay(Image.new("RGB", (60, 120)), index[:, :60], PETS)
    assert small.size == (60, 120)
    assert draw_overlay(Image.new("RGB", (200, 120)), np.ones((120, 200), np.uint8), PETS).size == (200, 120)
    wide = draw_overlay(Image.new("RGB", (20_000, 2)), np.zeros((2, 20_000), np.uint8), PETS)  # took 500 rows, and GBs
    assert wide.height < 50


def test_of_two_that_write_at_the_same_time_all_files_are_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask of one network stayed with the overlay of another."""
    names = [tmp_path / name for name in ("a.png", "a.overlay.png")]
    rename, first = atomic.rename_file, threading.current_thread()

    def write_as(origin: str) -> None:
        write_results(names, Image.new("RGB", (30, 20)), prediction(PETS), PETS, mark=ResultMark("a.jpg", origin))

    second = threading.Thread(target=write_as, args=("second",))

    def interleaved(source: Path, target: Path) -> None:
        rename(source, target)
        if threading.current_thread() is first and target == names[1]:  # the mask is renamed last
            second.start()
            second.join(0.5)

    monkeypatch.setattr(atomic, "rename_file", interleaved)
    write_as("first")
    second.join()
    assert [mark.origin for name in names if (mark := result_of(name))] == ["second", "second"]


def test_a_result_that_cannot_be_replaced_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("a.png", "a.overlay.png", "a.probabilities.npz")]
    names[0].mkdir()
    names[1].write_text("before")
    with pytest.raises(IsADirectoryError, match=r"/a\.png"):
        write_results(names, Image.new("RGB", (30, 20)), prediction(PETS), PETS)
    assert names[1].read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.overlay.png"}
