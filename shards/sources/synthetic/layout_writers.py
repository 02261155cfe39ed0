"""The synthetic dataset in each layout: where images, masks and lists go, and which values the masks have."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.errors import UsageError, option, spelled
from shards.format.builtin_labels import ADE20K, BINARY, CITYSCAPES, PETS
from shards.format.label_files import labels_text
from shards.format.labels import IGNORE, UNTINTED, LabelClass, Labels, chosen_colour
from shards.format.overlays import indexed_mask
from shards.sources.synthetic.breeds import BREEDS
from shards.sources.synthetic.drawing import Canvas

BACKGROUND, BORDER = 2, 3  # in trimaps; the animal is 1
LABELS_FILE: Final = "labels.toml"
_VOID = (224, 224, 192)
_VAL_EVERY = 5  # one of so many images that are not in the test list is in val, in layouts that have one

_HEADER = """\
#Image CLASS-ID SPECIES BREED ID
#ID: 1:{breeds} Class ids
#SPECIES: 1:Cat 2:Dog
#BREED ID: 1-{cats}:Cat 1:{dogs}:Dog
#All images with 1st letter as captial are cat images
#images with small first letter are dog images
"""  # the official file's header, spelling included


class ListEntry(NamedTuple):
    """An image in the lists of the official layout: its name, and the numbers of class, species and breed."""

    name: str
    class_id: int
    species: int  # 1 cat, 2 dog
    breed_id: int


class LayoutWriter:
    """Writes a dataset in one layout; this class: the official one of Oxford-IIIT Pet.

    In the other layouts class 0 is the background, and the animal is class 1..N-1: of three classes, cat or dog; of
    more, the breeds take turns. The border is ignored. In ``binary`` masks, the border belongs to the animal. Where the
    classes are not those of a well-known dataset, ``labels.toml`` names them.
    """

    labels: Labels = PETS  # of the masks that are written
    own_labels = True  # a scan knows them

    def begin(self, folder: Path, lists: dict[str, list[ListEntry]]) -> None:
        """Make the folders; ``lists`` has ``list``, ``trainval`` and ``test``."""
        self.folder, self.lists = folder, lists
        self.entries = {entry.name: entry for entry in lists["list"]}
        trainval = [entry.name for entry in sorted(lists["trainval"], key=lambda entry: (entry.class_id, entry.name))]
        self.splits = dict.fromkeys((entry.name for entry in lists["test"]), "test")
        self.splits |= {name: "val" if k % _VAL_EVERY == 1 else "train" for k, name in enumerate(trainval)}
        folder.mkdir(parents=True)
        if not self.own_labels:
            text = labels_text(self.labels, comment="the classes of these masks")
            (folder / LABELS_FILE).write_text(text, encoding="utf-8")

    def write(self, name: str, image: Canvas, trimap: npt.NDArray[np.uint8], *, quality: int) -> None:
        """Write one image, uint8 (H, W, 3), and its mask, from the trimap (H, W)."""
        image_path, mask_path = self.paths(name)
        for path in (image_path, mask_path):
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(self.folder / image_path, quality=quality)
        self.mask(name, trimap).save(self.folder / mask_path)

    def paths(self, name: str) -> tuple[str, str]:
        """Return where the image and the mask of this name go, relative to the folder."""
        return f"images/{name}.jpg", f"annotations/trimaps/{name}.png"

    def mask(self, name: str, trimap: npt.NDArray[np.uint8]) -> Image.Image:
        """Return the mask that is written."""
        return Image.fromarray(trimap)

    def finish(self) -> None:
        """Write the lists, NAME CLASS SPECIES BREED a line."""
        cats = sum(breed.is_cat for breed in BREEDS)
        header = _HEADER.format(breeds=len(BREEDS), cats=cats, dogs=len(BREEDS) - cats)
        for name, entries in self.lists.items():
            lines = [f"{e.name} {e.class_id} {e.species} {e.breed_id}\n" for e in entries]
            text = "".join([header, *lines] if name == "list" else lines)
            (self.folder / "annotations" / f"{name}.txt").write_text(text, encoding="ascii")


class FoldersWriter(LayoutWriter):
    """``images/SPLIT/NAME.jpg`` and ``masks/SPLIT/NAME.png``; masks of values, 0 and 255, or colours."""

    own_labels = False

    def __init__(self, *, classes: int, masks: str = "index") -> None:
        self.binary = masks == "binary"
        self.labels = BINARY if self.binary else made_labels(classes, rgb=masks == "rgb")

    def paths(self, name: str) -> tuple[str, str]:
        """See the base class."""
        return f"images/{self.splits[name]}/{name}.jpg", f"masks/{self.splits[name]}/{name}.png"

    def class_of(self, name: str) -> int:
        """Return the class of the animal in an image."""
        count, entry = len(self.labels), self.entries[name]
        if count == 3:
            return entry.species
        return 1 + (entry.class_id - 1) % (count - 1) if count > 1 else 0

    def indices(self, name: str, trimap: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the class of each pixel, or IGNORE, uint8 (H, W)."""
        indices = np.where(trimap == BACKGROUND, 0, self.class_of(name)).astype(np.uint8)
        if not self.binary:
            indices[trimap == BORDER] = IGNORE
        return indices

    def mask(self, name: str, trimap: npt.NDArray[np.uint8]) -> Image.Image:
        """See the base class."""
        return Image.fromarray(np.asarray(indexed_mask(self.indices(name, trimap), self.labels)))  # without a palette

    def finish(self) -> None:
        """The folders are the lists."""


class CsvWriter(FoldersWriter):
    """``images/NAME.jpg``, ``masks/NAME.png`` and ``data.csv`` with the columns image, mask, split, breed, class_id."""

    def paths(self, name: str) -> tuple[str, str]:
        """See the base class."""
        return f"images/{name}.jpg", f"masks/{name}.png"

    def finish(self) -> None:
        """Write the table."""
        with (self.folder / "data.csv").open("w", encoding="utf-8", newline="") as handle:
            table = csv.writer(handle, lineterminator="\n")
            table.writerow(["image", "mask", "split", "breed", "class_id"])
            for name in sorted(self.entries):
                entry = self.entries[name]
                table.writerow([*self.paths(name), self.splits[name], BREEDS[entry.class_id - 1].name, entry.class_id])


class VocWriter(FoldersWriter):
    """``JPEGImages``, ``SegmentationClass`` with palettes, ``ImageSets/Segmentation/{train,val,trainval,test}.txt``."""

    def mask(self, name: str, trimap: npt.NDArray[np.uint8]) -> Image.Image:
        """See the base class; ignored pixels have VOC's own colour."""
        image = indexed_mask(self.indices(name, trimap), self.labels)
        palette = image.getpalette() or []
        palette[3 * IGNORE :] = _VOID
        image.putpalette(palette)
        return image

    def paths(self, name: str) -> tuple[str, str]:
        """See the base class."""
        return f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png"

    def finish(self) -> None:
        """Write the lists."""
        lists = self.folder / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        for split, parts in (("train", "train"), ("val", "val"), ("trainval", "train val"), ("test", "test")):
            names = sorted(name for name, own in self.splits.items() if own in parts.split())
            if names:
                (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="ascii")


class CityscapesWriter(FoldersWriter):
    """``leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png``.

    Cats live in one city, dogs in another. Classes are the first of the 19; the test split has masks, too.
    """

    own_labels = True

    def __init__(self, *, classes: int) -> None:
        super().__init__(classes=classes)
        self.labels = Labels(classes=CITYSCAPES.classes[:classes], ignore=CITYSCAPES.ignore)

    def paths(self, name: str) -> tuple[str, str]:
        """See the base class."""
        place = f"{self.splits[name]}/{('catford', 'barking')[self.entries[name].species - 1]}/{name}"
        return f"leftImg8bit/{place}_leftImg8bit.png", f"gtFine/{place}_gtFine_labelIds.png"


class Ade20kWriter(FoldersWriter):
    """``images/training/ADE_train_00000001.jpg`` and ``annotations``; the test images are in ``validation``, too."""

    own_labels = True

    def __init__(self, *, classes: int) -> None:
        super().__init__(classes=classes)
        self.labels = Labels(classes=ADE20K.classes[:classes], ignore=ADE20K.ignore)

    def begin(self, folder: Path, lists: dict[str, list[ListEntry]]) -> None:
        """See the base class."""
        super().begin(folder, lists)
        self.numbers = {name: number for number, name in enumerate(self.entries, start=1)}

    def paths(self, name: str) -> tuple[str, str]:
        """See the base class."""
        part, word = ("training", "train") if self.splits[name] == "train" else ("validation", "val")
        place = f"{part}/ADE_{word}_{self.numbers[name]:08}"
        return f"images/{place}.jpg", f"annotations/{place}.png"


# How many classes each layout may have, and how many it has if nothing is said.
_MOST: Final = {"pets": 3, "folders": 255, "csv": 255, "voc": 255, "cityscapes": 19, "ade20k": 150}
_USUAL: Final = {"pets": 3, "folders": 3, "csv": 3, "voc": 21, "cityscapes": 19, "ade20k": 150}
WRITERS: Final = tuple(_MOST)
MASKS: Final = ("index", "binary", "rgb")


def writer_for(layout: str, *, classes: int | None, masks: str) -> LayoutWriter:
    """Return the writer of a layout; raise ``UsageError`` for classes or masks that it does not have."""
    if layout not in WRITERS:
        raise UsageError(f"{option('layout', layout)}: choose from {', '.join(WRITERS)}")
    if masks not in MASKS:
        raise UsageError(f"{option('masks', masks)}: choose from {', '.join(MASKS)}")
    if masks != "index" and layout not in ("folders", "csv"):
        raise UsageError(
            f"{option('masks', masks)} needs {spelled('--layout=folders or csv')}: the masks of {layout} hold values"
        )
    usual = 2 if masks == "binary" else _USUAL[layout]
    chosen = usual if classes is None else classes
    least, most = (usual, usual) if layout == "pets" or masks == "binary" else (1, _MOST[layout])
    if not least <= chosen <= most:
        what = f"{layout} with {masks} masks" if masks != "index" else layout
        raise UsageError(f"{option('classes', chosen)}: {what} has {least if least == most else f'{least} to {most}'}")
    if layout == "pets":
        return LayoutWriter()
    if layout in ("folders", "csv"):
        return (FoldersWriter if layout == "folders" else CsvWriter)(classes=chosen, masks=masks)
    if layout == "voc":
        return VocWriter(classes=chosen)
    return CityscapesWriter(classes=chosen) if layout == "cityscapes" else Ade20kWriter(classes=chosen)


def made_labels(classes: int, *, rgb: bool = False) -> Labels:
    """Return labels for so many classes of animals: background, then cat and dog, or breeds, or groups of breeds."""
    count = classes - 1
    if count == 1:
        names = ["animal"]
    elif count == 2:
        names = ["cat", "dog"]
    elif count < len(BREEDS):
        names = [f"group {number + 1}" for number in range(count)]
    else:
        names = [breed.name for breed in BREEDS] + [f"unused {number + 1}" for number in range(count - len(BREEDS))]
    colours = [UNTINTED, *(chosen_colour(number) for number in range(count))]
    return Labels(
        classes=tuple(
            LabelClass(
                name=name,
                color=colour,
                values=() if rgb else (number,),
                source_colors=(colour,) if rgb else (),
            )
            for number, (name, colour) in enumerate(zip(["background", *names], colours, strict=True))
        ),
        ignore=() if rgb else (IGNORE,),
        ignore_colors=("#ffffff",) if rgb else (),
        foreground=("animal",) if count == 1 else (),
    )
