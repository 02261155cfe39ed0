"""The survey of masks: counts against NumPy, what the template says, and that it is a labels file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.audit.findings import RejectedError
from shards.audit.mask import audit_mask
from shards.cli import main
from shards.errors import SourceError, UsageError
from shards.format.label_files import parse_labels
from shards.format.labels import Labels, colour_text
from shards.sources import scan
from shards.sources.survey import Survey, labels_template, survey_json, survey_masks, survey_text
from shards.sources.synthetic.generate import make_pets

Put = Callable[..., Path]
COLOURS = parse_labels('[[class]]\nname = "sky"\ncolor = "#0000ff"\ncolors = ["#0000ff"]\n')


def source_of(folder: Path, masks: dict[str, Image.Image]) -> Path:
    for side in ("images", "masks"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        (folder / "images" / f"{name}.jpg").write_bytes(b"not opened")
        mask.save(folder / "masks" / f"{name}.png")
    return folder


def survey(folder: Path, layout: str = "auto") -> Survey:
    return survey_masks(scan(folder, layout=layout), workers=2)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=30), min_size=1, max_size=5), st.booleans(),
    st.sampled_from([1, 2]),
)  # fmt: skip
def test_values_are_counted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]], rgb: bool, shift: int
) -> None:
    """Against counters; colours are (v, v + 1, shift v), which no two values share and which is not grey."""
    folder = tmp_path_factory.mktemp("survey")
    masks, pixels, images = {}, Counter[int | str](), Counter[int | str]()
    for number, row in enumerate(rows):
        values = np.array([row], dtype=np.uint8)
        colours = np.stack([values, values + 1, values * np.uint8(shift)], axis=-1).astype(np.uint8)
        masks[f"m{number}"] = Image.fromarray(colours if rgb else values)
        keys = [colour_text(colour) for colour in colours[0]] if rgb else row
        pixels.update(keys)
        images.update(set(keys))
    found = survey(source_of(folder, masks))
    assert {key: (each.images, each.pixels) for key, each in found.found.items()} == {
        key: (images[key], pixels[key]) for key in pixels
    }
    assert list(found.found) == sorted(found.found, key=str if rgb else int)
    assert (found.index_masks, found.rgb_masks) == ((0, len(rows)) if rgb else (len(rows), 0))
    labels = parse_labels(labels_template(found))
    labels.check()
    assert labels.ignore == labels.ignore_colors == ()  # nothing is guessed
    sources = [source for each in labels.classes for source in (*each.values, *each.source_colors)]
    if len(pixels) <= 255:
        assert sources == list(found.found)


def palette_mask(values: list[int], palette: list[int]) -> Image.Image:
    image = Image.fromarray(np.array([values], dtype=np.uint8))
    image.putpalette(palette)
    return image


@pytest.mark.parametrize(
    ("rows", "untinted"),
    [
        ([[0, 0, 0, 1]], [0]),
        ([[3, 3, 3, 1, 2]], [3]),
        ([[0, 0, 1, 1]], []),
        ([[255, 255, 255, 0]], []),
        ([[7, 0, 0], [7, 7, 7, 7, 7]], [7]),
    ],
)
def test_what_fills_most_of_the_masks_stays_untinted(
    tmp_path: Path, rows: list[list[int]], untinted: list[int]
) -> None:
    masks = {f"m{n}": Image.fromarray(np.array([row], dtype=np.uint8)) for n, row in enumerate(rows)}
    text = labels_template(survey(source_of(tmp_path, masks)))
    labels = parse_labels(text)
    assert [value for each in labels.classes if each.color == "#000000" for value in each.values] == untinted
    assert 'with color = "#000000" it stays as it is' in text


def test_palettes_give_the_colours(tmp_path: Path) -> None:
    """The first pair's palette counts; black may be shared, another colour may not."""
    palette = [0, 0, 0, 10, 20, 30, 10, 20, 30, 0, 0, 0]
    folder = source_of(tmp_path, {"a": palette_mask([0, 1, 2, 3], palette), "b": palette_mask([1], [9, 9, 9, 7, 7, 7])})
    found = survey(folder)
    assert dict(found.palette) == {0: "#000000", 1: "#0a141e", 2: "#0a141e", 3: "#000000"}
    colours = [each.color for each in parse_labels(labels_template(found)).classes]
    assert colours[:2] == ["#000000", "#0a141e"]
    assert colours[2] not in colours[:2]
    assert colours[3] == "#000000"


@pytest.mark.parametrize("colours", [256, 3, 12])
@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "tif"])
def test_greys_are_no_palette(tmp_path: Path, kind: str, colours: int) -> None:
    """Of converted grey images: the classes of the values 0, 1 and 2 would look the same, all black."""
    greys = [number for number in range(colours) for _ in range(3)] + [0] * 12  # formats fill palettes up
    folder = source_of(tmp_path, {"a": palette_mask([0, 1, 2, 2], greys[:768])})
    if kind != "png":
        (path,) = (folder / "masks").glob("*")
        with Image.open(path) as image:
            image.save(path.with_suffix(f".{kind}"))
        path.unlink()
    found = survey(folder)
    assert list(found.found) == [0, 1, 2]
    assert (found.palette, found.palettes.masks) == ({}, 0)
    assert {row["color"] for row in survey_json(found)["values"]} == {None}
    classes = parse_labels(labels_template(found)).classes
    assert [max(bytes.fromhex(each.color[1:])) > 60 for each in classes] == [True] * 3
    (mask,) = (folder / "masks").glob("*")
    assert audit_mask(mask.read_bytes(), labels=Labels(classes=classes)).palette == {}
    if kind == "png":  # Pillow opens others as grey images
        with pytest.raises(RejectedError, match="indexed masks: use their values"):
            audit_mask(mask.read_bytes(), labels=COLOURS)


def test_greys_that_are_not_their_indices_are_a_palette(tmp_path: Path) -> None:
    found = survey(source_of(tmp_path, {"a": palette_mask([0, 1, 2], [0, 0, 0, 128, 128, 128, 255, 255, 255])}))
    assert found.palette == {0: "#000000", 1: "#808080", 2: "#ffffff"}


def test_255_is_proposed_not_taken(tmp_path: Path) -> None:
    found = survey(source_of(tmp_path, {"a": Image.fromarray(np.array([[3, 255, 255]], dtype=np.uint8))}))
    text = labels_template(found)
    labels = parse_labels(text)
    assert (labels.names, labels.ignore) == (("class_3", "class_255"), ())
    assert "255 often stands for" in survey_text(found)
    without = text[: text.index('\n[[class]]\nname = "class_255"')]
    edited = parse_labels(without.replace("# ignore = 255", "ignore = 255"))
    assert (edited.names, edited.ignore) == (("class_3",), (255,))


def test_256_values_leave_255_to_the_reader(tmp_path: Path) -> None:
    found = survey(source_of(tmp_path, {"a": Image.fromarray(np.arange(256, dtype=np.uint8)[None])}))
    text = labels_template(found)
    assert len(parse_labels(text)) == 255
    assert "it has no class below" in text
    assert parse_labels(text.replace("# ignore = 255", "ignore = 255")).ignore == (255,)


def test_own_labels_and_what_they_do_not_claim(tmp_path: Path) -> None:
    make_pets(tmp_path / "pets", count=3)
    mask = next((tmp_path / "pets" / "annotations" / "trimaps").iterdir())
    whole = survey(tmp_path / "pets")
    assert "3 classes of its own, which claim all of these" in survey_text(whole)
    assert parse_labels(labels_template(whole)) == whole.source.labels
    values = np.asarray(Image.open(mask)).copy()
    values[0, 0], values[0, 1] = 0, 9
    Image.fromarray(values).save(mask)
    found = survey(tmp_path / "pets")
    assert found.unclaimed == (0, 9)
    assert "none claims 0, 9" in survey_text(found)
    assert survey_text(found).count("UNCLAIMED") == 2
    assert parse_labels(labels_template(found)).names == ("animal", "background", "border", "class_0", "class_9")
    document = survey_json(found)
    assert [row["class"] for row in document["values"]] == [None, "animal", "background", "border", None]
    assert document["unclaimed"] == [0, 9]


def test_masks_of_both_kinds_and_damaged_ones(tmp_path: Path) -> None:
    grey, rgb = Image.fromarray(np.zeros((2, 2), np.uint8)), Image.new("RGB", (2, 2), (1, 2, 3))
    folder = source_of(tmp_path, {"a": grey, "b": rgb, "c": grey})
    (folder / "masks" / "c.png").write_bytes(b"no image")
    found = survey(folder)
    assert (found.index_masks, found.rgb_masks) == (1, 1)
    assert [name for name, _ in found.unreadable] == ["c"]
    assert "a set needs masks of one kind" in survey_text(found)
    assert "not readable: c: mask-unknown-format" in survey_text(found)
    with pytest.raises(SourceError, match="masks that hold values: 1, RGB colours: 1;"):
        labels_template(found)
    for name in "ab":
        (folder / "masks" / f"{name}.png").write_bytes(b"")
    with pytest.raises(SourceError, match="no mask can be read; the first, a: mask-empty"):
        survey(folder)


def test_photographs_are_no_masks(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    with pytest.raises(SourceError, match=r"a\.png: with this mask, 6,\d00 colours or more have been found"):
        survey(source_of(tmp_path, {"a": Image.fromarray(noise)}))
    number = np.arange(1 << 21, dtype=np.uint32).reshape(1024, 2048)
    large = np.stack([number >> shift & 255 for shift in (16, 8, 0)], axis=2).astype(np.uint8)
    with pytest.raises(SourceError, match=r"with this mask, 1,048,576 colours or more"):  # of its first rows alone
        survey(source_of(tmp_path / "large", {"a": Image.fromarray(large)}))
    few = Image.fromarray(noise[:20, :20])
    with pytest.raises(SourceError, match="at most 255 classes are possible"):
        labels_template(survey(source_of(tmp_path / "few", {"a": few})))


def test_the_command(tmp_path: Path) -> None:
    make_pets(tmp_path / "data", count=4, layout="folders", classes=3)
    labels = tmp_path / "labels.toml"
    run = CliRunner(catch_exceptions=False)
    arguments = ["labels", str(tmp_path / "data"), "-o", str(labels)]
    shown = run.invoke(main, arguments, standalone_mode=False)
    assert "layout folders: it has images/ and masks/" in shown.output
    assert f"--labels {labels}" in shown.output
    assert parse_labels(labels.read_text()).names == ("class_0", "class_1", "class_2", "class_255")
    labels.write_text("edited")
    with pytest.raises(UsageError, match=r"exists already; choose another name, or add overwrite=True"):
        main.commands["labels"].main(arguments[1:], standalone_mode=False)
    assert labels.read_text() == "edited"
    shown = run.invoke(main, [*arguments, "--overwrite", "--json"], standalone_mode=False)
    assert json.loads(shown.output)["layout"] == "folders"
    assert labels.read_text() != "edited"


def test_palettes_that_disagree(tmp_path: Path) -> None:
    """As programs that choose every palette anew write them: what is 0 in one mask is 1 in the next."""
    red, black = [200, 40, 40], [0, 0, 0]
    masks = {f"m{n}": palette_mask([0, 1, 1], [*red, *black] if n % 2 else [*black, *red]) for n in range(12)}
    found = survey(source_of(tmp_path / "mixed", masks))
    said = (
        "the palettes of 12 masks disagree: index 0 is #000000 in 6 masks, #c82828 in 6 (1 more such index); "
        "the values then may mean different classes"
    )
    assert said in survey_text(found)
    comment = " ".join(line.removeprefix("# ") for line in labels_template(found).splitlines())
    assert said in comment
    assert survey_json(found)["palettes_disagree"] == {
        "masks": 12,
        "values": {"0": {"#000000": 6, "#c82828": 6}, "1": {"#000000": 6, "#c82828": 6}},
    }
    same = survey(source_of(tmp_path / "same", {"a": masks["m0"], "b": masks["m2"]}))
    assert "palettes" not in survey_text(same) + labels_template(same).partition("\n")[2]
    assert survey_json(same)["palettes_disagree"] is None


@pytest.mark.parametrize(("values", "said"), [([0, 255], True), ([0, 1], True), ([0, 2], False), ([0, 1, 255], False)])
def test_binary_masks_need_no_labels_file(tmp_path: Path, values: list[int], said: bool) -> None:
    """Without lists, ``build`` needs --split random, too."""
    source_of(tmp_path, {"a": Image.fromarray(np.array([values], dtype=np.uint8))})
    for listed, more in ((False, " --split random"), (True, "")):
        if listed:
            (tmp_path / "train.txt").write_text("a\n")
        found = survey(tmp_path)
        for text, end in (survey_text(found), "\n"), (labels_template(found), ", without this file"):
            advice = f"background (0) and foreground: build with --labels binary{more}{end}"
            assert (advice in f"{text}\n") is said


def test_values_of_16_bits_say_what_to_do(tmp_path: Path) -> None:
    deep = Image.fromarray(np.array([[0, 1000]], dtype=np.uint16))
    with pytest.raises(SourceError, match="values from 0 to 1000; save masks with 8 bits, a value from 0 to 255 for"):
        survey(source_of(tmp_path, {"a": deep}))
