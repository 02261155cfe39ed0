"""Every option of petseg-train arrives in the run's configuration, and is read there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import torch

from petseg.cli import train
from petseg.host.distributed import World
from petseg.host.stop_signals import StopRequest
from petseg.loggers.run_loggers import make_loggers
from petseg.report.console_reporter import Reporter
from petseg.runs.encoder_options import SCALE_OF_SMALL, WITH_WEIGHTS
from petseg.runs.recipe import DECAY_OF_ADAMW, LR_OF_ADAM, Recipe, RuntimeOptions, apply_options, default_recipe
from petseg.runs.run_config import RunConfig
from petseg.runs.run_folder import create_run
from petseg.training import start, start_checks
from petseg.training.loop import TrainingLoop
from shards import ShardSet
from shards.cli.set_commands import info

# Each option with a valid value that is not the default, as the shell has it and as the field has it, and what else
# changes with it.
RESNET = {"encoder": "resnet18"}
VALUES: dict[str, tuple[list[str], Any, dict[str, Any]]] = {
    "size": (["--size", "96x160"], (96, 160), {}),
    "fit": (["--fit", "cover"], "cover", {}),
    "crop_scale": (["--crop-scale", "0.5,2"], (0.5, 2.0), {}),
    "progressive": (["--no-progressive"], False, {}),
    "epochs": (["--epochs", "7"], 7, {}),
    "batch_size": (["--batch-size", "12"], 12, {}),
    "drop_last": (["--no-drop-last"], False, {}),
    "shuffle": (["--shuffle", "block"], "block", {}),
    "shuffle_window": (["--shuffle", "block", "--shuffle-window", "5"], 5, {"shuffle": "block"}),
    "accumulate": (["--accumulate", "3"], 3, {}),
    "optimizer": (["--optimizer", "adamw"], "adamw", {"lr": LR_OF_ADAM, "weight_decay": DECAY_OF_ADAMW}),
    "lr": (["--lr", "0.5"], 0.5, {}),
    "schedule": (["--schedule", "cosine"], "cosine", {}),
    "warmup": (["--warmup", "0.3"], 0.3, {}),
    "weight_decay": (["--weight-decay", "0.7"], 0.7, {}),
    "dice_weight": (["--dice-weight", "2.5"], 2.5, {}),
    "class_weights": (["--class-weights", "balanced"], "balanced", {}),
    "label_smoothing": (["--label-smoothing", "0.25"], 0.25, {}),
    "decode": (["--decode", "scaled"], "scaled", {}),
    "augment": (["--augment", "train"], "train", {}),
    "plain_share": (["--plain-share", "0.5"], 0.5, {}),
    "ema_decay": (["--ema-decay", "0.75"], 0.75, {}),
    "clip_norm": (["--clip-norm", "4"], 4.0, {}),
    "validate_every": (["--validate-every", "5"], 5, {}),
    "patience": (["--patience", "6"], 6, {}),
    "seed": (["--seed", "8"], 8, {}),
    "precision": (["--precision", "bf16"], "bf16", {}),
    "widths": (["--widths", "16,32,64"], (16, 32, 64), {}),
    "stem": (["--stem", "full"], "full", {}),
    "blocks": (["--blocks", "2"], 2, {}),
    "norm": (["--norm", "group"], "group", {}),
    "upsample": (["--upsample", "transposed"], "transposed", {}),
    "join": (["--skip", "concat"], "concat", {}),
    "dropout": (["--dropout", "0.125"], 0.125, {}),
    "encoder": (["--encoder", "resnet18"], "resnet18", {}),
    "decoder_widths": (["--encoder", *RESNET.values(), "--decoder-widths", "8,8,8,8"], (8, 8, 8, 8), RESNET),
    "input_scale": (["--encoder", *RESNET.values(), "--input-scale", "2"], 2.0, RESNET),
    "encoder_weights": (
        ["--encoder", *RESNET.values(), "--pretrained"],
        "imagenet",
        {**RESNET, **WITH_WEIGHTS, "input_scale": SCALE_OF_SMALL},
    ),
    "encoder_lr": (["--encoder", *RESNET.values(), "--encoder-lr", "0.25"], 0.25, RESNET),
    "encoder_freeze": (["--encoder", *RESNET.values(), "--encoder-freeze", "2"], 2, RESNET),
    "encoder_freeze_stride": (["--encoder", *RESNET.values(), "--encoder-freeze-stride", "4"], 4, RESNET),
    "device": (["--device", "cpu"], "cpu", {}),
    "threads": (["--threads", "3"], 3, {}),
    "prefetch": (["--prefetch", "9"], 9, {}),
    "engine": (["--engine", "torch"], "torch", {}),
    "compile": (["--compile"], True, {}),
    "cuda_graph": (["--cuda-graph"], True, {}),
    "log_every": (["--log-every", "7"], 7, {}),
    "checkpoint_minutes": (["--checkpoint-minutes", "0.5"], 0.5, {}),
    "checkpoint_epochs": (["--checkpoint-epochs", "4"], 4, {}),
    "checkpoint_steps": (["--checkpoint-steps", "11"], 11, {}),
    "tensorboard": (["--tensorboard"], True, {}),
    "logger": (["--logger", "wandb,mlflow", "--logger", "wandb"], ("wandb", "mlflow"), {}),
    "stop_signal": (["--stop-signal", "USR2,SIGHUP"], "USR2,SIGHUP", {}),
    "on_error": (["--on-error", "replace"], "replace", {}),
    "max_damaged": (["--on-error", "replace", "--max-damaged", "3"], 3, {"on_error": "replace"}),
    "fetch": (["--fetch", "range"], "range", {}),
    "cache": (["--cache", "/tmp/cached"], "/tmp/cached", {}),
    "cache_bytes": (["--cache-bytes", "1.5GB"], "1.5GB", {}),
    "rank_timeout": (["--rank-timeout", "77"], 77.0, {}),
}
# Tested where commands are run.
OTHER_OPTIONS = {"shards", "run", "resume", "model", "as_json", "config", "init_from", "version"}


class Started(Exception):
    """The training loop would start now, with this configuration and this number of CPU threads."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.threads = config, torch.get_num_threads()


@pytest.fixture
def configure(synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``configure(*arguments)``: what a petseg-train command line hands to the training loop."""

    def start_loop(config: RunConfig, **arguments: Any) -> None:
        raise Started(config)

    monkeypatch.setattr(start, "_train", start_loop)
    monkeypatch.setattr("petseg.training.encoder_start.read_encoder_weights", lambda name, weights: None)
    monkeypatch.setenv("CXX", "true")  # --compile looks for a compiler; any program will do
    monkeypatch.setattr(start_checks, "check_graph", lambda placement, world: None)  # --cuda-graph needs a GPU

    def configure(*arguments: str) -> Started:
        with pytest.raises(Started) as started:
            train.main(args=["--shards", str(synthetic_set), "--run", str(tmp_path / "run"), *arguments])
        return started.value

    return configure


def fields(config: RunConfig) -> dict[str, Any]:
    recipe, runtime = msgspec.structs.asdict(config.recipe), msgspec.structs.asdict(config.runtime)
    model = msgspec.structs.asdict(recipe.pop("model"))
    assert not recipe.keys() & model.keys() | runtime.keys() & {*recipe, *model}
    return {**recipe, **model, **runtime}


def test_the_table_names_every_option() -> None:
    assert {p.name for p in train.params if isinstance(p, click.Option)} == {*VALUES, *OTHER_OPTIONS, "pretrained"}


@pytest.mark.parametrize("field", VALUES)
def test_every_option_arrives(configure, synthetic_set: Path, tmp_path: Path, field: str) -> None:
    arguments, value, others = VALUES[field]
    runtime = RuntimeOptions(shards=str(synthetic_set))
    placement = start_checks.check_options(default_recipe("unet"), runtime, World())
    before = fields(
        RunConfig(recipe=default_recipe("unet"), runtime=runtime, data=None, placement=placement, world=None)
    )
    assert before[field] != value
    started = configure(*arguments)
    after = fields(started.config)
    assert {name: value for name, value in after.items() if before[name] != value} == {field: value, **others}
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    flat = {**written["recipe"]["model"], **written["recipe"], **written["running"]}
    assert flat[field] == (list(value) if isinstance(value, tuple) else value)
    if field == "precision":
        assert started.config.placement.precision == value
    if field == "threads":
        assert started.threads == value
    if field == "device":
        assert str(started.config.placement.device) == value


@pytest.mark.parametrize(
    ("arguments", "scale"),
    [
        (["--pretrained", "--size", "160x96"], SCALE_OF_SMALL),
        (["--pretrained", "--size", "96x161"], 1.0),
        (["--pretrained", "--size", "96", "--input-scale", "1"], 1.0),
        (["--pretrained", "--size", "96", "--crop-scale", "1,2"], 1.0),
        (["--size", "96"], 1.0),
    ],
    ids=str,
)
def test_small_images_are_enlarged_before_an_encoder_with_weights(
    configure, arguments: list[str], scale: float
) -> None:
    assert configure("--encoder", "resnet18", *arguments).config.recipe.model.input_scale == scale


def test_the_model_decides_the_recipe(configure) -> None:
    assert configure("--model", "tutorial").config.recipe == default_recipe("tutorial")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--skip", "sum"], "add"),
        (["--skip", "add"], "add"),
        (["--join", "add"], "add"),
        (["--join", "concat"], "concat"),
    ],
    ids=" ".join,
)
def test_spellings_of_the_skip_connection(configure, arguments: list[str], field: str) -> None:
    arguments = ["--model", "unet", *arguments]
    assert configure(*arguments).config.recipe.model.join == field


def test_every_option_is_read(synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training reads each field at least once: the loop all but those that belong to the start."""
    read = set[str]()

    class ReadRecipe(Recipe):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    class ReadRuntime(RuntimeOptions):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    options = {"size": 32, "widths": (8, 16), "epochs": 1, "optimizer": "adamw", "threads": 1}
    recipe, runtime = apply_options(default_recipe("unet"), RuntimeOptions(shards=str(synthetic_set)), options)
    placement = start_checks.check_options(recipe, runtime, World())
    config = RunConfig(
        recipe=ReadRecipe(**msgspec.structs.asdict(recipe)),
        runtime=ReadRuntime(**msgspec.structs.asdict(runtime)),
        data=ShardSet.open(synthetic_set),
        placement=placement,
        world=World(),
    )
    folder = create_run(tmp_path / "run", model="unet")
    read.clear()
    arguments = {"path": folder.path, "reporter": Reporter(), "stop": StopRequest(), "resume_from": None}
    loggers = make_loggers(config, folder, note=Reporter().note)
    TrainingLoop(config, folder=folder, loggers=loggers, **arguments).run()
    folder.close()
    at_the_start = {"precision", "shards", "device", "threads", "stop_signal", "init_from"}  # tested elsewhere
    at_the_start |= {"fetch", "cache", "cache_bytes", "rank_timeout"}  # likewise
    at_the_start |= {"encoder_weights", "encoder_sha256"}  # checked above
    assert {*recipe.__struct_fields__, *runtime.__struct_fields__} - read == at_the_start


@pytest.mark.parametrize(
    ("arguments", "other", "message"),
    [
        (
            ["--warmup", "0.15", "--schedule", "cosine"],
            ["--schedule", "onecycle"],
            "--warmup is for --schedule",
        ),
        (["--warmup", "0", "--model", "tutorial"], ["--schedule", "onecycle"], "--warmup is for --schedule"),
        (
            ["--fit", "cover", "--crop-scale", "1,2"],
            None,
            "--fit is for whole images, and",
        ),
        (["--plain-share", "0.3", "--augment", "none"], ["--augment", "train"], "--plain-share is for --augment"),
        (["--patience", "3", "--validate-every", "80"], ["--epochs", "81"], "--patience needs validations before"),
        (["--max-damaged", "10"], ["--on-error", "replace"], "--max-damaged is for --on-error replace"),
        (["--max-damaged", "3", "--on-error", "stop"], None, "--max-damaged is for --on-error replace"),
        (["--logger", "none", "--tensorboard"], None, "--logger none leaves --tensorboard as it is"),
        (
            ["--logger", "tensorboard", "--no-tensorboard"],
            None,
            "--no-tensorboard leaves",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_would_change_nothing_are_refused(
    configure, call, synthetic_set: Path, tmp_path: Path, arguments: list[str], other: list[str] | None, message: str
) -> None:
    result = call(train, "--shards", synthetic_set, "--run", tmp_path / "run", *arguments)
    assert (result.code, message in result.err) == (2, True), result.err
    assert not (tmp_path / "run").exists()
    if other is not None:
        configure(*arguments, *other)


def test_a_file_may_hold_options_that_change_nothing(configure, tmp_path: Path) -> None:
    """A run's own file has all of them."""
    lines = ["warmup = 0.3", 'schedule = "cosine"', "max-damaged = 3", 'fit = "cover"', "crop-scale = [1, 2]"]
    (tmp_path / "all.toml").write_text("\n".join(lines))
    recipe = configure("--config", str(tmp_path / "all.toml")).config.recipe
    assert (recipe.warmup, recipe.fit, recipe.crop_scale) == (0.3, "cover", (1.0, 2.0))


@pytest.mark.parametrize(
    ("lines", "change", "advice"),
    [
        ('optimizer = "muon"\nweight-decay = 1', ["--optimizer", "adam"], ["--weight-decay", "0"]),
        ('shuffle = "block"\nshuffle-window = 4', ["--shuffle", "global"], ["--shuffle-window", "16"]),
    ],
    ids=["optimizer", "shuffle"],
)
def test_what_a_file_has_of_another_option_is_refused_with_the_value_to_give(
    configure, call, tmp_path: Path, lines: str, change: list[str], advice: list[str]
) -> None:
    (tmp_path / "all.toml").write_text(lines)
    arguments = ["--config", str(tmp_path / "all.toml"), *change]
    result = call(train, "--shards", tmp_path, "--run", tmp_path / "run", *arguments)
    assert (result.code, result.err.strip().endswith(f"give {' '.join(advice)}")) == (2, True), result.err
    configure(*arguments, *advice)


def test_info_counts_the_steps_of_the_trainers_batch() -> None:
    """The default of a package that does not know the trainer."""
    defaults = {parameter.name: parameter.default for parameter in info.params}
    assert defaults["batch_size"] == default_recipe("unet").batch_size


def test_help_states_the_defaults() -> None:
    texts = {p.name: p.help or "" for p in train.params if isinstance(p, click.Option)}
    for name, default in {
        "size": "the set's, where it has one of 32 to 512 a side, else 128; tutorial 100, or a smaller set's",
        "progressive": "unet yes, tutorial no",
        "epochs": "unet 80, with an encoder's weights 20; tutorial 5",
        "batch_size": "unet 16, with an encoder's weights 8; tutorial 32",
        "accumulate": "1",
        "optimizer": "unet muon, tutorial adam",
        "lr": "unet 0.008, 0.004 with adam and adamw; tutorial 0.001",
        "dice_weight": "unet 1, tutorial 0",
        "augment": "unet strong, with an encoder's weights train; tutorial none",
        "plain_share": "unet 0.15, with an encoder's weights 0; tutorial 0",
        "clip_norm": "unet 1, tutorial 0",
        "widths": "24,48,96,192,256",
        "stem": "half",
        "encoder_lr": "0.001; without weights that of the rest",
        "encoder_freeze_stride": "4; without weights 0",
        "join": "sum",
        "threads": "all cores",
        "checkpoint_minutes": "5",
    }.items():
        assert texts[name].endswith(f"[default: {default}]"), name
    for parameter in train.params:
        if isinstance(parameter, click.Option) and not parameter.is_flag:
            assert "[default: " in texts[parameter.name] or parameter.name == "shards", parameter.name
