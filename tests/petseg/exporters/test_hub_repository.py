"""A folder in the layout of a Hugging Face repository: its card, its configuration, its weights, its program."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import forked_programs
import msgspec
import numpy as np
import pytest
import torch
from labelled_sets import many_labels, smooth_image, write_untrained
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import petseg
from petseg.cli import export, predict
from petseg.exporters.hub_layout import HubConfig
from petseg.exporters.hub_repository import export_hub
from petseg.nets.factory import build_model
from petseg.runs.checkpoint import CheckpointError
from petseg.runs.initial_weights import read_initial_weights
from shards.errors import UsageError

FILES = {"README.md", "config.json", "model.safetensors", "use.py"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder made from a network of 21 classes with awkward names, in a folder with an awkward name."""
    folder = tmp_path_factory.mktemp("hub")
    run = write_untrained(folder / "run", many_labels(21), fit="contain")
    predictor = petseg.load(run, device="cpu", precision="fp32")
    return export_hub(predictor, folder / 'a: "$x$" #1', license="mit", dataset="me/scenes").folder


def test_the_round_trip_gives_equal_logits(hub: Path) -> None:
    assert {path.name for path in hub.iterdir()} == FILES
    found = read_initial_weights(hub)
    network = build_model(found.model).eval()
    network.load_state_dict(found.weights)
    image = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8)
    predictor = petseg.load(hub.parent / "run", device="cpu", precision="fp32")
    original, weights = predictor.model, network.state_dict()
    assert all(torch.equal(value, weights.pop(name)) for name, value in original.state_dict().items())
    assert not weights
    with torch.inference_mode():  # the original's weights are in channels_last, so that another kernel may add them up
        torch.testing.assert_close(network(image), original(image))
    config = msgspec.convert(json.loads((hub / "config.json").read_text())["petseg"], HubConfig)
    assert (config.size, config.fit) == ((32, 48), "contain")
    assert (config.labels, config.model) == (found.labels, found.model) == (many_labels(21), predictor.recipe.model)


def test_the_hub_reads_the_card(hub: Path) -> None:
    """By huggingface_hub's own parser, which needs no network; its validator does."""
    cards = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    card = cards.ModelCard.load(hub / "README.md")
    assert (card.data.license, card.data.library_name, card.data.datasets) == ("mit", "petseg", ["me/scenes"])
    assert "semantic-segmentation" in card.data.tags
    assert card.data.pipeline_tag == "image-segmentation"
    result = card.data.eval_results[0]
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("mean_iou", 0.25, "me/scenes")
    assert card.data.model_name == hub.name
    assert card.text.lstrip().startswith("# a: ")


def test_the_name_of_a_set_is_valid_yaml(hub: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    shutil.copytree(hub.parent / "run", tmp_path / "run")
    (tmp_path / "run/config.json").write_text(json.dumps({"data": {"path": "/sets/a\x7f\x85\u2028b\ud800"}}))
    out = export_hub(petseg.load(tmp_path / "run", device="cpu", precision="fp32"), tmp_path / "out").folder
    front = (out / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["model-index"][0]["results"][0]["dataset"]["name"] == r"a\x7f\x85\u2028b\ud800"


def test_no_folder_of_this_machine_is_published(hub: Path, tmp_path: Path) -> None:
    predictor = petseg.load(hub.parent / "run", device="cpu", precision="fp32")
    recipe = msgspec.structs.replace(predictor.recipe, init_from="/home/me/a.pt", encoder_weights="/home/me/b.pth")
    predictor.recipe = recipe
    out = export_hub(predictor, tmp_path / "out").folder
    for file in ("README.md", "config.json", "use.py"):
        text = (out / file).read_text()
        assert "/home" not in text
        assert str(hub.parent) not in text
    assert '"init_from": "a.pt"' in (out / "README.md").read_text()


def test_other_libraries_find_the_names_of_the_classes(hub: Path) -> None:
    document = json.loads((hub / "config.json").read_text())
    assert [document["id2label"][str(index)] for index in range(21)] == list(many_labels(21).names)
    assert {document["label2id"][name] for name in many_labels(21).names} == set(range(21))


def test_its_program_predicts_what_petseg_predicts(call, hub: Path, tmp_path: Path) -> None:
    image = smooth_image(tmp_path / "a.png", (90, 61))
    assert call(predict, hub.parent / "run", image, "-o", tmp_path / "out", "--precision", "fp32").code == 0
    command = [sys.executable, "use.py", str(image), str(tmp_path / "mask.png")]
    result = forked_programs.run(command, cwd=hub, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "mask.png") as found, Image.open(tmp_path / "out" / "a.png") as expected:
        assert (np.asarray(found) == np.asarray(expected)).mean() > 0.99


def test_nothing_is_replaced_unless_asked(call, tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".gitattributes").write_text("mine")
    (out / "README.md").write_text("mine")
    result = call(export, tiny_run, out, "--hub")
    assert (result.code, "--overwrite" in result.err) == (2, True)
    assert {path.name for path in out.iterdir()} == {".gitattributes", "README.md"}
    result = call(export, tiny_run, out, "--hub", "--overwrite")
    assert (result.code, "add one with --license and --overwrite" in result.out) == (0, True)
    assert "license:" not in (out / "README.md").read_text().split("---")[1]
    assert call(export, tiny_run, out, "--hub", "--overwrite", "--license", "mit").code == 0  # its own folder again
    assert (out / ".gitattributes").read_text() == "mine"


@pytest.mark.parametrize("place", ["run", "set"])
def test_runs_and_sets_keep_their_folders(
    call, tiny_run: Path, synthetic_set: Path, tmp_path: Path, place: str
) -> None:
    folder = shutil.copytree(tiny_run if place == "run" else synthetic_set, tmp_path / "folder")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for arguments in ([folder, "--hub"], [folder / "net.onnx"], [folder / "net.safetensors"]):
        result = call(export, tiny_run, *arguments, "--overwrite")
        assert (result.code, "keeps its folder to itself" in result.err) == (2, True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--license", "mit"], "--hub"),
        (["--hub", "--license", "My Own"], "identifier"),
        (["--hub", "--dataset", "a b"], "OWNER/NAME"),
        (["--hub", "--onnx-output", "classes"], "FILE.onnx"),
        (["--hub"], "out.safetensors: --hub writes a folder, and this is the name of a file"),
    ],
)
def test_wrong_options(call, tiny_run: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = call(export, tiny_run, tmp_path / "out.safetensors", *arguments)
    assert (result.code, message in result.err) == (2, True), result.err
    assert not any(tmp_path.iterdir())


HARM = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-50]),
    "NaN": lambda file: with_weight(file, torch.full((3,), torch.nan)),
    "complex": lambda file: with_weight(file, torch.zeros(3, dtype=torch.complex64)),
}


def with_weight(file: Path, value: torch.Tensor) -> None:
    with safe_open(file, "pt") as opened:
        facts = opened.metadata()
    weights = load_file(file)
    save_file({**weights, next(iter(weights)): value}, file, metadata=facts)


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_damage_is_named(hub: Path, tmp_path: Path, harm: Any) -> None:
    folder = shutil.copytree(hub, tmp_path / "copy")
    harm(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        read_initial_weights(folder)


def test_a_training_starts_from_it(hub: Path, tiny: dict[str, Any], synthetic_set: Path, no_report: None) -> None:
    """Of another number of classes: all but the head is taken."""
    options = {**tiny, "epochs": 1, "lr": 1e-30, "weight_decay": 0.0, "ema_decay": 0.0, "init_from": str(hub)}
    options |= {"stem": "full", "join": "concat"}
    run = petseg.train(synthetic_set, run=hub.parent / "started", options=options)
    weights, original = petseg.load(run, device="cpu").model.state_dict(), load_file(hub / "model.safetensors")
    name = next(name for name in original if name.endswith("conv1.weight"))
    torch.testing.assert_close(weights[name], original[name])
    assert weights["head.weight"].shape[0] == 3


def test_runs_are_not_taken_for_it(hub: Path, tiny_run: Path) -> None:
    with pytest.raises(UsageError, match="a run"):
        petseg.export(tiny_run, tiny_run / "net.safetensors")
