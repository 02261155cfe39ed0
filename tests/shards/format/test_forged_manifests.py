"""Random forged manifests: opening, info, verify and the loader give a clear error, or work.

test_hostile_manifest.py puts a fixed list of values into each field of a manifest, one at a time; here hypothesis
chooses the values, and several faults at once, among them those that a check of sums alone would accept.
"""

from __future__ import annotations

import contextlib
import copy
import json
import resource
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forging import places, sealed, with_fingerprint
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline import Loader
from shards.cli.set_summary import describe
from shards.errors import PetsegError
from shards.format.dataset import ShardSet
from shards.format.layout import STORAGES
from shards.verify.check_set import verify

SPARE_BYTES = 2 << 30  # of address space, beyond what the process has: threads take some, a forged number far more
NESTED, DEPTH = "@nested@", 100_000
SOME_HASH = "0123456789abcdef" * 4

numbers = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, -(10**30), 10**400]),
    st.integers(-(2**70), 2**70),
    st.floats(),  # NaN and infinity too
)
texts = st.one_of(
    st.sampled_from(
        ["", ".", "..", "/", "../train-000000.tar", "/etc/passwd", "train-000000.tar/", "./train-000000.tar",
         "TRAIN-000000.TAR", "train-000001.tar", "val-000000.tar", "train-000000.tar\n", "train-000000.tar\0",
         "..\\train-000000.tar", "C:train-000000.tar", "manifest.json", "CON", SOME_HASH, SOME_HASH.upper(), "x" * 5000,
         *STORAGES]
    ),
    st.text(st.characters(exclude_categories=()), max_size=30),  # lone surrogates too, which JSON can write
)  # fmt: skip
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=6,
)


def written(document: dict[str, Any]) -> bytes:
    """The bytes of a forged manifest; NESTED is inserted as text because it is too deep for Python's JSON writer."""
    data = sealed(with_fingerprint(document))
    return data.replace(json.dumps(NESTED).encode(), b"[" * DEPTH + b"1" + b"]" * DEPTH)


def renamed(split: dict[str, Any], name: str) -> dict[str, Any]:
    """The entry of a split with the file names that another one would have."""
    split["table"]["file"], split["shard_table"]["file"] = f"{name}.samples.npy", f"{name}.shards.npy"
    return split


@st.composite
def forged(draw: st.DrawFn, whole: dict[str, Any]) -> dict[str, Any]:
    """The manifest with one to three faults."""
    document = copy.deepcopy(whole)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        draw(
            st.sampled_from(
                [replace_value, other_number, other_number, other_text, drop_or_add, corrupt_split, corrupt_shards]
            )
        )(draw, document)
    return document


def replace_value(draw: st.DrawFn, document: dict[str, Any]) -> None:
    path = draw(st.sampled_from(list(places(document))))
    inner: Any = document
    for key in path[:-1]:
        inner = inner[key]
    old = inner[path[-1]]
    likely = numbers if isinstance(old, int) else texts if isinstance(old, str) else values
    inner[path[-1]] = draw(st.one_of(likely, likely, likely, values, st.just(NESTED)))


def other_number(draw: st.DrawFn, document: dict[str, Any]) -> None:
    """A plausible count that no sum or file contradicts: sizes, layouts, pixels, the audit's counts."""
    inner, key = draw(st.sampled_from([place for place in leaves(document) if type(place[0][place[1]]) is int]))
    inner[key] = draw(st.one_of(st.integers(0, 9), st.integers(0, 2**63 - 1), st.just(inner[key] + 1)))


def other_text(draw: st.DrawFn, document: dict[str, Any]) -> None:
    """A word from elsewhere in the manifest, or a random one: storages, names of files, hashes."""
    found = [place for place in leaves(document) if type(place[0][place[1]]) is str]
    inner, key = draw(st.sampled_from(found))
    inner[key] = draw(st.one_of(st.sampled_from([place[0][place[1]] for place in found]), texts))


def leaves(document: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The places of single values: the container, and the key within it."""
    found = []
    for path in places(document):
        inner: Any = document
        for key in path[:-1]:
            inner = inner[key]
        if not isinstance(inner[path[-1]], dict | list):
            found.append((inner, path[-1]))
    return found


def drop_or_add(draw: st.DrawFn, document: dict[str, Any]) -> None:
    paths = [(), *(path for path in places(document))]
    holders = []
    for path in paths:
        inner: Any = document
        for key in path:
            inner = inner[key]
        if isinstance(inner, dict):
            holders.append(inner)
    holder = draw(st.sampled_from(holders))
    if holder and draw(st.booleans()):
        del holder[draw(st.sampled_from(sorted(holder)))]
    else:
        holder[draw(texts)] = draw(values)


def corrupt_split(draw: st.DrawFn, document: dict[str, Any]) -> None:
    """Splits that are copies of others, and splits that vanish, under names that are or are not a split's."""
    splits = document.get("splits")
    with contextlib.suppress(AttributeError, KeyError, TypeError, IndexError):  # an earlier fault is in the way
        name = draw(st.sampled_from(sorted(splits)))
        other = draw(st.sampled_from(["train", "val", "test", "Train", "..", ""]))
        found = splits.pop(name) if draw(st.booleans()) else copy.deepcopy(splits[name])
        splits[other] = renamed(found, other) if draw(st.booleans()) else found


def corrupt_shards(draw: st.DrawFn, document: dict[str, Any]) -> None:
    """Other numbers of shards, samples and bytes, with tables whose sizes are right for them, or not."""
    with contextlib.suppress(AttributeError, KeyError, TypeError, IndexError, ValueError):
        name = draw(st.sampled_from(sorted(document["splits"])))
        split = document["splits"][name]
        what = draw(st.sampled_from(["shards", "samples", "bytes"]))
        split[what] = draw(st.sampled_from([0, split[what] - 1, split[what] + 1, 2 * split[what], 2**40, 2**63]))
        if draw(st.booleans()):
            split["table"]["bytes"] = 448 + 80 * split["samples"]
        if draw(st.booleans()):
            split["shard_table"]["bytes"] = 256 + 88 * split["shards"]
        if draw(st.booleans()):
            renamed(split, name)


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Let a huge allocation fail with a MemoryError, which nothing here expects."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def describe_all(folder: Path) -> None:
    json.dumps(describe(ShardSet.open(folder), batch_size=4, world_size=1), allow_nan=False)


def load_all(folder: Path) -> None:
    """Every split that the manifest says it has, one epoch each."""
    for name in ShardSet.open(folder).manifest.splits:
        with Loader(folder, split=name, batch_size=8, size=16, device="cpu", threads=1, timeout=30) as loader:
            indices = [index for batch in loader for index in batch.index[batch.valid].tolist()]
        assert sorted(indices) == list(range(loader.samples))


def outcome(use: Callable[[Path], object], folder: Path) -> str:
    """``works`` or ``refused``; every other exception fails the test."""
    message = "works"
    try:
        use(folder)
    except PetsegError as error:
        message = str(error)
    assert message
    assert "\n" not in message, message
    return "works" if message == "works" else "refused"


@pytest.mark.faults
@pytest.mark.parametrize("storage", STORAGES)
def test_a_forged_manifest_is_refused_or_harmless(
    tiny_sets: dict[str, Path], tmp_path: Path, storage: str, campaign: Callable[[int, int], int]
) -> None:
    folder = Path(shutil.copytree(tiny_sets[storage], tmp_path / "set"))
    whole = json.loads((folder / "manifest.json").read_text())
    for use in (describe_all, load_all):  # and all libraries are loaded before memory is limited
        assert outcome(use, folder) == "works"
    seen: Counter[str] = Counter()

    @settings(
        max_examples=campaign(40, 5_000), database=None, derandomize=True, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(forged(whole))
    def check(document: dict[str, Any]) -> None:
        (folder / "manifest.json").write_bytes(written(document))
        with little_memory():
            opened, loaded = outcome(describe_all, folder), outcome(load_all, folder)
            report = verify(folder, mode="default", workers=1)
        seen[f"info {opened}"] += 1
        seen[f"loader {loaded}"] += 1
        seen[f"verify {'finds nothing' if report.ok else 'finds it'}"] += 1
        unchecked = [problem.message for problem in report.problems if "cannot be checked" in problem.message]
        assert not unchecked, unchecked
        assert opened == "works" or not report.ok  # what cannot be opened is not intact

    check()
    print(storage, dict(seen))  # noqa: T201 - shown with pytest -rP
    assert seen["info refused"] > seen["info works"] > 0, seen
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
