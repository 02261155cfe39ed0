"""The samples of a page: which are chosen, their thumbnails and masks, and what the audit found in them."""

import contextlib
import io
import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from PIL import Image

from shards.audit.findings import MAX_LINE, SampleFinding
from shards.cores import usable_cores
from shards.errors import FormatError
from shards.format.dataset import ShardSet, SplitReader
from shards.format.labels import IGNORE
from shards.format.layout import Split
from shards.format.overlays import Pixels
from shards.preview.small_sample import small_sample
from shards.store.byte_ranges import open_regular

SIDES: Final = ((300, 512), (800, 384), (20_000, 256))  # up to so many samples: thumbnails of this longest side
QUALITY: Final = 72  # of the thumbnails (WebP)
MAX_THREADS: Final = 8
_HUGE = 2**26  # pixels: images that are decoded one at a time

Chosen = list[tuple[SplitReader, int]]


@dataclass(frozen=True, kw_only=True)
class PageSample:
    """A sample on a page.

    Attributes:
        key: its key.
        name: its name in the source.
        split: the split that it is in.
        width: of the image in the source, pixels.
        height: likewise.
        shown: width and height of the thumbnail, pixels.
        attributes: its attributes, as text.
        findings: repairs and warnings.
        pixels: class index and pixels of the stored mask, in turn, for those that occur; index N for ignored pixels.
        image: the thumbnail, WebP.
        mask: its class indices, N for ignored pixels: the compressed lines of a PNG of 8 bits per pixel.
    """

    key: str
    name: str
    split: Split
    width: int
    height: int
    shown: tuple[int, int]
    attributes: Mapping[str, str]
    findings: tuple[SampleFinding, ...]
    pixels: list[int]
    image: bytes
    mask: bytes


def read_findings(shards: ShardSet) -> list[SampleFinding]:
    """Return the lines of the audit file; raise ``FormatError`` if one is not what a build writes."""
    path = shards.local_file(shards.manifest.audit.file)
    decoder = msgspec.json.Decoder(SampleFinding)
    findings = []
    with os.fdopen(open_regular(path), "rb") as handle:
        while line := handle.readline(MAX_LINE):
            try:
                findings.append(decoder.decode(line))
            except (msgspec.DecodeError, RecursionError):
                place = f"{path}, line {len(findings) + 1}"
                raise FormatError(f"{place} is damaged; run petseg-shard verify, then build the set again") from None
    return findings


def choose(readers: Sequence[SplitReader], findings: Sequence[SampleFinding], *, count: int) -> Chosen:
    """Choose at most ``count`` samples, in the order of the splits and their samples.

    All, if there are no more. Otherwise samples with repairs or warnings take up to a quarter of the places, and each
    split gives its first ones (their order is pseudo-random) for the others, as many as its size is due.
    """
    total = sum(map(len, readers))
    if total <= count:
        return [(reader, index) for reader in readers for index in range(len(reader))]
    taken: dict[str, set[int]] = {reader.name: set() for reader in readers}
    places = count // 4
    packed = (finding for finding in findings if finding.action != "rejected")
    for finding, reader in itertools.product(itertools.islice(packed, count), readers):
        if places and finding.split in (reader.name, None):
            index = reader.find(finding.name)
            if index is not None and index not in taken[reader.name]:
                taken[reader.name].add(index)
                places -= 1
    free, left = count - sum(map(len, taken.values())), total - sum(map(len, taken.values()))
    before = 0
    for reader in readers:
        end = before + len(reader) - len(taken[reader.name])
        others = (index for index in range(len(reader)) if index not in taken[reader.name])
        taken[reader.name].update(list(itertools.islice(others, free * end // left - free * before // left)))
        before = end
    return [(reader, index) for reader in readers for index in sorted(taken[reader.name])]


def page_samples(
    chosen: Chosen, findings: Sequence[SampleFinding], *, progress: Callable[[int, int], None] | None
) -> Iterator[PageSample]:
    """Yield the chosen samples, in order; several threads decode.

    Raises ``SampleError`` if one is damaged.
    """
    by_name: dict[str, list[SampleFinding]] = {}
    for finding in findings:
        if finding.action != "rejected":
            by_name.setdefault(finding.name, []).append(finding)
    side = next(side for most, side in SIDES if len(chosen) <= most)
    height, width = chosen[0][0].manifest.largest
    threads = 1 if height * width > _HUGE else min(usable_cores(), MAX_THREADS)
    with contextlib.ExitStack() as stack:
        pool = ThreadPoolExecutor(threads)
        stack.callback(pool.shutdown, cancel_futures=True)
        done = pool.map(lambda place: _page_sample(place[0], place[1], by_name, side), chosen)
        for number, sample in enumerate(done, start=1):
            yield sample
            if progress is not None:
                progress(number, len(chosen))


def _page_sample(
    reader: SplitReader, index: int, findings: Mapping[str, Sequence[SampleFinding]], side: int
) -> PageSample:
    small = small_sample(reader, index, (side, side), enlarge=False)
    row, key, meta = reader.rows([index])[0], reader.key(index), reader.meta(index)
    name = meta.get("name")
    name = name if isinstance(name, str) else key
    classes = len(reader.manifest.labels)
    pixels = []
    for each in np.flatnonzero(small.counts).tolist():
        pixels += [min(each, classes), int(small.counts[each])]
    found = findings.get(name, ())
    return PageSample(
        key=key,
        name=name,
        split=reader.name,
        width=int(row["width"]),
        height=int(row["height"]),
        shown=(small.indices.shape[1], small.indices.shape[0]),
        attributes=reader.attributes(index),
        findings=tuple(finding for finding in found if finding.split in (reader.name, None)),
        pixels=pixels,
        image=_webp(small.image),
        mask=_lines(np.where(small.indices == IGNORE, classes, small.indices).astype(np.uint8)),
    )


def _webp(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=QUALITY, method=2)
    return buffer.getvalue()


def _lines(indices: Pixels) -> bytes:
    """Return the image data of a PNG without filters, compressed."""
    lines = np.zeros((indices.shape[0], indices.shape[1] + 1), dtype=np.uint8)
    lines[:, 1:] = indices
    return zlib.compress(lines.tobytes(), 9)
