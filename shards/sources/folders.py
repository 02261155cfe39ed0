"""Images and masks in two folders: ``images/`` and ``masks/`` by any of their usual names, with or without splits.

A level ``train/``, ``val/``, ``test/`` may be above them or below, or the folders are ``train/`` and ``train_masks/``.
Where a suffix of masks is given, images and masks may be in the same folders. Text lists (``train.txt``) in the folder,
in ``splits/`` or in ``ImageSets/`` take precedence over splits by folders. Names are paths below the image folder and
the split, without ending and without a suffix that all have (``x_leftImg8bit.png`` and ``x_mask.png``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shards.audit.file_kinds.signatures import IMAGE_ENDINGS
from shards.errors import SourceError
from shards.format.keys import shown
from shards.sources.layout_protocol import Source, SplitList
from shards.sources.pairs.listing import (
    JPEG_ENDINGS,
    MASK_ENDINGS,
    FolderListing,
    ListedFile,
    by_key,
    holds_any,
    list_files,
    split_ending,
    subfolders,
    unread_lines,
)
from shards.sources.pairs.pairing import Place, name_lossy, name_unread, pair_up
from shards.sources.pairs.split_lists import aliases_of, listed_splits, split_of
from shards.sources.pairs.suffixes import cut_suffixes, has_suffix

IMAGE_FOLDERS: Final = (
    "images", "image", "imgs", "img", "jpegimages", "img_dir", "image_dir", "images_dir", "rgb", "photos", "inputs",
    "input",
)  # fmt: skip
MASK_FOLDERS: Final = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "ann_dir", "anns", "ann", "mask_dir", "masks_dir",
    "gt", "gts", "ground_truth", "groundtruth", "segmentation", "segmentations", "segmentationclass", "seg", "targets",
    "target",
)  # fmt: skip
POLYGONS: Final = "polygons (COCO, labelme) are not read: draw them as PNG masks, as annToMask of pycocotools does"
# What is found in the place of masks, and what to do with it.
_NO_MASKS: Final = (
    (JPEG_ENDINGS, "JPEG changes the values of masks: export them as PNG"),
    ((".json",), POLYGONS),
    ((".txt",), "text is not read: if it holds polygons (YOLO), draw them as PNG masks, as Pillow's ImageDraw does"),
    ((".npy", ".npz", ".mat"), "arrays are not read: save each mask as a PNG of 8 bits"),
)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """An image folder and the mask folder beside it, in a split's folder or ("") in none."""

    split: SplitList
    images: Path
    masks: Path | None


@dataclass(frozen=True, kw_only=True)
class FoldersLayout:
    """The layout ``folders``; the suffixes are found if none is given. One may include the ending: ``_rgb.png``."""

    name = "folders"
    image_suffix: str | None = None
    mask_suffix: str | None = None

    def recognise(self, folder: Path) -> str | None:
        """See :class:`shards.sources.layout_protocol.Layout`."""
        parts = self._parts(folder) if folder.is_dir() else []
        if not parts:
            return None
        if parts[0].images == folder:
            return f"names of masks in it end with {shown(str(self.mask_suffix))}"
        images, masks = parts[0].images, next((part.masks for part in parts if part.masks), None)
        shown_masks = "" if masks is None else shown(masks.relative_to(folder).as_posix())
        return f"it has {shown(images.relative_to(folder).as_posix())}/ and {shown_masks}/"

    def scan(self, folder: Path) -> Source:
        """See :class:`shards.sources.layout_protocol.Layout`."""
        reason, parts = self.recognise(folder), self._parts(folder)
        if reason is None:
            raise SourceError(
                f"{shown(str(folder))} holds no folders of images and of masks, nor do train/, val/, test/ in it; "
                f"looked for images/ ({', '.join(IMAGE_FOLDERS[1:4])} ...), masks/ ({', '.join(MASK_FOLDERS[2:6])} ...)"
            )
        suffixes = self.image_suffix, self.mask_suffix
        image_files, mask_files, listings, ignored = _files(parts, suffixes)
        images, masks, jpegs = cut_suffixes(image_files, mask_files, _jpegs(parts, suffixes[1]), suffixes)
        paired = pair_up(images, masks, where=shown(str(folder)))
        lists = dict(paired.lists)
        findings, lossy = name_lossy(paired, jpegs)
        unread = {path: [file for file in each.unread if file.path not in lossy] for path, each in listings.items()}
        findings = name_unread(paired, (file for files in unread.values() for file in files), findings)
        paths = find_lists(folder)
        if paths:
            named, missing = listed_splits(paths, aliases_of(paired, folder))
            findings += missing
            listed = frozenset[str]().union(*named.values())
            rest = {split: names - listed for split, names in lists.items()}
            lists = {split: named.get(split, frozenset()) | rest.get(split, frozenset()) for split in {**rest, **named}}
            lists = {split: names for split, names in lists.items() if names}
            reason += f"; the splits are those of {', '.join(shown(path.name) for path in paths.values())}"
        elif lists:
            reason += f"; the splits are its folders {', '.join(f'{split}/' for split in sorted(lists))}"
        return Source(
            layout=self.name,
            reason=reason,
            folder=folder,
            pairs=paired.pairs,
            lists=lists,
            labels=None,
            findings=tuple(findings),
            ignored=ignored,
            unread=tuple(line for path, files in unread.items() for line in unread_lines(path, folder, files)),
        )

    def _parts(self, folder: Path) -> list[_Part]:
        """Return the folders of images and masks; none if there are not both."""
        if parts := _parts(folder):
            return parts
        both = self.mask_suffix is not None and holds_any(folder, IMAGE_ENDINGS)
        return [_Part(split="", images=folder, masks=folder)] if both else []


def find_lists(folder: Path, places: Sequence[str] = ("", "splits", "ImageSets")) -> dict[SplitList, Path]:
    """Return the text lists of a dataset by split: ``train.txt`` and the like, in the folder or in ``places`` below it.

    ``ImageSets`` is searched with the folders in it; if there is one named Segmentation, that one only. Raises
    ``SourceError`` for two lists of the same split.
    """
    paths: dict[SplitList, Path] = {}
    for place in places:
        where = folder / place
        if place == "ImageSets" and (where / "Segmentation").is_dir():
            where = where / "Segmentation"
        if not where.is_dir():
            continue
        for path in sorted(where.rglob("*.txt") if place == "ImageSets" else where.glob("*.txt")):
            split = None if path.name.startswith(".") else split_of(path.stem)
            if split is None:
                continue
            if split in paths:
                both = f"{shown(str(paths[split]))} and {shown(str(path))}"
                raise SourceError(f"both {both} list the split {split}; remove or rename one of them")
            paths[split] = path
    return paths


def _parts(folder: Path) -> list[_Part]:
    """Return the folders of images and masks; none if there are not both."""
    images, masks = _beside(folder)
    split_folders = [(split, name) for name in subfolders(folder) if (split := split_of(name)) is not None]
    inner = [(split, *_beside(folder / name)) for split, name in split_folders]
    if (images, masks) == (None, None) and not any(own or own_masks for _, own, own_masks in inner):
        inner = [(split, folder / name, _masks_of(folder, name)) for split, name in split_folders]
    parts = [_Part(split=split, images=own, masks=own_masks) for split, own, own_masks in inner if own is not None]
    parts = parts if any(part.masks for part in parts) else []
    if images is None or masks is None:
        twice = {part.split for part in parts if [other.split for other in parts].count(part.split) > 1}
        if twice:
            raise SourceError(f"{shown(str(folder))}: two folders stand for the split {min(twice)}; rename one of them")
        return parts
    if parts:
        raise SourceError(
            f"{shown(str(folder))} has images and masks both in itself ({images.name}/, {masks.name}/) and in folders "
            f"of splits ({', '.join(name for _, name in split_folders)}); move one kind away"
        )
    return [_Part(split="", images=images, masks=masks)]


def _beside(folder: Path) -> tuple[Path | None, Path | None]:
    """Return the folder of images and the folder of masks in a folder."""
    names = subfolders(folder)
    images = _only(folder, [name for name in names if name.casefold() in IMAGE_FOLDERS], IMAGE_ENDINGS)
    masks = _only(folder, [name for name in names if name.casefold() in MASK_FOLDERS], MASK_ENDINGS)
    return images, masks


def _masks_of(folder: Path, name: str) -> Path | None:
    """Return the folder of masks for a folder of images that has the name of a split: ``train_masks`` of ``train``."""
    start = name.casefold()
    found = [other for other in subfolders(folder) if other.casefold().startswith(start)]
    names = [other for other in found if other.casefold()[len(start) :].lstrip("_- .") in (*MASK_FOLDERS, "annot")]
    return _only(folder, names, MASK_ENDINGS)


def _only(folder: Path, names: Sequence[str], endings: tuple[str, ...]) -> Path | None:
    """Return the one of these folders that holds such files; raise ``SourceError`` if several do."""
    if len(names) > 1:
        names = [name for name in names if holds_any(folder / name, endings)] or names[:1]
    if len(names) > 1:
        raise SourceError(
            f"{shown(str(folder))}: {' and '.join(f'{shown(name)}/' for name in names)} may all hold what is looked "
            "for; rename or move the others, or pair the files in a .csv with the columns image and mask"
        )
    return folder / names[0] if names else None


def _files(
    parts: Sequence[_Part], suffixes: tuple[str | None, str | None]
) -> tuple[dict[Place, ListedFile], dict[Place, ListedFile], dict[Path, FolderListing], int]:
    """Return images and masks that have the suffixes, by place; what all folders hold; the number of ignored files."""
    images: dict[Place, ListedFile] = {}
    masks: dict[Place, ListedFile] = {}
    listings: dict[Path, FolderListing] = {}
    ignored = 0
    for part in parts:
        listing = listings[part.images] = list_files(part.images, IMAGE_ENDINGS)
        ignored += listing.litter
        chosen = listing.files
        if part.masks == part.images:
            suffix = suffixes[1] or ""
            mask_files = [file for file in chosen if has_suffix(file, suffix) and not _is_jpeg(file)]
            chosen = [file for file in chosen if not has_suffix(file, suffix)]
        elif part.masks is not None:
            mask_listing = listings[part.masks] = list_files(part.masks, MASK_ENDINGS)
            ignored += mask_listing.litter
            mask_files = mask_listing.files
        else:
            mask_files = []
        ignored += _add(images, chosen, part.images, part.split, suffixes[0])
        ignored += _add(masks, mask_files, part.masks or part.images, part.split, suffixes[1])
    if not images:
        raise SourceError(
            f"{shown(str(parts[0].images))} holds no image ({', '.join(IMAGE_ENDINGS)}){_with(suffixes[0])}"
        )
    if not masks:
        raise SourceError(
            f"{shown(str(parts[0].masks))} holds no mask ({', '.join(MASK_ENDINGS)}){_with(suffixes[1])}"
            + _instead_of_masks([part.masks for part in parts if part.masks and part.masks != part.images])
        )
    return images, masks, listings, ignored


def _is_jpeg(file: ListedFile) -> bool:
    return split_ending(file.relative)[1] in JPEG_ENDINGS


def _instead_of_masks(folders: Sequence[Path]) -> str:
    """Return what folders without masks hold in place of them, and what to do with it; "" for nothing."""
    return next((f"; {what}" for endings, what in _NO_MASKS if any(holds_any(each, endings) for each in folders)), "")


def _jpegs(parts: Sequence[_Part], suffix: str | None) -> dict[Place, ListedFile]:
    """Return the JPEG files in the folders of masks, by place; of no use as masks, but worth a word."""
    found: dict[Place, ListedFile] = {}
    for part in parts:
        if part.masks is not None:
            files = list_files(part.masks, JPEG_ENDINGS).files
            if part.masks == part.images:
                files = [file for file in files if has_suffix(file, suffix or "")]
            found |= places_of({file.key: file for file in files}, part.split, part.masks)
    return found


def _with(suffix: str | None) -> str:
    return "" if suffix is None else f" whose name ends with {suffix}"


def _add(
    side: dict[Place, ListedFile], files: Sequence[ListedFile], folder: Path, split: SplitList, suffix: str | None
) -> int:
    """Add the files that have the suffix by their places; return how many have not."""
    chosen = [file for file in files if suffix is None or has_suffix(file, suffix)]
    side |= places_of(by_key(chosen, folder), split, folder)
    return len(files) - len(chosen)


def places_of(files: Mapping[str, ListedFile], split: SplitList, folder: Path) -> dict[Place, ListedFile]:
    """Return files by place. Folders right below are splits if all of them are named so and no file is beside them."""
    firsts = {file.relative.partition("/")[0] if "/" in file.relative else "" for file in files.values()}
    splits = {first: split_of(first) for first in firsts}
    if split or None in splits.values():
        return {(split, key): file for key, file in files.items()}
    words = [word for word in splits.values() if word is not None]
    if len(set(words)) < len(words):
        raise SourceError(
            f"{shown(str(folder))}: {', '.join(sorted(firsts))} stand for the same split; rename one of them"
        )
    return {(splits[first] or "", rest): file for key, file in files.items() for first, _, rest in [key.partition("/")]}
