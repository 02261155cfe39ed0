"""The DALI graph on DALI's CPU backend; and what the graph for a GPU consists of, which needs no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import Augmentation, DecoderOptions, Loader
from pipeline.dali import graph as graph_module
from pipeline.dali.graph import define_graph
from pipeline.engine import EngineOptions
from shards.errors import UsageError
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


def operators(storage: str, *, device_id: int | None, **changes: Any) -> list[tuple[str, Any]]:
    """The operators of a graph, each as (name, specification); a graph for a GPU can be defined without one."""
    pipeline = define_graph(options(storage, **changes), batch_size=2, device_id=device_id)
    pipeline._build_graph()
    return [(operator._op.schema.Name(), operator) for operator in pipeline._ops]


def specification(storage: str, source: str, **changes: Any) -> dict[str, str]:
    """The arguments, as text, of the decoder of ``source`` (image or mask) in the graph for a GPU."""
    for name, operator in operators(storage, device_id=0, **changes):
        text = str(operator.spec)
        if name == "decoders__Image" and f"{source}_cpu" in text:
            lines = (line.strip().partition(": ") for line in text.partition("Arguments:")[2].splitlines())
            return {key: value for key, _, value in lines if key}
    raise AssertionError(f"no decoder of {source}")


@pytest.mark.parametrize("device_id", [None, 0])
@pytest.mark.parametrize("largest", [(0, 0), (600, 800), (30_000, 40_000)], ids=["unknown", "usual", "large"])
@pytest.mark.parametrize("storage", STORAGES)
def test_every_operator_is_registered_for_the_device_it_is_used_on(
    storage: str, largest: tuple[int, int], device_id: int | None
) -> None:
    registered = {kind.lower(): set(getattr(backend, f"Registered{kind}Ops")()) for kind in ("CPU", "GPU", "Mixed")}
    found = operators(storage, device_id=device_id, largest=largest)
    used = {(name, operator._op.device) for name, operator in found}
    assert not [(name, device) for name, device in used if name not in registered[device]]
    apart = largest[0] > 600 or (storage == "source" and largest == (0, 0))
    names = [name for name, _ in found]
    assert names.count("Slice") == (4 if apart else 3)
    assert names.count("Resize") == 2
    assert names.count("Flip") == 0
    assert names.count("ColorTwist") == 1
    on_device = {device for name, device in used if name not in ("ExternalSource", "_TensorSubscript")}
    decoders = {"cpu"} if device_id is None else {"gpu"} if storage == "raw" else {"gpu", "cpu", "mixed"}
    assert on_device == decoders


@pytest.mark.parametrize("storage", ["jpeg", "raw"])
def test_what_changes_nothing_is_left_out(storage: str) -> None:
    plain: dict[str, Any] = {"size": (96, 96), "fit": "stretch", "augment": None, "device_id": 0}
    assert not {name for name, _ in operators(storage, **plain)} & {"Resize", "Slice", "Flip", "ColorTwist"}
    flips = plain | {"augment": Augmentation(area=None, brightness=0, contrast=0, saturation=0)}
    assert [name for name, _ in operators(storage, **flips)].count("Flip") == 2


@pytest.mark.parametrize("storage", STORAGES)
def test_the_two_graphs_differ_in_their_devices_alone(storage: str) -> None:
    cpu, gpu = ([name for name, _ in operators(storage, device_id=device_id)] for device_id in (None, 0))
    assert sorted(cpu) == sorted(gpu)


@pytest.mark.parametrize("storage", ["source", "jpeg"])
def test_the_host_decodes_masks_and_the_gpu_images(storage: str) -> None:
    """And no pixel of either goes to an operator on the host."""
    found = operators(storage, device_id=0)
    decoders = [operator for name, operator in found if name == "decoders__Image"]
    assert sorted(operator._op.device for operator in decoders) == ["cpu", "mixed"]
    assert specification(storage, "mask")["device"] == "cpu"
    assert specification(storage, "image")["device"] == "mixed"
    for name, operator in found:
        if name in ("Slice", "Resize", "Flip", "ColorTwist"):
            assert operator._op.device == "gpu", name


def test_the_options_of_the_decoder_reach_dali() -> None:
    plain = specification("source", "image", largest=(600, 800))
    assert (plain["preallocate_height_hint"], plain["preallocate_width_hint"]) == ("600", "800")
    assert float(plain["hw_decoder_load"]) == 1
    assert float(specification("source", "image", largest=(256, 256))["hw_decoder_load"]) == 0
    assert int(plain["device_memory_padding"]) == 2 * int(plain["host_memory_padding"]) >= 6 * 600 * 800
    assert plain["hybrid_huffman_threshold"] == "1000000"
    assert not {"hw_decoder_load", "device_memory_padding"} & specification("source", "mask").keys()
    changes = DecoderOptions(hw_decoder_load=0.25, preallocate=False, device_memory_padding=7, host_memory_padding=5)
    other = specification("source", "image", largest=(600, 800), decoder=changes)
    assert float(other["hw_decoder_load"]) == 0.25
    assert (other["preallocate_height_hint"], other["preallocate_width_hint"]) == ("0", "0")
    assert (other["device_memory_padding"], other["host_memory_padding"]) == ("7", "5")


def test_a_batch_that_is_too_large_is_not_preallocated() -> None:
    decoder = DecoderOptions()
    assert decoder.arguments(largest=(4000, 6000), batch_size=8)["preallocate_height_hint"] == 4000
    large = decoder.arguments(largest=(4000, 6000), batch_size=128)
    assert (large["preallocate_height_hint"], large["preallocate_width_hint"]) == (0, 0)
    assert decoder.arguments(largest=(30000, 30000), batch_size=1)["device_memory_padding"] == 256 << 20
    for wrong in ({"hw_decoder_load": 1.5}, {"device_memory_padding": -1}, {"hybrid_huffman_threshold": 2**31}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            DecoderOptions(**wrong)


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


@pytest.mark.parametrize(("storage", "size"), [("source", 48), ("raw", 48), ("raw", None)])
def test_batches_of_the_graph_stay_intact_after_later_runs(
    sets: dict[str, Path], storage: str, size: int | None
) -> None:
    """Also where the graph changes nothing (raw pixels at their own size)."""
    with Loader(sets[storage], batch_size=4, size=size, device="cpu", engine="dali", mask="index") as loader:
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
        starts, ends = np.zeros((len(lengths), 2), np.float32), np.array([[2, n] for n in lengths], np.float32)
        for flip in (False, True):
            first, last = (ends, starts) if flip else (starts, ends)
            pipeline.feed_input("mask", ramps)
            pipeline.feed_input("near_start", np.stack([starts[:, 0], first[:, 1]], axis=1) + nudge)
            pipeline.feed_input("near_end", np.stack([ends[:, 0], last[:, 1]], axis=1) + nudge)
            (output,) = pipeline.run()
            for place, length in enumerate(lengths):
                expected = nearest_places(length, size)[:: -1 if flip else 1]
                assert np.array_equal(np.asarray(output[place])[0, :, 0], expected), (length, size, flip)


@pytest.mark.parametrize(("side", "size"), [(8191, 128), (2047, 512), (1023, 1023), (4096, 256)])
def test_dalis_nearest_is_exact_in_regions_of_images_of_the_largest_size(side: int, size: int) -> None:
    """Regions anywhere in an image, flipped or not, at the product of sides up to which the graph resizes regions."""
    from nvidia.dali import fn, pipeline_def, types

    assert side * size <= graph_module.MAX_REGION
    random = np.random.default_rng(side)
    starts = random.integers(0, side - 1, 200)
    ends = np.array([random.integers(start + 1, side + 1) for start in starts])
    ramp = np.arange(side, dtype=np.uint16)[None, :, None]

    @pipeline_def(batch_size=len(starts), num_threads=2, device_id=None, prefetch_queue_depth=1)
    def graph() -> Any:
        return graph_module.resize_mask(
            fn.external_source(name="mask", dtype=types.UINT16, ndim=3, layout="HWC"), (1, size)
        )

    pipeline = graph()
    pipeline.build()
    nudge = np.array([1 / 4, 1 / (4 * size)], np.float32)
    for flip in (False, True):
        first, last = (ends, starts) if flip else (starts, ends)
        pipeline.feed_input("mask", [ramp] * len(starts))
        pipeline.feed_input("near_start", np.stack([0 * first, first], axis=1).astype(np.float32) + nudge)
        pipeline.feed_input("near_end", np.stack([0 * last + 1, last], axis=1).astype(np.float32) + nudge)
        (output,) = pipeline.run()
        for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            expected = (start + nearest_places(end - start, size))[:: -1 if flip else 1]
            assert np.array_equal(np.asarray(output[place])[0, :, 0], expected), (start, end, flip)


def test_nearest_places_are_pixel_centres() -> None:
    for length in (1, 2, 7, 128, 333, 5000):
        for size in (1, 3, 64, 128):
            assert nearest_places(length, size).tolist() == [int((i + 0.5) * length / size) for i in range(size)]
