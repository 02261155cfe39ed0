"""Which test exercises which option: every option of every command stands here, and every test named here exists."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import click
import pytest

from petseg.cli import evaluate, export, predict, train

RUNS, LEARNER, RESUME, MODELS = "test_runs.py", "test_learner.py", "test_resume.py", "test_models.py"
PREDICT, EXPORT, RANKS, HERE = "test_predict.py", "test_export.py", "test_distributed.py", "test_options.py"
KNOB = (LEARNER, "test_every_knob_moves_the_weights")
LINE = (RUNS, "test_the_command_prints_a_line_an_epoch_or_json")
WIRED = (HERE, "test_every_option_of_train_arrives")
SCORES = (RUNS, "test_evaluation_options")
MASKS = (PREDICT, "test_masks_have_the_pictures_size_and_the_trimaps_values")
PYTHON = (PREDICT, "test_five_lines_of_python_give_the_same")

TESTED: dict[str, dict[str, tuple[str, str]]] = {
    "train": {
        "--shards": LINE,
        "--run": LINE,
        "--resume": (RESUME, "test_signals_checkpoint_and_say_how_to_go_on"),
        "--model": (RUNS, "test_the_tutorials_recipe_trains"),
        "--json": LINE,
        "--size": LINE,
        "--progressive": (RESUME, "test_interrupted_again_and_again"),
        "--epochs": LINE,
        "--batch-size": LINE,
        "--accumulate": (LEARNER, "test_accumulation_gives_the_same_step"),
        "--lr": KNOB,
        "--optimizer": KNOB,
        "--schedule": KNOB,
        "--warmup": KNOB,
        "--weight-decay": KNOB,
        "--dice-weight": KNOB,
        "--class-weights": KNOB,
        "--label-smoothing": KNOB,
        "--augment": (HERE, "test_augmentation_changes_what_is_learnt"),
        "--ema-decay": (LEARNER, "test_the_average_is_what_is_kept"),
        "--clip-norm": (LEARNER, "test_clipping_shortens_the_step"),
        "--validate-every": (RUNS, "test_validating_less_often"),
        "--patience": (RUNS, "test_patience_stops_early"),
        "--seed": KNOB,
        "--precision": KNOB,
        "--widths": LINE,
        "--stem": (MODELS, "test_any_size_gives_logits_of_that_size"),
        "--blocks": (MODELS, "test_any_size_gives_logits_of_that_size"),
        "--norm": (MODELS, "test_any_size_gives_logits_of_that_size"),
        "--upsample": (MODELS, "test_any_size_gives_logits_of_that_size"),
        "--join": (MODELS, "test_any_size_gives_logits_of_that_size"),
        "--dropout": (MODELS, "test_dropout_is_wired"),
        "--encoder": (MODELS, "test_any_size_gives_logits_of_that_size"),
        "--pretrained": (MODELS, "test_pretrained_weights_are_those_of_torchvision"),
        "--device": (RANKS, "test_two_ranks_equal_one"),
        "--threads": LINE,
        "--prefetch": (RESUME, "test_what_may_change_when_resuming_may"),
        "--engine": (HERE, "test_the_other_engine_trains"),
        "--compile": (RUNS, "test_compiling_on_a_cpu_is_told_not_refused"),
        "--checkpoint-minutes": (RUNS, "test_checkpoints_within_an_epoch"),
        "--checkpoint-steps": (RUNS, "test_checkpoints_within_an_epoch"),
        "--tensorboard": (RUNS, "test_tensorboard"),
    },
    "evaluate": {
        "--shards": SCORES,
        "--split": SCORES,
        "--batch-size": SCORES,
        "--original-resolution": (RUNS, "test_scores_are_those_of_an_independent_count"),
        "--flip-tta": SCORES,
        "--csv": (RUNS, "test_scores_are_those_of_an_independent_count"),
        "--size": SCORES,
        "--device": SCORES,
        "--precision": SCORES,
        "--json": SCORES,
    },
    "predict": {
        "-o": MASKS,
        "--overlay": PYTHON,
        "--probabilities": MASKS,
        "--overwrite": (PREDICT, "test_results_are_replaced_only_when_asked"),
        "--batch-size": (HERE, "test_prediction_options"),
        "--flip-tta": PYTHON,
        "--size": (HERE, "test_prediction_options"),
        "--device": PYTHON,
        "--precision": (HERE, "test_prediction_options"),
        "--json": (PREDICT, "test_results_are_replaced_only_when_asked"),
    },
    "export": {"--size": (EXPORT, "test_takes_pictures_as_they_are_in_any_number"), "--json": (EXPORT, "test_json")},
}
COMMANDS = {"train": train, "evaluate": evaluate, "predict": predict, "export": export}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_tested(name: str) -> None:
    options = {p.opts[0] for p in COMMANDS[name].params if isinstance(p, click.Option)}
    assert set(TESTED[name]) == options
    for option, (file, test) in TESTED[name].items():
        assert f"def {test}(" in (Path(__file__).parent / file).read_text(), option


def test_every_option_of_train_arrives() -> None:
    """Each option of the recipe, the network and the running changes the field of its name, and only that."""
    import msgspec

    from petseg.runs.recipe import RuntimeOptions, default_recipe
    from petseg.runs.recipe import apply_options

    recipe, running = default_recipe("unet"), RuntimeOptions(shards="s")
    before = {**msgspec.to_builtins(recipe), **msgspec.to_builtins(running)}
    outside = {"shards", "run", "resume", "model", "as_json"}
    for parameter in train.params:
        if not isinstance(parameter, click.Option) or parameter.name in outside:
            continue
        assert parameter.name == parameter.opts[0].removeprefix("--").replace(
            "-", "_"
        )  # what the shell says is its field
        changed = apply_options(recipe, running, {str(parameter.name): "changed"})
        after = {**msgspec.to_builtins(changed[0]), **msgspec.to_builtins(changed[1])}
        flat = {name: value for name, value in after.items() if before[name] != value}
        if "model" in flat:
            flat = {name: v for name, v in flat["model"].items() if before["model"][name] != v}
        if parameter.name == "encoder":
            assert flat.pop("stem") == "full"  # of an encoder of its own
        assert flat == {parameter.name: "changed"}


def test_help_is_quick_and_names_every_default() -> None:
    import subprocess
    import sys

    code = (
        "import sys, petseg.cli\n"
        "from click.testing import CliRunner\n"
        "for command in (petseg.cli.train, petseg.cli.evaluate, petseg.cli.predict, petseg.cli.export):\n"
        "    context = command.make_context('x', [], resilient_parsing=True)\n"
        "    command.get_help(context)\n"
        "heavy = {'torch', 'matplotlib', 'nvidia', 'PIL', 'torchvision'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for parameter in train.params:
        if isinstance(parameter, click.Option) and parameter.help and not parameter.is_flag:
            assert "[default: " in parameter.help or parameter.name == "shards", parameter.name


def test_defaults_in_the_help_are_the_recipes() -> None:
    from petseg.runs.recipe import default_recipe
    from petseg.runs.recipe import LR_OF_ADAM

    texts = {p.name: p.help for p in train.params if isinstance(p, click.Option)}
    unet, tutorial = default_recipe("unet"), default_recipe("tutorial")
    lr = f"[default: unet {unet.lr:g}, {LR_OF_ADAM:g} with adam and adamw; tutorial {tutorial.lr:g}]"
    assert lr in (texts["lr"] or "")
    for name in ("size", "epochs", "batch_size", "dice_weight", "augment", "clip_norm", "optimizer"):
        ours, theirs = getattr(unet, name), getattr(tutorial, name)
        words = f"unet {ours}, tutorial {theirs}" if isinstance(ours, str) else f"unet {ours:g}, tutorial {theirs:g}"
        assert f"[default: {words}]" in (texts[name] or ""), name
    assert "[default: unet yes]" in (texts["progressive"] or "")
    assert (unet.progressive, tutorial.progressive) == (True, False)
    assert f"[default: {unet.model.stem}; full with --encoder]" in (texts["stem"] or "")
    assert f"[default: {unet.model.join}]" in (texts["join"] or "")
    assert f"[default: {unet.warmup}]" in (texts["warmup"] or "")
    assert f"[default: {unet.weight_decay}]" in (texts["weight_decay"] or "")
    assert f"[default: {','.join(map(str, unet.model.widths))}]" in (texts["widths"] or "")


def test_an_encoder_needs_no_stem_beside_it() -> None:
    from petseg.runs.recipe import RuntimeOptions, default_recipe
    from petseg.runs.recipe import apply_options

    recipe, _ = apply_options(default_recipe("unet"), RuntimeOptions(shards="set"), {"encoder": "resnet18"})
    recipe.check()
    assert recipe.model.stem == "full"
    again, _ = apply_options(recipe, RuntimeOptions(shards="set"), {"encoder": "resnet18"})  # as --resume does
    assert again == recipe


def test_each_optimizer_has_a_learning_rate_of_its_own() -> None:
    from petseg.runs.recipe import RuntimeOptions, default_recipe
    from petseg.runs.recipe import LR_OF_ADAM, apply_options

    unet, running = default_recipe("unet"), RuntimeOptions(shards="set")
    for optimizer in ("adam", "adamw"):
        recipe, _ = apply_options(unet, running, {"optimizer": optimizer})
        recipe.check()
        assert recipe.lr == LR_OF_ADAM
        assert apply_options(recipe, running, {"optimizer": optimizer})[0] == recipe  # as --resume does
        assert apply_options(unet, running, {"optimizer": optimizer, "lr": 0.1})[0].lr == 0.1
    assert apply_options(unet, running, {"optimizer": "muon"})[0] == unet
    tutorial, _ = apply_options(default_recipe("tutorial"), running, {"optimizer": "adamw"})
    assert tutorial.lr == default_recipe("tutorial").lr


def test_augmentation_changes_what_is_learnt(made_up_set: Path, tmp_path: Path) -> None:
    import torch

    import petseg
    from petseg.runs.checkpoint import load_checkpoint

    options = {"size": 32, "widths": (8, 16), "epochs": 1, "batch_size": 8, "threads": 1}
    heads = []
    for augment in ("none", "train", "strong"):
        run = petseg.train(made_up_set, run=tmp_path / augment, options={**options, "augment": augment})
        heads.append(load_checkpoint(run / "last.pt").model["head.weight"])
    assert not any(torch.equal(a, b) for a, b in combinations(heads, 2))


def test_the_other_engine_trains(call, made_up_set: Path, tmp_path: Path) -> None:
    arguments = ["--size", "32", "--widths", "8,16", "--epochs", "1", "--engine", "torch"]
    result = call(train, "--shards", made_up_set, "--run", tmp_path / "run", *arguments)
    assert result.code == 0, result.err


def test_prediction_options(call, tiny_run: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    for name in "abc":
        Image.fromarray(np.random.default_rng(ord(name)).integers(0, 256, (40, 50, 3), np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    masks = {}
    for label, arguments in {
        "plain": [],
        "one": ["--batch-size", 1],
        "large": ["--size", 96],
        "half": ["--precision", "bf16"],
    }.items():
        result = call(
            predict,
            tiny_run,
            str(tmp_path / "*.png"),
            "-o",
            tmp_path / label,
            "--no-overlay",
            "--probabilities",
            *arguments,
        )
        assert result.code == 0, result.err
        masks[label] = np.stack(
            [np.load(tmp_path / label / f"{name}.probabilities.npz")["probabilities"] for name in "abc"]
        )
    np.testing.assert_allclose(masks["one"], masks["plain"], atol=1e-5)
    assert np.abs(masks["large"] - masks["plain"]).max() > 1e-4
    assert 0 < np.abs(masks["half"] - masks["plain"]).max() < 0.1
