"""The DALI graph on DALI's CPU backend; and that DALI has its operators for both devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import Augmentation, Loader
from pipeline.dali import graph as graph_module
from pipeline.dali.graph import DECODERS, HOST_OPERATORS, OPERATORS, build_graph
from pipeline.engine import EngineOptions
from shards.format.geometry import nearest_places

backend = pytest.importorskip("nvidia.dali.backend", reason="NVIDIA DALI is not installed")

STORAGES = ("source", "jpeg", "raw")


def options(storage: str, **changes: Any) -> EngineOptions:
    stored = None if storage == "source" else (96, 96)
    return EngineOptions(
        **{"storage": storage, "stored_size": stored, "size": (64, 80), "fit": "contain", "classes": 3, "onehot": True}
        | {"augment": Augmentation(), "batch_size": 2, "threads": 1, "prefetch": 1}
        | changes
    )


def test_every_operator_is_registered_for_both_devices() -> None:
    cpu, gpu, mixed = (set(getattr(backend, f"Registered{kind}Ops")()) for kind in ("CPU", "GPU", "Mixed"))
    assert set(OPERATORS) <= cpu
    assert set(OPERATORS) <= gpu
    assert set(DECODERS) <= cpu
    assert set(DECODERS) <= mixed
    assert set(HOST_OPERATORS) <= cpu


@pytest.mark.parametrize("storage", STORAGES)
def test_the_list_of_operators_is_that_of_the_graph(storage: str) -> None:
    """The registration test above would prove nothing if the graph used an operator that the list leaves out."""
    named = {*OPERATORS, *DECODERS, *HOST_OPERATORS}
    pipeline = build_graph(options(storage), batch_size=2, device_id=None)
    used = {operator._op.schema.Name() for operator in pipeline._ops}
    assert used <= named, used - named
    if storage == "source":
        assert used == named


@pytest.mark.parametrize(("mask", "augment"), [("onehot", None), ("index", "train"), ("onehot", "train")])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("size", [64, 128])
def test_the_graph_agrees_with_the_torch_engine(
    sets: dict[str, Path], storage: str, augment: Any, size: int, mask: Any
) -> None:
    """Same masks; same images but for the outermost rows and columns, where DALI repeats edge pixels."""
    common: dict[str, Any] = {"batch_size": 8, "size": size, "augment": augment, "mask": mask}
    with (
        Loader(sets[storage], device="cpu", engine="dali", **common) as graph,
        Loader(sets[storage], device="cpu", engine="torch", **common) as cpu,
    ):
        for ours, theirs in zip(graph, cpu, strict=True):
            assert ours.index.tolist() == theirs.index.tolist()
            assert torch.equal(ours.mask, theirs.mask)
            assert ours.mask.shape == theirs.mask.shape
            assert ours.mask.stride() == theirs.mask.stride()
            assert ours.image.stride() == theirs.image.stride()
            difference = (ours.image.int() - theirs.image.int()).abs()
            assert difference[:, :, 1:-1, 1:-1].max() <= 4
            assert difference.float().mean() <= 0.5
            assert difference.max() <= 48


def test_batches_of_the_graph_stay_intact_after_later_runs(sets: dict[str, Path]) -> None:
    with Loader(sets["source"], batch_size=4, size=48, device="cpu", engine="dali") as loader:
        batches = list(loader)
        copies = [(batch.image.clone(), batch.mask.clone()) for batch in batches]
        for _ in loader:
            pass
        for batch, (image, mask) in zip(batches, copies, strict=True):
            assert torch.equal(batch.image, image)
            assert torch.equal(batch.mask, mask)


def test_dalis_nearest_is_exact_for_every_length() -> None:
    """Ramps of every length from 1 to 700 pixels, stretched to several sizes: each output names the pixel it took."""
    from nvidia.dali import fn, pipeline_def, types

    lengths = list(range(1, 701))
    for size in (64, 100, 128, 224):
        ramps = [np.arange(n, dtype=np.uint16)[None, :, None].repeat(2, axis=0) for n in lengths]

        @pipeline_def(batch_size=len(lengths), num_threads=2, device_id=None, prefetch_queue_depth=1)
        def graph(size: int = size) -> Any:
            return graph_module.resize_mask(
                fn.external_source(name="mask", dtype=types.UINT16, ndim=3, layout="HWC"), (size, size)
            )

        pipeline = graph()
        pipeline.build()
        nudge = np.float32(1 / (4 * size))
        pipeline.feed_input("mask", ramps)
        pipeline.feed_input("near_start", np.full((len(lengths), 2), nudge, np.float32))
        pipeline.feed_input("near_end", np.array([[2, n] for n in lengths], np.float32) + nudge)
        (output,) = pipeline.run()
        for place, length in enumerate(lengths):
            assert np.array_equal(np.asarray(output[place])[0, :, 0], nearest_places(length, size)), (length, size)


def test_nearest_places_are_pixel_centres() -> None:
    for length in (1, 2, 7, 128, 333, 5000):
        for size in (1, 3, 64, 128):
            assert nearest_places(length, size).tolist() == [int((i + 0.5) * length / size) for i in range(size)]
