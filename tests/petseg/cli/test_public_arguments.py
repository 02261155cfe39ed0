"""Wrong calls of the public face: each error says what was meant, in the words of a caller from Python."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import petseg
from petseg import Loader, PetsegError, ShardSet
from petseg.runs.run_folder import read_config
from pipeline import Augmentation
from shards.errors import command_line, option

PLACES: dict[str, Callable[[Any], object]] = {
    "loader": lambda place: Loader(place, batch_size=2),
    "open": ShardSet.open,
    "train": petseg.train,
    "run": lambda place: petseg.train("set", run=place),
    "config": lambda place: petseg.train("set", config=place),
    "init_from": lambda place: petseg.train("set", options={"init_from": place}),
    "build": lambda place: petseg.build_shards(place, "out"),
    "build out": lambda place: petseg.build_shards("source", place),
    "labels": lambda place: petseg.build_shards("source", "out", labels=place),
    "join": petseg.join_shards,
    "copy": lambda place: petseg.copy_shards(place, "out"),
    "copy out": lambda place: petseg.copy_shards("set", place),
    "evaluate": lambda place: petseg.evaluate(place, "set"),
    "cache": lambda place: Loader("https://localhost/set", batch_size=2, cache=place),
    "encoder_weights": lambda place: petseg.train("set", options={"encoder": "resnet18", "encoder_weights": place}),
    "images": lambda place: petseg.predict("run", place, "out"),
    "predict": lambda place: petseg.predict(place, "image", "out"),
    "predict out": lambda place: petseg.predict("run", "image", place),
    "export": lambda place: petseg.export(place, "net.onnx"),
    "export file": lambda place: petseg.export("run", place),
    "load": petseg.load,
}


@pytest.mark.parametrize("name", PLACES)
def test_an_empty_path_is_no_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PetsegError, match="the path is empty; for the current folder"):
        PLACES[name]("")
    assert not list(tmp_path.iterdir())
    if name not in ("train", "run", "config", "labels", "init_from", "cache", "encoder_weights"):  # None has a meaning
        with pytest.raises(PetsegError, match=r"expected a path.* not None"):
            PLACES[name](None)
    with pytest.raises(PetsegError, match="NUL"):
        PLACES[name]("a\0b")


@pytest.mark.parametrize(
    "name", sorted({*PLACES} - {"loader", "open", "train", "build", "build out", "join", "copy", "copy out"})
)
def test_an_address_is_no_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in a local folder named ``s3:`` is lost with its machine; and an address may hold a password."""
    monkeypatch.chdir(tmp_path)
    for address in ("s3://bucket/a.onnx", "https://me:secret@host/a.onnx", Path("s3://me:secret@bucket/a.onnx")):
        with pytest.raises(
            PetsegError, match=r"^\w+: an address, where only a file or folder of this machine can be given$"
        ):
            PLACES[name](address)
    assert not list(tmp_path.iterdir())


def test_a_set_is_opened_and_not_made(synthetic_set: Path) -> None:
    for place in ("", "set", Path("set")):
        with pytest.raises(PetsegError, match=r"open a set with ShardSet.open\("):
            ShardSet(place)  # type: ignore[call-arg, arg-type]
    opened = ShardSet.open(synthetic_set)
    assert pickle.loads(pickle.dumps(opened)) == opened


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Loader("set", batch_size=2, shufle=True), "Loader() has no argument shufle; did you mean shuffle?"),
        (lambda: petseg.train("set", lerning_rate=1), "options={...}; did you mean lr?"),
        (lambda: petseg.train("set", epochs=1), "options={...}; did you mean epochs?"),
        (lambda: petseg.train("set", rnu="a"), "did you mean run?"),
        (lambda: petseg.train("set", options={"learning_rate": 1}), "no such option: learning_rate; did you mean lr?"),
        (lambda: petseg.train("set", options={"batch-size": 1}), "batch-size; did you mean batch_size?"),
        (lambda: petseg.train("set", options={"zzz": 1}), "no such option: zzz"),
        (lambda: petseg.build_shards("a", "b", lables="c"), "did you mean labels?"),
        (lambda: petseg.evaluate("run", "set", splitt="val"), "did you mean split?"),
        (lambda: petseg.predict("run", "a", "b", over_write=True), "did you mean overwrite?"),
        (lambda: petseg.export("run", "a.onnx", input_sise=1), "did you mean input_size?"),
        (lambda: petseg.load("run", devise="cpu"), "did you mean device?"),
    ],
)
def test_a_wrong_name_names_the_nearest(call: Callable[[], object], text: str) -> None:
    with pytest.raises(PetsegError) as error:
        call()
    assert str(error.value).endswith(text)
    assert isinstance(error.value, TypeError) == ("has no argument" in str(error.value))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: petseg.train("set", 20), "train() takes shards without a name, not 2 arguments; "  # type: ignore[misc]
         "write NAME=VALUE for the others: run, resume, config, options, command and 1 more"),
        (lambda: Loader("set", 32), "Loader() takes shards without a name, not 2 arguments; "  # type: ignore[call-arg, misc]
         "write NAME=VALUE for the others: split, batch_size, size, fit, crop_scale and 21 more"),
        (lambda: petseg.evaluate("run", "set", "val"), "evaluate() takes run, shards without a name, not 3 "  # type: ignore[misc]
         "arguments; write NAME=VALUE for the others: split, size, original_resolution, flip_tta, scales and 7 more"),
        (lambda: Augmentation(0.5), "Augmentation() takes none without a name, not 1 argument; "  # type: ignore[misc]
         "write NAME=VALUE for the others: area, ratio, flip, brightness, contrast and 1 more"),
    ],
)  # fmt: skip
def test_an_argument_without_its_name_is_told_the_names(call: Callable[[], object], text: str) -> None:
    with pytest.raises(PetsegError) as error:
        call()
    assert str(error.value) == text
    assert isinstance(error.value, TypeError)


def test_arrays_and_truth_values_of_numpy(synthetic_set: Path, tmp_path: Path) -> None:
    """An array of one dimension is as good as a tuple, and no array ends with an error of NumPy's."""
    loader = Loader(synthetic_set, batch_size=2, device="cpu", size=np.array([32, 48]), drop_last=np.bool_(True))  # type: ignore[arg-type]
    with contextlib.closing(loader):
        assert (loader.size, loader.slices.drop_last) == ((32, 48), True)
    for name in ("split", "fit", "decode", "device", "mask", "augment", "shuffle", "engine", "on_error", "timeout"):
        with pytest.raises(PetsegError, match=name) as error:
            Loader(synthetic_set, **{"batch_size": 2, "device": "cpu", name: np.array(["a", "b"])})
        assert "\n" not in str(error.value)
    for name in ("batch_size", "seed", "drop_last", "decoder", "timeout"):
        with pytest.raises(PetsegError, match=rf"{name} must be .* not a Tensor") as error:
            Loader(synthetic_set, **{"batch_size": 2, "device": "cpu", name: torch.zeros(2, 2)})
    for name in ("storage", "layout", "fit", "split", "exif", "task"):
        with pytest.raises(PetsegError, match=name):
            petseg.build_shards("a", tmp_path / "out", **{"storage": "jpeg", name: np.array(["a", "b"])})
    with pytest.raises(PetsegError, match="precision"):
        petseg.load("run", precision=np.array(["a", "b"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("task", [0.7, 1.0, float("inf"), True, b"1"])
def test_a_task_is_a_whole_number(task: Any, tmp_path: Path) -> None:
    with pytest.raises(PetsegError, match="is neither a number nor auto"):
        petseg.build_shards("a", tmp_path / "out", task=task, tasks=2)


def test_a_set_is_named_as_the_caller_named_it() -> None:
    for call in (lambda: Loader(None, batch_size=2), lambda: petseg.evaluate("run", None)):  # type: ignore[arg-type]
        with pytest.raises(PetsegError, match=r"^shards: expected a path"):
            call()


def test_a_loader_says_why_it_cannot_be_copied(synthetic_set: Path) -> None:
    with Loader(synthetic_set, batch_size=2, device="cpu") as loader:
        for use in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(PetsegError, match="create one in the process that uses it") as error:
                use(loader)
            assert isinstance(error.value, TypeError)


def test_messages_spell_options_as_the_caller_does(synthetic_pets: Path, synthetic_set: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    for call in (
        lambda: petseg.export(tmp_path, tmp_path / "net.onnx"),
        lambda: petseg.build_shards(synthetic_pets, synthetic_set, seed=99),
    ):
        with pytest.raises(PetsegError) as error:
            call()
        assert "--" not in str(error.value)
    assert (option("overwrite", True), option("fetch", "range"), option("cache_bytes")) == (
        "overwrite=True",
        "fetch='range'",
        "cache_bytes",
    )
    with command_line():
        assert (option("overwrite", True), option("fetch", "range"), option("cache_bytes")) == (
            "--overwrite",
            "--fetch range",
            "--cache-bytes",
        )


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        (lambda: petseg.predict("run", np.zeros((9, 8, 3), np.uint8), "out"), r"petseg\.load\(run\)\.predict\(image\)"),
        (lambda: petseg.predict("run", Image.new("RGB", (9, 8)), "out"), r"petseg\.load\(run\)\.predict\(image\)"),
        (lambda: petseg.predict("run", [torch.zeros(3, 9, 8)], "out"), r"not a Tensor; petseg\.load\(run\)\.predict"),
        (
            lambda: petseg.predict(torch.nn.ReLU(), "a.jpg", "out"),
            r"not ReLU\(\); a run is the folder that train",
        ),
        (lambda: petseg.evaluate(torch.nn.ReLU(), "set"), r"not ReLU\(\); a run is the folder that train"),
        (lambda: petseg.load(torch.nn.ReLU()), r"not ReLU\(\); a run is the folder that train"),
        (lambda: petseg.export(torch.nn.ReLU(), "a.onnx"), r"export_onnx\(\) and export_weights\(\) take a Predictor$"),
    ],
)
def test_what_is_no_path_leads_to_what_takes_it(call: Callable[[], object], advice: str) -> None:
    with pytest.raises(PetsegError, match=rf"expected a path.*{advice}") as raised:
        call()
    assert len(str(raised.value)) < 300
    assert "\n" not in str(raised.value)


def test_an_open_set_is_named_by_its_address(synthetic_set: Path, tmp_path: Path) -> None:
    opened = ShardSet.open(synthetic_set)
    with pytest.raises(PetsegError, match=r"shards: .*; an open set has its place in \.address$"):
        petseg.train(opened, run=tmp_path / "run")  # type: ignore[arg-type]
    assert str(opened.address) == str(synthetic_set)


@pytest.mark.usefixtures("no_report")
def test_numbers_of_numpy_are_numbers(synthetic_set: Path, tmp_path: Path) -> None:
    """As results of a computation, such as image.shape // 2; what is stored of them is JSON."""
    size = np.array([32, 32]) // 1
    loader = Loader(
        synthetic_set,
        batch_size=np.int64(2),
        size=tuple(size),
        seed=np.uint8(3),
        timeout=np.float32(60),
        prefetch=np.int16(1),
        augment=Augmentation(flip=np.float64(0.25), area=(np.float32(0.5), np.int64(1))),
        cache_bytes=None,
    )
    with contextlib.closing(loader):
        loader.set_epoch(np.int64(1))
        assert (loader.batch_size, loader.seed) == (2, 3)
        json.dumps(loader.state_dict())
        for wrong in (np.bool_(True), np.float32(1.5), True, 1.5):
            with pytest.raises(PetsegError, match="epoch"):
                loader.set_epoch(wrong)
    options = {"size": tuple(size), "widths": [np.int64(8), 16], "epochs": np.int64(1), "lr": np.float32(0.01)}
    run = petseg.train(
        synthetic_set, run=tmp_path / "run", options={**options, "batch_size": np.uint8(8), "threads": 1}
    )
    recipe = read_config(run)["recipe"]
    assert (recipe["size"], recipe["epochs"], recipe["model"]["widths"]) == ([32, 32], 1, [8, 16])
    assert recipe["lr"] == pytest.approx(0.01)
    for wrong in (np.bool_(True), np.float32(1.5), 1.5):
        with pytest.raises(PetsegError, match="epochs"):
            petseg.train(synthetic_set, run=tmp_path / "no", options={**options, "epochs": wrong})
        with pytest.raises(PetsegError, match="batch_size"):
            Loader(synthetic_set, batch_size=wrong)
    scored = petseg.evaluate(
        run, synthetic_set, split="val", batch_size=np.int64(4), scales=(np.float32(1), np.int8(1))
    )
    assert scored.samples > 0
    predictor = petseg.load(run, size=np.int64(32), local_rank=np.int64(0))
    prediction = predictor.predict(np.zeros((50, 60, 3), np.uint8), window=np.int64(32), overlap=np.float16(0.5))
    assert prediction.index.shape == (50, 60)
    with pytest.raises(PetsegError, match="window"):
        predictor.predict(np.zeros((50, 60, 3), np.uint8), window=np.float32(32.5))


ARRAYS = [np.zeros((2, 2)), np.zeros((2, 2, 3), np.uint8), torch.zeros(2, 2), torch.zeros(2), torch.tensor(3)]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{type(array).__name__}{tuple(array.shape)}")
def test_arrays_are_no_answers(array: Any, tiny_run: Path, synthetic_set: Path, tmp_path: Path) -> None:
    """Compared with a name, an array is several answers: an error of ours, and not NumPy's or PyTorch's."""
    loader = {"batch_size": 2, "device": "cpu"}
    calls: list[Callable[[], object]] = [
        *(
            lambda name=name: Loader(synthetic_set, **{**loader, name: array})
            for name in (
                "fit",
                "mask",
                "decode",
                "shuffle",
                "split",
                "engine",
                "on_error",
                "fetch",
                "device",
                "augment",
            )
        ),
        *(
            lambda name=name: petseg.build_shards("source", "out", **{name: array})
            for name in ("storage", "layout", "fit", "split", "exif")
        ),
        *(lambda name=name: petseg.train("set", options={name: array}) for name in ("encoder", "model", "loss")),
        lambda: ShardSet.open(array),
        lambda: ShardSet.open(synthetic_set, fetch=array),
        lambda: ShardSet.open(synthetic_set).split(array),
        lambda: petseg.evaluate(tiny_run, synthetic_set, split=array),
        lambda: petseg.predict(tiny_run, array, tmp_path / "out"),
        lambda: petseg.predict(tiny_run, images=array, out=tmp_path / "out"),
        lambda: petseg.export(tiny_run, tmp_path / "net.safetensors", onnx_output=array),
        lambda: petseg.export(tiny_run, tmp_path / "net.onnx", onnx_output=array),
    ]
    for call in calls:
        with pytest.raises(PetsegError):
            call()


def test_a_sets_arguments_are_named_as_others_are(synthetic_set: Path) -> None:
    with pytest.raises(TypeError, match=r"open\(\) has no argument cach; did you mean cache\?"):
        ShardSet.open(synthetic_set, cach="x")  # type: ignore[call-arg]
    with pytest.raises(PetsegError, match=r"open\(\) takes place without a name, not 2 arguments"):
        ShardSet.open(synthetic_set, "range")  # type: ignore[misc]
    assert len(ShardSet.open(place=synthetic_set).split(name="train")) > 0


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 0, 3), (0, 0, 3)])
def test_an_image_has_pixels(tiny_run: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(PetsegError, match="the image has no pixels"):
        petseg.load(tiny_run, device=torch.device("cpu")).predict(np.zeros(shape, np.uint8))  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_report")
def test_a_device_of_torch_is_a_device(synthetic_set: Path, tmp_path: Path) -> None:
    options = {"device": torch.device("cpu"), "epochs": 1, "size": 32, "widths": (8, 16), "batch_size": 8}
    run = petseg.train(synthetic_set, run=tmp_path / "run", options=options)
    assert read_config(run)["running"]["device"] == "cpu"


def test_what_is_no_option_is_not_suggested_for_itself(tmp_path: Path) -> None:
    for name in ("classes", "encoder_sha256"):
        with pytest.raises(PetsegError, match=f"no such option: {name}") as failure:
            petseg.train("set", run=tmp_path / "run", options={name: 5})
        assert f"did you mean {name}" not in str(failure.value)
    with pytest.raises(PetsegError, match="give three numbers"):
        petseg.build_shards("source", "out", split="random", fractions=())  # type: ignore[arg-type]


def test_batches_are_counted_from_0(synthetic_set: Path) -> None:
    with Loader(synthetic_set, batch_size=2, device="cpu") as loader:
        assert loader.valid_in_batch(len(loader) - 1) in (1, 2)
        for wrong in ("a", None, 1.0, -1, len(loader), 99_999):
            with pytest.raises(PetsegError, match=f"batch must be a whole number from 0 to {len(loader) - 1}, not"):
                loader.valid_in_batch(wrong)


def test_results_print_as_one_line(tiny_run: Path, synthetic_set: Path, tmp_path: Path) -> None:
    predictor = petseg.load(tiny_run)
    prediction = predictor.predict(np.zeros((50, 60, 3), np.uint8))
    Image.new("RGB", (9, 8)).save(tmp_path / "a.jpg")
    texts = {
        repr(predictor): "<Predictor: unet, 3 classes, size 32, from ",
        repr(prediction): "<Prediction: 50 x 60 pixels of ",
        repr(petseg.evaluate(tiny_run, synthetic_set, split="val")): "<Evaluation: mean IoU 0.",
        repr(petseg.predict(tiny_run, tmp_path / "a.jpg", tmp_path / "out")): "<FilePredictions: 1 image predicted>",
        repr(petseg.copy_shards(synthetic_set, tmp_path / "copy")): "<CopyResult: ",
    }
    for text, beginning in texts.items():
        assert text.startswith(beginning)
        assert len(text) < 100 + 2 * len(str(tmp_path)), text
        assert "\n" not in text
