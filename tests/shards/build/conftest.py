"""Fixtures for builds that are killed and disturbed; the helpers are in build_processes.py in this folder."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from shard_sources import SCENES, Maker, encoded, fill_scenes, options, tree

from shards.build.build_set import build

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not


@pytest.fixture(scope="session")
def slow_pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred and twenty pairs of 640 x 480 pixels: about half a second of work, time enough to disturb it."""
    maker = Maker(tmp_path_factory.mktemp("slow") / "pets")
    rng = np.random.default_rng(0)
    mask = encoded(np.repeat(np.repeat(rng.integers(1, 4, (24, 32), dtype=np.uint8), 20, 0), 20, 1), "PNG")
    noise = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    image = simplejpeg.encode_jpeg(noise, quality=80)
    for number in range(120):  # the same pixels, told apart by a comment
        maker.add(f"a_{number}", image=image[:2] + b"\xff\xfe\0\4" + number.to_bytes(2, "big") + image[2:], mask=mask)
    maker.lists(test=maker.names[:40], trainval=maker.names[40:])
    return maker.folder


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter. Of its own folders, every session of pytest closes the uppermost to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@dataclass(frozen=True)
class Disturbed:
    """A source that takes long enough to disturb its build, the options, and the set that must come out."""

    folder: Path
    chosen: dict[str, Any]
    expected: dict[str, bytes]


@pytest.fixture(scope="session", params=["pets", "21 classes"])
def slow_source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, campaign: Callable[[int, int], int]
) -> Disturbed:
    """The pets; with --campaign, as many scenes of 21 classes, too."""
    if request.param == "pets":
        return Disturbed(request.getfixturevalue("slow_pets"), {}, request.getfixturevalue("undisturbed"))
    if not campaign(0, 1):
        pytest.skip("with --campaign")
    folder, out = tmp_path_factory.mktemp("slow") / "scenes", tmp_path_factory.mktemp("undisturbed") / "scenes"
    noise = np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    fill_scenes(folder, 120, image=simplejpeg.encode_jpeg(noise, quality=80), width=640, height=480)
    build(folder, out, options(**SCENES), workers=1)
    return Disturbed(folder, SCENES, tree(out))


@pytest.fixture(scope="session")
def undisturbed(slow_pets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    build(slow_pets, out, options(), workers=1)
    return tree(out)


@pytest.fixture
def in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory, where removing files takes no time; nothing is flushed, as a kill loses nothing written."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else tmp_path))
    yield folder
    shutil.rmtree(folder)
