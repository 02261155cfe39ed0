"""Options as structs: what belongs together, what is refused, and that version 1's files are read unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from petseg.runs.encoder_options import WITH_WEIGHTS
from petseg.runs.option_fields import check_fields
from petseg.runs.recipe import (
    LR_OF_ADAM,
    RuntimeOptions,
    apply_options,
    default_recipe,
    default_size,
    differences,
    recipe_from,
)
from petseg.training.progress import Progress
from shards.errors import UsageError

UNET, RUNTIME = default_recipe("unet"), RuntimeOptions(shards="set")


def test_an_encoder_with_weights_has_a_recipe_of_its_own() -> None:
    """Also an encoder of which a file alone says that it has weights; options win, and a run keeps what it has."""
    plain, _ = apply_options(UNET, RUNTIME, {"encoder": "resnet18"})
    plain.check()
    assert plain == msgspec.structs.replace(UNET, model=plain.model)  # from noise: as without an encoder
    assert plain.network_text == "unet with resnet18 from noise"
    for options in ({"encoder_weights": "imagenet"}, {"pretrained": True}, {"encoder_weights": "w.pth"}):
        recipe, _ = apply_options(UNET, RUNTIME, {"encoder": "resnet18", **options})
        recipe.check()
        assert {name: getattr(recipe, name) for name in WITH_WEIGHTS} == WITH_WEIGHTS
        # As --resume does, with options repeated or not; also of a run that was started by other defaults.
        older = msgspec.structs.replace(recipe, encoder_freeze_stride=0, batch_size=16, epochs=80)
        for run in (recipe, older):
            assert apply_options(run, RUNTIME, {"encoder": "resnet18", **options})[0] == run
            assert apply_options(run, RUNTIME, {})[0] == run
        own = {"encoder_lr": 0.5, "encoder_freeze_stride": 0, "batch_size": 16, "epochs": 3, "augment": "none"}
        given, _ = apply_options(UNET, RUNTIME, {"encoder": "resnet18", **options, **own})
        assert {name: getattr(given, name) for name in own} == own
    assert Path(recipe.encoder_weights) == Path.cwd() / "w.pth"
    assert recipe.network_text == "unet with resnet18 from w.pth"
    both = msgspec.structs.replace(recipe, init_from="/runs/a")  # whose encoder replaces the file's, if it has one
    assert both.network_text == "unet with resnet18 from w.pth, then /runs/a"


def test_the_encoders_of_version_1_are_torchvisions() -> None:
    document = msgspec.to_builtins(UNET)
    document["model"] |= {"encoder": "resnet34", "stem": "full", "join": "concat", "pretrained": True}
    for name in ("decoder_widths", "input_scale", "classes"):
        del document["model"][name]
    for name in ("encoder_weights", "encoder_sha256", "encoder_lr", "encoder_freeze", "encoder_freeze_stride", "fit"):
        del document[name]
    recipe = recipe_from({**document, "size": 128})
    recipe.check()
    assert recipe.model.encoder == "torchvision/resnet34"
    assert recipe.encoder_weights == "imagenet"
    assert recipe.encoder_lr is None  # it was trained like the rest
    assert recipe_from(msgspec.to_builtins(recipe)) == recipe
    # Resumed with its own options.
    assert apply_options(recipe, RUNTIME, {"encoder": "resnet34", "pretrained": True})[0] == recipe
    changed, _ = apply_options(recipe, RUNTIME, {"encoder": "resnet18"})
    assert differences(recipe, changed)[0] == "encoder is torchvision/resnet34, not resnet18"


def test_each_optimizer_has_a_default_learning_rate() -> None:
    for optimizer in ("adam", "adamw"):
        recipe, _ = apply_options(UNET, RUNTIME, {"optimizer": optimizer})
        recipe.check()
        assert recipe.lr == LR_OF_ADAM
        assert apply_options(recipe, RUNTIME, {"optimizer": optimizer})[0] == recipe  # as --resume does
        assert apply_options(UNET, RUNTIME, {"optimizer": optimizer, "lr": 0.1})[0].lr == 0.1
    assert apply_options(UNET, RUNTIME, {"optimizer": "muon"})[0] == UNET
    tutorial, _ = apply_options(default_recipe("tutorial"), RUNTIME, {"optimizer": "adamw"})
    assert tutorial.lr == default_recipe("tutorial").lr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer='sgd': choose from adam, adamw, muon"),
        ({"epochs": "7"}, "epochs='7': give a whole number from 1 to 1000000"),
        ({"lr": float("nan")}, "lr=nan: give a number above 0"),
        ({"lr": float("inf")}, "lr=inf: give a number above 0"),
        ({"lr": True}, "lr True: give a number above 0"),
        ({"lr": "0.1"}, "lr='0.1': give a number above 0"),
        ({"schedule": "linear"}, "schedule='linear': choose from"),
        ({"epochs": True}, "epochs True: give a whole number"),
        ({"epochs": 2.0}, "epochs=2.0: give a whole number"),
        ({"epochs": None}, "epochs=None: give a whole number"),
        ({"progressive": 1}, "progressive=1: expected true or false"),
        ({"clip_norm": float("inf")}, "clip_norm=inf: give a number of at least 0"),
        ({"dropout": float("nan")}, "dropout=nan"),
        ({"warmup": -0.1}, "warmup=-0.1: give a number from 0 to 1"),
        ({"ema_decay": "off"}, "ema_decay='off': give a number from 0 to 0.999999, or auto"),
        ({"threads": 0}, "threads=0: give a whole number from 1 to 1024, or auto"),
        ({"device": 0}, "device=0: expected text"),
        ({"model": "resnet"}, "model='resnet': choose from unet, tutorial"),
        ({"model": ["unet"]}, "model=['unet']: choose from unet, tutorial"),
        ({"blocks": "2"}, "blocks='2': give a whole number"),
        ({"widths": [8, 16.5]}, "widths=[8, 16.5]: expected a list of whole numbers"),
        ({"encoder": 18}, "encoder=18: expected text"),
        ({"encoder_weights": 3}, "encoder_weights=3: expected text"),
        ({"pretrained": "yes"}, "pretrained='yes': expected true or false"),
        ({"crop_scale": 0.5}, "crop_scale=0.5: expected a list of numbers"),
        ({"init_from": 3}, "init_from=3: expected text"),
        ({"on_error": "raise"}, "on_error='raise': choose from stop, replace"),
        ({"max_damaged": -1}, "max_damaged=-1: give a whole number of at least 0"),
        ({"batch_size": 8, "accumulate": 9}, "accumulate=9: give a number from 1 to 8"),
        ({"checkpoint_minutes": -1.0}, "checkpoint_minutes=-1.0: give a number of at least 0"),
        ({"rank_timeout": 0}, "rank_timeout=0: give a number above 0, to 1440"),
        ({"rank_timeout": 1441.0}, "rank_timeout=1441.0: give a number above 0, to 1440"),
        ({"tensorboard": 3}, "tensorboard=3: expected true or false"),
        ({"widths": "8,16"}, "widths='8,16': expected a list of whole numbers"),
        ({"colour": 1}, "no such option: colour"),
        ({"classes": 3}, "no such option: classes"),  # the set decides
        ({"size": "96x"}, "size='96x': give N or HxW"),
        ({"size": (96, 16)}, "size=(96, 16): give N or HxW"),
        ({"size": 4096}, "each side from 32 to 2048"),
        ({"encoder_weights": "imagenet"}, "encoder_weights needs encoder"),
        ({"encoder_lr": 0.1}, "encoder_lr needs encoder"),
        ({"encoder_freeze": 2}, "encoder_freeze needs encoder"),
        ({"encoder": "resnet18", "encoder_freeze": -1}, "encoder_freeze=-1: give a whole number of at least 0"),
        ({"encoder": "resnet18", "pretrained": True, "encoder_weights": "none"}, "give one of them"),
        ({"encoder_sha256": "0"}, "no such option: encoder_sha256"),
        ({"fit": "squash"}, "fit='squash': choose from stretch, cover, contain"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_values_from_python_are_refused(options: dict[str, Any], message: str) -> None:
    def apply_and_check() -> None:
        recipe, runtime = apply_options(UNET, RUNTIME, options)
        recipe.check()
        check_fields(runtime)

    with pytest.raises(UsageError) as error:
        apply_and_check()
    assert message in str(error.value)


def test_values_arrive_as_their_fields_have_them() -> None:
    options = {"lr": 1, "widths": [8, 16], "threads": "auto", "ema_decay": "auto", "init_from": Path("run")}
    recipe, runtime = apply_options(UNET, RUNTIME, options)
    assert (recipe.lr, type(recipe.lr)) == (1.0, float)
    assert recipe.model.widths == (8, 16)
    assert (recipe.ema_decay, runtime.threads) == (None, None)
    assert recipe.init_from == str(Path.cwd() / "run")


def test_sizes_are_written_in_several_ways() -> None:
    for size, expected in {96: (96, 96), "96": (96, 96), "96x160": (96, 160), (96, 160): (96, 160)}.items():
        recipe, _ = apply_options(UNET, RUNTIME, {"size": size})
        recipe.check()
        assert recipe.size == expected


def test_differences_name_the_options() -> None:
    other, _ = apply_options(
        UNET, RUNTIME, {"epochs": 7, "join": "concat", "ema_decay": 0.5, "size": "96x160", "fit": "cover"}
    )
    assert differences(UNET, other) == [
        "skip is sum, not concat",
        "size is 128, not 96x160",
        "fit is stretch, not cover",
        "epochs is 80, not 7",
        "ema_decay is auto, not 0.5",
    ]
    other, _ = apply_options(UNET, RUNTIME, {"widths": [8, 16], "crop_scale": (0.5, 2), "progressive": False})
    assert differences(UNET, other) == [
        "widths is 24,48,96,192,256, not 8,16",
        "crop_scale is none, not 0.5,2",
        "progressive is yes, not no",
    ]
    assert differences(UNET, UNET) == []


def test_the_files_of_version_1_are_read() -> None:
    model = {"name": "unet", "widths": [24, 48], "stem": "half", "blocks": 1, "norm": "batch", "upsample": "bilinear"}
    model |= {"join": "add", "dropout": 0.0, "encoder": "none", "pretrained": False}
    recipe = {"model": model, "size": 128, "progressive": True, "epochs": 80, "batch_size": 16, "accumulate": 1}
    recipe |= {"optimizer": "muon", "lr": 0.008, "schedule": "onecycle", "warmup": 0.15, "weight_decay": 0.02}
    recipe |= {"dice_weight": 1.0, "class_weights": "none", "label_smoothing": 0.0, "augment": "strong"}
    recipe |= {"ema_decay": None, "clip_norm": 1.0, "validate_every": 1, "patience": 0, "seed": 0, "precision": "auto"}
    running = {"shards": "/s", "device": "auto", "threads": None, "prefetch": 2, "engine": "auto", "compile": False}
    running |= {"checkpoint_minutes": 5.0, "checkpoint_steps": 0, "tensorboard": False}
    position = {"epoch": 1, "phase": "train", "step": 30, "finished": False, "best_score": 0.25, "best_epoch": 1}
    position |= {"stale_epochs": 0, "seconds": 9.5, "loss_sum": 40.5, "pictures": 80}
    position |= {"confusion": [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "train_seconds": 3.5, "wait_seconds": 0.5}
    current_model = {name: value for name, value in model.items() if name != "pretrained"}
    current_model |= {"decoder_widths": [], "input_scale": 1.0, "classes": 3}
    current = {**recipe, "model": current_model, "size": [128, 128], "fit": "stretch", "crop_scale": None}
    current |= {"encoder_weights": "none", "encoder_sha256": "", "encoder_lr": None, "encoder_freeze": 0}
    current |= {"encoder_freeze_stride": 0, "init_from": None, "drop_last": False, "decode": "full"}
    current |= {"shuffle": "global", "shuffle_window": 16, "plain_share": 0.0}
    assert msgspec.json.decode(msgspec.json.encode(recipe_from(recipe))) == current
    assert recipe_from(current) == recipe_from(recipe)
    assert msgspec.to_builtins(msgspec.convert(running, RuntimeOptions)) == {
        **running,
        "cuda_graph": None,
        "log_every": None,
        "checkpoint_epochs": 1,
        "stop_signal": "",
        "logger": (),
        "on_error": "stop",
        "max_damaged": 10,
        "fetch": "auto",
        "cache": "",
        "cache_bytes": "",
        "rank_timeout": 10.0,
    }
    assert msgspec.to_builtins(msgspec.convert(position, Progress)) == {**position, "skipped": 0}
    assert msgspec.convert(position, Progress).images == 80


@pytest.mark.parametrize(
    ("stored", "unet", "tutorial"),
    [
        (None, (128, 128), (100, 100)),  # source
        ((128, 128), (128, 128), (100, 100)),
        ((96, 160), (96, 160), (96, 160)),
        ((100, 100), (100, 100), (100, 100)),
        ((32, 512), (32, 512), (32, 512)),
        ((31, 128), (128, 128), (100, 100)),  # too small for the network
        ((128, 513), (128, 128), (100, 100)),  # so large that every step would be slow
    ],
    ids=str,
)
def test_the_default_size_is_the_sets(stored, unet, tutorial) -> None:
    assert default_size(UNET, stored) == unet
    assert default_size(default_recipe("tutorial"), stored) == tutorial
