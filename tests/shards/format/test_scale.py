"""Opening a set takes constant time and memory, whatever the number of samples."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from shards.build.plan import raw_layout
from shards.format.builtin_labels import PETS
from shards.format.layout import (
    FORMAT,
    IMAGE_FORMATS,
    SAMPLE_DTYPE,
    TAR_BLOCK,
    VERSION,
    index_name,
    key_hash,
    row_check,
    shard_name,
    table_offset,
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
from shards.format.npy import ShardEntry, shard_table_bytes, table_header
from shards.format.tar import END, header, padded
from shards.verify.check_set import verify

SAMPLES, SHARDS, SIZE, META = 10_000_000, 500, 8, 200
NO_SHA = "0" * 64

PROBE = """
import json, sys, time
import shards.format.dataset
began = time.perf_counter()
reader = shards.format.dataset.ShardSet.open(sys.argv[1]).split("train")
count = len(reader)
row = reader.rows([count - 1, 12345])[0]
opened = time.perf_counter() - began
keys = [reader.key(count - 1), reader.key(0)]
status = open("/proc/self/status").read()  # ru_maxrss would be the parent's
peak = int(status.split("VmHWM:")[1].split()[0])
print(json.dumps({"seconds": opened, "peak_mb": peak / 1024, "keys": keys, "n": count}))
"""


@pytest.fixture(scope="module")
def ten_million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``raw`` set of ten million samples in sparse files: each shard has its first and last record and header only.

    Between them are zeros, which are records with a correct checksum.
    """
    folder = tmp_path_factory.mktemp("ten million")
    layout = raw_layout((SIZE, SIZE), META)
    each = SAMPLES // SHARDS
    rows = np.zeros(2, SAMPLE_DTYPE)
    starts = np.array([0, each - 1], np.uint64) * np.uint64(layout.stride)
    image, mask = padded(128 + 3 * SIZE * SIZE), padded(128 + SIZE * SIZE)
    rows["image_offset"] = starts + TAR_BLOCK
    rows["image_format"] = IMAGE_FORMATS.index("npy")
    rows["mask_offset"] = starts + 2 * TAR_BLOCK + image
    rows["meta_offset"] = starts + 3 * TAR_BLOCK + image + mask
    rows["image_length"], rows["mask_length"], rows["meta_length"] = 128 + 3 * SIZE * SIZE, 128 + SIZE * SIZE, META
    shards = []
    with (folder / "train.samples.npy").open("wb") as table:
        table.write(table_header(SAMPLES))
        for number in range(SHARDS):
            first, last = f"s{number}_first", f"s{number}_last"
            rows["shard"] = number
            rows["key_hash"] = key_hash(first), key_hash(last)
            rows["check"] = row_check(rows)
            for row, index in zip(rows, (number * each, (number + 1) * each - 1), strict=True):
                table.seek(table_offset(index))
                table.write(row.tobytes())
            shards.append(write_shard(folder, number, each, layout, first, last))
    (folder / "audit.jsonl").write_bytes(b"")
    size = (folder / "train.samples.npy").stat().st_size
    shard_table = shard_table_bytes(shards)
    (folder / "train.shards.npy").write_bytes(shard_table)
    split = SplitEntry(
        samples=SAMPLES,
        table=FileEntry(file="train.samples.npy", bytes=size, sha256=NO_SHA),
        shards=len(shards),
        bytes=sum(shard.bytes + shard.index.bytes for shard in shards),
        shard_table=FileEntry(
            file="train.shards.npy", bytes=len(shard_table), sha256=hashlib.sha256(shard_table).hexdigest()
        ),
        class_pixels=(1, 1, 1),
        ignored_pixels=0,
        attributes={},
    )
    manifest = Manifest(
        format=FORMAT,
        version=VERSION,
        storage="raw",
        size=(SIZE, SIZE),
        fit="stretch",
        labels=PETS,
        options=BuildOptions(
            layout="pets",
            split="random",
            fractions=(1.0, 0.0, 0.0),
            seed=0,
            samples_per_shard=each,
            shard_bytes=None,
            max_pixels=2**27,
            exif="auto",
            quality=None,
        ),
        splits={"train": split},
        largest=(SIZE, SIZE),
        raw=layout,
        audit=AuditEntry(
            found=SAMPLES,
            packed=SAMPLES,
            repaired=0,
            rejected=0,
            reasons={},
            file=FileEntry(file="audit.jsonl", bytes=0, sha256=NO_SHA),
        ),
        versions={},
        plan=NO_SHA,
        fingerprint=content_fingerprint(storage="raw", size=(SIZE, SIZE), labels=PETS, splits={"train": split}),
    )
    (folder / "manifest.json").write_bytes(dump_manifest(manifest))
    return folder


def write_shard(folder: Path, number: int, each: int, layout: RawLayout, first: str, last: str) -> ShardEntry:
    length = each * layout.stride + len(END)
    with (folder / shard_name("train", number)).open("wb") as tar:
        for position, key in ((0, first), ((each - 1) * layout.stride, last)):
            tar.seek(position)
            tar.write(header(f"{key}.image.npy", 128 + 3 * SIZE * SIZE))
        tar.truncate(length)
    (folder / index_name("train", number)).write_bytes(b"")
    index = FileEntry(file=index_name("train", number), bytes=0, sha256=NO_SHA)
    return ShardEntry(file=shard_name("train", number), bytes=length, sha256=NO_SHA, samples=each, index=index)


def test_ten_million_samples_open_at_once(ten_million: Path) -> None:
    found = json.loads(subprocess.check_output([sys.executable, "-c", PROBE, str(ten_million)], text=True))
    assert found["n"] == SAMPLES
    assert found["keys"] == [f"s{SHARDS - 1}_last", "s0_first"]
    assert found["seconds"] < 1.0, found
    assert found["peak_mb"] < 200, found


def test_quick_verification_does_not_read_the_table(ten_million: Path) -> None:
    report = verify(ten_million, mode="quick")
    # The tars are sparse, so that headers after the first are missing; what matters is that 800 MB were not read.
    assert report.samples == SAMPLES
    assert {problem.kind for problem in report.problems} <= {"index", "header"}


def test_structs_are_immutable() -> None:
    assert all(issubclass(struct, msgspec.Struct) for struct in (Manifest, SplitEntry, ShardEntry, FileEntry))
    with pytest.raises(AttributeError):
        FileEntry(file="x", bytes=0, sha256=NO_SHA).bytes = 1  # type: ignore[misc]
