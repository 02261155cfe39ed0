"""Which layout a dataset has: the one that was asked for, or the only one that fits."""

import contextlib
import os
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from shards.errors import SourceError, UsageError, listed, option, spelled
from shards.format.keys import shown
from shards.format.layout import is_set_file
from shards.sources.ade20k import Ade20kLayout
from shards.sources.cityscapes import CityscapesLayout
from shards.sources.csv_table import CsvLayout
from shards.sources.folders import POLYGONS, FoldersLayout
from shards.sources.layout_protocol import Layout, Source
from shards.sources.pairs.listing import MASK_ENDINGS, holds_any
from shards.sources.pairs.spelling import case_collisions
from shards.sources.pairs.store_mirror import scan_store
from shards.sources.pets import PetsLayout
from shards.sources.voc import VocLayout
from shards.store.addresses import is_remote

# What each looks for. `folders` is taken where no other fits: it would fit most of them, too.
_LOOKED_FOR: Final = {
    "pets": "images/ and annotations/trimaps/",
    "voc": "JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/",
    "cityscapes": "leftImg8bit/ and gtFine/",
    "ade20k": "images/training/ADE_* and annotations/training/",
    "csv": "one .csv file with the columns image and mask (of several, give the path of one)",
    "folders": "images/ and masks/ by any usual name, in it or in train/, val/, test/; train/ and train_masks/",
}
LAYOUTS: Final = ("auto", *_LOOKED_FOR)
_SHOWN_ENTRIES = 8


def scan(
    path: Path | str, *, layout: str = "auto", image_suffix: str | None = None, mask_suffix: str | None = None
) -> Source:
    """Find the pairs of a dataset; reads folders and lists, opens no image (but a few of Cityscapes' test masks).

    Args:
        path: a folder, or a .csv file; text may be the address of one in a store.
        layout: one of :data:`LAYOUTS`.
        image_suffix: of the layout ``folders``: what the names of images end with; default: found.
        mask_suffix: likewise, of masks; images and masks may then be in one folder.

    Raises:
        UsageError: there is no such layout, or it has no suffixes.
        SourceError: there is nothing at ``path``, no layout or several fit, or the dataset cannot be used.
        StoreError: the store cannot be read.
    """
    if is_remote(path):
        found = partial(scan, layout=layout, image_suffix=image_suffix, mask_suffix=mask_suffix)
        return scan_store(str(path), found)
    path = Path(path)
    known: tuple[Layout, ...] = (
        PetsLayout(),
        VocLayout(),
        CityscapesLayout(),
        Ade20kLayout(),
        CsvLayout(),
        FoldersLayout(image_suffix=image_suffix, mask_suffix=mask_suffix),
    )
    for name, suffix in (("image_suffix", image_suffix), ("mask_suffix", mask_suffix)):
        if not isinstance(suffix, str | None):
            raise UsageError(f"{option(name, suffix)}: give text, such as _mask.png")
    if layout not in LAYOUTS:
        raise UsageError(f"{option('layout', layout)}: choose from {', '.join(LAYOUTS)}")
    try:
        if not _exists(path):
            raise SourceError(
                f"no such file or folder: {shown(str(path))}; get the pets with petseg-shard download, or synthetic "
                "images with petseg-shard sample"
            )
        if not (path.is_dir() or (path.is_file() and path.suffix.lower() == ".csv")):
            raise SourceError(f"{shown(str(path))} is neither a folder nor a .csv file")
        chosen = _recognise(path, known) if layout == "auto" else next(each for each in known if each.name == layout)
        if chosen.name != "folders" and (image_suffix, mask_suffix) != (None, None):
            what = spelled("--image-suffix and --mask-suffix are for the layout folders")
            raise UsageError(f"{what}; this is {chosen.name}, leave them out")
        if path.is_file() and chosen.name != "csv":
            raise SourceError(f"{shown(str(path))} is a file, and the layout {layout} is a folder")
        return _with_collisions(chosen.scan(path))
    except OSError as error:
        what = f"{shown(str(_closed(Path(error.filename or path))))} cannot be read ({error.strerror})"
        raise SourceError(f"{what}; fix this and run the same command again") from None


def _exists(path: Path) -> bool:
    """Return ``path.exists()``, but raise ``PermissionError`` in every version of Python where that is the reason."""
    try:
        path.stat()
    except PermissionError:
        raise
    except (OSError, ValueError):
        return False
    return True


def _closed(path: Path) -> Path:
    """Return the outermost folder around ``path`` that may not be entered, else ``path``, which may not even exist."""
    return next((folder for folder in reversed(path.parents) if not os.access(folder, os.X_OK)), path)


def _with_collisions(source: Source) -> Source:
    """Return the source with a warning for names that some file systems take for one."""
    found = case_collisions(pair.name for pair in source.pairs)
    return replace(source, findings=(*source.findings, *found)) if found else source


def _recognise(path: Path, known: tuple[Layout, ...]) -> Layout:
    """Return the only layout that fits; raise ``SourceError`` if none or several do."""
    where = shown(str(path))
    reasons = {each.name: reason for each in known if each.name != "folders" and (reason := each.recognise(path))}
    if not reasons:
        folders = next(each for each in known if each.name == "folders")
        reasons = {folders.name: reason} if (reason := folders.recognise(path)) else {}
    if len(reasons) > 1:
        found = "; ".join(f"{name}, because {reason}" for name, reason in reasons.items())
        raise SourceError(f"{where} fits several layouts: {found}; {spelled('say which with --layout=NAME')}")
    if not reasons:
        if path.is_dir() and any(is_set_file(each.name) for each in path.iterdir()):
            raise SourceError(f"{where} is a shard set already; petseg-train --shards {shlex.quote(str(path))} uses it")
        looked = "; ".join(f"{name}: {what}" for name, what in _LOOKED_FOR.items())
        raise SourceError(
            f"{where} has no layout that is known. It holds {_holdings(path)}. Looked for {looked}. Images and masks "
            f"in one folder need {spelled('--mask-suffix=_mask.png')}, say. Anything else can be listed in a .csv "
            f"file: a row for each image, with its mask{_without_masks(path)}{_around(path, known)}"
        )
    return next(each for each in known if each.name in reasons)


def _around(folder: Path, known: tuple[Layout, ...]) -> str:
    """Return that the folder around this one has a layout, as where its images/ was named; "" if it has none."""
    parent = folder.absolute().parent
    with contextlib.suppress(OSError, SourceError):  # it is only looked at
        for each in known if folder.is_dir() else ():
            # Some layouts are found one folder further in: that would be another dataset beside this one.
            beside = [] if each.name == "folders" else [other for other in parent.iterdir() if other.is_dir()]
            if each.recognise(parent) and not any(each.recognise(other) for other in beside):
                return f"; the folder around it has the layout {each.name}: give that"
    return ""


def _without_masks(folder: Path) -> str:
    """Return what to do with a folder that holds polygons and nothing that could be a mask; "" for any other."""
    polygons = folder.is_dir() and holds_any(folder, (".json",)) and not holds_any(folder, MASK_ENDINGS)
    return f"; {POLYGONS}" if polygons else ""


def _holdings(folder: Path) -> str:
    """Return what is in a folder in a few words."""
    if not folder.is_dir():
        return "no table with such columns"
    with os.scandir(folder) as entries:
        names = sorted(shown(entry.name) + "/" * entry.is_dir() for entry in entries if entry.name[0] != ".")
    return listed(names, most=_SHOWN_ENTRIES) or "nothing"
