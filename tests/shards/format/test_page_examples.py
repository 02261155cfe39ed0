"""The examples of docs/formats.md, run as they stand there, on a set of JPEGs and one of JPEGs and PNGs."""

from __future__ import annotations

import io
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shard_sources import Maker, draw_image, encoded, options

from shards.build.build_set import build
from shards.format.dataset import ShardSet, SplitReader

PAGE = Path(__file__).resolve().parents[3] / "docs" / "formats.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def example(word: str) -> str:
    """The one example that holds a word."""
    (found,) = [text for text in EXAMPLES if word in text]
    return str(found)


@pytest.fixture(scope="module")
def mixed_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``source`` set of JPEGs and PNGs."""
    folder = tmp_path_factory.mktemp("mixed")
    maker = Maker(folder / "pets")
    for number in range(10):
        maker.add(f"cat_{number}", image=encoded(draw_image(number), "PNG" if number % 3 == 1 else "JPEG"))
    build(maker.folder, folder / "set", options(split="random", fractions=(1, 0, 0)), workers=1)
    return folder / "set"


@pytest.fixture(params=["jpegs", "mixed"])
def here(
    request: pytest.FixtureRequest, tiny_sets: dict[str, Path], mixed_set: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> SplitReader:  # fmt: skip
    """``pets-shards`` in the working directory; its ``train``."""
    shutil.copytree(tiny_sets["source"] if request.param == "jpegs" else mixed_set, tmp_path / "pets-shards")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return ShardSet.open("pets-shards").split("train")


def run(text: str) -> dict[str, Any]:
    module = types.ModuleType("page_example")  # a real one: datasets pickles its functions
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        exec(compile(text, str(PAGE), "exec"), module.__dict__)
    return module.__dict__


def decoded(reader: SplitReader, index: int, role: str) -> np.ndarray:
    image = Image.open(io.BytesIO(reader.read(index, role)))
    return np.asarray(image.convert("RGB") if role == "image" else image)


def test_there_are_examples_for_each_library() -> None:
    assert len(EXAMPLES) == 7  # one runs in tests/petseg/cli/test_documented_examples.py


def test_webdataset(here: SplitReader) -> None:
    names = run(example(").webdataset("))
    assert names["mask"].dtype == np.uint8
    assert sum(1 for _ in names["pipeline"]) == len(here)
    own = run(example("import webdataset\n"))
    for index, (image, mask, description) in enumerate(own["pipeline"]):
        assert description == here.meta(index)
        assert np.array_equal(np.asarray(image), decoded(here, index, "image"))
        assert np.array_equal(np.asarray(mask)[..., 0], decoded(here, index, "mask"))  # "pil" makes everything RGB


def test_datasets_of_one_format(here: SplitReader, tmp_path: Path) -> None:
    kinds = {int(row["image_format"]) for row in here.rows(np.arange(len(here)))}
    if len(kinds) > 1:
        with pytest.raises(ValueError, match="the same types"):  # what the page says; if this passes, change the page
            run(example("load_dataset("))
        return
    names = run(example("load_dataset("))
    assert len(names["table"]) == len(here)
    for index in range(len(here)):
        sample = names["table"][index]
        assert sample["json"]["key"] == here.key(index)
        assert np.array_equal(np.asarray(sample["mask.png"]), decoded(here, index, "mask"))


def test_datasets_of_any_format(here: SplitReader) -> None:
    names = run(example("from_generator"))
    count = 0
    for index, sample in enumerate(names["table"]):
        assert sample["key"] == here.key(index)
        assert np.array_equal(np.asarray(sample["image"].convert("RGB")), decoded(here, index, "image"))
        assert np.array_equal(np.asarray(sample["mask"]), decoded(here, index, "mask"))
        count += 1
    assert count == len(here)


def test_dali(here: SplitReader) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI exists for Linux only")
    folder = str(Path("pets-shards").resolve())  # DALI shares mapped files by their names: each test needs its own
    names = run(example("nvidia.dali").replace("pets-shards", folder))
    for index in range(4):
        image, mask = np.asarray(names["images"][index]), np.asarray(names["masks"][index])
        expected = decoded(here, index, "image")
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).max() <= 3  # another JPEG decoder
        assert np.array_equal(mask[..., 0], decoded(here, index, "mask"))


def test_a_raw_tar_is_a_strided_tensor(tiny_pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tiny_pets, tmp_path / "raw-shards", options("raw", size="20x36"), workers=1)
    monkeypatch.chdir(tmp_path)
    names = run(example("as_strided"))
    reader = ShardSet.open("raw-shards").split("train")
    assert names["images"].shape == (4, 20, 36, 3)
    for index in range(4):
        assert np.array_equal(names["images"][index], np.load(io.BytesIO(reader.read(index, "image"))))
        assert np.array_equal(names["masks"][index], np.load(io.BytesIO(reader.read(index, "mask"))))
