"""Shard sets written by a few lines of their own, so that the loader is not tested against the packer's ideas alone."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import tarfile
import weakref
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from pipeline.runtime.buffers import BufferPool
from shards.format.builtin_labels import PETS
from shards.format.geometry import Size
from shards.format.labels import LabelClass, Labels, chosen_colour
from shards.format.layout import (
    EXTENSIONS,
    FORMAT,
    IMAGE_FORMATS,
    SAMPLE_DTYPE,
    SHARD_DTYPE,
    VERSION,
    key_hash,
    row_check,
)
from shards.format.manifest import (
    AuditEntry,
    BuildOptions,
    FileEntry,
    Manifest,
    RawLayout,
    SplitEntry,
    content_fingerprint,
    dump_manifest,
)
from shards.format.npy import ShardEntry


@dataclass(frozen=True)
class Pair:
    """An image with its mask as they are stored: encoded bytes, or .npy bytes."""

    image: bytes
    mask: bytes
    height: int
    width: int
    format: str = "jpg"


def encode(value: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    value.save(buffer, kind, **options)
    return buffer.getvalue()


def npy(value: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def numbered_labels(count: int) -> Labels:
    """Labels of some classes that no test needs to know by name."""
    classes = (LabelClass(name=f"class {n}", values=(n,), color=chosen_colour(n)) for n in range(count))
    return Labels(classes=tuple(classes), ignore=(255,) if count < 255 else ())


def draw_pixels(height: int, width: int, seed: int, labels: Labels = PETS) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image with some detail, and a mask of blocks: uint8 (H, W, 3) and (H, W).

    A tenth of the blocks are ignored, if the labels say that masks may have such pixels.
    """
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    image = np.clip(smooth + random.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
    blocks = random.integers(0, len(labels), (max(2, height // 7), max(2, width // 5)), dtype=np.uint8)
    if labels.ignore:
        blocks[random.random(blocks.shape) < 0.1] = 255
    mask = np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)).copy()
    return image, mask


@functools.lru_cache(maxsize=300)
def draw_pair(storage: str, height: int, width: int, seed: int, labels: Labels = PETS) -> Pair:
    """A drawn pair as it is stored; some images are PNGs where ``source`` labels are not the pets'."""
    image, mask = draw_pixels(height, width, seed, labels)
    if storage == "raw":
        return Pair(npy(image), npy(mask), height, width, "npy")
    stored = encode(Image.fromarray(mask), "PNG")
    if storage == "source" and labels is not PETS and seed % 3 == 1:
        return Pair(encode(Image.fromarray(image), "PNG"), stored, height, width, "png")
    jpeg = encode(Image.fromarray(image), "JPEG", quality=90, subsampling=seed % 3)
    return Pair(jpeg, stored, height, width)


def write_set(
    folder: Path,
    pairs: Sequence[Pair],
    *,
    storage: str = "source",
    split: str = "train",
    size: Size | None = None,
    labels: Labels = PETS,
    samples_per_shard: int = 7,
) -> Path:
    """Write a set of one split whose checksums are those of the bytes given, whatever the bytes are."""
    folder.mkdir(parents=True, exist_ok=True)
    table = np.zeros(len(pairs), SAMPLE_DTYPE)
    shards = []
    for number, start in enumerate(range(0, len(pairs), samples_per_shard)):
        name = f"{split}-{number:06d}"
        with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for index in range(start, min(start + samples_per_shard, len(pairs))):
                _add_sample(tar, table, index, pairs[index], number)
        (folder / f"{name}.idx").write_text("v1.2 0\n")
        shards.append(
            ShardEntry(
                **_entry(folder, f"{name}.tar"),
                samples=min(samples_per_shard, len(pairs) - start),
                index=FileEntry(**_entry(folder, f"{name}.idx")),
            )
        )
    table["check"] = row_check(table)
    np.save(folder / f"{split}.samples.npy", table)
    sums = [[np.frombuffer(bytes.fromhex(file.sha256), np.uint8) for file in (each, each.index)] for each in shards]
    sizes = [(each.samples, each.bytes, each.index.bytes) for each in shards]
    np.save(folder / f"{split}.shards.npy", np.array([(*s, *d) for s, d in zip(sizes, sums, strict=True)], SHARD_DTYPE))
    (folder / "audit.jsonl").write_text("")
    splits = {
        split: SplitEntry(
            samples=len(pairs),
            table=FileEntry(**_entry(folder, f"{split}.samples.npy")),
            shards=len(shards),
            bytes=sum(each.bytes + each.index.bytes for each in shards),
            shard_table=FileEntry(**_entry(folder, f"{split}.shards.npy")),
            class_pixels=(1,) * min(len(labels), len(pairs)) + (0,) * (len(labels) - len(pairs)),
            ignored_pixels=0,
            attributes={},
        )
    }
    manifest = Manifest(
        format=FORMAT,
        version=VERSION,
        storage=storage,
        size=size,
        fit=None if size is None else "stretch",
        labels=labels,
        options=BuildOptions(
            layout="folders",
            split="random",
            fractions=(1, 0, 0),
            seed=0,
            samples_per_shard=samples_per_shard,
            shard_bytes=None,
            quality=None,
            max_pixels=1 << 27,
            exif="auto",
        ),
        splits=splits,
        largest=(max(pair.height for pair in pairs), max(pair.width for pair in pairs)),
        audit=AuditEntry(
            found=len(pairs),
            packed=len(pairs),
            repaired=0,
            rejected=0,
            reasons={},
            file=FileEntry(**_entry(folder, "audit.jsonl")),
        ),
        raw=RawLayout(stride=0, image_offset=0, mask_offset=0) if storage == "raw" else None,
        plan="0" * 64,
        versions={},
        fingerprint=content_fingerprint(storage=storage, size=size, labels=labels, splits=splits),
    )
    manifest = msgspec.convert(msgspec.to_builtins(manifest), Manifest)
    (folder / "manifest.json").write_bytes(dump_manifest(manifest))
    return folder


def _add_sample(tar: tarfile.TarFile, table: np.ndarray, index: int, pair: Pair, shard: int) -> None:
    key = f"pet_{index}"
    meta = json.dumps({"key": key, "name": f"pet no. {index}"}).encode()
    data = {"image": pair.image, "mask": pair.mask, "meta": meta}
    row = table[index]
    row["image_format"] = IMAGE_FORMATS.index(pair.format)
    for role, extension in EXTENSIONS[pair.format].items():
        member = tarfile.TarInfo(f"{key}.{extension}")
        member.size = len(data[role])
        tar.addfile(member, io.BytesIO(data[role]))
        padded = -(-member.size // 512) * 512
        row[f"{role}_offset"] = tar.offset - padded
        row[f"{role}_length"] = member.size
        row[f"{role}_crc32"] = zlib.crc32(data[role])
    row["shard"], row["width"], row["height"], row["key_hash"] = shard, pair.width, pair.height, key_hash(key)


def _entry(folder: Path, name: str) -> dict[str, object]:
    data = (folder / name).read_bytes()
    return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


SIZES = [(375, 500), (333, 499), (500, 333), (97, 61), (128, 128), (64, 300), (200, 200), (40, 40), (511, 17)]


@pytest.fixture(scope="session")
def make_set(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_set(count, storage="source", size=None, ...)``: a drawn set in a folder of its own.

    It has the pets' labels, or as many classes as are asked for, and ignored pixels, and some PNGs in ``source``.
    """

    def make(
        count: int,
        *,
        storage: str = "source",
        size: int | Size | None = None,
        split: str = "train",
        classes: int | None = None,
    ) -> Path:
        labels = PETS if classes is None else numbered_labels(classes)
        stored = (size, size) if isinstance(size, int) else size
        shapes = [stored or SIZES[i % len(SIZES)] for i in range(count)]
        pairs = [draw_pair(storage, h, w, seed, labels) for seed, (h, w) in enumerate(shapes)]
        folder = tmp_path_factory.mktemp(f"set-{storage}")
        return write_set(folder, pairs, storage=storage, size=stored, split=split, labels=labels)

    return make


def stored_pixels(folder: Path, storage: str, index: int, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """A sample's stored image and mask by Pillow and NumPy alone, uint8 (H, W, 3) and (H, W)."""
    from shards.format.dataset import ShardSet

    reader = ShardSet.open(folder).split(split)
    image, mask = (io.BytesIO(reader.read(index, role)) for role in ("image", "mask"))
    if storage == "raw":
        return np.load(image), np.load(mask)
    return np.asarray(Image.open(image).convert("RGB")), np.asarray(Image.open(mask))


def expected_sample(
    image: np.ndarray, mask: np.ndarray, size: int | Size, *, box: Sequence[int] | None = None, flip: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """What a loader should make of a sample, by Pillow and integer arithmetic, without colour: image and classes."""
    top, left, height, width = box or (0, 0, *image.shape[:2])
    out_height, out_width = (size, size) if isinstance(size, int) else size
    region = Image.fromarray(image[top : top + height, left : left + width])
    resized = np.asarray(region.resize((out_width, out_height), Image.Resampling.BILINEAR))
    rows = [top + (2 * i + 1) * height // (2 * out_height) for i in range(out_height)]
    columns = [left + (2 * i + 1) * width // (2 * out_width) for i in range(out_width)]
    classes = mask[np.ix_(rows, columns)]
    return (resized[:, ::-1], classes[:, ::-1]) if flip else (resized, classes)


@pytest.fixture(scope="session")
def sets(make_set: Callable[..., Path]) -> dict[str, Path]:
    """One drawn set of each storage, 40 samples, three classes."""
    return {
        "source": make_set(40),
        "jpeg": make_set(40, storage="jpeg", size=96),
        "raw": make_set(40, storage="raw", size=96),
    }


@pytest.fixture(scope="session")
def many_class_sets(make_set: Callable[..., Path]) -> dict[str, Path]:
    """The same with 21 classes, ignored pixels, and stored images that are no squares."""
    return {
        "source": make_set(40, classes=21),
        "jpeg": make_set(40, storage="jpeg", size=(72, 104), classes=21),
        "raw": make_set(40, storage="raw", size=(72, 104), classes=21),
    }


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


class Reference:
    """The independent decode, for tests in files of their own."""

    stored = staticmethod(stored_pixels)
    expected = staticmethod(expected_sample)


@pytest.fixture(scope="session")
def writer() -> Callable[..., Path]:
    """:func:`write_set`, for tests that forge samples."""
    return write_set


@pytest.fixture(scope="session")
def drawn_pair() -> Callable[..., Pair]:
    """:func:`draw_pair`."""
    return draw_pair


@pytest.fixture(scope="session")
def labels_of() -> Callable[[int], Labels]:
    """:func:`numbered_labels`."""
    return numbered_labels


@pytest.fixture(autouse=True)
def workers_start_fast(forked_workers: None) -> None:
    """Other processes have tests of their own: workers/test_worker_processes.py."""


@pytest.fixture(scope="session")
def with_engine() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Makes a loader's options of those of a test, where the engine "processes" is engine torch in two processes."""

    def with_engine(options: dict[str, Any]) -> dict[str, Any]:
        if options["engine"] != "processes":
            return options
        if not hasattr(os, "memfd_create"):
            pytest.skip("workers need Linux")
        return {name: value for name, value in options.items() if name != "threads"} | {
            "engine": "torch",
            "processes": 2,
        }

    return with_engine


class LentBuffers:
    """Notes every buffer that a loader's pools lend.

    Attributes:
        arrays: weak references to their memory, by its id.
    """

    def __init__(self) -> None:
        self.arrays: dict[int, weakref.ref[Any]] = {}

    def note(self, lent: Any) -> Any:
        assert lent.base is not None
        self.arrays[id(lent.base)] = weakref.ref(lent.base)
        return lent

    def alive(self) -> list[Any]:
        return [array for each in list(self.arrays.values()) if (array := each()) is not None]

    def held(self) -> int:
        """Return how many bytes of them are still held by somebody."""
        return sum(array.nbytes for array in self.alive())


@pytest.fixture
def lent_buffers(monkeypatch: pytest.MonkeyPatch) -> LentBuffers:
    lent, take = LentBuffers(), BufferPool.take
    monkeypatch.setattr(BufferPool, "take", lambda pool: lent.note(take(pool)))
    return lent
