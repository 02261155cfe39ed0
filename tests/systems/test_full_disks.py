"""A disk that becomes full in the middle of any file that is written: the old file stays, one line names it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from petseg.inference.files.result_files import write_results

Call = Any


class FullDisk:
    """From ``limit`` bytes on, nothing can be written to files whose partial name holds ``name``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._original, self._open, self.hits = tempfile.NamedTemporaryFile, Path.open, 0
        self._patch = monkeypatch

    def fill(self, name: str, limit: int) -> None:
        original = self._original

        def limited(*args: Any, **kwargs: Any) -> Any:
            handle = original(*args, **kwargs)
            if name in str(kwargs.get("prefix", "")):
                handle.file = self._limited(handle.file, limit)
            return handle

        def opened(path: Path, mode: str = "r", **options: Any) -> Any:
            file = self._open(path, mode, **options)
            return self._limited(file, limit) if mode == "xb" and name in path.name else file

        self._patch.setattr(tempfile, "NamedTemporaryFile", limited)
        self._patch.setattr(Path, "open", opened)

    def free(self) -> None:
        self._patch.setattr(tempfile, "NamedTemporaryFile", self._original)
        self._patch.setattr(Path, "open", self._open)

    def _limited(self, file: Any, limit: int) -> Any:
        outer, written = self, 0

        class Limited:
            def write(self, data: Any) -> int:
                nonlocal written
                data = memoryview(data).cast("B")
                written += len(data)
                if written > limit:
                    file.write(data[: max(0, limit - written + len(data))])
                    outer.hits += 1
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return int(file.write(data))

            def __enter__(self) -> Limited:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def __getattr__(self, attribute: str) -> Any:
                return getattr(file, attribute)

        return Limited()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(monkeypatch)


TINY = ("--size", 32, "--widths", "8,16", "--epochs", 1, "--batch-size", 2, "--augment", "none", "--threads", 1)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("config.json", 0),
        ("config.json", 100),
        ("config.toml", 0),
        ("last.pt", 100),
        ("best.pt", 0),
        ("metrics.jsonl", 100),
    ],
)
def test_a_run(name: str, limit: int, disk: FullDisk, call: Call, few_shards: Path, tmp_path: Path) -> None:
    """It says how to continue, and continuing works."""
    run = tmp_path / "run"
    disk.fill(name, limit)
    done = call("petseg-train", "--shards", few_shards, "--run", run, *TINY)
    errors = [line for line in done.err.splitlines() if not line.startswith("training ")]
    if name == "metrics.jsonl":  # every checkpoint has the metrics; what fails to be logged ends no training
        assert disk.hits
        assert any("metrics.jsonl" in line for line in errors), errors
        return
    assert done.code == 1
    assert disk.hits
    assert len(errors) == 1, errors
    assert "No space left on device" in errors[0] or "the disk is full" in errors[0]
    assert str(run / name) in errors[0]
    assert not list(run.glob(".partial-*"))
    assert not (run / name).exists()


@pytest.mark.parametrize("name", ["curves.png", "gallery.png", "report.html"])
def test_a_report(
    name: str, disk: FullDisk, call: Call, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "curves.png":  # the others take seconds to draw
        monkeypatch.setattr("petseg.report.curves.draw_curves", lambda *_, **__: b"curves")
        monkeypatch.setattr("petseg.report.gallery.draw_gallery", lambda *_, **__: b"gallery" * 1000)
    run = shutil.copytree(small_run, tmp_path / "run")
    (run / "report.html").unlink()
    before = (run / name).read_bytes() if (run / name).exists() else None
    disk.fill(name, 1000)
    done = call("petseg-train", "--resume", "--run", run)
    assert done.code == 1
    line = done.err.splitlines()[-1]
    assert str(run / name) in line
    assert f"petseg-train --run {run} --resume" in line or "--resume" in line
    assert ((run / name).read_bytes() if (run / name).exists() else None) == before
    assert not list(run.glob(".partial-*"))


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petseg.training.start.draw_run", lambda run, **_: (run / "report.html").write_text(""))


def test_tensorboard_logs(
    call: Call, few_shards: Path, tmp_path: Path, small_disk: Any, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    """In the middle of an epoch's curves: the training goes on, and the epochs before can be shown."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = (*TINY, "--epochs", 6, "--logger", "tensorboard")
    with small_disk(tmp_path / "disk", "8k") as full:
        monkeypatch.setattr("petseg.loggers.tensorboard_events.FOLDER", str(full / "events"))
        done = call("petseg-train", "--shards", few_shards, "--run", tmp_path / "run", *options)
        assert done.code == 0
        (said,) = [line for line in done.err.splitlines() if "TensorBoard" in line]
        (file,) = (full / "events").iterdir()
        assert f"TensorBoard failed ([Errno 28] No space left on device: '{file}'" in said
        assert "Traceback" not in done.err
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6
        events = EventAccumulator(str(full / "events"))
        events.Reload()
        assert 0 < len(events.Scalars("train/loss")) < 6


def test_tensorboard_logs_of_a_run_that_is_resumed(
    disk: FullDisk, call: Call, few_shards: Path, tmp_path: Path, no_report: None
) -> None:
    """They are rewritten; until that is done, the old ones stay."""
    run, events = tmp_path / "run", tmp_path / "run" / "events"
    assert call("petseg-train", "--shards", few_shards, "--run", run, *TINY, "--logger", "tensorboard").code == 0
    before = {path: path.read_bytes() for path in events.iterdir()}
    disk.fill("events.out.tfevents", 500)
    (run / "report.html").unlink()
    done = call("petseg-train", "--resume", "--run", run)
    assert done.code == 0
    assert disk.hits
    assert f"TensorBoard failed ([Errno 28] No space left on device: '{events}/events.out.tfevents." in done.err
    assert {path: path.read_bytes() for path in events.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("export", "RUN", "net.safetensors"), "net.safetensors"),
        (("export", "RUN", "net.safetensors"), "net.md"),
        (("export", "RUN", "hub", "--hub"), "use.py"),
        (("export", "RUN", "hub", "--hub"), "config.json"),
        (("eval", "RUN", "--shards", "SET", "--device", "cpu", "--csv", "scores.csv"), "scores.csv"),
        (("eval", "--compare", "RUN", "OTHER", "-o", "page.html"), "page.html"),
        (("shard", "preview", "SET", "page.html"), "page.html"),
        (("shard", "preview", "SET", "page.png"), "page.png"),
        (("shard", "labels", "PETS", "-o", "labels.toml"), "labels.toml"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, tuple) else value,
)
def test_what_commands_write(
    arguments: tuple[str, ...],
    name: str,
    disk: FullDisk,
    call: Call,
    small_run: Path,
    few_shards: Path,
    few_pets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    disk.fill(name[:20], 30)
    other = shutil.copytree(small_run, tmp_path / "other") if "OTHER" in arguments else small_run
    places = {"RUN": small_run, "OTHER": other, "SET": few_shards, "PETS": few_pets}
    done = call(f"petseg-{arguments[0]}", *(places.get(each, each) for each in arguments[1:]))
    assert done.code == 1
    assert disk.hits
    assert done.err.splitlines()[-1].startswith(
        "Error: the disk is full; free some space and run the same command again"
    )
    assert name in done.err.splitlines()[-1]
    assert not [path for path in tmp_path.rglob("*") if path.name == name or path.name.startswith(".partial-")]
    disk.free()
    again = call(f"petseg-{arguments[0]}", *(places.get(each, each) for each in arguments[1:]))
    assert again.code == 0, again.err


@pytest.mark.parametrize("number", [0, 1])
def test_a_prediction(
    number: int, call: Call, small_run: Path, few_pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mask and overlay appear together or not at all."""
    original, calls = Path.open, []

    def limited(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name.startswith(".partial-") and path.name.endswith(f"-{number}"):
            calls.append(path)
            original(path, *args, **kwargs).close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", limited)
    image = next((few_pets / "images").iterdir())
    done = call("petseg-predict", small_run, image, "-o", tmp_path / "masks", "--device", "cpu")
    assert done.code == 1
    assert calls
    assert "the disk is full" in done.error
    assert str(tmp_path / "masks" / image.stem) in done.error
    assert not list((tmp_path / "masks").iterdir())


def test_the_second_of_two_predictions(
    call: Call, small_run: Path, few_pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command would be refused, since the first one is there, and is not advised."""

    def full(outputs: Any, *arguments: Any, **options: Any) -> None:
        if any(outputs[0].parent.iterdir()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(outputs[0]))
        write_results(outputs, *arguments, **options)

    monkeypatch.setattr("petseg.inference.files.file_jobs.write_results", full)
    images = sorted((few_pets / "images").iterdir())[:2]
    command = ("petseg-predict", small_run, *images, "-o", tmp_path / "masks", "--device", "cpu")
    done = call(*command)
    assert done.code == 1
    start = "Error: the disk is full; free some space and run it again and add --skip-existing ("
    assert done.error.startswith(start)
    assert done.error.endswith(f"); 1 image predicted into {tmp_path}/masks")
    monkeypatch.undo()
    assert call(*command, "--skip-existing").code == 0


@pytest.mark.parametrize("ending", [".jpg", ".png", ".txt"])
def test_a_synthetic_dataset(ending: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image, a mask, a list."""

    def filling(original: Any) -> Any:
        def write(owner: Any, *args: Any, **kwargs: Any) -> Any:
            if (owner if isinstance(owner, Path) else args[0]).suffix == ending:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(owner, *args, **kwargs)

        return write

    monkeypatch.setattr(Image.Image, "save", filling(Image.Image.save))
    monkeypatch.setattr(Path, "write_text", filling(Path.write_text))
    done = call("petseg-shard", "sample", tmp_path / "pets", "--count", 2)
    assert done.code == 1
    assert (
        done.error == f"Error: the disk is full; free some space and run the same command again ({tmp_path / 'pets'})"
    )
    assert not list(tmp_path.iterdir())


def test_stdout(call: Call, few_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not "the disk is full", without saying which: no file of the set has anything to do with it."""
    import sys

    full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115, PTH123 - closed by Python, as it does with stdout
    monkeypatch.setattr(sys, "stdout", full)
    for arguments in (("info", few_shards), ("verify", few_shards), ("info", few_shards, "--json")):
        done = call("petseg-shard", *arguments)
        assert done.code == 1
        assert done.error.startswith("Error: stdout, or a temporary file, cannot be written (No space left on device)")


def test_stdout_of_a_command_that_has_written_its_result(
    call: Call, small_run: Path, few_shards: Path, few_pets: Path, tmp_path: Path
) -> None:
    """The same command, which would be refused, is not advised."""
    import sys

    images = sorted((few_pets / "images").iterdir())[:2]
    other = shutil.copytree(small_run, tmp_path / "other")
    predicted = f"2 images predicted into {tmp_path}/masks"
    commands: dict[str, tuple[object, ...]] = {
        predicted: ("petseg-predict", small_run, *images, "-o", tmp_path / "masks", "--device", "cpu"),
        f"{tmp_path}/a.safetensors is written": ("petseg-export", small_run, tmp_path / "a.safetensors"),
        f"{tmp_path}/hub is written": ("petseg-export", small_run, tmp_path / "hub", "--hub", "--json"),
        f"{tmp_path}/c.html is written": ("petseg-eval", "--compare", small_run, other, "-o", tmp_path / "c.html"),
        f"{tmp_path}/set.png is written": ("petseg-shard", "preview", few_shards, tmp_path / "set.png"),
        f"{tmp_path}/l.toml is written": ("petseg-shard", "labels", few_pets, "-o", tmp_path / "l.toml"),
        f"the dataset in {tmp_path}/pets is complete": ("petseg-shard", "sample", tmp_path / "pets", "--count", 2),
    }
    for told, command in commands.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", open("/dev/full", "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - as above
            done = call(*command)
        assert done.code == 1
        assert done.error == f"Error: stdout cannot be written (No space left on device), but {told}"
