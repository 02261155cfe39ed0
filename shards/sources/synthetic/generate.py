"""Writing a synthetic dataset in the official layout of Oxford-IIIT Pet.

For trying everything without a download. The images are drawings: scores on them say nothing about photographs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.errors import SourceError, UsageError
from shards.sources.synthetic.breeds import BREEDS
from shards.sources.synthetic.compose import Mask, draw_image
from shards.sources.synthetic.drawing import TextureBank
from shards.store.atomic import PARTIAL_PREFIX

MAX_COUNT = 100_000
BAND = 0.011  # half the width of the border, as a part of the longer side; about that of the real dataset

_HEADER = """\
#Image CLASS-ID SPECIES BREED ID
#ID: 1:{breeds} Class ids
#SPECIES: 1:Cat 2:Dog
#BREED ID: 1-{cats}:Cat 1:{dogs}:Dog
#All images with 1st letter as captial are cat images
#images with small first letter are dog images
"""  # the official file's header, spelling included


class SyntheticPets(NamedTuple):
    """How many images and breeds were made, and how many of the images are in each list."""

    images: int
    breeds: int
    trainval: int
    test: int


def make_pets(
    folder: Path, *, count: int = 240, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> SyntheticPets:
    """Draw a dataset of ``count`` cats and dogs.

    ``images/NAME.jpg`` (longer side 240..500 pixels, either orientation), ``annotations/trimaps/NAME.png`` (8-bit grey:
    1 animal, 2 background, 3 border), ``annotations/{list,trainval,test}.txt``. The official split is halved within
    each breed. The same seed gives the same images (the first of a larger set are those of a smaller one), and on
    the same machine and library versions the same bytes. The folder appears whole, by rename, or not at all.

    Args:
        folder: to be made; may exist if it is empty.
        count: 1..100,000.
        seed: 0 or greater.
        progress: called with (images done, images in all) after each image.

    Raises:
        UsageError: ``count`` or ``seed`` is out of range.
        SourceError: ``folder`` exists and is not an empty folder.
    """
    if not 1 <= count <= MAX_COUNT:
        raise UsageError(f"--count {count}: must be between 1 and {MAX_COUNT:,}")
    if seed < 0:
        raise UsageError(f"--seed {seed}: must be 0 or greater")
    if any(folder.iterdir()) if folder.is_dir() else folder.exists() or folder.is_symlink():
        what = "is not empty" if folder.is_dir() else "is not a folder"
        raise SourceError(f"{folder} {what}; nothing was written: choose a new folder, or remove this one first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    names = [f"{BREEDS[k % len(BREEDS)].name}_{k // len(BREEDS) + 1}" for k in range(count)]  # breeds take turns
    bank = TextureBank(seed)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{PARTIAL_PREFIX}{folder.name}-") as work:
        images, trimaps = Path(work, "pets", "images"), Path(work, "pets", "annotations", "trimaps")
        images.mkdir(parents=True)
        trimaps.mkdir(parents=True)
        for number, name in enumerate(names):
            rng = np.random.default_rng([seed, number])
            image, inside = draw_image(BREEDS[number % len(BREEDS)], bank, rng)
            Image.fromarray(image).save(images / f"{name}.jpg", quality=int(rng.integers(82, 96)))
            Image.fromarray(trimap_of(inside)).save(trimaps / f"{name}.png")
            if progress is not None:
                progress(number + 1, count)
        test = _write_lists(trimaps.parent, names, seed)
        images.parent.replace(folder)
    return SyntheticPets(count, min(count, len(BREEDS)), count - test, test)


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


def _write_lists(folder: Path, names: list[str], seed: int) -> int:
    """Write the three lists, NAME CLASS SPECIES BREED a line; return how many images are in the test list.

    Half of each breed, chosen at random; of an odd number, every other breed gives the greater half.
    """
    lists: dict[str, list[str]] = {"list": [], "trainval": [], "test": []}
    breed_ids = {1: 0, 2: 0}  # the last of the cats, of the dogs
    for number, breed in enumerate(BREEDS):
        species = 1 if breed.is_cat else 2
        breed_ids[species] += 1
        own = names[number :: len(BREEDS)]
        order = np.random.default_rng([seed, number, 0x7E57]).permutation(len(own))
        test = {own[i] for i in order[: (len(own) + number % 2) // 2]}
        for name in sorted(own):
            line = f"{name} {number + 1} {species} {breed_ids[species]}\n"
            lists["list"].append(line)
            lists["test" if name in test else "trainval"].append(line)
    lists["list"].insert(0, _HEADER.format(breeds=len(BREEDS), cats=breed_ids[1], dogs=breed_ids[2]))
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("".join(lines), encoding="ascii")
    return len(lists["test"])
