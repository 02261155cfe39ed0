import json
from pathlib import Path

import numpy as np
import pytest
import torch

from petseg.runs.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from shards.format.builtin_labels import BINARY, PETS


def make() -> Checkpoint:
    return Checkpoint(
        config={"size": [32, 48]},
        labels=BINARY,
        position={"epoch": 1},
        history=[{"loss": 0.1}],
        loader={"batch": 3},
        model={"w": torch.arange(1000.0)},
        average=None,
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        scaler={},
    )


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, make())
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.model["w"], make().model["w"])
    assert loaded.position == {"epoch": 1}
    assert loaded.history == [{"loss": 0.1}]
    assert loaded.loader == {"batch": 3}
    assert loaded.weights is loaded.model
    assert torch.equal(loaded.optimizer["state"][0]["step"], torch.tensor(3.0))
    assert loaded.config == {"size": [32, 48]}
    assert loaded.labels == BINARY
    assert torch.load(path, weights_only=True)["version"] == 2


def test_version_1_knew_pets_only(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, make())
    document = torch.load(path, weights_only=True)
    plain = {name: value for name, value in json.loads(document["plain"]).items() if name != "labels"}
    torch.save({**document, "version": 1, "plain": json.dumps(plain)}, path)
    assert load_checkpoint(path).labels == PETS
    torch.save({**document, "plain": json.dumps({**plain, "labels": {"classes": 3}})}, path)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_the_average_is_what_predicts(tmp_path: Path) -> None:
    from msgspec.structs import replace

    average = {"w": torch.zeros(1)}
    assert replace(make(), average=average).weights is average


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
    save_checkpoint(path, make())
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
        assert torch.equal(loaded.model["w"], make().model["w"])
        assert loaded.position == {"epoch": 1}
    assert found > tries / 2


def test_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, make())
    data = path.read_bytes()
    for length in (1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    path = tmp_path / "a.pt"
    save_checkpoint(path, make())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, make())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
