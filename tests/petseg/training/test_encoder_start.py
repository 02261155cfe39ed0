"""How an encoder begins: its weights once, frozen for the first epochs, and the same after an interruption."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from optional_packages import needs

import petseg
from petseg.host.device import choose_placement
from petseg.host.distributed import World
from petseg.host.stop_signals import InterruptedRunError
from petseg.nets.model_config import ModelConfig
from petseg.nets.resnet_unet import ResNetUNet
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from petseg.runs.recipe import Recipe, default_recipe, recipe_from
from petseg.training.encoder_start import EncoderStart
from petseg.training.step import TrainStep
from pipeline import Batch
from shards.errors import UsageError
from shards.format.builtin_labels import PETS

pytestmark = [needs("timm", extra="encoders"), pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")
NAME = "test_efficientnet"  # 82,300 parameters, of every kind; timm has it for tests
OPTIONS = {"encoder": NAME, "epochs": 3, "size": 32, "batch_size": 16, "device": "cpu", "threads": 1}
OPTIONS |= {"engine": "torch", "progressive": False}


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under timm's names."""
    import timm

    path = tmp_path_factory.mktemp("weights") / "encoder.pth"
    torch.manual_seed(5)
    torch.save(timm.create_model(NAME, pretrained=False).state_dict(), path)
    return path


def small_recipe(**changes: Any) -> Recipe:
    model = ModelConfig(encoder=NAME, stem="half", join="add")
    small = {"size": (32, 32), "batch_size": 4, "epochs": 5, "model": model, "ema_decay": 0.0}
    return replace(default_recipe("unet"), **(small | changes))


def make_batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    return Batch(
        image=torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator),
        mask=torch.randint(0, 3, (4, 32, 32), dtype=torch.uint8, generator=generator),
        index=torch.arange(4),
        valid=torch.ones(4, dtype=torch.bool),
        epoch=0,
        number=0,
    )


def make_step(recipe: Recipe) -> TrainStep:
    return TrainStep(recipe, total_steps=10, placement=choose_placement(CPU, "fp32"))


def encoder_state(step: TrainStep) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in step.model.encoder.state_dict().items()}


@pytest.mark.parametrize(
    ("optimizer", "encoder_lr"), [("muon", 0.001), ("adamw", 0.001), ("muon", None), ("adam", None), ("adam", 0.001)]
)
def test_a_frozen_encoder_stays_as_it_is(
    optimizer: str, encoder_lr: float | None, campaign: Callable[[int, int], int]
) -> None:
    """Two epochs of two steps; then it is trained, and a run resumed in either part goes on in the same bits."""
    if optimizer == "adam" and not campaign(0, 1):
        pytest.skip("with --campaign: the same paths, combined otherwise")
    recipe = small_recipe(optimizer=optimizer, weight_decay=0.0, encoder_freeze=2, encoder_lr=encoder_lr, lr=0.01)
    step, states = make_step(recipe), []
    start = encoder_state(step)
    head = step.model.head.weight.detach().clone()
    for number in range(6):
        states.append({"config": {}, "labels": PETS, "position": {}, "history": [], "loader": None, **step.state()})
        states[-1] = Checkpoint(**{name: clone(value) for name, value in states[-1].items()})
        result = step.run(make_batch(number), global_valid=4, step=number)
        assert not result.skipped
        same = all(torch.equal(value, start[name]) for name, value in encoder_state(step).items())
        assert same == (number < 4), number
        assert not torch.equal(step.model.head.weight, head)  # the rest is trained from the first step on
    for first in (1, 4):
        again = make_step(recipe)
        again.load(states[first])
        for number in range(first, 6):
            again.run(make_batch(number), global_valid=4, step=number)
        for name, value in step.model.state_dict().items():
            assert torch.equal(value, again.model.state_dict()[name]), (first, name)


def clone(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: clone(part) for name, part in value.items()}
    return value.clone() if isinstance(value, torch.Tensor) else value


def test_levels_that_are_never_trained() -> None:
    """Those up to a stride of 4: the stem and two stages. The optimiser knows nothing of them."""
    recipe = small_recipe(encoder_freeze_stride=4, encoder_freeze=1, encoder_lr=0.01, lr=0.01)
    step = make_step(recipe)
    start = encoder_state(step)
    for number in range(4):
        step.run(make_batch(number), global_valid=4, step=number)
        changed = {name for name, value in encoder_state(step).items() if not torch.equal(value, start[name])}
        assert bool(changed) == (number >= 2)
    held = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.")
    assert changed == {name for name in start if not name.startswith(held)}
    known = {parameter for group in step.optimizer.param_groups for parameter in group["params"]}
    assert {name for name, parameter in step.model.encoder.named_parameters() if parameter not in known} == {
        name for name, _ in step.model.encoder.named_parameters() if name.startswith(held)
    }


def test_the_encoder_has_its_own_learning_rate() -> None:
    """A step changes it in proportion; the rest of the network not at all."""
    changes = []
    for encoder_lr in (0.001, 0.004):
        recipe = small_recipe(encoder_lr=encoder_lr, weight_decay=0.0, schedule="constant", clip_norm=0.0)
        step = make_step(recipe)
        before = {name: value.detach().clone() for name, value in step.model.named_parameters()}
        step.run(make_batch(0), global_valid=4, step=0)
        changes.append({name: value.detach() - before[name] for name, value in step.model.named_parameters()})
    slow, fast = changes
    for name in slow:
        if name.startswith("encoder."):  # AdamW's first step is the rate, whatever the gradient
            assert slow[name].abs().max() <= 0.00101, name
            torch.testing.assert_close(fast[name], 4 * slow[name], rtol=0.02, atol=1e-5)
        else:
            assert torch.equal(slow[name], fast[name]), name


class Stopping(Reporter):
    """Ends the training with a signal once it has taken so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def batch(self, **facts: Any) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("steps", [1, 2], ids=["frozen", "trained"])  # an epoch is one batch
def test_a_run_with_weights_from_a_file(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The file is read once; an interrupted run goes on, predicts and is exported with its checkpoint alone."""
    import timm

    moved = tmp_path / "moved.pth"
    torch.save(timm.create_model("test_convnext", pretrained=False).state_dict(), moved)
    digest = hashlib.sha256(moved.read_bytes()).hexdigest()
    options = {**OPTIONS, "encoder": "test_convnext", "encoder_weights": moved, "encoder_freeze": 1}
    run = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        petseg.train(synthetic_set, run=run, options=options, make_reporter=lambda: Stopping(steps))
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    assert recipe["encoder_weights"] == str(moved)
    assert recipe["encoder_sha256"] == digest
    assert recipe["encoder_lr"] == 0.001
    moved.unlink()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    before = load_checkpoint(run / "last.pt")
    assert before.position["step"] == steps
    petseg.train(run=run, resume="auto")
    after = load_checkpoint(run / "last.pt")
    assert (after.position["step"], after.position["finished"]) == (3, True)
    name = "encoder.stages_3.blocks.0.conv_dw.weight"
    assert not torch.equal(after.model[name], before.model[name])
    # Not those of a network that starts from noise; the checkpoint alone has them.
    network = petseg.load(run, device="cpu")
    assert network.model.normalise.mean.flatten().tolist() == pytest.approx([127.5] * 3)


def test_the_first_epoch_starts_from_the_files_weights(weights_file: Path) -> None:
    recipe = small_recipe(encoder_weights=str(weights_file), encoder_lr=0.001)
    start = EncoderStart(recipe, World())
    step = TrainStep(recipe, total_steps=10, placement=choose_placement(CPU, "fp32"), initialise=start)
    state = torch.load(weights_file, weights_only=True)
    assert torch.equal(step.model.encoder.state_dict()["conv_stem.weight"], state["conv_stem.weight"])
    other = make_step(recipe)  # as when a run is resumed
    assert not torch.equal(other.model.encoder.state_dict()["conv_stem.weight"], state["conv_stem.weight"])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"encoder": "resnet18", "norm": "group"}, "norm='group': encoder='resnet18' has batch normalisation"),
        ({"encoder": "torchvision/resnet18", "encoder_weights": "imagenet"}, "version 1's network, without weights"),
        ({"encoder": "resnet18", "encoder_weights": "w.pth"}, "w.pth': no such file"),
        ({"encoder": "resnet17"}, "no such network; similar names"),
    ],
)
def test_what_is_impossible_is_refused_before_anything_is_written(
    changes: dict[str, Any], part: str, synthetic_set: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=part):
        petseg.train(synthetic_set, run=tmp_path / "run", options={**OPTIONS, **changes})
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_version_1(tmp_path: Path) -> None:
    """Written as version 1 wrote it: torchvision's names, its options, no labels, one number as the size."""
    from torchvision import models

    torch.manual_seed(0)
    resnet = models.resnet18(weights=None)
    recipe = small_recipe(model=ModelConfig(encoder="torchvision/resnet18", join="add"))
    state = make_step(recipe).model.state_dict()
    layers = {"stem.0": resnet.conv1, "stem.1": resnet.bn1}
    layers |= {f"levels.{number}": getattr(resnet, f"layer{number + 1}") for number in range(4)}
    theirs = {f"{part}.{name}": value for part, layer in layers.items() for name, value in layer.state_dict().items()}
    assert {name for name in state if name.startswith(("stem", "levels"))} == theirs.keys()
    model = {"name": "unet", "widths": [24, 48, 96, 192, 256], "stem": "full", "blocks": 1, "norm": "batch"}
    model |= {"upsample": "bilinear", "join": "add", "dropout": 0.0, "encoder": "resnet18", "pretrained": True}
    config = {"model": model, "size": 32, "epochs": 5, "batch_size": 4, "optimizer": "muon", "lr": 0.008}
    config |= {"schedule": "onecycle"}
    path = tmp_path / "best.pt"
    rest = {"position": {}, "history": [], "loader": None, "average": None, "optimizer": {}, "scaler": {}}
    save_checkpoint(path, Checkpoint(config=config, labels=PETS, model={**state, **theirs}, **rest))
    network = petseg.load(path, device="cpu")
    assert isinstance(network.model, ResNetUNet)
    assert recipe_from(load_checkpoint(path).config).encoder_weights == "imagenet"
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():  # torchvision's own modules, one after the other
        model_ = network.model
        x = resnet.eval().relu(resnet.bn1(resnet.conv1(model_.normalise(image))))
        features = [model_.full(model_.normalise(image)), x]
        x = resnet.maxpool(x)
        for number in range(1, 5):
            x = getattr(resnet, f"layer{number}")(x)
            features.append(x)
        torch.testing.assert_close(model_(image), model_.head(model_.decoder(features)))
