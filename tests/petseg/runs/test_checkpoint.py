import json
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from sample_runs import sample_checkpoint

from petseg.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from petseg.runs.recipe import default_recipe
from shards.format.builtin_labels import BINARY, PETS


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, sample_checkpoint())
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.model["w"], sample_checkpoint().model["w"])
    assert loaded.position == {"epoch": 1}
    assert loaded.history == sample_checkpoint().history
    assert loaded.loader == {"batch": 3}
    assert loaded.weights is loaded.model
    assert torch.equal(loaded.optimizer["state"][0]["step"], torch.tensor(3.0))
    recipe = default_recipe("unet")
    assert loaded.recipe == replace(recipe, model=replace(recipe.model, classes=2))
    assert loaded.source == path
    assert loaded.labels == BINARY
    assert torch.load(path, weights_only=True)["version"] == 2


def test_version_1_knew_pets_only(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, sample_checkpoint())
    document = torch.load(path, weights_only=True)
    plain = {name: value for name, value in json.loads(document["plain"]).items() if name != "labels"}
    plain["config"]["model"]["classes"], plain["history"] = 3, []
    torch.save({**document, "version": 1, "plain": json.dumps(plain)}, path)
    assert load_checkpoint(path).labels == PETS
    torch.save({**document, "plain": json.dumps({**plain, "labels": {"classes": 3}})}, path)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_the_average_is_what_predicts() -> None:
    average = {"w": torch.zeros(1)}
    assert replace(sample_checkpoint(), average=average).weights is average


def test_the_best_epoch_s_file_has_what_prediction_needs(tmp_path: Path) -> None:
    whole = replace(sample_checkpoint(), average={"w": torch.full((1000,), 7.0)})
    for name, checkpoint in (("last.pt", whole), ("best.pt", whole.for_prediction())):
        save_checkpoint(tmp_path / name, checkpoint)
    best, last = load_checkpoint(tmp_path / "best.pt"), load_checkpoint(tmp_path / "last.pt")
    assert last.resumable
    assert not best.resumable
    assert torch.equal(best.weights["w"], last.weights["w"])
    assert (best.optimizer, best.scaler, best.average, best.loader) == ({}, {}, None, None)
    assert (best.recipe, best.labels, best.history) == (last.recipe, last.labels, last.history)
    assert (tmp_path / "best.pt").stat().st_size < 0.7 * (tmp_path / "last.pt").stat().st_size


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", b"PK\x05\x06" + bytes(18), b"\x80\x04."],
    ids=["empty", "text", "zip", "pickle"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "a.pt"
    torch.save({"format": "petseg-checkpoint", "version": 1, "plain": Trap()}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"format": "petseg-checkpoint", "version": 99}, path)
    with pytest.raises(CheckpointError, match="version 99"):
        load_checkpoint(path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of petseg"):
        load_checkpoint(path)


@pytest.mark.faults
def test_no_flipped_bit_changes_a_value_unnoticed(tmp_path: Path, campaign) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, sample_checkpoint())
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    found = 0
    tries = campaign(60, 2000)
    for _ in range(tries):
        data = bytearray(whole)
        place = int(generator.integers(len(data)))
        data[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(data)
        try:
            loaded = load_checkpoint(path)
        except CheckpointError:
            found += 1
            continue
        # Bits of the zip's own padding and time stamps may flip without any effect.
        assert torch.equal(loaded.model["w"], sample_checkpoint().model["w"])
        assert loaded.position == {"epoch": 1}
    assert found > tries / 2


def test_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, sample_checkpoint())
    data = path.read_bytes()
    for length in (1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    path = tmp_path / "a.pt"
    save_checkpoint(path, sample_checkpoint())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, sample_checkpoint())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
