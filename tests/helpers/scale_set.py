"""A set of any number of tiny samples, written fast: what scale_benchmark.py measures.

The bytes are those that a build would write (``verify`` accepts the set, and a test runs it), but samples are made by
the thousand from their numbers: 3 KiB each, of 8 x 8 pixels, in ``raw`` storage.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import get_args

import numpy as np
from zlib_ng import zlib_ng

from pipeline.order import Shuffling
from pipeline.order.epoch_order import Shuffle
from shards import ShardSet
from shards.build.plan import raw_layout
from shards.build.write_shard import write_file
from shards.format import layout, manifest, npy, tar
from shards.format.builtin_labels import PETS
from shards.store.atomic import file_sha256

SIZE, META, DIGITS, PIXELS = (8, 8), 200, 9, 64
LAYOUT, NAMES = raw_layout(SIZE, META), layout.EXTENSIONS["npy"]
HEADERS = {"image": npy.npy_header((*SIZE, 3)), "mask": npy.npy_header(SIZE)}
LENGTHS = {"image": len(HEADERS["image"]) + 3 * PIXELS, "mask": len(HEADERS["mask"]) + PIXELS, "meta": META}
OFFSETS = {role: LAYOUT.stride - tar.padded(META) for role in NAMES}  # of the contents, in a sample
OFFSETS |= {"image": layout.TAR_BLOCK, "mask": LAYOUT.mask_offset - len(HEADERS["mask"])}


def sample_block(first: int, count: int) -> layout.Rows:
    """Return the bytes of samples as they follow each other in a tar, uint8 (count, stride): headers, .npy, JSON."""
    key, template, numbers = f"s{0:0{DIGITS}}", bytearray(LAYOUT.stride), first + np.arange(count)[:, None]
    text = json.dumps({"key": key, "name": key, "split": "train", "width": SIZE[1], "height": SIZE[0]})
    contents = {**HEADERS, "meta": text.ljust(META - 1).encode() + b"\n"}
    for role, start in OFFSETS.items():
        template[start - layout.TAR_BLOCK : start] = tar.header(f"{key}.{NAMES[role]}", LENGTHS[role])
        template[start : start + len(contents[role])] = contents[role]
    block = np.tile(np.frombuffer(bytes(template), np.uint8), (count, 1))
    digits = (numbers // 10 ** np.arange(DIGITS - 1, -1, -1) % 10).astype(np.uint8)  # added to the zeros of the key
    names = [start - layout.TAR_BLOCK for start in OFFSETS.values()]
    for header in names:
        sums = int(bytes(template[header + 148 : header + 154]), 8) + digits.sum(axis=1, keepdims=True, dtype=int)
        block[:, header + 148 : header + 154] = ord("0") + (sums >> np.arange(15, -1, -3) & 7)
    for place in [*names, *(OFFSETS["meta"] + at for at in range(len(text)) if text.startswith(key, at))]:
        block[:, place + 1 : place + 1 + DIGITS] += digits
    block[:, LAYOUT.image_offset : LAYOUT.image_offset + 3 * PIXELS] = (7 * numbers + np.arange(3 * PIXELS)) % 251
    block[:, LAYOUT.mask_offset : LAYOUT.mask_offset + PIXELS] = (numbers + np.arange(PIXELS)) % len(PETS)
    return block


def write_tar(folder: Path, number: int, first: int, count: int) -> tuple[npy.ShardEntry, bytes, layout.Rows]:
    """Write a tar and its index; return its entry, the records of its samples, and the pixels of each class."""
    block, rows, lines = sample_block(first, count), np.zeros(count, layout.SAMPLE_DTYPE), []
    rows["shard"], rows["image_format"], rows["height"], rows["width"] = number, 2, *SIZE
    for role, start in OFFSETS.items():
        rows[f"{role}_offset"] = start + LAYOUT.stride * np.arange(count)
        rows[f"{role}_length"] = LENGTHS[role]
        rows[f"{role}_crc32"] = [zlib_ng.crc32(each) for each in block[:, start : start + LENGTHS[role]].copy()]
    for index in range(count):
        key, at = f"s{first + index:0{DIGITS}}", index * LAYOUT.stride
        rows["key_hash"][index] = layout.key_hash(key)
        lines.append(tar.index_line(key, [(NAMES[role], at + OFFSETS[role], LENGTHS[role]) for role in NAMES]))
    rows["check"] = layout.row_check(rows)
    file = write_file(folder / layout.shard_name("train", number), block.tobytes() + tar.END)
    index_file = write_file(folder / layout.index_name("train", number), tar.index_text(lines).encode())
    entry = npy.ShardEntry(file=file.file, bytes=file.bytes, sha256=file.sha256, samples=count, index=index_file)
    masks = block[:, LAYOUT.mask_offset : LAYOUT.mask_offset + PIXELS]
    return entry, rows.tobytes(), np.bincount(masks.ravel(), minlength=len(PETS))


def write_scale_set(folder: Path, *, samples: int, each: int, tables_only: bool = False, workers: int = 1) -> None:
    """Write a set of ``samples`` samples in tars of ``each``, see the module; with ``tables_only`` within seconds."""
    counts = [min(each, samples - start) for start in range(0, samples, each)]
    numbers = sorted({0, len(counts) - 1}) if tables_only else range(len(counts))
    firsts, chosen = [number * each for number in numbers], [counts[number] for number in numbers]
    absent = manifest.FileEntry(file="x", bytes=0, sha256="0" * 64)
    entries = [npy.ShardEntry(file="x", bytes=0, sha256="0" * 64, samples=count, index=absent) for count in counts]
    pixels = np.zeros(len(PETS), np.int64)
    with (folder / "train.samples.npy").open("wb") as table, ProcessPoolExecutor(workers) as pool:
        table.write(npy.table_header(samples))
        written = pool.map(write_tar, repeat(folder), numbers, firsts, chosen)
        for number, (entries[number], rows, found) in zip(numbers, written, strict=True):
            table.seek(layout.table_offset(number * each))
            table.write(rows)
            pixels += found
    table_path = folder / "train.samples.npy"
    table_sum = absent.sha256 if tables_only else file_sha256(table_path)
    split = manifest.SplitEntry(
        samples=samples,
        shards=len(counts),
        bytes=sum(entry.bytes + entry.index.bytes for entry in entries),
        table=manifest.FileEntry(file=table_path.name, bytes=table_path.stat().st_size, sha256=table_sum),
        shard_table=write_file(folder / "train.shards.npy", npy.shard_table_bytes(entries)),
        class_pixels=tuple(pixels.tolist()),
        ignored_pixels=0,
        attributes={},
    )
    audit = manifest.AuditEntry(
        found=samples,
        packed=samples,
        repaired=0,
        rejected=0,
        reasons={},
        file=write_file(folder / layout.AUDIT_NAME, b""),
    )
    options = manifest.BuildOptions(
        layout="synthetic", split="random", fractions=(1.0, 0.0, 0.0), seed=0, exif="auto",
        samples_per_shard=each, shard_bytes=None, max_pixels=1 << 27, quality=None,
    )  # fmt: skip
    document = manifest.Manifest(
        format=layout.FORMAT,
        version=layout.VERSION,
        storage="raw",
        size=SIZE,
        fit="stretch",
        labels=PETS,
        options=options,
        splits={"train": split},
        largest=SIZE,
        raw=LAYOUT,
        audit=audit,
        versions={},
        plan=absent.sha256,
        fingerprint=manifest.content_fingerprint(storage="raw", size=SIZE, labels=PETS, splits={"train": split}),
    )
    write_file(folder / layout.MANIFEST_NAME, manifest.dump_manifest(document))
    if tables_only:
        fill_first_batches(folder)


def fill_first_batches(folder: Path) -> None:
    """Repeat the first record at the first samples of each order; those of the others are zeros, which is damage."""
    reader = ShardSet.open(folder).split("train")
    record = reader.rows([0]).tobytes()
    with (folder / "train.samples.npy").open("r+b") as table:
        for kind in get_args(Shuffle):
            order = Shuffling(kind=kind, window=16).order(0, 0, starts=reader.starts)
            for index in order[np.arange(32)].tolist():
                if index >= reader.starts[1] and index < reader.starts[-2]:
                    table.seek(layout.table_offset(index))
                    table.write(record)
