"""Drawing a synthetic dataset, in the official layout of Oxford-IIIT Pet or in any other.

For trying everything without a download. The images are drawings: scores on them say nothing about photographs.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from shards.errors import SourceError, UsageError, option
from shards.format.readers.output_places import expect_no_mount, expect_outside
from shards.sources.synthetic.breeds import BREEDS
from shards.sources.synthetic.compose import Mask, draw_image
from shards.sources.synthetic.drawing import TextureBank
from shards.sources.synthetic.layout_writers import ListEntry, writer_for
from shards.store.atomic import naming
from shards.store.owner_files import scratch_folder

MAX_COUNT = 100_000
BAND = 0.011  # half the width of the border, as a part of the longer side; about that of the real dataset


class SyntheticPets(NamedTuple):
    """How many images and breeds were made, and how many of the images are in each list."""

    images: int
    breeds: int
    trainval: int
    test: int


def make_pets(
    folder: Path,
    *,
    count: int = 240,
    seed: int = 0,
    layout: str = "pets",
    classes: int | None = None,
    masks: str = "index",
    progress: Callable[[int, int], None] | None = None,
) -> SyntheticPets:
    """Draw a dataset of ``count`` cats and dogs.

    ``images/NAME.jpg`` (longer side 240..500 pixels, either orientation), ``annotations/trimaps/NAME.png`` (8-bit grey:
    1 animal, 2 background, 3 border), ``annotations/{list,trainval,test}.txt``. The official split is halved within
    each breed. Other layouts have the same drawings, see :mod:`shards.sources.synthetic.layout_writers`. The same seed
    gives the same images (the first of a larger set are those of a smaller one), and on the same machine and library
    versions the same bytes. The folder appears whole, by rename, or not at all.

    Args:
        folder: to be made; may exist if it is empty.
        count: 1..100,000.
        seed: 0 or greater.
        layout: one of :data:`shards.sources.synthetic.layout_writers.WRITERS`.
        classes: how many; default: as many as the layout's own labels have, else 3.
        masks: ``index``, or in the layouts ``folders`` and ``csv`` ``binary`` (0 and 255) or ``rgb``.
        progress: called with (images done, images in all) after each image.

    Raises:
        UsageError: ``count`` or ``seed`` is out of range, or the layout does not have such classes or masks.
        SourceError: ``folder`` exists and is not an empty folder.
    """
    if not 1 <= count <= MAX_COUNT:
        raise UsageError(f"{option('count', count)}: must be between 1 and {MAX_COUNT:,}")
    if seed < 0:
        raise UsageError(f"{option('seed', seed)}: must be 0 or greater")
    writer = writer_for(layout, classes=classes, masks=masks)
    expect_outside(folder, itself=True, advice="choose another folder")
    expect_no_mount(folder)
    if any(folder.iterdir()) if folder.is_dir() else folder.exists() or folder.is_symlink():
        what = "is not empty" if folder.is_dir() else "is not a folder"
        raise SourceError(f"{folder} {what}; nothing was written: choose a new folder, or remove this one first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    names = [f"{BREEDS[k % len(BREEDS)].name}_{k // len(BREEDS) + 1}" for k in range(count)]  # breeds take turns
    bank = TextureBank(seed)
    with (
        naming(folder),
        scratch_folder("sample", parent=folder.parent) as work,
    ):
        lists = _lists(names, seed)
        writer.begin(work / "dataset", lists)
        for number, name in enumerate(names):
            rng = np.random.default_rng([seed, number])
            image, inside = draw_image(BREEDS[number % len(BREEDS)], bank, rng)
            writer.write(name, image, trimap_of(inside), quality=int(rng.integers(82, 96)))
            if progress is not None:
                progress(number + 1, count)
        writer.finish()
        try:
            (work / "dataset").replace(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            what = "another process has made it meanwhile, or put something there"
            raise SourceError(f"{folder}: {what}, which stays; use that, or choose a new folder") from None
    return SyntheticPets(count, min(count, len(BREEDS)), len(lists["trainval"]), len(lists["test"]))


def trimap_of(inside: Mask) -> npt.NDArray[np.uint8]:
    """Return the trimap, uint8 (H, W), of an animal's exact mask: 1 animal, 2 background, 3 border.

    The border is a band along the outline, as wide inwards as outwards; where the image's edge cuts the animal, none.
    """
    animal, background, border = 1, 2, 3
    reach = max(2, round(BAND * max(inside.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    mask = inside.astype(np.uint8)
    trimap = np.where(inside, np.uint8(animal), np.uint8(background))
    trimap[cv2.dilate(mask, disc) != cv2.erode(mask, disc)] = border
    return trimap


def _lists(names: list[str], seed: int) -> dict[str, list[ListEntry]]:
    """Return the entries of the three lists ``list``, ``trainval`` and ``test``.

    The test list has half of each breed, chosen at random; of an odd number, every other breed gives the greater half.
    """
    lists: dict[str, list[ListEntry]] = {"list": [], "trainval": [], "test": []}
    breed_ids = {1: 0, 2: 0}  # the last of the cats, of the dogs
    for number, breed in enumerate(BREEDS):
        species = 1 if breed.is_cat else 2
        breed_ids[species] += 1
        own = names[number :: len(BREEDS)]
        order = np.random.default_rng([seed, number, 0x7E57]).permutation(len(own))
        test = {own[i] for i in order[: (len(own) + number % 2) // 2]}
        for name in sorted(own):
            entry = ListEntry(name, number + 1, species, breed_ids[species])
            lists["list"].append(entry)
            lists["test" if name in test else "trainval"].append(entry)
    return lists
