"""Which image goes into which split, and in which order: pure functions of names, lists, options and seed.

Random choices are made by sorting names by a keyed hash, not by a library's random generator, so that they are the
same on every machine and for every version of every library.
"""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence

from shards.audit.findings import SampleFinding
from shards.errors import SourceError
from shards.format.keys import shown
from shards.format.layout import SPLITS, Split
from shards.sources.base import Pair, Source


def shuffled(names: Iterable[str], *, seed: int, purpose: str) -> list[str]:
    """Return names in an order that depends on the set of names, ``seed`` and ``purpose`` only."""
    salt = f"{purpose} {seed} ".encode()

    def rank(name: str) -> tuple[bytes, str]:
        return hashlib.sha256(salt + name.encode("utf-8", "surrogateescape")).digest(), name

    return sorted(names, key=rank)


def official_split(
    source: Source, *, val_fraction: float, seed: int
) -> tuple[dict[Split, list[Pair]], list[SampleFinding]]:
    """Split as the lists say; val is a seeded part of trainval, with the same share of every breed.

    Returns the pairs of each split (in name order) and what the lists omit or contradict; raises ``SourceError`` if the
    source has no trainval.txt and test.txt.
    """
    missing = [f"{name}.txt" for name in ("trainval", "test") if name not in source.lists]
    if missing:
        raise SourceError(
            f"{source.folder / 'annotations'} has no {' and no '.join(missing)}; use --split random, which needs none"
        )
    trainval, test = source.lists["trainval"], source.lists["test"]
    splits: dict[Split, list[Pair]] = {name: [] for name in SPLITS}
    findings: list[SampleFinding] = []
    candidates: list[Pair] = []
    for pair in source.pairs:
        if pair.name in test:
            splits["test"].append(pair)
            if pair.name in trainval:
                findings.append(SampleFinding(shown(pair.name), "warning", "listed-twice", split="test"))
        elif pair.name in trainval:
            candidates.append(pair)
        else:
            detail = "in list.txt, but neither in trainval.txt nor in test.txt"
            findings.append(SampleFinding(shown(pair.name), "rejected", "not-listed", detail))
    chosen = stratified(candidates, fraction=val_fraction, seed=seed)
    for pair in candidates:
        splits["val" if pair.name in chosen else "train"].append(pair)
    return splits, findings


def random_split(pairs: Sequence[Pair], *, fractions: tuple[float, float, float], seed: int) -> dict[Split, list[Pair]]:
    """Split at random by ``fractions`` (train, val, test; they add up to 1), seeded."""
    by_name = {pair.name: pair for pair in pairs}
    order = iter(shuffled(by_name, seed=seed, purpose="split"))
    counts = zip(SPLITS, apportion(len(by_name), fractions), strict=True)
    return {split: [by_name[name] for name in sorted(itertools.islice(order, count))] for split, count in counts}


def stratified(pairs: Sequence[Pair], *, fraction: float, seed: int) -> set[str]:
    """Choose the names of round(fraction * n) pairs, the same share of each breed."""
    by_breed: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        by_breed[pair.group].append(pair.name)
    breeds = sorted(by_breed)
    total = round(fraction * len(pairs))
    shares = apportion(total, [len(by_breed[breed]) / max(len(pairs), 1) for breed in breeds])
    chosen: set[str] = set()
    for breed, share in zip(breeds, shares, strict=True):
        chosen.update(shuffled(by_breed[breed], seed=seed, purpose="val")[:share])
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
