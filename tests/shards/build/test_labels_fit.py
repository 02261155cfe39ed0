"""Labels that do not fit the masks: one clear error when many do not, a rejection each when few do not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_sources import draw_image, encoded, options

from shards.build.build_set import BuildResult, build
from shards.cli.build_summary import build_json, build_text
from shards.errors import UsageError
from shards.format.dataset import ShardSet
from shards.format.label_files import parse_labels
from shards.format.labels import Labels

INDEX = """
ignore = 255
[[class]]
name = "sky"
value = 0
[[class]]
name = "tree"
values = [1, 5]
"""
COLOURS = """
ignore = "#ffffff"
[[class]]
name = "sky"
color = "#0000ff"
[[class]]
name = "tree"
colors = ["#00ff00", "#007f00"]
"""


def scenes(folder: Path, masks: list[np.ndarray]) -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number, mask in enumerate(masks):
        height, width = mask.shape[:2]
        image = encoded(draw_image(number, width=width, height=height), "PNG")
        (folder / "images" / f"s{number}.png").write_bytes(image)
        (folder / "masks" / f"s{number}.png").write_bytes(encoded(mask, "PNG"))
    return folder


def built(source: Path, labels: str | Labels) -> BuildResult:
    chosen = parse_labels(labels) if isinstance(labels, str) else labels
    given = options(split="random", fractions=(1, 0, 0), samples_per_shard=99, labels=chosen)
    return build(source, source.parent / "out", given, workers=1)


def index_mask(value: int = 1) -> np.ndarray:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:, 5:] = 1
    mask[15, :] = 255
    mask[0, :3] = value
    return mask


def colour_mask(colour: tuple[int, int, int] = (0, 127, 0)) -> np.ndarray:
    mask = np.empty((20, 30, 3), np.uint8)
    mask[:] = (0, 0, 255)
    mask[5:, 5:] = (0, 255, 0)
    mask[15, :] = 255
    mask[0, :3] = colour
    return mask


def test_many_unclaimed_values_are_one_error_that_lists_them(tmp_path: Path) -> None:
    source = scenes(tmp_path / "scenes", [index_mask(7), index_mask(9), *[index_mask()] * 18, index_mask(7)])
    with pytest.raises(UsageError) as caught:
        built(source, INDEX)
    message = str(caught.value)
    assert (
        "3 of 21 masks hold values that no class claims: 7 (in 2 masks, 6 pixels), 9 (in 1 mask, 3 pixels)" in message
    )
    assert "petseg-shard labels SOURCE -o labels.toml" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scenes"]


def test_one_pixel_is_said_in_the_singular(tmp_path: Path) -> None:
    mask = index_mask(7)
    mask[0, 1:3] = 0
    result = built(scenes(tmp_path / "scenes", [mask, *[index_mask()] * 19]), INDEX)
    assert "values that no class claims: 7 (in 1 mask, 1 pixel)" in build_text(result)
    (line,) = (tmp_path / "out" / "audit.jsonl").read_text().splitlines()
    assert json.loads(line)["detail"] == "values that no class claims: 7 (1 pixel)"


def test_few_unclaimed_values_are_rejected_and_reported(tmp_path: Path) -> None:
    result = built(scenes(tmp_path / "scenes", [index_mask(7), *[index_mask()] * 19]), INDEX)
    audit = result.manifest.audit
    assert (audit.found, audit.packed, audit.rejected, audit.reasons) == (20, 19, 1, {"mask-values": 1})
    assert build_json(result)["unclaimed"] == {"7": {"masks": 1, "pixels": 3}}
    text = build_text(result)
    assert "values that no class claims: 7 (in 1 mask, 3 pixels)" in text
    assert text.startswith("layout folders (")
    assert "; 2 classes: sky, tree\n" in text
    assert "19 of 20 images in" in text
    assert "1 image rejected" in text
    assert "1 finding in" in text
    (line,) = (tmp_path / "out" / "audit.jsonl").read_text().splitlines()
    assert json.loads(line)["detail"] == "values that no class claims: 7 (3 pixels)"


@pytest.mark.parametrize("mask", [colour_mask(), np.dstack([colour_mask(), np.full((20, 30), 255, np.uint8)])])
def test_colour_masks_with_colour_labels(tmp_path: Path, mask: np.ndarray) -> None:
    result = built(scenes(tmp_path / "scenes", [mask]), COLOURS)
    split = next(iter(result.manifest.splits))
    reader = ShardSet.open(tmp_path / "out").split(split)
    (tmp_path / "mask.png").write_bytes(reader.read(0, "mask"))
    expected = np.where((mask[..., 0] == 255), 255, np.where(mask[..., 2] == 255, 0, 1))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "mask.png")), expected)
    assert result.manifest.audit.reasons == {}


def test_colour_masks_with_index_labels(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give every class a color and no value in a labels file") as caught:
        built(scenes(tmp_path / "scenes", [colour_mask()] * 3), INDEX)
    assert "3 of 3 masks do not hold one value per pixel" in str(caught.value)


def test_index_masks_with_colour_labels(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="grey values, while the labels name colours") as caught:
        built(scenes(tmp_path / "scenes", [index_mask()] * 3), COLOURS)
    assert "#010101 (in 3 masks, " in str(caught.value)
    assert "give each a class as a value, and no color, in a labels file" in str(caught.value)


def test_grey_masks_are_colours_too(tmp_path: Path) -> None:
    grey = parse_labels('[[class]]\nname = "a"\ncolor = "#000000"\n[[class]]\nname = "b"\ncolor = "#808080"')
    mask = np.where(index_mask() == 1, 128, 0).astype(np.uint8)
    result = built(scenes(tmp_path / "scenes", [mask]), grey)
    (split,) = result.manifest.splits.values()
    assert split.class_pixels == ((mask == 0).sum(), (mask == 128).sum())


def test_unknown_colours_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"colours that no class claims: #123456 \(in 2 masks, 6 pixels\)"):
        built(scenes(tmp_path / "scenes", [colour_mask((0x12, 0x34, 0x56))] * 2), COLOURS)


def test_wrong_labels_end_the_build_at_the_first_shards(tmp_path: Path) -> None:
    """Not after a whole dataset has been read."""
    source = scenes(tmp_path / "scenes", [index_mask(7)] * 40)
    seen: list[int] = []
    with pytest.raises(UsageError, match="of the first 4 of 40 masks hold values that no class claims, so far: 7 "):
        build(
            source,
            tmp_path / "out",
            options(split="random", labels=parse_labels(INDEX)),
            workers=1,
            progress=lambda done, _: seen.append(done),
        )
    assert max(seen) < 10


def indexed(values: np.ndarray, palette: list[int]) -> bytes:
    image = Image.frombytes("P", values.shape[::-1], values.tobytes())
    image.putpalette(palette + [0] * (768 - len(palette)))  # all 256, or the file gets fewer bits
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_palettes_that_disagree_are_a_warning(tmp_path: Path) -> None:
    """Colours count of the values that occur only: 9 has another colour in every mask, and no pixel."""
    source = scenes(tmp_path / "scenes", [index_mask()] * 7)
    for number in range(7):
        palette = [0, 0, 0, 200, 40, 40] if number < 4 else [200, 40, 40, 200, 40, 40]
        data = indexed(index_mask(), palette + [0, 0, 0] * 7 + [number, 0, 0])
        (source / "masks" / f"s{number}.png").write_bytes(data)
    given = options(split="random", fractions=(1, 0, 0), samples_per_shard=2, labels=parse_labels(INDEX))
    result = build(source, tmp_path / "out", given, workers=1)
    assert (
        "warning: the palettes of 7 masks disagree: index 0 is #000000 in 4 masks, #c82828 in 3; "
        "the values then may mean different classes"
    ) in build_text(result)
    assert build_json(result)["palettes_disagree"] == {"masks": 7, "values": {"0": {"#000000": 4, "#c82828": 3}}}
    for number in range(7):
        (source / "masks" / f"s{number}.png").write_bytes(indexed(index_mask(), [0, 0, 0, 200, 40, 40]))
    again = build(source, tmp_path / "again", given, workers=1)
    assert "warning" not in build_text(again)
    assert build_json(again)["palettes_disagree"] is None


def test_classes_that_a_split_lacks_are_named(tmp_path: Path) -> None:
    classes = "".join(f'[[class]]\nname = "c{n}"\nvalue = {n}\n' for n in range(9))
    (source := tmp_path / "scenes").mkdir()
    for split, mask in {"train": np.full((20, 30), 3, np.uint8), "val": np.arange(9, dtype=np.uint8)[None]}.items():
        scenes(source / split, [mask])
    (source / "val" / "images" / "s0.png").rename(source / "val" / "images" / "t0.png")
    (source / "val" / "masks" / "s0.png").rename(source / "val" / "masks" / "t0.png")
    result = build(source, tmp_path / "out", options(labels=parse_labels(classes)), workers=1)
    assert "\ntrain: no pixel of c0, c1, c2, c4, c5 and 3 more\n" in build_text(result)
    assert "val: no pixel" not in build_text(result)
    assert build_json(result)["missing_classes"] == {"train": ["c0", "c1", "c2", "c4", "c5", "c6", "c7", "c8"]}


@pytest.mark.parametrize(("name", "said"), [("class_1", True), ("tree", False)])
def test_placeholders_that_were_not_edited(tmp_path: Path, name: str, said: bool) -> None:
    labels = INDEX.replace("sky", "class_0").replace("tree", name)
    text = build_text(built(scenes(tmp_path / "scenes", [index_mask()]), labels))
    assert ("the classes still have the placeholder names of petseg-shard labels" in text) is said


def test_values_are_listed_as_numbers(tmp_path: Path) -> None:
    masks = [index_mask(value) for value in (100, 100, 20, 3)]
    with pytest.raises(UsageError, match=r"claims: 3 \(.*, 20 \(.*, 100 \(in 2 masks, 6 pixels\); give each") as caught:
        built(scenes(tmp_path / "scenes", masks), INDEX)
    assert "photographs" not in str(caught.value)


@pytest.mark.parametrize("labels", [INDEX, COLOURS])
def test_grey_photographs_are_no_masks(tmp_path: Path, labels: str) -> None:
    with pytest.raises(UsageError, match="more; so many values are those of photographs, or of masks resized with int"):
        built(scenes(tmp_path / "scenes", [np.arange(200, dtype=np.uint8).reshape(10, 20)]), labels)


def test_palette_masks_with_colour_labels(tmp_path: Path) -> None:
    source = scenes(tmp_path / "scenes", [index_mask()])
    (source / "masks" / "s0.png").write_bytes(indexed(index_mask(), [10, 20, 30, 40, 50, 60]))
    with pytest.raises(
        UsageError, match=r"; indexed masks: use their values \(petseg-shard labels shows them\), and no c"
    ):
        built(source, COLOURS)
