"""Which image goes into which split, in which order, and into which shard: pure functions of names, lists, file sizes,
options and seed.

Random choices are made by sorting names by a keyed hash, not by a library's random generator, so that they are the
same on every machine and for every version of every library.
"""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from shards.audit.findings import SampleFinding
from shards.errors import SourceError, option, spelled
from shards.format.keys import shown
from shards.format.layout import SPLITS, Split
from shards.sources.layout_protocol import Pair, Source

MIN_SHARDS: Final = 16  # of a split, so that cores have something to do in parallel,
MIN_SAMPLES: Final = 32  # unless a shard would have fewer samples
_NEEDED: Final = {"pets": ("trainval", "test")}  # lists without which a download is incomplete


def shuffled(names: Iterable[str], *, seed: int, purpose: str) -> list[str]:
    """Return names in an order that depends on the set of names, ``seed`` and ``purpose`` only."""
    salt = f"{purpose} {seed} ".encode()

    def rank(name: str) -> tuple[bytes, str]:
        return hashlib.sha256(salt + name.encode("utf-8", "surrogateescape")).digest(), name

    return sorted(names, key=rank)


def shard_starts(sizes: Sequence[int], *, shard_bytes: int) -> list[int]:
    """Return the position of the first sample of each shard of a split.

    Shards take about the same number of bytes: as few shards as keep them at ``shard_bytes`` (and at most one sample
    more), but at least :data:`MIN_SHARDS`, or as many as have :data:`MIN_SAMPLES` samples on average. This does not
    depend on the number of workers, so that the bytes of a set do not.

    Args:
        sizes: the bytes that each sample takes in a tar, about, in order.
        shard_bytes: what a shard should take at most.
    """
    if not sizes:
        return []
    ends = np.cumsum(np.array(sizes, dtype=np.int64))
    total = int(ends[-1])
    count = min(max(-(-total // shard_bytes), min(MIN_SHARDS, len(sizes) // MIN_SAMPLES), 1), len(sizes))
    # Shard k begins with the first sample that begins at k / count of the bytes or after; a shard that would begin
    # inside a sample larger than itself is left out.
    shares = [total * number // count for number in range(count)]
    starts = np.searchsorted(ends - np.array(sizes, dtype=np.int64), shares).tolist()
    return [start for start in dict.fromkeys(starts) if start < len(sizes)]


def official_split(
    source: Source, *, val_fraction: float, seed: int
) -> tuple[dict[Split, list[Pair]], list[SampleFinding]]:
    """Split as the source's lists say.

    Lists for train and val are used as they are; of train and trainval without val, what only trainval names becomes
    val; otherwise val is a seeded part, ``val_fraction`` of the rest, with the same share of every group. A name in
    several lists counts for test before val before train.

    Returns the pairs of each split (in name order) and what the lists omit or contradict; raises ``SourceError`` if
    there are no lists, or they leave open which images are for training.
    """
    names = _split_names(source, [pair.name for pair in source.pairs])
    splits: dict[Split, list[Pair]] = {name: [] for name in SPLITS}
    findings: list[SampleFinding] = []
    for pair in source.pairs:
        chosen: list[Split] = [split for split in ("test", "val", "train") if pair.name in names[split]]
        if not chosen:
            detail = f"neither in {' nor in '.join(sorted(source.lists))}"
            findings.append(SampleFinding(shown(pair.name), "rejected", "not-listed", detail))
            continue
        splits[chosen[0]].append(pair)
        if len(chosen) > 1:
            detail = f"listed for {' and '.join(reversed(chosen))}; kept in {chosen[0]} only"
            findings.append(SampleFinding(shown(pair.name), "warning", "listed-twice", detail, split=chosen[0]))
    if "val" not in source.lists and not splits["val"]:
        val = stratified(splits["train"], fraction=val_fraction, seed=seed)
        splits["val"] = [pair for pair in splits["train"] if pair.name in val]
        splits["train"] = [pair for pair in splits["train"] if pair.name not in val]
    return splits, findings


def _split_names(source: Source, names: Sequence[str]) -> dict[Split, frozenset[str]]:
    """Return the names that are listed for each split; val is empty where no list tells it from train."""
    lists, none = source.lists, frozenset[str]()
    where, advice = shown(str(source.path)), spelled("use --split=random, which needs none")
    missing = [f"{name}.txt" for name in _NEEDED.get(source.layout, ()) if name not in lists]
    if missing:
        raise SourceError(f"{where} has no {' and no '.join(missing)}; {advice}")
    if not lists and source.table is not None:
        raise SourceError(
            f"{where} names no splits; add a column split (train, val, test), or use {option('split', 'random')}"
        )
    if not lists:
        raise SourceError(f"{where} (layout {source.layout}) has no official lists of train, val and test; {advice}")
    train, val, test = (lists.get(name, none) for name in SPLITS)
    trainval = lists.get("trainval", none)
    if not train and not trainval:  # a set for evaluation only, unless there are other images
        listed = val | test
        rest = sum(name not in listed for name in names)
        if rest:
            known = " and ".join(sorted(lists))
            raise SourceError(
                f"{where} has only a list of {known}, which leaves {rest} images open: list those for training, "
                f"too, or use {option('split', 'random')}"
            )
    if "val" in lists:
        return {"train": train | (trainval - val), "val": val, "test": test}
    if train and trainval:
        return {"train": train, "val": trainval - train, "test": test}
    return {"train": train | trainval, "val": none, "test": test}


def random_split(pairs: Sequence[Pair], *, fractions: tuple[float, float, float], seed: int) -> dict[Split, list[Pair]]:
    """Split at random by ``fractions`` (train, val, test; they add up to 1), seeded."""
    by_name = {pair.name: pair for pair in pairs}
    order = iter(shuffled(by_name, seed=seed, purpose="split"))
    counts = zip(SPLITS, apportion(len(by_name), fractions), strict=True)
    return {split: [by_name[name] for name in sorted(itertools.islice(order, count))] for split, count in counts}


def stratified(pairs: Sequence[Pair], *, fraction: float, seed: int) -> set[str]:
    """Choose the names of round(fraction * n) pairs, the same share of each group."""
    by_group: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        by_group[pair.group].append(pair.name)
    groups = sorted(by_group)
    total = round(fraction * len(pairs))
    shares = apportion(total, [len(by_group[group]) / max(len(pairs), 1) for group in groups])
    chosen: set[str] = set()
    for group, share in zip(groups, shares, strict=True):
        chosen.update(shuffled(by_group[group], seed=seed, purpose="val")[:share])
    return chosen


def apportion(total: int, fractions: Sequence[float]) -> list[int]:
    """Divide ``total`` into whole numbers near ``fractions`` (adding up to 1), by largest remainder."""
    exact = [total * fraction for fraction in fractions]
    counts = [int(value + 1e-9) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    positive = [i for i in order if fractions[i] > 0]
    for step in range(total - sum(counts)):
        counts[positive[step % len(positive)]] += 1
    return counts
