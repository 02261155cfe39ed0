"""``manifest.json``: the description of a shard set that everything else is checked against; written last.

The file is canonical JSON: parsing and writing it again gives the same bytes, and its field ``checksum`` is the
SHA-256 of those bytes with the field left empty. A flipped bit anywhere in it is therefore found on reading.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import msgspec

from shards.errors import FormatError
from shards.format.layout import (
    CLASSES,
    FORMAT,
    MANIFEST_NAME,
    MAX_SIZE,
    QUARANTINE_NAME,
    SPLITS,
    VERSION,
    Split,
    Storage,
    index_name,
    shard_name,
    table_name,
)
from shards.format.npy import table_offset

Count = Annotated[int, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of a manifest: immutable, keyword-only, unknown fields are refused."""


class FileEntry(_Entry, frozen=True):
    """A file of the set: its name (without folders), size in bytes and SHA-256."""

    file: FileName
    bytes: Count
    sha256: Sha256


class ShardEntry(FileEntry, frozen=True):
    """A tar with its number of samples and its DALI index."""

    samples: Count
    index: FileEntry


class SplitEntry(_Entry, frozen=True):
    """One split: its table of samples and its shards in order.

    ``class_pixels`` counts stored mask pixels in class order. ``breeds`` and ``species`` count samples by name.
    """

    samples: Count
    table: FileEntry
    shards: tuple[ShardEntry, ...]
    class_pixels: tuple[Count, Count, Count]
    breeds: dict[str, Count]
    species: dict[str, Count]


class BuildOptions(_Entry, frozen=True):
    """The options that determine the bytes. ``quality`` is None unless the storage is ``jpeg``."""

    split: str
    fractions: tuple[float, float, float]
    seed: int
    samples_per_shard: int
    quality: int | None


class RawLayout(_Entry, frozen=True):
    """Offsets of pixels in a tar of ``raw`` storage, in bytes, so that a tar is a strided tensor.

    In sample i of a tar, the image (size x size x 3 bytes) starts at ``image_offset + i * stride`` and the mask
    (size x size bytes) at ``trimap_offset + i * stride``.
    """

    stride: Count
    image_offset: Count
    trimap_offset: Count


class AuditEntry(_Entry, frozen=True):
    """The result of the audit, as numbers of images.

    Of ``found`` images in the source, ``packed`` are in the set (``mended`` of them were repaired first) and
    ``left_out`` were rejected. ``reasons`` counts by reason code, warnings about packed samples included; each is a
    line of the quarantine file.
    """

    found: Count
    packed: Count
    mended: Count
    left_out: Count
    reasons: dict[str, Count]
    quarantine: FileEntry


class Manifest(_Entry, frozen=True):
    """The description of a shard set; see docs/formats.md for every field.

    ``size`` is the side of stored images in pixels, None in ``source`` storage (original resolution).
    ``fingerprint`` identifies the content: two sets have the same one exactly if their samples are the same, byte by
    byte and in order. ``plan`` is a digest of the source's names, lists and file sizes and of the options.
    ``largest`` is the largest width and the largest height of the stored images. ``raw`` is None in other storages.
    """

    format: str
    version: int
    storage: Storage
    size: int | None
    classes: tuple[str, ...]
    options: BuildOptions
    splits: dict[Split, SplitEntry]
    largest: tuple[Count, Count]
    raw: RawLayout | None
    audit: AuditEntry
    versions: dict[str, str]
    plan: Sha256
    fingerprint: Sha256
    checksum: str = ""

    @property
    def samples(self) -> int:
        """The number of samples in all splits."""
        return sum(split.samples for split in self.splits.values())

    def files(self) -> list[FileEntry]:
        """Return every file of the set except the manifest itself, in a fixed order."""
        entries: list[FileEntry] = [self.audit.quarantine]
        for name in SPLITS:
            if name in self.splits:
                entries.append(self.splits[name].table)
                entries.extend(entry for shard in self.splits[name].shards for entry in (shard, shard.index))
        return entries


def content_fingerprint(*, storage: Storage, size: int | None, splits: dict[Split, SplitEntry]) -> str:
    """Return the SHA-256 (hex) that identifies a set's content: its storage, size, and every table and tar."""
    parts = [FORMAT, str(VERSION), storage, str(size)]
    for name in SPLITS:
        if name in splits:
            split = splits[name]
            parts += [name, str(split.samples), split.table.sha256, *(shard.sha256 for shard in split.shards)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def dump_manifest(manifest: Manifest) -> bytes:
    """Return the canonical bytes of a manifest, with its checksum filled in."""
    empty = msgspec.structs.replace(manifest, checksum="")
    checksum = hashlib.sha256(_canonical(msgspec.to_builtins(empty))).hexdigest()
    return _canonical(msgspec.to_builtins(msgspec.structs.replace(manifest, checksum=checksum)))


def load_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json`` of a shard set.

    Raises:
        FormatError: it is missing, of another version, or damaged.
    """
    path = folder / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(why_missing(folder)) from None
    except IsADirectoryError:
        raise FormatError(f"{path} is a folder, a file was expected; build the set again") from None
    return parse_manifest(data, path)


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """Check the bytes of a manifest; ``path`` is only for messages. Raises ``FormatError`` like load_manifest."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise FormatError(f"{path} is damaged: it is not JSON; build the set again") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise FormatError(f"{path} is not the manifest of a petseg shard set, or is damaged")
    if document.get("version") != VERSION:
        raise FormatError(
            f"{path} is of version {document.get('version')!r}, this program reads version {VERSION}; "
            "build the set again with this program, or install the one that made it"
        )
    try:
        manifest = msgspec.convert(document, Manifest)
        same = dump_manifest(manifest) == data
    except (msgspec.ValidationError, ValueError) as error:  # ValueError: text that is not valid Unicode
        raise FormatError(f"{path} is damaged: {_plain(str(error))}") from None
    if not same:
        raise FormatError(f"{path} is damaged or was edited: its checksum does not match; build the set again")
    _check_plausible(manifest, path)
    return manifest


def _check_plausible(manifest: Manifest, path: Path) -> None:
    """Refuse a manifest that is undamaged but contradicts itself."""
    if manifest.classes != CLASSES:
        raise FormatError(f"{path}: classes {list(manifest.classes)}, this program knows {list(CLASSES)}")
    if not manifest.samples:
        raise FormatError(f"{path}: the set holds no samples; build it again")
    for name, split in manifest.splits.items():
        if sum(shard.samples for shard in split.shards) != split.samples:
            raise FormatError(f"{path}: the shards of {name!r} do not add up to {split.samples} samples")
        if split.table.bytes != (size := table_offset(split.samples)):  # no count can exceed what the files hold
            raise FormatError(
                f"{path}: the table of {name!r} takes {split.table.bytes} bytes, {split.samples} samples take {size}; "
                "build the set again"
            )
    _check_names(manifest, path)
    if not _sizes_fit(manifest):
        raise FormatError(f"{path}: size, largest and raw do not match {manifest.storage} storage; build the set again")
    expected = content_fingerprint(storage=manifest.storage, size=manifest.size, splits=manifest.splits)
    if manifest.fingerprint != expected:
        raise FormatError(f"{path}: the fingerprint does not match the content; build the set again")


def _check_names(manifest: Manifest, path: Path) -> None:
    """Allow a set's own file names only, so that no manifest can make a reader open a file outside the folder."""
    expected = [(manifest.audit.quarantine.file, QUARANTINE_NAME)]
    for name, split in manifest.splits.items():
        expected.append((split.table.file, table_name(name)))
        for number, shard in enumerate(split.shards):
            expected += [(shard.file, shard_name(name, number)), (shard.index.file, index_name(name, number))]
    for found, correct in expected:
        if found != correct:
            raise FormatError(f"{path} names a file {found[:80]!r} where {correct} is expected; build the set again")


def _sizes_fit(manifest: Manifest) -> bool:
    """Return whether the sizes are possible: readers allocate memory by them."""
    size, has_layout = manifest.size, manifest.raw is not None
    if manifest.storage == "source":
        return size is None and not has_layout
    fits = size is not None and 1 <= size <= MAX_SIZE and manifest.largest == (size, size)
    return fits and has_layout == (manifest.storage == "raw")


def why_missing(folder: Path) -> str:
    """Return why a folder is not a finished shard set, and what to do."""
    if folder.is_file():
        return f"{folder} is a file; give the folder of a shard set, the one that holds {MANIFEST_NAME}"
    if not folder.exists():
        return f"no such folder: {folder}; make a shard set with: petseg-shard build SOURCE {folder}"
    if (folder / "annotations").is_dir():
        return f"{folder} holds images, not shards; pack them first: petseg-shard build {folder} OUT"
    return (
        f"{folder} holds no finished shard set (no {MANIFEST_NAME}); "
        f"make one, or finish it, with: petseg-shard build SOURCE {folder}"
    )


def _plain(text: str) -> str:
    """Return a message that may quote the file as one short line without control characters."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:200])


def _canonical(document: Any) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()
