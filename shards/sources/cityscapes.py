"""The layout of Cityscapes: ``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png``, ``gtFine/SPLIT/CITY/*_gtFine_labelIds.png``.

``*_labelTrainIds.png`` are taken where there are no ``*_labelIds.png``. Files may have another ending of images. The
masks that Cityscapes publishes for its test split are dummies in which every pixel is void; such a split is left out.
"""

from pathlib import Path
from typing import Final

import numpy as np

from shards.audit.file_kinds.signatures import IMAGE_ENDINGS
from shards.audit.findings import RejectedError
from shards.audit.mask import decode_mask, value_counts
from shards.errors import SourceError
from shards.format.builtin_labels import CITYSCAPES, CITYSCAPES_TRAIN_IDS
from shards.format.keys import shown
from shards.format.labels import Labels
from shards.sources.layout_protocol import Source
from shards.sources.pairs.listing import MASK_ENDINGS, ListedFile, list_files, name_of, split_ending, unread_lines
from shards.sources.pairs.pairing import Place, name_unread, pair_up
from shards.store.byte_ranges import read_regular

_IMAGES, _MASKS = "leftImg8bit", "gtFine"
_IMAGE_SUFFIX: Final = "_leftImg8bit"
_KINDS: Final = {"_gtFine_labelIds": CITYSCAPES, "_gtFine_labelTrainIds": CITYSCAPES_TRAIN_IDS}
_SPLITS: Final = ("train", "val", "test")
_PEEK = 3  # masks of the test split that are opened to see whether they are dummies


class CityscapesLayout:
    """The layout ``cityscapes``."""

    name = "cityscapes"

    def recognise(self, folder: Path) -> str | None:
        """See :class:`shards.sources.layout_protocol.Layout`."""
        found = (folder / _IMAGES).is_dir() and (folder / _MASKS).is_dir()
        return f"it has {_IMAGES}/ and {_MASKS}/" if found else None

    def scan(self, folder: Path) -> Source:
        """See :class:`shards.sources.layout_protocol.Layout`."""
        if self.recognise(folder) is None:
            looked = f"looked for {_IMAGES}/ and {_MASKS}/"
            raise SourceError(f"{shown(str(folder))} does not have the layout of Cityscapes; {looked}")
        listings = list_files(folder / _IMAGES, IMAGE_ENDINGS), list_files(folder / _MASKS, MASK_ENDINGS)
        image_files, mask_files = (listing.files for listing in listings)
        images = _with_suffix(image_files, _IMAGE_SUFFIX)
        kinds = {suffix: _with_suffix(mask_files, suffix) for suffix in _KINDS}
        suffix = next((suffix for suffix, masks in kinds.items() if masks), None)
        if suffix is None or not images:
            missing = (
                f"{_IMAGES}/SPLIT/CITY/*{_IMAGE_SUFFIX}.png"
                if not images
                else f"{_MASKS}/SPLIT/CITY/*_gtFine_labelIds.png"
            )
            raise SourceError(f"{shown(str(folder))}: there is no {missing} in train/, val/ or test/")
        masks, labels = kinds[suffix], _KINDS[suffix]
        reason = f"it has {_IMAGES}/ and {_MASKS}/*{suffix}.png"
        withheld = _why_withheld([file for (split, _), file in sorted(masks.items()) if split == "test"], labels)
        if withheld and any(split == "test" for split, _ in images.keys() | masks.keys()):
            reason += f"; test/ is left out: {withheld}"
            images = {place: file for place, file in images.items() if place[0] != "test"}
            masks = {place: file for place, file in masks.items() if place[0] != "test"}
        # The dataset's own other files, such as *_color.png and *_polygons.json, are nothing to name.
        ignored = len(image_files) + len(mask_files) - len(images) - len(masks)
        polygons = [file for file in listings[1].unread if file.path.endswith("_polygons.json")]
        ignored += len(polygons) + sum(listing.litter for listing in listings)
        masks_unread = [file for file in listings[1].unread if file not in polygons]
        cities = {place: file.relative.split("/")[1] for side in (masks, images) for place, file in side.items()}
        paired = pair_up(
            images, masks, attributes=lambda place: {"city": shown(cities[place])}, where=shown(str(folder))
        )
        return Source(
            layout=self.name,
            reason=reason,
            folder=folder,
            pairs=paired.pairs,
            lists=paired.lists,
            labels=labels,
            findings=tuple(name_unread(paired, listings[0].unread, paired.findings)),
            ignored=ignored,
            unread=(
                *unread_lines(folder / _IMAGES, folder, listings[0].unread),
                *unread_lines(folder / _MASKS, folder, masks_unread),
            ),
        )


def _with_suffix(files: list[ListedFile], suffix: str) -> dict[Place, ListedFile]:
    """Return SPLIT/CITY/NAME + suffix by split and name; what lies elsewhere is not part of the dataset."""
    found: dict[Place, ListedFile] = {}
    for file in sorted(files, key=lambda file: split_ending(file.relative)[1] != ".png"):
        parts = file.relative.split("/")
        name = name_of(parts[-1])
        if len(parts) == 3 and parts[0] in _SPLITS and name.endswith(suffix) and len(name) > len(suffix):
            place = parts[0], name.removesuffix(suffix)
            if place in found and split_ending(found[place].relative)[1] == ".png" != split_ending(parts[2])[1]:
                continue  # converted files lie beside the dataset's own
            if place in found:
                both = f"{shown(found[place].relative)} and {shown(file.relative)}"
                raise SourceError(f"{both} have the same name; rename one of them")
            found[place] = file
    return found


def _why_withheld(masks: list[ListedFile], labels: Labels) -> str:
    """Return why there is nothing to test with, or an empty text: no masks, or the first ones are void everywhere."""
    if not masks:
        return "it has no masks"
    for mask in masks[:_PEEK]:
        try:
            values, _ = decode_mask(read_regular(Path(mask.path)), colours=False)
        except (OSError, RejectedError):
            return ""  # the audit says what is wrong with it
        if not np.isin(np.flatnonzero(value_counts(values)), labels.ignore).all():
            return ""
    return "its masks are dummies, every pixel of the first ones is void"
