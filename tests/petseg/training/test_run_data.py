"""What images an epoch has: their size and how they are varied."""

from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import petseg
from petseg.runs.recipe import default_recipe
from petseg.training import run_data
from petseg.training.run_data import augmentation_of_epoch, size_of_epoch
from pipeline import Augmentation, Loader
from pipeline.order.augmentation import NO_AUGMENTATION

STRONG, TRAIN, FLIPS = Augmentation.preset("strong"), Augmentation.preset("train"), changed(NO_AUGMENTATION, flip=0.5)


def test_progressive_sizes_grow_to_the_full_one() -> None:
    recipe = replace(default_recipe("unet"), progressive=True, epochs=10, size=(128, 128))
    sizes = [size_of_epoch(recipe, epoch) for epoch in range(10)]
    assert sizes == [(side, side) for side in (64, 64, 64, 64, 96, 96, 96, 128, 128, 128)]
    for epochs in range(1, 20):  # however short a run, it ends at the full size
        assert size_of_epoch(replace(recipe, epochs=epochs), epochs - 1) == (128, 128)
    assert [size_of_epoch(replace(recipe, epochs=3), epoch) for epoch in range(3)] == [(64, 64), (96, 96), (128, 128)]
    wide = replace(recipe, size=(40, 300), epochs=3)
    assert [size_of_epoch(wide, epoch) for epoch in range(3)] == [(32, 144), (32, 224), (40, 300)]
    assert {size_of_epoch(replace(recipe, size=(32, 32)), epoch) for epoch in range(10)} == {(32, 32)}
    assert {size_of_epoch(replace(recipe, progressive=False), epoch) for epoch in range(10)} == {(128, 128)}


def test_images_of_the_last_epochs_are_only_flipped() -> None:
    recipe = replace(default_recipe("unet"), augment="strong", plain_share=0.15, epochs=20)
    kinds = [augmentation_of_epoch(recipe, epoch) for epoch in range(20)]
    assert kinds == [STRONG] * 17 + [FLIPS] * 3
    mild = replace(recipe, augment="train")
    assert [augmentation_of_epoch(mild, epoch) for epoch in range(20)] == [TRAIN] * 17 + [FLIPS] * 3
    none = replace(recipe, augment="none")
    assert {augmentation_of_epoch(none, epoch) for epoch in range(20)} == {None}
    cropped = replace(none, crop_scale=(0.5, 1.0))
    assert {augmentation_of_epoch(cropped, epoch) for epoch in range(20)} == {NO_AUGMENTATION}
    for share, last in ((0.0, STRONG), (1.0, FLIPS)):
        everywhere = replace(recipe, plain_share=share)
        assert {augmentation_of_epoch(everywhere, epoch) for epoch in range(20)} == {last}
    short = replace(recipe, epochs=3)  # an epoch counts as one of the last where all of it does
    assert [augmentation_of_epoch(short, epoch) for epoch in range(3)] == [STRONG] * 3


@pytest.mark.usefixtures("no_report")
def test_training_opens_a_loader_for_each_kind_of_images(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[tuple[int, Augmentation | None]]()

    class Recorded(Loader):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if options["split"] == "train":
                opened.append((self.size[0], self.augment))

    monkeypatch.setattr(run_data, "Loader", Recorded)
    options = {"size": 64, "widths": (8, 16), "epochs": 5, "batch_size": 16, "threads": 1, "validate_every": 5}
    petseg.train(synthetic_set, run=tmp_path / "run", options={**options, "plain_share": 0.2})
    assert opened == [(32, STRONG), (48, STRONG), (64, STRONG), (64, FLIPS)]


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(("most", "expected"), [(65536, 32), (32, 32), (31, 16)])
def test_the_largest_batches_are_validated_as_they_are(
    most: int, expected: int, synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[int]()

    class Recorded(Loader):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if options["split"] == "val":
                opened.append(options["batch_size"])

    monkeypatch.setattr(run_data, "Loader", Recorded)
    monkeypatch.setattr(run_data, "MAX_BATCH", most)
    options = {"size": 32, "widths": (8, 16), "epochs": 1, "batch_size": 16, "threads": 1}
    petseg.train(synthetic_set, run=tmp_path / "run", options=options)
    assert opened == [expected]
