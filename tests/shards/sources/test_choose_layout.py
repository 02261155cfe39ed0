"""Choosing a layout: each that the synthetic dataset can have is recognised, and what is not clear is an error."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.errors import SourceError, UsageError
from shards.sources import LAYOUTS, scan
from shards.sources.layout_protocol import RESERVED
from shards.sources.pairs.suffixes import common_suffixes
from shards.sources.synthetic.generate import make_pets
from shards.sources.synthetic.layout_writers import WRITERS

Put = Callable[..., Path]
COUNT = 16


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, drawn_once: None) -> dict[str, Path]:
    """The same drawings in every layout."""
    root = tmp_path_factory.mktemp("layouts")
    for layout in WRITERS:
        make_pets(root / layout, count=COUNT, seed=1, layout=layout)
    return {layout: root / layout for layout in WRITERS}


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_recognised(drawn: dict[str, Path], layout: str) -> None:
    found = scan(drawn[layout])
    assert (found.layout, len(found.pairs), found.findings, found.ignored) == (layout, COUNT, (), 0)
    assert found.reason
    assert found == scan(drawn[layout], layout=layout)
    assert frozenset().union(*found.lists.values()) == {pair.name for pair in found.pairs}
    for pair in found.pairs:
        assert not set(pair.attributes) & set(RESERVED)
        assert {type(value) for value in pair.attributes.values()} <= {str, int}


def test_the_same_data_has_the_same_names_and_splits(drawn: dict[str, Path]) -> None:
    sources = [scan(drawn[layout]) for layout in ("voc", "folders", "csv")]
    assert len({tuple(pair.name for pair in source.pairs) for source in sources}) == 1
    for split in ("train", "val", "test"):
        assert len({source.lists[split] for source in sources}) == 1, split


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout not in ("auto", "folders")])
def test_another_layout_says_what_it_looked_for(drawn: dict[str, Path], layout: str) -> None:
    other = drawn["pets" if layout != "pets" else "voc"]
    with pytest.raises(SourceError, match=r"layout of|\.csv") as raised:
        scan(other, layout=layout)
    assert "\n" not in str(raised.value)


def test_two_layouts_fit(put: Put) -> None:
    voc = ["JPEGImages/a.jpg", "SegmentationClass/a.png", "ImageSets/Segmentation/train.txt=a"]
    folder = put(*voc, "pairs.csv=image,mask\nJPEGImages/a.jpg,SegmentationClass/a.png\n")
    with pytest.raises(SourceError, match=r"voc, because it has JPEGImages.*; csv, because pairs\.csv.*layout=NAME"):
        scan(folder)
    assert scan(folder, layout="voc").pairs == scan(folder, layout="csv").pairs


def test_no_layout_fits(put: Put) -> None:
    folder = put("cats/a.jpg", "readme.txt", ".git/config")
    with pytest.raises(SourceError, match=r"It holds cats/, readme\.txt\. Looked for pets: .*voc: .*folders: "):
        scan(folder)
    with pytest.raises(SourceError, match="holds no folders of images and of masks"):
        scan(folder, layout="folders")


@pytest.mark.parametrize("paths", [["a.jpg", "a.json"], ["train/a.jpg", "notes/instances.json"], ["JSON/a.json"]])
def test_polygons_are_named(put: Put, paths: list[str]) -> None:
    with pytest.raises(SourceError, match=r"with its mask; polygons \(COCO, labelme\) are not read: draw them as PNG"):
        scan(put(*paths))
    with pytest.raises(SourceError, match=r"with its mask$"):
        scan(put("elsewhere/a.png"))


def test_paths_that_are_no_source(put: Put, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file or folder"):
        scan(tmp_path / "gone")
    with pytest.raises(SourceError, match=r"neither a folder nor a \.csv file"):
        scan(put("a.txt") / "a.txt")
    with pytest.raises(SourceError, match="is a file, and the layout voc is a folder"):
        scan(put("a.csv=image,mask\n") / "a.csv", layout="voc")
    with pytest.raises(UsageError, match="layout='coco': choose from auto, pets, voc"):
        scan(tmp_path, layout="coco")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_folders_that_cannot_be_read(put: Put) -> None:
    folder = put("images/a.jpg", "masks/a.png")
    (folder / "masks").chmod(0)
    try:
        with pytest.raises(SourceError, match=r"masks cannot be read \(Permission denied\)"):
            scan(folder)
    finally:
        (folder / "masks").chmod(0o755)


part = st.text(st.sampled_from("ab_-.Z1é "), min_size=1, max_size=5).filter(lambda text: text.strip(". ") == text)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    keys=st.lists(st.tuples(st.sampled_from(["train", "val", "test"]), st.lists(part, min_size=1, max_size=3)),
                  min_size=1, max_size=12, unique_by=lambda key: (key[0], "/".join(key[1]))),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_names_are_unique_and_do_not_depend_on_the_order_of_folders(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    keys: list[tuple[str, list[str]]],
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    for split, parts in keys:
        for side in ("images", "masks"):
            path = folder / side / split / f"{'/'.join(parts)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    found = scan(folder, layout="folders")
    names = [pair.name for pair in found.pairs]
    assert len(set(names)) == len(names) == len(keys)
    assert sorted(pair.image for pair in found.pairs) == sorted(
        str(folder / "images" / split / f"{'/'.join(parts)}.png") for split, parts in keys
    )
    for pair in found.pairs:
        assert pair.mask == pair.image.replace("/images/", "/masks/", 1)
    real = os.scandir

    class Shuffled:
        def __init__(self, path: str) -> None:
            with real(path) as entries:
                self.entries = list(entries)
            random.Random(seed).shuffle(self.entries)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", Shuffled)
        assert scan(folder, layout="folders") == found


keys = st.text(st.sampled_from("ab_1"), min_size=1, max_size=4)


@given(
    st.sets(keys, min_size=1, max_size=6), st.sampled_from(["", "_rgb", "a", "_1"]), st.sampled_from(["_m", "-gt", "b"])
)
def test_suffixes_pair_every_image_with_its_own_mask(bases: set[str], image: str, mask: str) -> None:
    """Whatever suffixes are found, cutting them off gives the pairs that were meant, if there is only one way."""
    images, masks = {base + image for base in bases}, {base + mask for base in bases}
    found = common_suffixes(images, masks)
    if images & masks:
        assert found is None
        return
    assert found is not None
    cut = {name.removesuffix(found[1]): name for name in masks}
    assert set(cut) == {name.removesuffix(found[0]) for name in images}
    assert all(name.endswith(found[0]) for name in images)
    assert all(name.endswith(found[1]) for name in masks)
