"""The plan of a build: which sample goes into which shard, in which order. Every shard depends on its task only."""

import hashlib
import itertools
import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from shards.audit.findings import REASONS, SampleFinding
from shards.build.options import PackOptions
from shards.build.splits import official_split, random_split, shard_starts, shuffled
from shards.errors import UsageError, option
from shards.format.builtin_labels import BUILTIN
from shards.format.geometry import Size
from shards.format.keys import assign_keys, shown
from shards.format.labels import Labels
from shards.format.layout import FORMAT, MOST_PIXELS, SPLITS, TAR_BLOCK, VERSION, Split
from shards.format.manifest import RawLayout
from shards.format.npy import npy_header
from shards.format.tar import padded
from shards.sources.layout_protocol import FileStamp, Pair, Source


class PlannedSample(msgspec.Struct, frozen=True, kw_only=True):
    """A pair with its key."""

    key: str
    pair: Pair


class ShardTask(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a shard's bytes, next to the files themselves.

    ``meta_bytes`` is the length that ``KEY.json`` is padded to with spaces, None for no padding.
    """

    split: Split
    number: int
    samples: tuple[PlannedSample, ...]
    options: PackOptions
    meta_bytes: int | None

    @property
    def labels(self) -> Labels:
        """The labels of the set."""
        assert self.options.labels is not None
        return self.options.labels

    @property
    def stamps(self) -> tuple[tuple[FileStamp, FileStamp], ...]:
        """Of each sample's image and mask file."""
        return tuple((sample.pair.image_stamp, sample.pair.mask_stamp) for sample in self.samples)


class PlannedShard(msgspec.Struct, frozen=True, array_like=True):
    """A shard of a plan, without its samples."""

    split: Split
    number: int
    samples: int


class PlanOutline(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a set of finished shards: all of a plan but its samples.

    The digest covers names, lists, file sizes and options; not where the source is, nor any time.
    """

    options: PackOptions  # with labels
    layout: str  # of the source
    labels: Labels
    shards: tuple[PlannedShard, ...]
    findings: tuple[SampleFinding, ...]  # before any image was opened
    found: int
    raw: RawLayout | None
    digest: str

    @property
    def samples(self) -> int:
        """The number of samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    def is_sound(self) -> bool:
        """Return whether an outline that was read may be one that :func:`make_plan` has made."""
        numbers = {(shard.split, shard.number) for shard in self.shards}
        return (
            0 < len(numbers) == len(self.shards)
            and all(shard.number >= 0 and shard.samples > 0 for shard in self.shards)
            and all(finding.reason in REASONS for finding in self.findings)
            and self.found >= self.samples
            and re.fullmatch("[0-9a-f]{64}", self.digest) is not None
            and (self.raw is not None) == (self.options.storage == "raw")
        )


class BuildPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All shards to be built, with their samples; ``tasks`` are in the order of the outline's shards."""

    outline: PlanOutline
    tasks: tuple[ShardTask, ...]

    @property
    def digest(self) -> str:
        """The outline's digest."""
        return self.outline.digest


def make_plan(source: Source, options: PackOptions) -> BuildPlan:
    """Divide a source into splits and shards; raise ``SourceError`` like :func:`official_split`.

    Within a split, samples are in a seeded pseudo-random order, so that a reader that goes through the shards one after
    the other sees all breeds mixed.
    """
    labels = options.labels or source.labels
    if labels is None:
        where = shown(str(source.path))
        raise UsageError(
            f"which classes do the masks of {where} have? List their values, and write a file to edit, with: "
            f"petseg-shard labels {shlex.quote(where)} -o labels.toml; then build with "
            f"{option('labels', 'labels.toml')} (built in, for the original datasets: {', '.join(BUILTIN)})"
        )
    options = msgspec.structs.replace(options, labels=labels)
    findings = list(source.findings)
    if options.split == "official":
        splits, more = official_split(source, val_fraction=options.fractions[1], seed=options.seed)
        findings += more
    else:
        splits = random_split(source.pairs, fractions=options.fractions, seed=options.seed)
    keys = assign_keys(pair.name for pair in source.pairs)
    samples = {pair.name: PlannedSample(key=keys[pair.name], pair=pair) for pair in source.pairs}
    meta_bytes = None
    if options.storage == "raw":  # what fits all: no side is longer, "train" is the longest name of a split
        metas = (
            meta_json(sample, split="train", width=MOST_PIXELS, height=MOST_PIXELS, length=None)
            for sample in samples.values()
        )
        meta_bytes = max(map(len, metas))
    tasks: list[ShardTask] = []
    for name in SPLITS:
        order = shuffled((pair.name for pair in splits[name]), seed=options.seed, purpose="order")
        if options.samples_per_shard is not None:
            starts = list(range(0, len(order), options.samples_per_shard))
        else:
            assert options.shard_bytes is not None
            sizes = [estimated_bytes(samples[each].pair, options, meta_bytes) for each in order]
            starts = shard_starts(sizes, shard_bytes=options.shard_bytes)
        for number, (start, end) in enumerate(itertools.pairwise([*starts, len(order)])):
            chosen = tuple(samples[each] for each in order[start:end])
            task = ShardTask(split=name, number=number, samples=chosen, options=options, meta_bytes=meta_bytes)
            tasks.append(task)
    rejected = {finding.name for finding in findings if finding.action == "rejected"}
    outline = PlanOutline(
        options=options,
        layout=source.layout,
        labels=labels,
        shards=tuple(PlannedShard(task.split, task.number, len(task.samples)) for task in tasks),
        findings=tuple(findings),
        found=sum(len(task.samples) for task in tasks) + len(rejected),
        raw=raw_layout(options.size, meta_bytes) if options.size and meta_bytes else None,
        digest=_digest(source.layout, options, tasks, findings),
    )
    return BuildPlan(outline=outline, tasks=tuple(tasks))


def with_absolute_paths(source: Source) -> Source:
    """Return a source whose files are found from any working folder."""
    if source.address:
        return source
    pairs = tuple(
        msgspec.structs.replace(pair, image=str(Path(pair.image).absolute()), mask=str(Path(pair.mask).absolute()))
        for pair in source.pairs
    )
    return replace(source, pairs=pairs)


def estimated_bytes(pair: Pair, options: PackOptions, meta_bytes: int | None) -> int:
    """Return how many bytes of a tar a pair will take, about, from its files' sizes and the options.

    Exact for ``raw`` storage. In ``jpeg`` storage a pixel takes 0.3 bytes: photographs of pets have 0.21 to 0.51 at
    512 to 64 pixels a side and quality 90. In ``source`` storage the files are taken for JPEGs or PNGs of the same
    masks, so that a TIFF, which becomes a PNG, may take less.
    """
    if options.size is not None and meta_bytes is not None:
        return raw_layout(options.size, meta_bytes).stride
    if options.size is not None:
        pixels = math.prod(options.size)
        return 4 * TAR_BLOCK + padded(3 * pixels // 10) + padded(pixels // 32)
    return 4 * TAR_BLOCK + padded(pair.image_stamp.bytes) + padded(pair.mask_stamp.bytes)


def meta_json(sample: PlannedSample, *, split: Split, width: int, height: int, length: int | None) -> bytes:
    """Return ``KEY.json``: one line, padded with spaces to ``length`` bytes before its line break."""
    pair = sample.pair
    document = {
        "key": sample.key,
        "name": shown(pair.name),
        "split": split,
        "width": width,
        "height": height,
        **pair.attributes,
    }
    text = json.dumps(document, ensure_ascii=True).ljust(0 if length is None else length - 1)
    return (text + "\n").encode("ascii")


def raw_layout(size: Size, meta_bytes: int) -> RawLayout:
    """Return where the pixels of the samples are in a ``raw`` tar: at the same distance throughout."""
    image_header, mask_header = len(npy_header((*size, 3))), len(npy_header(size))
    pixels = math.prod(size)
    image, mask = padded(image_header + 3 * pixels), padded(mask_header + pixels)
    return RawLayout(
        stride=3 * TAR_BLOCK + image + mask + padded(meta_bytes),
        image_offset=TAR_BLOCK + image_header,
        mask_offset=2 * TAR_BLOCK + image + mask_header,
    )


def _digest(layout: str, options: PackOptions, tasks: list[ShardTask], findings: list[SampleFinding]) -> str:
    """Return the SHA-256 (hex) of all that decides the set, except the content of the files."""
    digest = hashlib.sha256(f"{FORMAT} {VERSION}\n".encode())

    def add(document: Any) -> None:
        digest.update(json.dumps(document, ensure_ascii=True).encode() + b"\n")

    add([layout, msgspec.to_builtins(options)])
    for finding in findings:
        add([finding.name, finding.action, finding.reason, finding.split])
    for task in tasks:
        add([task.split, task.number, task.meta_bytes])
        for sample in task.samples:
            pair = sample.pair
            sizes = [pair.image_stamp.bytes, pair.mask_stamp.bytes]
            add([sample.key, pair.name, *sizes, sorted(pair.attributes.items())])
    return digest.hexdigest()
