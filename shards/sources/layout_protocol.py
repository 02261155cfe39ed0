"""What every source provides: pairs of image and mask, their official splits, labels, and attributes per sample."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import msgspec

from shards.audit.findings import SampleFinding
from shards.format.labels import Labels

# Keys of KEY.json that are not attributes.
RESERVED = ("key", "name", "split", "width", "height", "image", "mask")

SplitList = str  # "train", "val", "test", or "trainval", of which a build takes a part for val


class FileStamp(msgspec.Struct, frozen=True, array_like=True):
    """Size in bytes and time of the last change in nanoseconds: enough to notice that a file has changed."""

    bytes: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Take the stamp from a file's status."""
        return cls(bytes=status.st_size, changed=status.st_mtime_ns)


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """The paths of an image and its mask.

    Attributes:
        name: unique in the source; usually the file's name without its ending.
        image: the image's path.
        mask: the mask's path.
        image_stamp: of the image when it was found.
        mask_stamp: of the mask when it was found.
        attributes: what the source knows of the sample, for KEY.json; none of :data:`RESERVED`.
        group: what a part for val takes the same share of, such as a breed; "" for none.
    """

    name: str
    image: str
    mask: str
    image_stamp: FileStamp
    mask_stamp: FileStamp
    attributes: dict[str, str | int] = {}
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a scan found.

    Attributes:
        layout: the layout's name, such as ``pets``.
        reason: why this layout was taken, as a clause for people.
        folder: where it is.
        pairs: complete pairs, sorted by name.
        lists: the names in each official split (``train``, ``val``, ``test``, ``trainval``); empty where there is none.
        labels: the layout's own labels; None where only the user can know them.
        findings: what was rejected so far, and why; and names that were matched although they are spelled differently.
        ignored: the number of files that are not part of the dataset.
        unread: files among the images and masks that are neither, nor known litter, each with what it is: for people.
        table: the file that lists the pairs, where there is one.
        address: where it is, if it is in an object store; then the paths of the pairs are addresses.
    """

    layout: str
    reason: str
    folder: Path
    pairs: tuple[Pair, ...]
    lists: Mapping[SplitList, frozenset[str]]
    labels: Labels | None
    findings: tuple[SampleFinding, ...] = field(default=())
    ignored: int = 0
    unread: tuple[str, ...] = ()
    table: Path | None = None
    address: str = ""

    @property
    def path(self) -> Path | str:
        """What people call the source: its address, its table, or its folder."""
        return self.address or self.table or self.folder


class Layout(Protocol):
    """A way in which datasets are laid out: one module of :mod:`shards.sources` each."""

    name: str

    def recognise(self, folder: Path) -> str | None:
        """Return why a folder has this layout, as a clause for people; None if it has not."""

    def scan(self, folder: Path) -> Source:
        """Find the pairs; reads lists and folders, opens no image. Raises ``SourceError`` if there are none."""
