"""What a new run may start from, which of its tensors are taken, and what is said of the others."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from labelled_sets import many_labels, write_untrained

import petseg
from petseg.nets.model_config import UNET_WIDTHS, ModelConfig
from petseg.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from petseg.runs.encoder_options import WITH_WEIGHTS
from petseg.runs.initial_weights import fit_weights, read_initial_weights
from petseg.runs.run_folder import SAFETENSORS, find_checkpoint
from petseg.runs.run_options import new_options
from shards.errors import UsageError
from shards.format.builtin_labels import PETS
from shards.store.atomic import file_sha256


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("trained") / "run", PETS)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("safetensors")
    folder = tmp_path_factory.mktemp("export") / "hub"
    petseg.export(run, folder, hub=True)
    return folder / SAFETENSORS


def sources(run: Path, exported: Path) -> dict[str, Path]:
    return {"run": run, "checkpoint": run / "best.pt", "export": exported, "its folder": exported.parent}


@pytest.mark.parametrize("kind", ["run", "checkpoint", "export", "its folder"])
def test_every_kind_of_source(run: Path, exported: Path, kind: str) -> None:
    path = sources(run, exported)[kind]
    initial = read_initial_weights(path)
    expected = load_checkpoint(run / "best.pt")
    assert initial.weights.keys() == expected.weights.keys()
    assert all(torch.equal(value, expected.weights[name]) for name, value in initial.weights.items())
    assert initial.model == expected.recipe.model
    assert initial.labels == PETS
    assert initial.sha256 == file_sha256(initial.file)
    fitting = fit_weights(initial, initial.model, PETS)
    assert fitting.weights.keys() == expected.weights.keys()
    assert (fitting.other_shape, fitting.absent, fitting.unused) == ({}, (), ())
    assert fitting.same_classes
    assert f"starting from {initial.file}: {len(expected.weights)} of the network's" in fitting.summary
    assert ";" not in fitting.summary


def test_of_a_last_checkpoint_the_average_is_taken(run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(run / "best.pt")
    average = {name: value * 2 for name, value in checkpoint.model.items()}
    save_checkpoint(tmp_path / "last.pt", msgspec.structs.replace(checkpoint, average=average))
    initial, network = read_initial_weights(tmp_path / "last.pt"), petseg.load(tmp_path / "last.pt", device="cpu")
    for weights in (initial.weights, network.model.state_dict()):
        assert all(torch.equal(value, average[name]) for name, value in weights.items())


def test_a_tensor_of_another_type_is_left_out(run: Path) -> None:
    initial = read_initial_weights(run)
    double = {**initial.weights, "head.bias": initial.weights["head.bias"].double()}
    fitting = fit_weights(dataclasses.replace(initial, weights=double), initial.model, PETS)
    assert set(fitting.other_shape) == {"head.bias"}


def test_a_head_of_another_class_count_is_left_out_and_named(run: Path) -> None:
    initial = read_initial_weights(run)
    labels = many_labels(21)
    fitting = fit_weights(initial, msgspec.structs.replace(initial.model, classes=21), labels)
    assert set(fitting.other_shape) == {"head.weight", "head.bias"}
    assert len(fitting.weights) == len(initial.weights) - 2
    assert "left out, because they have another shape: head.weight (float32 3x" in fitting.summary
    assert "here float32 21x" in fitting.summary
    record = json.loads(json.dumps(fitting.record))
    assert (record["path"], record["taken"]) == (str(initial.file), len(fitting.weights))
    assert set(record["left_out"]) == {"head.weight", "head.bias"}


def test_a_head_of_other_names_is_taken_and_said(run: Path) -> None:
    initial = read_initial_weights(run)
    fitting = fit_weights(initial, initial.model, many_labels(3))
    assert not fitting.other_shape
    assert "its classes have other names" in fitting.summary


def test_other_networks_are_reported_by_counts(run: Path) -> None:
    initial = read_initial_weights(run)
    deeper = fit_weights(initial, msgspec.structs.replace(initial.model, blocks=2), PETS)
    assert deeper.absent
    assert not deeper.unused
    assert f"and {len(deeper.absent) - 3} more" in deeper.summary
    narrower = fit_weights(initial, msgspec.structs.replace(initial.model, widths=(8,) * 2), PETS)
    assert narrower.other_shape
    with pytest.raises(UsageError, match="no weight in it fits this network"):
        fit_weights(initial, ModelConfig(widths=(40, 72), classes=7, norm="group"), PETS)


def with_numbers_of(dtype: str, bits: int, data: bytes, name: str) -> bytes:
    """Return a safetensors file in which the bytes of a tensor are numbers of another kind."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    channels, inputs, *rest = header[name]["shape"]
    header[name] |= {"dtype": dtype, "shape": [channels, inputs * 32 // bits, *rest]}
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize("harm", ["complex", "nan", "cut", "metadata", "architecture", "labels", "classes", "float8"])
def test_exports_are_checked(exported: Path, tmp_path: Path, harm: str) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / "a.safetensors"
    weights: dict[str, Any] = load_file(exported)
    with safe_open(exported, "pt") as file:
        facts = dict(file.metadata())
    if harm == "nan":
        weights["head.bias"] = torch.full((3,), float("nan"))
    if harm == "labels":
        facts["labels"] = facts["labels"].replace("animal", r"a\u001b[2J")
    if harm == "classes":
        facts["architecture"] = json.dumps(json.loads(facts["architecture"]) | {"classes": 4})
    if harm == "metadata":
        del facts["architecture"]
    if harm == "architecture":
        facts["architecture"] = json.dumps({"name": "unet", "widths": [1] * 99})
    save_file(weights, path, metadata=facts)
    kinds = {"complex": ("C64", 64), "float8": ("F8_E4M3", 8)}  # which not every version of safetensors writes
    if harm in kinds:
        path.write_bytes(with_numbers_of(*kinds[harm], path.read_bytes(), "head.weight"))
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError if harm == "metadata" else CheckpointError, match=r"a\.safetensors"):
        read_initial_weights(path)


@pytest.mark.parametrize("encoder", ["test_efficientnet", "torchvision/resnet18"])
def test_an_encoder_in_the_source_is_one_with_weights(tmp_path: Path, encoder: str) -> None:
    """It gets the defaults of such an encoder, unless it is version 1's, which has none; options win."""
    pytest.importorskip("timm", reason="timm is not installed: pip install 'petseg[encoders]'")
    run = write_untrained(tmp_path / "run", PETS, encoder=encoder, widths=UNET_WIDTHS)
    recipe, _, _ = new_options("set", {"init_from": run, "epochs": 3})
    recipe.check()
    known = encoder == "test_efficientnet"
    expected = {**(WITH_WEIGHTS if known else {"batch_size": 16, "encoder_lr": None}), "epochs": 3}
    assert {name: getattr(recipe, name) for name in expected} == expected
    assert recipe.network_text == f"unet with {encoder} from {run}"


@pytest.mark.parametrize("given", [{}, {"encoder": "test_efficientnet"}])
def test_an_encoder_of_the_source_sees_images_as_large_as_there(tmp_path: Path, given: dict[str, object]) -> None:
    pytest.importorskip("timm", reason="timm is not installed: pip install 'petseg[encoders]'")
    run = write_untrained(
        tmp_path / "run",
        PETS,
        encoder="test_efficientnet",
        widths=UNET_WIDTHS,
        stem="half",
        join="add",
        input_scale=2.0,
    )
    recipe, _, _ = new_options("set", {"init_from": run, **given})
    assert recipe.model.input_scale == 2.0
    chosen, _, _ = new_options("set", {"init_from": run, "encoder": "test_efficientnet", "input_scale": 1.0})
    assert chosen.model.input_scale == 1.0


def test_an_export_is_not_taken_for_a_run_to_predict_with(exported: Path, run: Path, tmp_path: Path) -> None:
    (onnx := tmp_path / "net.onnx").write_bytes(b"onnx")
    for path in (exported, exported.parent, onnx):
        with pytest.raises(CheckpointError, match=r"is an export, not a run or a checkpoint; name the run"):
            find_checkpoint(path)
    assert find_checkpoint(run) == run / "best.pt"
    assert find_checkpoint(run / "best.pt") == run / "best.pt"


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run, checkpoint or export"):
        read_initial_weights(tmp_path / "nowhere")
    for content in (None, '{"model_type": "segformer"}'):  # other programs, too, have a config.json
        if content:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"holds no checkpoint .*; it is no run$"):
            read_initial_weights(tmp_path)
    (tmp_path / "config.json").write_text('{"format": "petseg-run"}')
    with pytest.raises(CheckpointError, match=rf"petseg-train --resume --run {tmp_path}$"):
        read_initial_weights(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{}\n")  # it has trained: --resume refuses it
    with pytest.raises(CheckpointError, match=r"holds no checkpoint .*; it has had one.* start a new run$"):
        read_initial_weights(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        read_initial_weights(tmp_path / "a.txt")


def test_names_from_a_file_do_not_flood_a_message(run: Path, tmp_path: Path) -> None:
    """Whose names are long or many: the summary, the record, and the errors that name a tensor."""
    trained = load_checkpoint(run / "best.pt")
    strange = {f"{number}{'x' * 10_000}": torch.zeros(1) for number in range(5_000)}
    initial = dataclasses.replace(read_initial_weights(run), weights={**trained.weights, **strange})
    fitting = fit_weights(initial, initial.model, PETS)
    assert len(fitting.summary) < 1_000
    assert fitting.summary.endswith(" and 4997 more")
    assert len(json.dumps(fitting.record)) < 1_000_000
    name = "x" * 10_000
    for weights, message in (
        ({**trained.weights, name: torch.zeros(1)}, "1 tensors are missing or too many"),
        (
            {**trained.weights, name: torch.tensor(float("nan"))},
            r"xx has values that are not finite \(NaN or infinity\)",
        ),
    ):
        save_checkpoint(tmp_path / "long.pt", msgspec.structs.replace(trained, model=weights))
        with pytest.raises(CheckpointError, match=message) as raised:
            petseg.load(tmp_path / "long.pt")
        assert len(str(raised.value)) < 600


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_file_is_not_passed_over(tmp_path: Path, kind: str) -> None:
    """The last epoch's network would be scored and exported as the best one: where a link's disk is not mounted."""
    (tmp_path / "last.pt").touch()
    assert find_checkpoint(tmp_path) == tmp_path / "last.pt"
    best = tmp_path / "best.pt"
    {"folder": best.mkdir, "pipe": lambda: os.mkfifo(best), "link": lambda: best.symlink_to("not-mounted")}[kind]()
    with pytest.raises(
        CheckpointError, match=r"best\.pt is not a file, or a link to nothing; put the checkpoint there"
    ):
        find_checkpoint(tmp_path)
