"""Wrong values of every argument of the public functions: an error of ours that names it, and never one from inside."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import petseg
import pipeline
import shards
from shards.errors import PetsegError

ANYTHING: tuple[Any, ...] = (None, "", "20x!", -1, 1.5, math.nan, 2**70, b"a", [1, "a"], {"a": 1}, object())
NO_FLAGS: tuple[Any, ...] = (None, "no", 1, [], object())


def without(*meanings: Any) -> tuple[Any, ...]:
    """Return ANYTHING but for what has a meaning."""
    return tuple(value for value in ANYTHING if not any(value is each or value == each for each in meanings))


PLACE = without("20x!")
# The arguments of each function, and what means nothing to them.
WRONG: dict[str, dict[str, tuple[Any, ...]]] = {
    "Loader": {
        "shards": PLACE, "split": ANYTHING, "batch_size": ANYTHING, "size": without(None), "fit": ANYTHING,
        "crop_scale": without(None), "decode": ANYTHING, "device": ANYTHING, "seed": without(-1, 2**70),
        "mask": ANYTHING, "augment": without(None), "shuffle": without(None), "shuffle_window": ANYTHING,
        "drop_last": NO_FLAGS, "prefetch": ANYTHING, "threads": without(None), "processes": without(None),
        "engine": ANYTHING, "decoder": without(None), "on_error": ANYTHING, "max_damaged": without(2**70),
        "timeout": without(1.5, 2**70), "fetch": ANYTHING,
    },
    "load_state_dict": {"state": ANYTHING},
    "open": {"place": PLACE, "fetch": ANYTHING},
    "load_manifest": {"folder": PLACE},
    "Augmentation": {
        "area": without(None), "ratio": ANYTHING, "flip": ANYTHING, "brightness": ANYTHING, "contrast": ANYTHING,
        "saturation": ANYTHING,
    },
    "preset": {"name": ANYTHING},
    "DecoderOptions": {
        "hw_decoder_load": without(None), "preallocate": NO_FLAGS, "hybrid_huffman_threshold": ANYTHING,
        "device_memory_padding": without(None), "host_memory_padding": without(None),
    },
    "build_shards": {
        "source": PLACE, "out": PLACE, "storage": ANYTHING, "layout": ANYTHING, "labels": without(None),
        "size": without(None), "fit": without(None), "quality": without(None), "split": ANYTHING,
        "fractions": without(None), "seed": without(-1), "samples_per_shard": without(None),
        "shard_bytes": without(None), "max_pixels": without(None), "exif": ANYTHING, "image_suffix": (1, [], b"a"),
        "mask_suffix": (1, [], b"a"), "workers": without(None, 2**70), "executor": without(None), "task": without(None),
        "tasks": without(None, 2**70), "overwrite": NO_FLAGS, "strict": NO_FLAGS,
    },
    "copy_shards": {"source": PLACE, "target": PLACE, "overwrite": NO_FLAGS},
    "join_shards": {"out": PLACE, "overwrite": NO_FLAGS, "strict": NO_FLAGS},
    "train": {
        "shards": PLACE, "run": without(None, "20x!"), "resume": ANYTHING, "config": without(None),
        "options": without(None, {"a": 1}), "make_reporter": ANYTHING,
    },
    "options": {
        "epochs": ANYTHING, "batch_size": ANYTHING, "lr": without(1.5, 2**70), "size": ANYTHING, "augment": ANYTHING,
        "fit": ANYTHING, "widths": ANYTHING, "seed": ANYTHING, "device": ANYTHING, "precision": ANYTHING,
        "on_error": ANYTHING, "crop_scale": without(None),
    },
    "evaluate": {
        "run": PLACE, "shards": PLACE, "split": ANYTHING, "size": without(None), "original_resolution": NO_FLAGS,
        "flip_tta": NO_FLAGS, "scales": ANYTHING, "window": without(None), "overlap": without(None),
        "batch_size": ANYTHING, "device": ANYTHING, "precision": ANYTHING, "world": without(None),
        "after_batch": ANYTHING,
    },
    "predict": {
        "run": PLACE, "images": without([1, "a"], {"a": 1}, "20x!"), "out": PLACE, "recursive": NO_FLAGS,
        "overlays": NO_FLAGS, "probabilities": NO_FLAGS, "overwrite": NO_FLAGS, "batch_size": ANYTHING,
        "flip_tta": NO_FLAGS, "scales": ANYTHING, "window": without(None), "overlap": without(None),
        "size": without(None), "device": ANYTHING, "precision": ANYTHING,
    },
    "export": {
        "run": PLACE, "file": PLACE, "size": without(None), "onnx_output": without(None, ""),
        "input_size": without(None, ""), "hub": NO_FLAGS, "license": without(None), "dataset": without(None),
        "overwrite": NO_FLAGS,
    },
    "export_onnx": {"predictor": ANYTHING},
    "export_weights": {"predictor": ANYTHING},
    "load": {
        "run": PLACE, "device": ANYTHING, "precision": ANYTHING, "size": without(None),
        "local_rank": without(2**70),
    },
    "build_model": {"config": ANYTHING},
    "ConsoleReporter": {"quiet": NO_FLAGS},
}  # fmt: skip


@pytest.fixture(scope="module")
def calls(synthetic_set: Path, synthetic_pets: Path) -> dict[str, Callable[..., Any]]:
    """Each function, with arguments that are right where a test gives none."""

    def load_state(**wrong: Any) -> None:
        with pipeline.Loader(synthetic_set, batch_size=2, device="cpu") as loader:
            loader.load_state_dict(**wrong)

    def train_options(**wrong: Any) -> None:
        petseg.train(synthetic_set, run="new", options=wrong)

    def given(function: Callable[..., Any], **right: Any) -> Callable[..., Any]:
        return lambda **wrong: function(**{**right, **wrong})

    return {
        "Loader": given(pipeline.Loader, shards=synthetic_set, batch_size=2, device="cpu"),
        "load_state_dict": load_state,
        "open": given(shards.ShardSet.open, place=synthetic_set),
        "load_manifest": shards.load_manifest,
        "Augmentation": pipeline.Augmentation,
        "preset": pipeline.Augmentation.preset,
        "DecoderOptions": pipeline.DecoderOptions,
        "build_shards": given(petseg.build_shards, source=synthetic_pets, out="out", workers=1),
        "copy_shards": given(petseg.copy_shards, source=synthetic_set, target="copy"),
        "join_shards": given(petseg.join_shards, out="joined"),
        "train": given(petseg.train, shards=synthetic_set, run="new"),
        "options": train_options,
        "evaluate": given(petseg.evaluate, run="no-run", shards=synthetic_set),
        "predict": given(petseg.predict, run="no-run", images=[], out="masks"),
        "export": given(petseg.export, run="no-run", file="net.onnx"),
        "export_onnx": given(petseg.export_onnx, path="net.onnx"),
        "export_weights": given(petseg.export_weights, path="net.safetensors"),
        "load": given(petseg.load, run="no-run"),
        "build_model": petseg.build_model,
        "ConsoleReporter": petseg.ConsoleReporter,
    }


@pytest.mark.parametrize(("name", "argument"), [(name, each) for name in WRONG for each in WRONG[name]])
def test_a_wrong_value_is_refused(
    name: str, argument: str, calls: dict[str, Callable[..., Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in WRONG[name][argument]:
        with pytest.raises(PetsegError) as error:
            calls[name](**{argument: value})
        text = str(error.value)
        named = argument.replace("_", " ") in text.replace("_", " ")
        assert len(text) < 1000, (value, text)
        named = named or text.startswith("place: ")  # of a set, which is opened by its place
        assert named or type(value).__name__ in text or repr(value)[:20] in text, (value, text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["Loader", "Augmentation", "DecoderOptions", "build_shards", "evaluate", "load"])
def test_a_wrong_name_is_refused(name: str, calls: dict[str, Callable[..., Any]]) -> None:
    known = next(reversed(WRONG[name]))
    with pytest.raises(TypeError, match=f"has no argument {known}e; did you mean {known}"):
        calls[name](**{f"{known}e": 1})
