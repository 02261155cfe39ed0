"""Wrong arguments: one clear line each."""

from __future__ import annotations

import importlib
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline import Loader, arguments
from pipeline.arguments import usable_cores
from pipeline.choose_engine import choose_engine
from shards import ShardSet
from shards.errors import FormatError, PetsegError, SampleError, UsageError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size=0.*: give N or HxW"),
        ({"size": (128, -1)}, r"size=\(128, -1\): give N or HxW"),
        ({"size": 5000}, "each side from 1 to 4096"),
        ({"size": 12.5}, "size=12.5: give N or HxW"),
        ({"size": (1, 2, 3)}, "give N or HxW"),
        ({"fit": "squash"}, "fit 'squash' is unknown; use stretch, cover, contain"),
        ({"crop_scale": 1.0}, "crop_scale must be .min, max."),
        ({"crop_scale": (2.0, 0.5)}, "crop_scale must be .min, max."),
        ({"crop_scale": (0.001, 1.0)}, "0.01 <= min <= max <= 16"),
        ({"crop_scale": (1.0, float("nan"))}, "crop_scale must be .min, max."),
        ({"batch_size": 0}, "batch_size must"),
        ({"batch_size": True}, "batch_size must"),
        ({"prefetch": 0}, "prefetch must"),
        ({"threads": 0}, "threads must"),
        ({"split": "validation"}, "no split 'validation'; it has: train"),
        ({"device": "cuda:99"}, "not available"),
        ({"device": "tpu"}, "unknown; use auto, cpu, cuda or cuda:N"),
        ({"device": "meta"}, "not supported"),
        ({"mask": "rgb"}, "use onehot or index"),
        ({"augment": "wild"}, "augment 'wild' is unknown"),
        ({"engine": "tensorflow"}, "use auto, dali or torch"),
        ({"world_size": 3, "rank": 0}, "is not divisible by the 3 ranks"),
        ({"world_size": 2}, "both rank and world_size"),
        ({"world_size": 2, "rank": 2}, "rank 2 of world_size 2"),
        ({"world_size": 100, "rank": 0}, "some would get nothing"),
        ({"fetch": "all"}, "fetch 'all' is unknown; use auto, range, shard"),
        ({"cache_bytes": "lots"}, "cache_bytes='lots': give a number of bytes"),
        ({"cache_bytes": 7}, "cache_bytes=7 is too small"),
        ({"on_error": "ignore"}, "use stop or replace"),
        ({"max_damaged": -1}, "max_damaged must"),
        ({"timeout": 0}, "timeout must"),
        ({"timeout": 10**30}, "timeout must be a number of seconds above 0 and up to"),
        ({"timeout": "5"}, "timeout must"),
        ({"timeout": None}, "timeout must"),
        ({"decoder": "mixed"}, "decoder must be DecoderOptions, not 'mixed'"),
        ({"drop_last": "no"}, "drop_last must be True or False, not 'no'"),
        ({"split": ["train"]}, r"no split \['train'\]; it has: train"),
        ({"world_size": 2, "rank": "1"}, "rank '1' of world_size 2"),
        ({"world_size": 2.0, "rank": 0}, "rank 0 of world_size 2.0"),
        ({"seed": "x"}, "seed must"),
        ({"shuffle": "wild"}, "shuffle 'wild' is unknown; use True, False, global, block, none"),
        ({"shuffle": 1}, "shuffle 1 is unknown"),
        ({"shuffle": "block", "shuffle_window": 0}, "shuffle_window must be a whole number of shards"),
        ({"shuffle": "block", "shuffle_window": True}, "shuffle_window must be"),
    ],
)
def test_wrong_arguments_are_refused(sets: dict[str, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Loader(sets["source"], **({"batch_size": 4, "device": "cpu"} | options))
    assert "\n" not in str(caught.value)


def test_the_size_is_that_of_the_stored_images_unless_given(
    sets: dict[str, Path], many_class_sets: dict[str, Path]
) -> None:
    for folder, size, expected in (
        (many_class_sets["raw"], None, (72, 104)),
        (sets["jpeg"], None, (96, 96)),
        (sets["source"], None, (128, 128)),
        (many_class_sets["raw"], 7, (7, 7)),
        (sets["source"], (5, 9), (5, 9)),
    ):
        with Loader(folder, batch_size=4, size=size, device="cpu") as loader:
            assert loader.size == expected
            assert next(iter(loader)).image.shape == (4, 3, *expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_cuda_is_refused(sets: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="PyTorch finds no CUDA device; use cpu or auto"):
        Loader(sets["source"], batch_size=4, device="cuda")
    with Loader(sets["source"], batch_size=4, device="auto") as loader:
        assert loader.device.type == "cpu"


def test_a_folder_that_is_no_set(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FormatError, match="petseg-shard build"):
            Loader(folder, batch_size=4)


def test_a_negative_epoch_is_refused(sets: dict[str, Path]) -> None:
    with Loader(sets["raw"], batch_size=4, device="cpu") as loader, pytest.raises(UsageError, match="epoch"):
        loader.set_epoch(-1)


def test_auto_chooses_an_engine_and_gives_the_reason(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def reasons() -> dict[str, tuple[str, str]]:
        said = {}
        for storage, folder in sets.items():
            with Loader(folder, batch_size=4, device="cpu") as loader:
                said[storage] = loader.engine, loader.engine_reason
        return said

    with_dali = reasons()
    assert with_dali == {
        "source": ("torch", "on the CPU, libjpeg-turbo decodes large images as fast as DALI, in less memory"),
        "jpeg": ("torch", "on the CPU, libjpeg-turbo decodes small images faster than DALI"),
        "raw": ("torch", "raw storage needs no decoding"),
    }
    assert choose_engine("dali", device_type="cpu", storage="source") == ("dali", "requested")
    assert choose_engine("auto", device_type="cuda", storage="source") == ("dali", "decodes on the GPU")

    hide_dali(monkeypatch, ModuleNotFoundError("No module named 'nvidia.dali'", name="nvidia.dali"))
    assert reasons() == with_dali
    with pytest.raises(UsageError, match=r"NVIDIA DALI, which is not installed.*use torch"):
        Loader(sets["source"], batch_size=4, device="cpu", engine="dali")
    engine, reason = choose_engine("auto", device_type="cuda", storage="source")
    assert (engine, "which is not installed: the CPU decodes, and pixels are copied" in reason) == ("torch", True)
    assert choose_engine("torch", device_type="cuda", storage="source") == ("torch", "requested")


@pytest.mark.parametrize("workers", [0, 1])
def test_in_place_of_a_dataset(sets: dict[str, Path], workers: int) -> None:
    loader = Loader(sets["source"], batch_size=4, device="cpu")
    with pytest.raises((TypeError, RuntimeError), match="a Loader makes whole batches and is iterated, not indexed"):
        next(iter(DataLoader(loader, num_workers=workers)))  # type: ignore[arg-type]
    assert len(list(loader)) == len(loader)


def test_the_habits_of_a_dataloader(sets: dict[str, Path]) -> None:
    """What its arguments and tuples are here is said."""
    batch = next(iter(Loader(sets["source"], batch_size=4, device="cpu")))
    opened = ShardSet.open(sets["source"])
    assert all(len(repr(each)) < 300 for each in (batch, opened, opened.split("train")))
    for use in (tuple, lambda batch: batch[0], lambda batch: batch["image"], lambda batch: [*batch]):
        with pytest.raises(TypeError, match=r"a Batch is no tuple: take batch\.image, batch\.mask"):
            use(batch)
    for wrong in (torch.float32, torch.float16, torch.zeros(1)):
        with pytest.raises(UsageError, match=r"takes a device, such as 'cuda', not .*batch\.image\.float"):
            batch.to(wrong)  # type: ignore[arg-type]
    for right in ("cpu", torch.device("cpu")):
        assert batch.to(right).valid.dtype == torch.bool
    for name, said in {"num_workers": "threads=N", "transform": "augment='train'", "pin_memory": "page-locked"}.items():
        with pytest.raises(TypeError, match=f"Loader.. has no argument {name}; .*{said}"):
            Loader(sets["source"], batch_size=4, **{name: 1})


def hide_dali(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    find = importlib.import_module

    def import_module(name: str, package: str | None = None) -> Any:
        if name == "nvidia.dali":
            raise error
        return find(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcuda.so.1: cannot open shared object file\nand more"),
        OSError("undefined symbol"),
        RuntimeError(),
        ModuleNotFoundError("No module named 'astunparse'", name="astunparse"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_dali_that_does_not_work_is_no_reason_to_fail(
    sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Installed but not to be imported: ``auto`` does not look at it on a CPU, ``dali`` is refused in one line."""
    hide_dali(monkeypatch, error)
    with Loader(sets["source"], batch_size=8, device="cpu") as loader:
        assert loader.engine == "torch"
        assert len(list(loader)) == 5
    with pytest.raises(UsageError, match="which does not work here") as caught:
        Loader(sets["source"], batch_size=4, device="cpu", engine="dali")
    assert "\n" not in str(caught.value)


def test_ranks_come_from_torch_distributed(sets: dict[str, Path], tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with Loader(sets["raw"], batch_size=4, device="cpu") as loader:
            assert (loader.rank, loader.world_size) == (0, 1)
    finally:
        torch.distributed.destroy_process_group()


def test_ranks_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    cores = usable_cores()
    for ranks, share in (("1", cores), (str(cores), 1), (str(10 * cores), 1), ("nonsense", cores)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert usable_cores() == share


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="worker processes need Linux")
@pytest.mark.parametrize(
    ("storage", "options", "expected"),
    [
        ("raw", {}, 2),
        ("jpeg", {"augment": "train"}, 2),
        ("raw", {"processes": 0}, 0),
        ("raw", {"threads": 2}, 0),
        ("raw", {"shuffle": False}, 0),
        ("raw", {"size": 64}, 0),  # images must be shrunk, for which each process would import torch
        ("source", {}, 0),
    ],
)
def test_long_epochs_of_small_images_are_made_by_processes(
    sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch, storage: str, options: dict[str, Any], expected: int
) -> None:
    monkeypatch.setattr(arguments, "usable_cores", lambda: 2)
    with Loader(sets[storage], batch_size=4, device="cpu", **options) as loader:
        assert loader.processes == 0  # the epoch is short
    monkeypatch.setattr(arguments, "MANY_SAMPLES", 1)
    with Loader(sets[storage], batch_size=4, device="cpu", **options) as loader:
        assert loader.processes == expected


def test_a_disk_that_does_not_respond_is_reported(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    with Loader(sets["raw"], batch_size=4, device="cpu", timeout=0.2) as loader:
        monkeypatch.setattr(loader._engine, "prepare", lambda work: release.wait(300))
        monkeypatch.setattr("pipeline.runtime.threads.STOP_SECONDS", 0.1)
        with pytest.raises(PetsegError, match=r"no batch within 0\.2 seconds"):
            next(iter(loader))
        release.set()


@pytest.mark.parametrize("processes", [0, 2])
def test_one_thread_uses_a_loader_at_a_time(
    sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """Another one gets an error, and the first goes on with the batches it would have had."""
    busy, release = threading.Event(), threading.Event()
    with Loader(sets["raw"], batch_size=4, device="cpu", processes=processes) as loader:
        expected = [batch.index.tolist() for batch in loader]
        loader.set_epoch(0)
        finish, batches = loader._engine.finish, iter(loader)

        def finish_later(started: Any) -> Any:
            busy.set()
            release.wait(60)
            return finish(started)

        monkeypatch.setattr(loader._engine, "finish", finish_later)
        with ThreadPoolExecutor(1) as pool:
            taken = pool.submit(lambda: [batch.index.tolist() for batch in batches])
            try:
                assert busy.wait(60)
                for use in (
                    lambda: next(batches),
                    lambda: iter(loader),
                    lambda: loader.set_epoch(1),
                    lambda: loader.load_state_dict(loader.state_dict()),
                ):
                    with pytest.raises(RuntimeError, match="another thread is using this loader now: give each thread"):
                        use()
            finally:
                release.set()
            assert taken.result() == expected
        assert next(batches, None) is None


def test_a_loader_says_what_it_is(many_class_sets: dict[str, Path]) -> None:
    shards = many_class_sets["jpeg"]
    with Loader(shards, batch_size=4, size=(48, 64), fit="cover", device="cpu", threads=3) as loader:
        assert repr(loader) == (
            "<Loader of train: 40 samples in 10 batches, batch_size=4, size=48x64, fit=cover, mask=onehot, "
            "shuffle=global, seed=0, engine=torch, device=cpu, threads=3, storage=jpeg, 21 classes>"
        )
    with Loader(shards, batch_size=30, drop_last=True, shuffle=False, augment="train", seed=7, device="cpu") as loader:
        text = repr(loader)
    for part in ("40 samples in 1 batch, batch_size=30, drop_last, ", "shuffle=none, augment, seed=7"):
        assert part in text, text
    with Loader(shards, batch_size=6, mask="index", crop_scale=(0.5, 2), rank=1, world_size=2, device="cpu") as loader:
        text = repr(loader)
    for part in ("crop_scale=(0.5, 2.0), mask=index", "rank 1 of 2>"):
        assert part in text, text
    assert "fit=" not in text
    assert "drop_last" not in text


def test_original_names(sets: dict[str, Path], tmp_path: Path) -> None:
    for folder in sets.values():
        with Loader(folder, batch_size=4, device="cpu") as loader:
            assert [loader.name(index) for index in (0, 13, 39)] == ["pet no. 0", "pet no. 13", "pet no. 39"]
            for index in (0.5, "1", [0, 1], torch.tensor(0.5), torch.tensor([0, 1]), np.array([0, 1])):
                for use in (loader.key, loader.name, loader.split.key):
                    with pytest.raises(UsageError, match=r"a sample's index is one whole number, not .*batch\.index"):
                        use(index)  # type: ignore[arg-type]
            assert [loader.key(i) for i in torch.arange(2)] == [loader.key(i) for i in np.arange(2)]
            for index in (-1, 40):
                with pytest.raises(UsageError, match=rf"sample {index} is outside 0..39 of split 'train'"):
                    loader.name(index)
    folder = shutil.copytree(sets["jpeg"], tmp_path / "set")
    tar = folder / "train-000001.tar"
    tar.write_bytes(tar.read_bytes().replace(b"pet no. 13", b"pot no. 13"))
    with Loader(folder, batch_size=4, device="cpu") as loader:
        assert loader.name(12) == "pet no. 12"
        with pytest.raises(SampleError, match=r"train-000001\.tar: pet_13\.json .* do not match their checksum"):
            loader.name(13)


def test_a_cache_of_a_set_in_a_folder_is_said_to_be_unused(
    sets: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not refused: the same program may be for a set in a store, and for its copy."""
    Loader(sets["raw"], batch_size=4, device="cpu", cache=tmp_path / "cache", cache_bytes="1GB").close()
    assert [record.message for record in caplog.records] == [
        f"{sets['raw']} is a folder: cache and cache_bytes are for sets in object stores"
    ]
    assert not (tmp_path / "cache").exists()
    with pytest.raises(UsageError, match=r"give fetch, cache and cache_bytes to ShardSet\.open"):
        Loader(ShardSet.open(sets["raw"]), batch_size=4, device="cpu", cache=tmp_path / "cache")


def test_a_member_that_no_sample_has(sets: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="a sample has image, mask, meta, but no 'label'"):
        ShardSet.open(sets["raw"]).split("train").read(0, "label")


def test_a_batch_says_what_it_is(sets: dict[str, Path]) -> None:
    """In one line, without the pixels; also where there are none to count."""
    with Loader(sets["raw"], batch_size=64, mask="index", device="cpu") as loader:
        batch = next(iter(loader))
    height, width = loader.size
    shapes = f"image uint8 (64, 3, {height}, {width}), mask uint8 (64, {height}, {width})"
    assert repr(batch) == f"<Batch 0 of epoch 0: {shapes}, {loader.samples} of 64 valid, cpu>"
    assert repr(batch.to("meta")) == f"<Batch 0 of epoch 0: {shapes}, ? of 64 valid, meta>"
