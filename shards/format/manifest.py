"""``manifest.json``: the one truth of a shard set, written last.

The file is canonical JSON: parsing it and writing it again gives the same bytes, and its field ``checksum`` is the
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
from shards.format.table import table_offset

Count = Annotated[int, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parts of a manifest share: immutable, named fields only, unknown fields refused."""


class FileEntry(_Entry, frozen=True):
    """A file of the set: its name (no folders), its size in bytes and its SHA-256."""

    file: FileName
    bytes: Count
    sha256: Sha256


class ShardEntry(FileEntry, frozen=True):
    """A tar with its number of samples and its DALI index."""

    samples: Count
    index: FileEntry


class SplitEntry(_Entry, frozen=True):
    """One split: its table of samples, its shards in order, and what is in it.

    ``class_pixels`` counts stored trimap pixels in class order (animal, background, border). ``breeds`` and
    ``species`` count samples by name.
    """

    samples: Count
    table: FileEntry
    shards: tuple[ShardEntry, ...]
    class_pixels: tuple[Count, Count, Count]
    breeds: dict[str, Count]
    species: dict[str, Count]


class BuildOptions(_Entry, frozen=True):
    """The options that decided the bytes. ``quality`` is None where no JPEG was encoded by choice."""

    split: str
    fractions: tuple[float, float, float]
    seed: int
    samples_per_shard: int
    quality: int | None


class RawLayout(_Entry, frozen=True):
    """Where pixels stand in a tar of ``raw`` storage, in bytes.

    Sample i of a tar has its picture's first pixel at ``image_offset + i * stride`` (size x size x 3 bytes follow)
    and its trimap's at ``trimap_offset + i * stride`` (size x size bytes), so that a tar is a strided tensor.
    """

    stride: Count
    image_offset: Count
    trimap_offset: Count


class AuditEntry(_Entry, frozen=True):
    """How the pictures of the source fared, and how often each reason came up.

    ``found`` pictures were looked at: ``packed`` are in the set (``mended`` of them were changed safely first),
    ``left_out`` are in the quarantine file. ``reasons`` counts by reason code, remarks on packed samples included.
    """

    found: Count
    packed: Count
    mended: Count
    left_out: Count
    reasons: dict[str, Count]
    quarantine: FileEntry


class Manifest(_Entry, frozen=True):
    """What a shard set is; see docs/formats.md for every field.

    ``size`` is the side of stored pictures in pixels, None in ``source`` storage (the pictures' own sizes).
    ``fingerprint`` names the content: it is equal for two sets exactly if their samples are, byte by byte and in
    order. ``plan`` is a digest of the source's names, lists and file sizes and of the options. ``largest`` is the
    largest width and the largest height of the pictures, in stored pixels. ``raw`` is None in other storages.
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
        """Return every file of the set but the manifest itself, in a fixed order."""
        entries: list[FileEntry] = [self.audit.quarantine]
        for name in SPLITS:
            if name in self.splits:
                split = self.splits[name]
                entries.append(split.table)
                entries.extend(entry for shard in split.shards for entry in (shard, shard.index))
        return entries


def content_fingerprint(*, storage: Storage, size: int | None, splits: dict[Split, SplitEntry]) -> str:
    """Return the SHA-256 (hex) that names a set's content: its storage, size, and every table and tar."""
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
        FormatError: there is none, it is of another version, or it is damaged.
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
    """Check the bytes of a manifest; ``path`` is only for messages. Raises ``FormatError``; see load_manifest."""
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
    except (msgspec.ValidationError, ValueError) as error:  # ValueError: text that is no valid Unicode
        raise FormatError(f"{path} is damaged: {_plain(str(error))}") from None
    if not same:
        raise FormatError(f"{path} is damaged or was edited: its checksum does not fit; build the set again")
    _check_sense(manifest, path)
    return manifest


def _check_sense(manifest: Manifest, path: Path) -> None:
    """Refuse a manifest that is whole but cannot be right."""
    if manifest.classes != CLASSES:
        raise FormatError(f"{path}: classes {list(manifest.classes)}, this program knows {list(CLASSES)}")
    if not manifest.samples:
        raise FormatError(f"{path}: the set holds no samples; build it again")
    for name, split in manifest.splits.items():
        if sum(shard.samples for shard in split.shards) != split.samples:
            raise FormatError(f"{path}: the shards of {name!r} do not add up to {split.samples} samples")
        if split.table.bytes != (right := table_offset(split.samples)):  # so that no number can be beyond what is there
            raise FormatError(
                f"{path}: the table of {name!r} takes {split.table.bytes} bytes, {split.samples} samples take {right}; "
                "build the set again"
            )
    _check_names(manifest, path)
    if not _sizes_fit(manifest):
        raise FormatError(f"{path}: size, largest and raw do not fit {manifest.storage} storage; build the set again")
    expected = content_fingerprint(storage=manifest.storage, size=manifest.size, splits=manifest.splits)
    if manifest.fingerprint != expected:
        raise FormatError(f"{path}: the fingerprint does not fit the content; build the set again")


def _check_names(manifest: Manifest, path: Path) -> None:
    """Refuse other names than a set's own: nothing outside the folder is ever read, whoever wrote the manifest."""
    expected = [(manifest.audit.quarantine.file, QUARANTINE_NAME)]
    for name, split in manifest.splits.items():
        expected.append((split.table.file, table_name(name)))
        for number, shard in enumerate(split.shards):
            expected += [(shard.file, shard_name(name, number)), (shard.index.file, index_name(name, number))]
    for found, right in expected:
        if found != right:
            raise FormatError(f"{path} names a file {found[:80]!r} where {right} is expected; build the set again")


def _sizes_fit(manifest: Manifest) -> bool:
    """Return whether the sizes of what is stored can be right: readers set memory aside by them."""
    size, has_layout = manifest.size, manifest.raw is not None
    if manifest.storage == "source":
        return size is None and not has_layout
    fits = size is not None and 1 <= size <= MAX_SIZE and manifest.largest == (size, size)
    return fits and has_layout == (manifest.storage == "raw")


def why_missing(folder: Path) -> str:
    """Say why a folder is no finished shard set, and what to do."""
    if folder.is_file():
        return f"{folder} is a file; give the folder of a shard set, the one that holds {MANIFEST_NAME}"
    if not folder.exists():
        return f"no such folder: {folder}; make a shard set with: petseg-shard build SOURCE {folder}"
    if (folder / "annotations").is_dir():
        return f"{folder} holds pictures, not shards; pack them first: petseg-shard build {folder} OUT"
    return (
        f"{folder} holds no finished shard set (no {MANIFEST_NAME}); "
        f"make one, or finish it, with: petseg-shard build SOURCE {folder}"
    )


def _plain(text: str) -> str:
    """Return a message that may quote the file as one line without control characters, not too long."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:200])


def _canonical(document: Any) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()
