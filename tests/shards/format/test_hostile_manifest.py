"""Forged manifests with a correct checksum: refused or reported, never a crash, nothing read outside the set."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import places, reseal_shards, sealed, with_fingerprint
from rich.console import Console

from shards.cli.set_summary import describe, print_info
from shards.errors import FormatError, PetsegError
from shards.format.dataset import ShardSet
from shards.format.geometry import size_text
from shards.format.layout import MOST_MEMBER, MOST_PIXELS, SAMPLE_DTYPE, STORAGES, is_unsound, row_check
from shards.format.manifest import parse_manifest
from shards.preview import contact_sheet, write_page
from shards.verify.check_set import verify

HUGE = (-1, 0, 1, 2**31, 2**63 - 1, 2**63, 10**30, 1e308, 1.5, None, True)
ODD = ("", "../x", "/etc/passwd", "..", "a\0b", "train-000000.tar\n", "x" * 5_000, "é", [], {}, [1], {"train": 1})


def use(folder: Path) -> str:
    """Open, describe, draw and read; return the outcome."""
    try:
        opened = ShardSet.open(folder)
        described = describe(opened, batch_size=4, world_size=1)
        contact_sheet(opened, folder.with_name("sheet.png"), count=1, overwrite=True)
        write_page(opened, folder.with_name("page.html"), count=3, overwrite=True)
        print_info(described, Console(file=io.StringIO()))
        for name in opened.manifest.splits:
            reader = opened.split(name)
            rows = reader.rows(np.arange(len(reader)))
            assert len(rows) == len(reader)
    except (PetsegError, OSError):
        return "refused"
    return "fine"


def test_a_sealed_manifest_is_accepted(tiny_sets: dict[str, Path]) -> None:
    data = (tiny_sets["raw"] / "manifest.json").read_bytes()
    assert sealed(with_fingerprint(json.loads(data))) == data


@pytest.mark.parametrize("storage", ["source", "raw"])
def test_forged_values(
    tiny_sets: dict[str, Path], tmp_path: Path, storage: str, campaign: Callable[[int, int], int]
) -> None:
    folder = Path(shutil.copytree(tiny_sets[storage], tmp_path / "set"))
    whole = json.loads((folder / "manifest.json").read_text())
    cases = [(path, value) for path in places(whole) for value in (*HUGE, *ODD)]
    random.Random(7).shuffle(cases)
    seen: Counter[str] = Counter()
    for path, value in cases[: campaign(80, len(cases))]:
        document = json.loads(json.dumps(whole))
        inner = document
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        (folder / "manifest.json").write_bytes(sealed(with_fingerprint(document)))
        what = use(folder)
        report = verify(folder, mode="default", workers=1)
        assert not [problem for problem in report.problems if "cannot be checked" in problem.message], (path, value)
        assert report.ok <= (what == "fine"), (path, value)
        seen[what] += 1
        seen["reported"] += not report.ok
    assert seen["refused"] > seen.total() / 4, seen
    assert {path.name for path in tmp_path.iterdir()} <= {"set", "sheet.png", "page.html"}


@pytest.mark.parametrize("name", ["../outside.tar", "/etc/passwd", "..", "train-000001.tar", "train-000000.idx"])
def test_only_a_sets_own_names_are_taken(tiny_sets: dict[str, Path], name: str) -> None:
    document = json.loads((tiny_sets["source"] / "manifest.json").read_text())
    document["splits"]["train"]["shard_table"]["file"] = name
    with pytest.raises(PetsegError, match=r"file|damaged"):
        parse_manifest(sealed(with_fingerprint(document)), Path("manifest.json"))


@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[31m", "\ud800", "x" * 100_000], ids=["line", "escape", "surrogate", "long"]
)
def test_a_strange_name_does_not_garble_the_message(tiny_sets: dict[str, Path], name: str) -> None:
    document = json.loads((tiny_sets["source"] / "manifest.json").read_text())
    with pytest.raises(FormatError, match="damaged") as caught:
        parse_manifest(sealed({**document, name: 1}), Path("manifest.json"))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_count_beyond_what_the_files_can_hold_is_refused(tiny_sets: dict[str, Path]) -> None:
    """The sums are right, and no file is read: a permutation of so many samples would be allocated at once."""
    document = json.loads((tiny_sets["source"] / "manifest.json").read_text())
    split = document["splits"]["train"]
    split["samples"] += 10**9
    with pytest.raises(FormatError, match="the table of samples of 'train' takes"):
        parse_manifest(sealed(with_fingerprint(document)), Path("manifest.json"))
    split["samples"] -= 10**9
    split["shards"] += 10**9
    with pytest.raises(FormatError, match="the table of shards of 'train' takes"):
        parse_manifest(sealed(with_fingerprint(document)), Path("manifest.json"))


@pytest.mark.parametrize(
    ("storage", "changes"),
    [
        ("source", {"size": [24, 24]}),
        ("source", {"fit": "cover"}),
        ("source", {"raw": {"stride": 1, "image_offset": 1, "mask_offset": 1}}),
        ("jpeg", {"size": None}),
        ("jpeg", {"fit": None}),
        ("jpeg", {"size": [26_757, 24]}),
        ("jpeg", {"size": [5000, 24], "largest": [5000, 24]}),
        ("jpeg", {"largest": [2**62, 24]}),
        ("raw", {"raw": None}),
        ("raw", {"size": [0, 24], "largest": [0, 24]}),
        ("raw", {"size": [24, 40]}),
    ],
)
def test_impossible_sizes_are_refused(tiny_sets: dict[str, Path], storage: str, changes: dict[str, Any]) -> None:
    document = json.loads((tiny_sets[storage] / "manifest.json").read_text())
    with pytest.raises(FormatError, match=f"do not match {storage} storage"):
        parse_manifest(sealed(with_fingerprint({**document, **changes})), Path("manifest.json"))


def one_class(**fields: Any) -> dict[str, Any]:
    return {"name": "a", "color": "#000000", "values": [1], "source_colors": [], **fields}


def labels(*classes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"ignore": [], "ignore_colors": [], "foreground": [], "boundary": []}
    return {"classes": list(classes), **nothing, **fields}


HOSTILE_LABELS: list[tuple[str, Any, str]] = [
    ("no-class", labels(), "name no class"),
    ("many", labels(*[one_class(name=str(n)) for n in range(10**5)]), "100000 classes"),
    ("256", labels(*[one_class(name=f"c{n}", values=[n % 256]) for n in range(256)]), "256 classes"),
    ("one-value-twice", labels(one_class(), one_class(name="b")), "both have value 1"),
    ("one-color-twice", labels(one_class(color="#112233"), one_class(name="b", color="#112233", values=[2])), "both"),
    ("one-name-twice", labels(one_class(), one_class(values=[2])), "two classes are named"),
    ("empty-name", labels(one_class(name="")), "printable characters"),
    ("long-name", labels(one_class(name="x" * 10**6)), "printable characters"),
    ("control-name", labels(one_class(name="a\x1b[31m")), "printable characters"),
    ("surrogate-name", labels(one_class(name="\ud800")), "damaged|printable"),
    ("value-256", labels(one_class(values=[256])), "outside 0..255"),
    ("value-negative", labels(one_class(values=[-1])), "outside 0..255"),
    ("value-huge", labels(one_class(values=[10**30])), "damaged|outside"),
    ("value-float", labels(one_class(values=[1.5])), "damaged"),
    ("value-text", labels(one_class(values=["1"])), "damaged"),
    ("value-true", labels(one_class(values=[True])), "damaged"),
    ("no-value", labels(one_class(values=[])), "has no value"),
    ("both-kinds", labels(one_class(source_colors=["#000001"])), "has a value"),
    ("color-word", labels(one_class(color="red")), "#rrggbb"),
    ("color-script", labels(one_class(color="#000000;}</style><script>")), "#rrggbb"),
    ("color-line", labels(one_class(color="#000000\n")), "#rrggbb"),
    ("ignore-claimed", labels(one_class(), ignore=[1]), "both have value 1"),
    ("ignore-color", labels(one_class(), ignore_colors=["#000000"]), "ignore values"),
    ("foreground-unknown", labels(one_class(), foreground=["b"]), "no class"),
    ("boundary-alone", labels(one_class(), boundary=["a"]), "without foreground"),
    ("unknown-field", {**labels(one_class()), "more": 1}, "damaged"),
    ("a-list", [], "damaged"),
    ("text", "pets", "damaged"),
    ("nothing", None, "damaged"),
]


@pytest.mark.parametrize(
    ("hostile", "message"), [case[1:] for case in HOSTILE_LABELS], ids=[c[0] for c in HOSTILE_LABELS]
)
def test_hostile_labels_are_refused_at_once(tiny_sets: dict[str, Path], hostile: Any, message: str) -> None:
    document = json.loads((tiny_sets["source"] / "manifest.json").read_text())
    document["labels"] = hostile
    for split in document["splits"].values():
        count = len(hostile["classes"]) if isinstance(hostile, dict) else 3
        split["class_pixels"] = [1] * count
    data = sealed(with_fingerprint(document))
    began = time.process_time()
    with pytest.raises(FormatError, match=message) as caught:
        parse_manifest(data, Path("manifest.json"))
    assert time.process_time() - began < 10
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("count", [0, 2, 4])
def test_pixels_of_another_number_of_classes_are_refused(tiny_sets: dict[str, Path], count: int) -> None:
    document = json.loads((tiny_sets["source"] / "manifest.json").read_text())
    document["splits"]["val"]["class_pixels"] = [1] * count
    with pytest.raises(FormatError, match=f"counts the pixels of {count} classes, there are 3"):
        parse_manifest(sealed(with_fingerprint(document)), Path("manifest.json"))


@pytest.mark.parametrize("storage", STORAGES)
def test_more_pixels_than_the_masks_have_are_refused(tiny_sets: dict[str, Path], storage: str) -> None:
    document = json.loads((tiny_sets[storage] / "manifest.json").read_text())
    height, width = document["largest"]
    train = document["splits"]["train"]
    most = train["samples"] * height * width
    train["ignored_pixels"] = 0
    train["class_pixels"] = [1, most - 2, 1]
    parse_manifest(sealed(document), Path("manifest.json"))
    train["class_pixels"] = [1, most - 1, 1]
    expected = f"the masks of 'train' have more pixels than its samples at the size {size_text((height, width))};"
    with pytest.raises(FormatError, match=expected):
        parse_manifest(sealed(document), Path("manifest.json"))


@pytest.mark.parametrize("storage", STORAGES)
def test_verify_finds_pixels_that_the_masks_do_not_have(
    tiny_sets: dict[str, Path], tmp_path: Path, storage: str
) -> None:
    folder = shutil.copytree(tiny_sets[storage], tmp_path / "set")
    document = json.loads((folder / "manifest.json").read_text())
    document["splits"]["val"]["class_pixels"][0] -= 1
    (folder / "manifest.json").write_bytes(sealed(document))
    (problem,) = verify(folder).problems
    assert (problem.kind, problem.file) == ("count", "manifest.json")
    assert problem.message.startswith("pixels of val: the manifest says")


@pytest.mark.parametrize("splits", [{}, {"train": {"samples": 0, "shards": 0}}], ids=["no-split", "an-empty-split"])
def test_a_set_without_samples_is_refused(tiny_sets: dict[str, Path], splits: dict[str, Any]) -> None:
    document = json.loads((tiny_sets["source"] / "manifest.json").read_text())
    document["splits"] = {name: {**document["splits"][name], **fields} for name, fields in splits.items()}
    with pytest.raises(FormatError, match="holds no samples"):
        parse_manifest(sealed(with_fingerprint(document)), Path("manifest.json"))


def more_samples(records: np.ndarray, by: int) -> None:
    records["samples"][:1] += np.uint64(by)


def more_bytes(records: np.ndarray, by: int) -> None:
    records["bytes"][:1] += np.uint64(by)


def moved_samples(records: np.ndarray) -> None:
    records["samples"][:2] += np.array([1, 2**64 - 1], np.uint64)


FORGED_SHARDS: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
    "one-more-sample": lambda records: more_samples(records, 1),
    "huge-samples": lambda records: more_samples(records, 2**63),
    "huge-bytes": lambda records: more_bytes(records, 2**63),
    "bytes-around-the-end": lambda records: more_bytes(records, 2**64 - 1),
    "moved": moved_samples,
    "none": lambda records: records[:0],
    "twice": lambda records: np.concatenate([records, records]),
    "last-missing": lambda records: records[:-1],
    "reversed": lambda records: records[::-1],
    "zeros": np.zeros_like,
    "noise": lambda records: np.frombuffer(random.Random(0).randbytes(records.nbytes), records.dtype),
}


@pytest.mark.parametrize("sums", [False, True], ids=["sums-as-before", "sums-that-fit"])
@pytest.mark.parametrize("change", FORGED_SHARDS.values(), ids=FORGED_SHARDS)
def test_forged_tables_of_shards(
    tiny_sets: dict[str, Path], tmp_path: Path, change: Callable[[np.ndarray], np.ndarray | None], sums: bool
) -> None:
    """A table with a correct checksum, whose records are not the shards: refused, or found by verify."""
    folder = Path(shutil.copytree(tiny_sets["source"], tmp_path / "set"))
    document = json.loads((folder / "manifest.json").read_text())
    reseal_shards(folder, document, "train", change)
    if sums:
        records = np.load(folder / "train.shards.npy")
        document["splits"]["train"]["bytes"] = sum(records["bytes"].tolist() + records["index_bytes"].tolist())
    (folder / "manifest.json").write_bytes(sealed(with_fingerprint(document)))
    use(folder)
    report = verify(folder, workers=1)
    assert not report.ok
    assert not [problem for problem in report.problems if "cannot be checked" in problem.message], report.text()


@pytest.mark.parametrize("storage", ["source", "raw"])
def test_forged_records(
    tiny_sets: dict[str, Path], tmp_path: Path, storage: str, campaign: Callable[[int, int], int]
) -> None:
    """Any number in a record of the table, with a correct checksum: a clear error, and verify reports it."""
    values = (0, 2**31, 2**63, 2**64 - 1, 1, 512, 2**15, 2**32 - 1)[: campaign(4, 8)]
    folder = Path(shutil.copytree(tiny_sets[storage], tmp_path / "set"))
    table = folder / "train.samples.npy"
    whole = np.load(table)
    for name in (name for name in SAMPLE_DTYPE.names or () if name != "check"):
        most = np.iinfo(SAMPLE_DTYPE[name]).max
        for value in values:
            forged = whole.copy()
            forged[1][name] = min(value, most)
            forged["check"] = row_check(forged)
            if (forged == whole).all():
                continue
            np.save(table, forged)
            reader = ShardSet.open(folder).split("train")
            for look in (lambda: reader.read(1, "image"), lambda: reader.meta(1), lambda: reader.key(1)):  # noqa: B023
                with contextlib.suppress(PetsegError):
                    look()
            report = verify(folder, mode="default", workers=1)
            assert not report.ok, (name, value)
            assert not [problem for problem in report.problems if "cannot be checked" in problem.message], (name, value)


@pytest.mark.parametrize(
    ("storage", "field", "value"),
    [
        ("source", "height", 2**31),
        ("source", "width", 2**31),
        ("raw", "reserved", 1),
        *((storage, side, 0) for storage in ("source", "raw") for side in ("height", "width")),
        *((storage, f"{role}_offset", 2**63) for storage in ("source", "raw") for role in ("image", "mask", "meta")),
        *(("source", f"{role}_length", most + 1) for role, most in MOST_MEMBER.items()),
    ],
)
def test_a_record_of_what_the_set_lacks_is_refused_before_anything_is_computed_from_it(
    tiny_sets: dict[str, Path], tmp_path: Path, storage: str, field: str, value: int
) -> None:
    """Memory for a huge image, a division by a height of 0, an offset that no signed number of 64 bits holds."""
    folder = Path(shutil.copytree(tiny_sets[storage], tmp_path / "set"))
    rows = np.load(folder / "train.samples.npy")
    rows[1][field] = value
    rows["check"] = row_check(rows)
    np.save(folder / "train.samples.npy", rows)
    with pytest.raises(FormatError, match=r"record of sample 1 .* names a shard, size or place the set lacks"):
        ShardSet.open(folder).split("train").rows([0, 1])


def test_no_manifest_allows_a_record_of_more_pixels_than_any_image_has() -> None:
    """A JPEG of some hundred bytes may claim 65,500 x 65,500 pixels, for which a loader would take 12 GB."""
    rows = np.ones(3, SAMPLE_DTYPE)
    rows["height"], rows["width"] = [MOST_PIXELS, 65_500, 2**32 - 1], [1, 65_500, 2**32 - 1]
    rows["shard"], rows["reserved"], rows["check"] = 0, 0, 0
    rows["check"] = row_check(rows)
    assert is_unsound(rows, shards=1, largest=(2**32, 2**32)).tolist() == [False, True, True]
