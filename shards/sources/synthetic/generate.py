"""A made-up pet dataset in the official layout: drawn cats and dogs with exact trimaps, offline and seeded.

For trying everything without a download. The pictures are drawings; what a network scores on them says nothing about
photographs.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from shards.errors import SourceError, UsageError
from shards.sources.synthetic.breeds import BREEDS, Breed
from shards.sources.synthetic.compose import Picture, draw_picture
from shards.sources.synthetic.noise import NoiseBank
from shards.store.atomic import PARTIAL_PREFIX

MAX_COUNT = 100_000

_HEADER = """\
#Image CLASS-ID SPECIES BREED ID
#ID: 1:{breeds} Class ids
#SPECIES: 1:Cat 2:Dog
#BREED ID: 1-{cats}:Cat 1:{dogs}:Dog
#All images with 1st letter as captial are cat images
#images with small first letter are dog images
"""  # the official file's header, spelling included


@dataclass(frozen=True)
class MadeUpPets:
    """What :func:`make_pets` made.

    Attributes:
        folder: the dataset, in the official layout.
        pictures: number of pictures, each with a trimap.
        breeds: number of breeds among them.
        trainval: number of pictures in ``trainval.txt``.
        test: number of pictures in ``test.txt``.
    """

    folder: Path
    pictures: int
    breeds: int
    trainval: int
    test: int


@dataclass(frozen=True)
class _Entry:
    """One line of ``list.txt``; ``number`` is the picture's place in the order of drawing."""

    name: str
    breed: int
    number: int

    @property
    def line(self) -> str:
        """``NAME CLASS SPECIES BREED``."""
        breed = BREEDS[self.breed]
        same_species = [other for other in BREEDS if other.is_cat == breed.is_cat]
        return f"{self.name} {self.breed + 1} {1 if breed.is_cat else 2} {same_species.index(breed) + 1}"


def make_pets(
    folder: Path, *, count: int = 240, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> MadeUpPets:
    """Draw a dataset of ``count`` cats and dogs.

    ``images/NAME.jpg`` (longer side 240..500 pixels, either orientation), ``annotations/trimaps/NAME.png`` (8-bit grey:
    1 animal, 2 background, 3 border), ``annotations/{list,trainval,test}.txt``. The official split is halved within
    each breed. The same seed gives the same pictures (the first of a larger set are those of a smaller one), and on
    the same machine and library versions the same bytes. The folder appears whole, by rename, or not at all.

    Args:
        folder: to be made; may exist if it is empty.
        count: number of pictures, 1..100,000.
        seed: 0 or greater.
        progress: called with (pictures done, pictures in all) after each picture.

    Raises:
        UsageError: ``count`` or ``seed`` is out of range.
        SourceError: ``folder`` exists and is not an empty folder.
        OSError: it cannot be written.
    """
    if not 1 <= count <= MAX_COUNT:
        raise UsageError(f"--count {count}: must be between 1 and {MAX_COUNT:,}")
    if seed < 0:
        raise UsageError(f"--seed {seed}: must be 0 or greater")
    _check_target(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{PARTIAL_PREFIX}{folder.name}-"))
    try:
        partial.chmod(0o755)
        entries = _entries(count)
        _write_pictures(partial, entries, seed, progress)
        trainval, test = _write_lists(partial, entries, seed)
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    breeds = len({entry.breed for entry in entries})
    return MadeUpPets(folder=folder, pictures=count, breeds=breeds, trainval=trainval, test=test)


def _check_target(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        what = "is not empty" if folder.is_dir() else "is not a folder"
        raise SourceError(f"{folder} {what}; nothing was written: choose a new folder, or remove this one first")


def _entries(count: int) -> list[_Entry]:
    """Name the pictures: breeds in turn, numbered from 1 within each."""
    return [
        _Entry(f"{BREEDS[number % len(BREEDS)].name}_{number // len(BREEDS) + 1}", number % len(BREEDS), number)
        for number in range(count)
    ]


def _write_pictures(
    folder: Path, entries: list[_Entry], seed: int, progress: Callable[[int, int], None] | None
) -> None:
    images, trimaps = folder / "images", folder / "annotations" / "trimaps"
    images.mkdir()
    trimaps.mkdir(parents=True)
    bank = NoiseBank(seed)
    for done, entry in enumerate(entries, start=1):
        rng = np.random.default_rng([seed, entry.number])
        picture = draw_picture(BREEDS[entry.breed], bank, rng)
        jpeg, png = _encode(picture, quality=int(rng.integers(82, 96)))
        (images / f"{entry.name}.jpg").write_bytes(jpeg)
        (trimaps / f"{entry.name}.png").write_bytes(png)
        if progress is not None:
            progress(done, len(entries))


def _encode(picture: Picture, *, quality: int) -> tuple[bytes, bytes]:
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture.image).save(jpeg, "JPEG", quality=quality)
    Image.fromarray(picture.trimap).save(png, "PNG")
    return jpeg.getvalue(), png.getvalue()


def _write_lists(folder: Path, entries: list[_Entry], seed: int) -> tuple[int, int]:
    """Write the three lists; return how many pictures are in trainval and in test."""
    test = _test_names(entries, seed)
    ordered = sorted(entries, key=lambda entry: (entry.breed, entry.name))
    cats = sum(breed.is_cat for breed in BREEDS)
    header = _HEADER.format(breeds=len(BREEDS), cats=cats, dogs=len(BREEDS) - cats)
    lists = {
        "list": header + "".join(f"{entry.line}\n" for entry in ordered),
        "trainval": "".join(f"{entry.line}\n" for entry in ordered if entry.name not in test),
        "test": "".join(f"{entry.line}\n" for entry in ordered if entry.name in test),
    }
    for name, text in lists.items():
        (folder / "annotations" / f"{name}.txt").write_text(text, encoding="ascii")
    return len(entries) - len(test), len(test)


def _test_names(entries: list[_Entry], seed: int) -> set[str]:
    """Choose half of each breed at random; of an odd number, every other breed gives the greater half."""
    names: set[str] = set()
    for number, _ in enumerate(BREEDS):
        own = [entry.name for entry in entries if entry.breed == number]
        order = np.random.default_rng([seed, number, 0x7E57]).permutation(len(own))
        half = (len(own) + number % 2) // 2
        names.update(own[i] for i in order[:half])
    return names


__all__ = ["BREEDS", "Breed", "MadeUpPets", "make_pets"]
