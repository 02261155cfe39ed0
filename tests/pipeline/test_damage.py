"""Damaged samples while a loader runs: found, named, and treated as the policy says."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline.runtime.batch_plan
from pipeline import Loader
from pipeline.dali.dali_engine import DaliEngine
from pipeline.dali.first_read import FirstReadCheck
from pipeline.io.damage import DamagePolicy
from pipeline.order.permutation import permutation
from shards.errors import PetsegError, SampleError, UsageError
from shards.format.dataset import ShardSet

COUNT, BAD = 24, 10  # sample 10 stands in the second of four tars
# Each way of reading and decoding once: with DALI, encoded members and pixels; with torch, members decoded into scratch
# memory and into the batch, and pixels.
COMBINATIONS = [
    ("source", "dali"),
    ("raw", "dali"),
    ("source", "torch"),
    ("jpeg", "torch"),
    ("raw", "torch"),
    ("jpeg", "processes"),
]
# And with 21 classes and ignored pixels, where the bad sample of ``source`` is a PNG.
WITH_CLASSES = [*((*each, None) for each in COMBINATIONS), ("source", "torch", 21), ("source", "dali", 21)]


def combined(kinds: Sequence[Any]) -> pytest.MarkDecorator:
    """Every kind of damage with every combination; of worker processes, which take time to start, the first kind."""
    cases = [(*each, kind) for kind in kinds for each in WITH_CLASSES if each[1] != "processes" or kind == kinds[0]]
    ids = ["-".join(map(str, (storage, engine, classes, getattr(kind, "__name__", kind))))
           for storage, engine, classes, kind in cases]  # fmt: skip
    return pytest.mark.parametrize(("storage", "engine", "classes", "damage"), cases, ids=ids)


def shard_and_span(folder: Path, role: str = "image") -> tuple[Path, int, int]:
    reader = ShardSet.open(folder).split("train")
    row = reader.table[BAD]
    return reader.shard_path(int(row["shard"])), int(row[f"{role}_offset"]), int(row[f"{role}_length"])


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as handle:
        handle.seek(offset)
        handle.write(data)


# After the set was built: the disk lies, or somebody changed a file.


def change_a_byte(folder: Path) -> None:
    path, offset, length = shard_and_span(folder)
    byte = path.read_bytes()[offset + length // 2]
    overwrite(path, offset + length // 2, bytes([byte ^ 4]))


def change_the_mask(folder: Path) -> None:
    path, offset, length = shard_and_span(folder, "mask")
    overwrite(path, offset + length - 20, b"\x07")


def zero_the_image(folder: Path) -> None:
    path, offset, length = shard_and_span(folder)
    overwrite(path, offset, bytes(length))


DISK_FAULTS = [change_a_byte, change_the_mask, zero_the_image]


@combined(DISK_FAULTS)
def test_changed_bytes(
    make_set: Callable[..., Path], storage: str, engine: str, classes: int | None, damage: Callable[[Path], None]
) -> None:
    folder = make_set(COUNT, storage=storage, size=None if storage == "source" else 48, classes=classes)
    good = run(folder, engine)
    damage(folder)
    assert_stops(folder, engine)
    assert_replaces(folder, engine, good)


# Bytes that fit their checksum and are wrong all the same: a set that another program wrote.


FORGERIES: dict[str, Callable[[Any], dict[str, bytes]]] = {
    "truncated image": lambda pair: {"image": pair.image[: len(pair.image) // 2]},
    "garbage": lambda pair: {"image": bytes(range(256)) * 8},
    "empty image": lambda pair: {"image": b""},
    "empty mask": lambda pair: {"mask": b""},
    "truncated mask": lambda pair: {"mask": pair.mask[: len(pair.mask) // 2]},
}


@combined(list(FORGERIES))
def test_members_that_cannot_be_decoded(
    forge_set: Any, storage: str, engine: str, classes: int | None, damage: str
) -> None:
    folder, good = forge_set(storage, engine, FORGERIES[damage], classes)
    assert_stops(folder, engine)
    assert_replaces(folder, engine, good)


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("damage", ["garbage", "truncated mask"])
def test_a_run_of_the_graph_that_fails_is_repeated_with_those_after_it(
    forge_set: Any, monkeypatch: pytest.MonkeyPatch, ahead: int, damage: str
) -> None:
    """What the checks let pass and DALI cannot decode, with so many runs started at a time, as on a GPU."""
    folder, good = forge_set("source", "dali", FORGERIES[damage], None)
    monkeypatch.setattr(FirstReadCheck, "encoded", lambda *arguments: None)
    created = DaliEngine.__init__

    def create(self: DaliEngine, *arguments: Any, **options: Any) -> None:
        created(self, *arguments, **options)
        self.ahead = ahead

    monkeypatch.setattr(DaliEngine, "__init__", create)
    assert_stops(folder, "dali", match="sample 10 .*cannot be decoded")
    assert_replaces(folder, "dali", good)


def other_value(pair: Any) -> dict[str, bytes]:
    values = np.asarray(Image.open(io.BytesIO(pair.mask))).copy()
    values[5, 6] = 22
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return {"mask": buffer.getvalue()}


def other_size(pair: Any) -> dict[str, bytes]:
    image = Image.open(io.BytesIO(pair.image)).resize((31, 33))
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if pair.format == "png" else "JPEG")
    return {"image": buffer.getvalue()}


def other_mask_size(pair: Any) -> dict[str, bytes]:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(pair.mask)).crop((0, 0, 31, 33)).save(buffer, "PNG")
    return {"mask": buffer.getvalue()}


def other_raw_value(pair: Any) -> dict[str, bytes]:
    return {"mask": pair.mask[:-1] + b"\x16"}


FORMS = [other_value, other_size, other_mask_size]
FORGED = [
    *(("source", engine, classes, form) for engine in ("torch", "dali") for classes in (None, 21) for form in FORMS),
    *(("jpeg", "torch", classes, form) for classes in (None, 21) for form in FORMS),
    *(("raw", engine, None, other_raw_value) for engine in ("torch", "dali")),
]


@pytest.mark.parametrize(("storage", "engine", "classes", "forge"), FORGED)
def test_members_that_decode_to_something_else(
    forge_set: Any, storage: str, engine: str, classes: int | None, forge: Any
) -> None:
    """Every engine compares samples with the table; with DALI, the host does so when it first reads them."""
    folder, good = forge_set(storage, engine, forge, classes)
    assert_stops(folder, engine, match="31 x 33 pixels, the table says|neither a class, 0 to |cannot be decoded")
    assert_replaces(folder, engine, good)


@pytest.fixture
def forge_set(tmp_path: Path, writer: Any, drawn_pair: Any, labels_of: Any) -> Callable[..., tuple[Path, Any]]:
    """Write a set with one sample forged; return it and the batches of the same set without."""

    def forge_set(
        storage: str, engine: str, forge: Callable[[Any], dict[str, bytes]], classes: int | None
    ) -> tuple[Path, Any]:
        size = None if storage == "source" else (48, 48)
        options = {"storage": storage, "size": size, "labels": labels_of(classes or 3)}
        drawn = {} if classes is None else {"labels": labels_of(classes)}
        pairs = [drawn_pair(storage, 48, 48 if size else 60, seed, **drawn) for seed in range(COUNT)]
        good = run(writer(tmp_path / "good", pairs, **options), engine)
        pairs[BAD] = replace(pairs[BAD], **forge(pairs[BAD]))
        return writer(tmp_path / "forged", pairs, **options), good

    return forge_set


# Whole files.


@pytest.mark.parametrize(("storage", "engine"), COMBINATIONS)
def test_a_tar_that_is_cut_off_while_it_is_read(make_set: Callable[..., Path], storage: str, engine: str) -> None:
    """The file shrinks under the loader: an error that names the sample, where a memory map would kill the process."""
    if engine == "processes":
        pytest.skip("all samples are read ahead of the first; there is a test of its own")
    folder = make_set(COUNT, storage=storage, size=None if storage == "source" else 48)
    good = run(folder, engine)
    path, offset, _ = shard_and_span(folder)
    for on_error in ("stop", "replace"):
        with loader(folder, engine, on_error=on_error) as opened:
            whole = path.read_bytes()
            batches = iter(opened)
            first = next(batches)
            with path.open("r+b") as handle:
                handle.truncate(offset + 7)
            try:
                if on_error == "stop":
                    with pytest.raises(SampleError, match=path.name):
                        list(batches)
                else:
                    compare(good, [first, *batches], opened)
                    assert set(range(BAD, 14)) >= set(opened.damaged) >= {BAD}
                    list(opened)  # a new epoch looks at the files again, and gives up a tar of a wrong size
                    assert set(opened.damaged) == set(range(7, 14))
            finally:
                path.write_bytes(whole)


@pytest.mark.parametrize(("storage", "engine"), COMBINATIONS)
def test_a_tar_that_vanishes(make_set: Callable[..., Path], storage: str, engine: str) -> None:
    """Deleted after the set was opened, before it was read: the seven samples of it are damaged."""
    folder = make_set(COUNT, storage=storage, size=None if storage == "source" else 48)
    good = run(folder, engine)
    path, _, _ = shard_and_span(folder)
    with loader(folder, engine) as stopping, loader(folder, engine, on_error="replace") as replacing:
        path.unlink()
        with pytest.raises(SampleError, match=f"{path.name} is missing"):
            list(stopping)
        compare(good, list(replacing), replacing)
        assert set(replacing.damaged) == set(range(7, 14))


def test_a_tar_that_is_replaced_between_epochs_is_checked_again(make_set: Callable[..., Path]) -> None:
    folder = make_set(COUNT, storage="raw", size=48)
    path, offset, length = shard_and_span(folder)
    with loader(folder, "torch") as opened:
        list(opened)
        changed = bytearray(path.read_bytes())
        changed[offset + length - 1] ^= 1
        path.with_suffix(".new").write_bytes(changed)
        path.with_suffix(".new").replace(path)
        with pytest.raises(SampleError, match="checksum"):
            list(opened)


def test_the_damaged_sample_is_named_with_its_place(make_set: Callable[..., Path]) -> None:
    folder = make_set(COUNT)
    change_a_byte(folder)
    _, offset, _ = shard_and_span(folder)
    with loader(folder, "torch") as opened, pytest.raises(SampleError) as caught:
        list(opened)
    for part in ("train-000001.tar", "pet_10.jpg", f"byte {offset}", "checksum", "petseg-shard verify", "on_error"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_replacing_stops_at_its_budget(make_set: Callable[..., Path]) -> None:
    folder = make_set(COUNT)
    path, _, _ = shard_and_span(folder)
    with loader(folder, "torch", on_error="replace", max_damaged=6) as opened:
        path.unlink()
        with pytest.raises(SampleError, match=r"damaged samples, more than max_damaged=6"):
            list(opened)


def test_a_set_without_one_good_sample_does_not_loop(make_set: Callable[..., Path]) -> None:
    folder = make_set(5)
    with loader(folder, "torch", on_error="replace", max_damaged=1000, batch_size=2) as opened:
        for path in folder.glob("*.tar"):
            path.unlink()
        with pytest.raises(PetsegError, match="every sample of the split is damaged"):
            list(opened)


def test_replacements_are_logged(make_set: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = make_set(COUNT)
    change_a_byte(folder)
    with caplog.at_level(logging.WARNING, "petseg.loader"), loader(folder, "dali", on_error="replace") as opened:
        list(opened)
        list(opened)
    assert len(caplog.messages) == 1
    assert "pet_10.jpg" in caplog.messages[0]


def test_replacements_are_the_same_after_a_resume(make_set: Callable[..., Path]) -> None:
    folder = make_set(COUNT)
    change_a_byte(folder)
    with loader(folder, "torch", on_error="replace") as opened:
        whole = [batch.index.tolist() for batch in opened]
    for taken in range(len(whole)):
        with loader(folder, "torch", on_error="replace") as stopped:
            for _, _ in zip(range(taken), stopped, strict=False):
                pass
            state = stopped.state_dict()
        with loader(folder, "torch", on_error="replace") as resumed:
            resumed.load_state_dict(state | {"batch": taken})
            assert [batch.index.tolist() for batch in resumed] == whole[taken:]


@pytest.mark.parametrize("damage", ["nan", "inf", "outside", "negative", "empty"])
@pytest.mark.parametrize(("storage", "engine"), [("source", "dali"), ("raw", "torch")])
def test_invalid_parameters_are_named(
    sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch, storage: str, engine: str, damage: str
) -> None:
    """A NaN, or a crop that is not inside the image, never reaches native code: the sample is named, at once."""
    draw = pipeline.runtime.batch_plan.draw_parameters

    def corrupt(*args: Any, indices: Any, **options: Any) -> Any:
        parameters = draw(*args, indices=indices, **options)
        bad = np.flatnonzero(indices == 10)
        if damage in ("nan", "inf"):
            parameters.contrast[bad] = float(damage)
        else:
            where, value = {"outside": (2, 10_000), "negative": (1, -1), "empty": (3, 0)}[damage]
            parameters.boxes[bad, where] = value
        return parameters

    monkeypatch.setattr(pipeline.runtime.batch_plan, "draw_parameters", corrupt)
    start = time.monotonic()
    with (
        loader(sets[storage], engine, batch_size=8, size=32, augment="train", seed=0) as opened,
        pytest.raises(PetsegError, match=r"pet_10\.[.\w]+ \(sample 10 .*(is not finite|is not inside the)"),
    ):
        list(opened)
    assert time.monotonic() - start < 60


def test_the_policy_is_checked() -> None:
    for wrong in ({"on_error": "skip", "budget": 1}, {"on_error": "stop", "budget": True}):
        with pytest.raises(UsageError):
            DamagePolicy(**wrong)  # type: ignore[arg-type]


def loader(folder: Path, engine: str, **options: Any) -> Loader:
    defaults: dict[str, Any] = {"batch_size": 5, "size": 48, "device": "cpu", "seed": 1, "prefetch": 1, "threads": 2}
    options = defaults | {"engine": engine} | options
    if engine == "processes":
        del options["threads"]
        options |= {"engine": "torch", "processes": 2}
    return Loader(folder, **options)


def run(folder: Path, engine: str) -> list[Any]:
    """The batches of a set without damage; those of worker processes are those of threads."""
    with loader(folder, "torch" if engine == "processes" else engine) as opened:
        return list(opened)


def assert_stops(folder: Path, engine: str, match: str = "pet_10|sample 10") -> None:
    with loader(folder, engine) as opened, pytest.raises(SampleError, match=match) as caught:
        list(opened)
    assert f"sample {BAD} of train" in str(caught.value)


def assert_replaces(folder: Path, engine: str, good: list[Any]) -> None:
    with loader(folder, engine, on_error="replace") as opened:
        got, counted = list[Any](), list[int]()
        for batch in opened:
            got.append(batch)
            counted.append(opened.valid_in_batch(batch.number))
        compare(good, got, opened)
        assert counted == [int(batch.valid.sum()) for batch in got]
        assert sum(counted) == COUNT - 1  # padding does not count, nor does what stands for the damaged one
        assert list(opened.damaged) == [BAD]
        assert "pet_10" in opened.damaged[BAD]
        again = [batch.index[batch.valid].tolist() for batch in opened]
        order = [index for index in permutation(1, 1, COUNT).tolist() if index != BAD]
        assert [index for batch in again for index in batch] == order


def compare(good: list[Any], got: list[Any], opened: Loader) -> None:
    """Every sample but the damaged ones is as it was; these are marked, and another stands in their place."""
    assert len(got) == len(good)
    for before, after in zip(good, got, strict=True):
        for place, (was, now) in enumerate(zip(before.index.tolist(), after.index.tolist(), strict=True)):
            if was in opened.damaged:
                assert now not in opened.damaged
                assert not after.valid[place]
            else:
                assert was == now
                assert after.valid[place] == before.valid[place]
                assert torch.equal(after.image[place], before.image[place])
                assert torch.equal(after.mask[place], before.mask[place])
