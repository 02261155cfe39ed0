"""``manifest.json``: the description of a shard set that everything else is checked against; written last.

The file is canonical JSON: parsing and writing it again gives the same bytes, and its field ``checksum`` is the
SHA-256 of those bytes with the field left empty. A flipped bit anywhere in it is therefore found on reading.
"""

import hashlib
import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec

from shards.errors import FormatError, UsageError, first_line, printable, shown_value
from shards.format.geometry import FITS, Fit, Size, size_text
from shards.format.labels import MAX_CLASSES, Labels
from shards.format.layout import (
    AUDIT_NAME,
    FORMAT,
    MANIFEST_NAME,
    MAX_SIZE,
    RUN_CHECKPOINTS,
    SAMPLE_DTYPE,
    SHARD_DTYPE,
    SPLITS,
    VERSION,
    Split,
    Storage,
    shard_table_name,
    table_name,
    table_offset,
)
from shards.store.addresses import expect_places
from shards.store.byte_ranges import check_shortage, read_regular
from shards.store.store_protocol import ObjectMissingError, Store

_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # by gzip, Zstandard
# In the place of a manifest in a store, where a set is being replaced; what replaces it follows.
WITHDRAWN: Final = b"the set that was here is being replaced by "
_OF_SOURCES: Final = ("annotations", "images", "masks", "JPEGImages", "leftImg8bit")  # folders that no set has
MAX_MANIFEST_BYTES: Final = 1 << 26  # 256 classes and a thousand values of attributes take less than one MiB

Count = Annotated[int, msgspec.Meta(ge=0, le=10**18)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of a manifest: immutable, keyword-only, unknown fields are refused."""


class FileEntry(_Entry, frozen=True):
    """A file of the set: its name (without folders), size in bytes and SHA-256."""

    file: FileName
    bytes: Count
    sha256: Sha256


class SplitEntry(_Entry, frozen=True):
    """One split: how much it holds, its table of samples, and the one of its shards in order."""

    samples: Count
    shards: Count
    bytes: Count  # of all its tars and their indices
    table: FileEntry
    shard_table: FileEntry
    class_pixels: tuple[Count, ...]  # of the stored masks, in class order
    ignored_pixels: Count  # of the stored masks
    attributes: dict[str, dict[str, Count]]  # samples by the value of each attribute that has few values


class BuildOptions(_Entry, frozen=True):
    """The options that determine the bytes, besides those that have their own place in the manifest."""

    layout: str  # of the source: pets, folders, voc, ...
    split: str
    fractions: tuple[float, float, float]
    seed: int
    samples_per_shard: int | None  # None where ``shard_bytes`` decides
    shard_bytes: int | None  # of a tar, about; None where ``samples_per_shard`` decides
    max_pixels: int
    exif: str  # auto, apply or ignore
    quality: int | None  # None unless the storage is `jpeg`


class RawLayout(_Entry, frozen=True):
    """Offsets of pixels in a tar of ``raw`` storage, in bytes, so that a tar is a strided tensor.

    In sample i of a tar, the image (height x width x 3 bytes) starts at ``image_offset + i * stride`` and the mask
    (height x width bytes) at ``mask_offset + i * stride``.
    """

    stride: Count
    image_offset: Count
    mask_offset: Count


class AuditEntry(_Entry, frozen=True):
    """The result of the audit, as numbers of images."""

    found: Count  # in the source
    packed: Count  # in the set
    repaired: Count  # packed after a repair
    rejected: Count
    reasons: dict[str, Count]  # by reason code, warnings included; each is a line of the audit file
    file: FileEntry


class Manifest(_Entry, frozen=True):
    """The description of a shard set; see docs/formats.md for every field.

    ``fingerprint`` identifies the content: two sets have the same one exactly if their samples are the same, byte by
    byte and in order. ``plan`` is a digest of the source's names, lists and file sizes and of the options.
    """

    format: str
    version: int
    storage: Storage
    size: Size | None  # (height, width) of the stored images; None in `source` storage (original resolution)
    fit: Fit | None  # how images were brought to that size; None in `source` storage
    labels: Labels
    options: BuildOptions
    splits: dict[Split, SplitEntry]
    largest: Size  # the largest height and the largest width of the stored images
    raw: RawLayout | None  # None in other storages
    audit: AuditEntry
    versions: dict[str, str]
    plan: Sha256
    fingerprint: Sha256
    checksum: str = ""

    @property
    def samples(self) -> int:
        """The number of samples in all splits."""
        return sum(split.samples for split in self.splits.values())

    @property
    def bytes(self) -> int:
        """The size of the set in bytes, without the manifest itself."""
        return sum(entry.bytes for entry in self.files()) + sum(split.bytes for split in self.splits.values())

    def files(self) -> list[FileEntry]:
        """Return the files that the manifest describes, in a fixed order: all but tars and indices, and itself."""
        splits = [self.splits[name] for name in SPLITS if name in self.splits]
        return [self.audit.file, *(entry for split in splits for entry in (split.table, split.shard_table))]


def content_fingerprint(*, storage: Storage, size: Size | None, labels: Labels, splits: dict[Split, SplitEntry]) -> str:
    """Return the SHA-256 (hex) that identifies a set's content: storage, size, class names, every split's tables.

    They hold the checksum of every member and every tar.
    """
    parts = [FORMAT, str(VERSION), storage, str(size), json.dumps(labels.names)]
    for name in SPLITS:
        if name in splits:
            split = splits[name]
            parts += [name, str(split.samples), split.table.sha256, split.shard_table.sha256]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def dump_manifest(manifest: Manifest) -> bytes:
    """Return the canonical bytes of a manifest, with its checksum filled in."""
    empty = msgspec.structs.replace(manifest, checksum="")
    checksum = hashlib.sha256(_canonical(empty)).hexdigest()
    return _canonical(msgspec.structs.replace(manifest, checksum=checksum))


def load_manifest(folder: str | Path) -> Manifest:
    """Read and check a set's manifest; raise ``FormatError`` if it is missing, of another version, or damaged."""
    expect_places(folder=folder)
    path = (folder := Path(folder)) / MANIFEST_NAME
    try:
        data = read_regular(path, most=MAX_MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(why_missing(folder)) from None
    except IsADirectoryError:
        raise FormatError(f"{path} is a folder, a file was expected; build the set again") from None
    except OSError as error:
        check_shortage(error)
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None
    return parse_manifest(data, path)


def read_manifest(store: Store) -> bytes:
    """Return the bytes of the manifest of a set in any store, unchecked.

    Raises ``FormatError`` if there is none, or one that is too large, and ``StoreError`` if the store cannot be read.
    """
    where = store.describe(MANIFEST_NAME)
    try:
        # Its size is in no other file: a reply that is cut is noticed by the server's own figure.
        status = store.status(MANIFEST_NAME)
        if status.size > MAX_MANIFEST_BYTES:
            raise FormatError(f"{where} has {status.size} bytes, more than a manifest has; it is damaged, or none")
        return store.read(MANIFEST_NAME, match=status)
    except ObjectMissingError as error:
        if (folder := store.local_path("")) is not None:
            raise FormatError(why_missing(folder)) from None
        raise FormatError(f"{store.address} holds no finished shard set: {error}") from None


def parse_manifest(data: bytes, path: Path | str) -> Manifest:
    """Check the bytes of a manifest, and raise like load_manifest; ``path``, or an address, is only for messages."""
    if data.startswith(WITHDRAWN):
        raise FormatError(
            f"{path}: the set that was here is being replaced; if nobody is at it any more, run the command that "
            "replaced it again"
        )
    if data.startswith(_COMPRESSED):
        raise FormatError(f"{path} is compressed; the files of a set have to be stored, and served, as they are")
    if data.lstrip().startswith(b"<"):
        raise FormatError(f"{path} is a web page and no manifest: check the address, and whether it takes a login")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise FormatError(f"{path} is damaged: it is not JSON; build the set again") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise FormatError(f"{path} is not the manifest of a petseg shard set, or is damaged")
    if document.get("version") != VERSION:
        folder = shlex.quote(str(path).rpartition("/")[0])
        raise FormatError(
            f"{path} is of format version {shown_value(document.get('version'))}, this program reads version {VERSION};"
            " build the set again from its source, with the options that it was built with: "
            f"petseg-shard build SOURCE {folder} --overwrite"
        )
    try:
        manifest = msgspec.convert(document, Manifest)
        if len(manifest.labels) > MAX_CLASSES:  # at once: what follows takes long for millions
            raise FormatError(f"{path}: its labels name {len(manifest.labels)} classes; build the set again")
        same = dump_manifest(manifest) == data
    except (msgspec.ValidationError, ValueError) as error:  # ValueError: text that is not valid Unicode
        problem = f"or of another version of this program: {printable(first_line(error))}"
        raise FormatError(f"{path} is damaged, {problem}; build the set again") from None
    if not same:
        raise FormatError(f"{path} is damaged or was edited: its checksum does not match; build the set again")
    try:
        manifest.labels.check()
    except UsageError as error:
        raise FormatError(f"{path}: its labels are wrong: {error}; build the set again") from None
    for contradiction in _contradictions(manifest):
        raise FormatError(f"{path}: {contradiction}; build the set again")
    return manifest


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """Yield what cannot be right in an undamaged manifest, so that none makes a reader look outside the folder."""
    if not manifest.samples:
        yield "the set holds no samples"
    names = [(manifest.audit.file.file, AUDIT_NAME)]
    for split, entry in manifest.splits.items():
        tables = ((entry.table, entry.samples, SAMPLE_DTYPE), (entry.shard_table, entry.shards, SHARD_DTYPE))
        for (file, count, dtype), what in zip(tables, ("samples", "shards"), strict=True):
            if file.bytes != (needed := table_offset(count, dtype)):  # no count can exceed what the files hold
                yield f"the table of {what} of {split!r} takes {file.bytes} bytes, {count} {what} take {needed}"
        if len(entry.class_pixels) != len(manifest.labels):
            yield f"{split!r} counts the pixels of {len(entry.class_pixels)} classes, there are {len(manifest.labels)}"
        names += [(entry.table.file, table_name(split)), (entry.shard_table.file, shard_table_name(split))]
    for found, correct in names:
        if found != correct:
            yield f"the file name {found[:80]!r} is not {correct}"
    size = manifest.size  # readers allocate memory by it
    if manifest.storage == "source":
        possible = size is None and manifest.fit is None
    else:
        possible = size is not None and all(1 <= side <= MAX_SIZE for side in size) and manifest.largest == size
        possible = possible and manifest.fit in FITS
    if not possible or (manifest.raw is not None) != (manifest.storage == "raw"):
        yield f"size, fit, largest and raw do not match {manifest.storage} storage"
    area, splits = math.prod(manifest.largest), manifest.splits.items()
    if many := [name for name, each in splits if sum(each.class_pixels) + each.ignored_pixels > each.samples * area]:
        yield f"the masks of {many[0]!r} have more pixels than its samples at the size {size_text(manifest.largest)}"
    expected = content_fingerprint(storage=manifest.storage, size=size, labels=manifest.labels, splits=manifest.splits)
    if manifest.fingerprint != expected:
        yield "the fingerprint does not match the content"


def why_missing(folder: Path) -> str:
    """Return why a folder is not a finished shard set, and what to do."""
    if folder.is_file():
        return f"{folder} is a file; give the folder of a shard set, the one that holds {MANIFEST_NAME}"
    quoted = shlex.quote(str(folder))
    if not folder.exists():
        return f"no such folder: {folder}; make a shard set with: petseg-shard build SOURCE {quoted}"
    if any((folder / name).is_file() for name in RUN_CHECKPOINTS):
        return f"{folder} is a run, not a shard set; give the folder of the set, the one that holds {MANIFEST_NAME}"
    if any((folder / name).is_dir() for name in _OF_SOURCES):
        return f"{folder} holds images, not shards; pack them first: petseg-shard build {quoted} OUT"
    return (
        f"{folder} holds no finished shard set (no {MANIFEST_NAME}); "
        f"make one, or finish it, with: petseg-shard build SOURCE {quoted}"
    )


def _canonical(manifest: Manifest) -> bytes:
    return (json.dumps(msgspec.to_builtins(manifest), indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()
