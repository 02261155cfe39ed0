"""Scanning a folder: lists, other files, and every reason to reject a name."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from shard_sources import Maker

from shards.errors import SourceError
from shards.format.builtin_labels import PETS
from shards.sources import scan
from shards.sources.pets import breed_of


def rejected(folder: Path) -> dict[str, str]:
    return {finding.name: finding.reason for finding in scan(folder).findings}


def test_lists_and_numbers(maker: Maker) -> None:
    maker.add("american_bulldog_7")
    maker.add("Abyssinian_1")
    maker.lists(test=["Abyssinian_1"], trainval=["american_bulldog_7"])
    found = scan(maker.folder)
    assert [(pair.name, pair.attributes, pair.group) for pair in found.pairs] == [
        ("Abyssinian_1", {"breed": "Abyssinian", "class_id": 1, "species": "cat"}, "Abyssinian"),
        ("american_bulldog_7", {"breed": "american_bulldog", "class_id": 2, "species": "dog"}, "american_bulldog"),
    ]
    assert (found.layout, found.labels) == ("pets", PETS)
    assert found.lists == {"test": frozenset({"Abyssinian_1"}), "trainval": frozenset({"american_bulldog_7"})}


def test_a_number_of_thousands_of_digits_is_no_number(maker: Maker) -> None:
    maker.add("a_1")
    maker.add("b_1")
    (maker.folder / "annotations" / "list.txt").write_text(f"a_1 {'1' * 5000} 1 1\nb_1 3 2 1\n")
    found = scan(maker.folder)
    assert [(pair.name, pair.attributes["class_id"]) for pair in found.pairs] == [("b_1", 3)]


def test_every_reason_of_a_folder(maker: Maker) -> None:
    for name in ("good_1", "unlisted_1"):
        maker.add(name)
    maker.write("no_mask_1", b"x", None)
    maker.write("no_image_1", None, b"x")
    maker.lists(test=["good_1", "gone_1", "no_mask_1", "../../evil"], trainval=["folder_1", "folder_2"])
    maker.write("folder_1", None, b"x")
    (maker.folder / "images" / "folder_1.jpg").mkdir()
    maker.write("folder_2", b"x", None)
    (maker.folder / "annotations" / "trimaps" / "folder_2.png").mkdir()
    assert rejected(maker.folder) == {
        "unlisted_1": "not-listed",
        "no_mask_1": "image-without-mask",
        "no_image_1": "mask-without-image",
        "gone_1": "listed-but-missing",
        "../../evil": "listed-but-missing",
        "folder_1": "image-not-a-file",
        "folder_2": "mask-not-a-file",
    }


def test_other_files_are_counted_and_ignored(maker: Maker) -> None:
    maker.add("a_1")
    maker.lists(test=["a_1"], trainval=[])
    for path in ("images/a_1.mat", "images/._a_1.jpg", "images/.DS_Store", "annotations/trimaps/._a_1.png"):
        (maker.folder / path).write_bytes(b"x")
    found = scan(maker.folder)
    assert (found.ignored, found.unread) == (3, ("images/a_1.mat",))
    assert [pair.name for pair in found.pairs] == ["a_1"]
    assert not found.findings


def test_without_lists_everything_counts(maker: Maker) -> None:
    maker.add("a_1")
    maker.add("b_2")
    assert len(scan(maker.folder).pairs) == 2


def test_torchvisions_folder_is_found(maker: Maker) -> None:
    maker.add("a_1")
    inner = maker.folder.parent / "root" / "oxford-iiit-pet"
    inner.parent.mkdir()
    maker.folder.rename(inner)
    assert len(scan(inner.parent).pairs) == 1


def test_names_with_spaces_in_lists(maker: Maker) -> None:
    maker.add("my cat 3 2 1")
    maker.add("plain name")
    (maker.folder / "annotations" / "test.txt").write_text("# comment\n\nmy cat 3 2 1 9 2 4\nplain name\n")
    found = {pair.name: (pair.attributes["class_id"], pair.attributes["species"]) for pair in scan(maker.folder).pairs}
    assert found == {"my cat 3 2 1": (9, "dog"), "plain name": (0, "unknown")}


@pytest.mark.parametrize(
    ("name", "breed"), [("a_b_1", "a_b"), ("cat", "unknown"), ("_1", "unknown"), ("cat_x", "unknown")]
)
def test_breed(name: str, breed: str) -> None:
    assert breed_of(name) == breed


def test_unusable_folders_say_what_is_wrong(tmp_path: Path, maker: Maker) -> None:
    with pytest.raises(SourceError, match="no such file or folder"):
        scan(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="not in the layout of Oxford-IIIT Pet"):
        scan(tmp_path, layout="pets")
    maker.write("x", None, b"y")
    with pytest.raises(SourceError, match="holds no image"):
        scan(maker.folder)
    maker.write("other", b"y", None)
    with pytest.raises(SourceError, match="1 image-without-mask, 1 mask-without-image"):
        scan(maker.folder)
    (maker.folder / "images" / "other.jpeg").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"both other\.jpeg and other\.jpg"):
        scan(maker.folder)


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_a_list_that_is_not_a_file(pets: Path, kind: str) -> None:
    """A pipe must not make the scan wait for a writer."""
    path = pets / "annotations" / "trainval.txt"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(SourceError, match=r"trainval\.txt is not a file"):
        scan(pets)


def test_the_scan_takes_time_in_proportion(pets: Path) -> None:
    """Twenty thousand listed names that are missing: a second, not minutes."""
    with (pets / "annotations" / "test.txt").open("a") as handle:
        handle.writelines(f"missing_{number} 1 1 1\n" for number in range(20_000))
    before = time.process_time()
    found = scan(pets)
    assert time.process_time() - before < 5
    assert len(found.findings) == 20_000
