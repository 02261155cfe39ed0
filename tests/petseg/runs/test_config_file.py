"""Configuration files: the names and values of the options, errors that name the place, and a run's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petseg.runs.config_file import read_config_file, write_config_text
from petseg.runs.option_fields import option_name
from petseg.runs.recipe import NO_OPTIONS, Recipe, RuntimeOptions, apply_options, default_recipe
from shards.errors import UsageError, command_line

FILE = """
shards = "pets shards"
run = "runs/street"
model = "unet"
size = "96x160"                # height x width
batch-size = 32
weight_decay = 0.5
lr = 1
widths = [16, 32]
skip = "sum"
progressive = false
ema-decay = "auto"
threads = 2
"stop-signal" = "USR2"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "street.toml"
    path.write_text(text)
    return path


def test_every_spelling_of_an_option(tmp_path: Path) -> None:
    options = read_config_file(write(tmp_path, FILE))
    assert (options.pop("shards"), options.pop("run")) == ("pets shards", "runs/street")
    recipe, runtime = apply_options(default_recipe("unet"), RuntimeOptions(shards="set"), options)
    recipe.check()
    assert recipe.size == (96, 160)
    assert (recipe.batch_size, recipe.weight_decay, recipe.lr, recipe.progressive) == (32, 0.5, 1.0, False)
    assert isinstance(recipe.lr, float)
    assert recipe.ema_decay is None
    assert (recipe.model.widths, recipe.model.join) == ((16, 32), "add")
    assert (runtime.threads, runtime.stop_signal) == (2, "USR2")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("epochs = 5\nepoch = 20", ["line 2", "no option epoch;", "did you mean epochs?"]),
        ("colour = 1", ["line 1", "no option colour"]),
        ("classes = 3", ["line 1", "no option classes"]),
        ('\n\nepochs = "20"', ["line 3", 'epochs = "20": give a whole number', "numbers are written without quotes"]),
        ("lr = '0.01'", ['lr = "0.01": give a number above 0; numbers are written without quotes']),
        ('batch_size = "8"', ['batch_size = "8": give a whole number', "without quotes"]),
        ('progressive = "false"', ['progressive = "false": expected true or false', "written without quotes"]),
        ('pretrained = "true"', ['pretrained = "true": expected true or false', "written without quotes"]),
        ('size = ["96", "160"]', ['size = ["96", "160"]: give [HEIGHT, WIDTH]', "without quotes, in brackets"]),
        ('crop-scale = "0.5,2"', ['crop-scale = "0.5,2": expected a list of numbers', "in brackets"]),
        ('widths = ["16", 32]', ['widths = ["16", 32]: expected a list of whole numbers', "without quotes"]),
        ("cache-bytes = 2000", ["cache-bytes = 2000: expected text; text is written in quotes"]),
        ("widths = ['a', 1979-05-27]", ["line 1", "list of whole numbers"]),
        ("epochs = 2.5", ["line 1", "--epochs 2.5"]),
        ("epochs = true", ["line 1", "--epochs True"]),
        ("epochs = 0", ["line 1", "--epochs 0", "from 1 to"]),
        ("lr = inf", ["line 1", "--lr inf"]),
        ("lr = nan", ["line 1", "--lr nan"]),
        ('optimizer = "sgd"', ["line 1", "--optimizer sgd", "adam, adamw, muon"]),
        ('model = "resnet"', ["line 1", "--model resnet", "unet, tutorial"]),
        ("progressive = 1", ["line 1", "--progressive 1", "true or false"]),
        ('widths = "16,32"', ["line 1", 'widths = "16,32": expected', "without quotes, in brackets"]),
        ('size = "96x"', ["line 1", "--size", "HxW"]),
        ('threads = "many"', ["line 1", 'threads = "many": give', "or auto; numbers are"]),
        ("batch-size = 3\nbatch_size = 4", ["line 2", "given twice"]),
        ('resume = "auto"', ["line 1", "command line"]),
        ("shards = 3", ["line 1", "path"]),
        ("[recipe]\nepochs = 3", ["line 1", "table"]),
        ("[[recipe]]\nepochs = 3", ["table"]),
        ("epochs = = 3", ["not TOML", "line 1"]),
        ("x = " + "[" * 100_000, ["not TOML"]),
        (f"epochs = {'9' * 5000}", ["not TOML", "limit"]),
        (f"epochs = 0x{'f' * 5000}", ["not TOML", "64 bits"]),
        (f"epochs.{'.'.join('a' * 100_000)} = 1", ["not TOML", "64 parts"]),
        (f"size.{'.'.join('a' * 30)} = 1", ["not TOML", "nested too deeply"]),
        ("epochs = 3\n" + "#" * (1 << 20), ["cannot be read", "bytes, more than"]),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_errors_name_file_line_and_option(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as error, command_line():
        read_config_file(path)
    message = str(error.value)
    assert message.startswith(str(path))
    for part in parts:
        assert part in message, message


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such configuration file"):
        read_config_file(tmp_path / "none.toml")
    with pytest.raises(UsageError, match=r"no such configuration file: .*config\.toml"):
        read_config_file(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"is not TOML; .* config\.toml"):
        read_config_file(tmp_path / "config.json")
    (tmp_path / "a.toml").write_bytes(b"# gr\xfcn")
    with pytest.raises(UsageError, match="is not UTF-8; save it as UTF-8"):
        read_config_file(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_bytes("epochs = 3\r\n".encode("utf-16"))
    assert read_config_file(tmp_path / "a.toml") == {"epochs": 3}


finite = st.floats(1e-12, 1e12)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["unet", "tutorial"]),
        "size": st.tuples(st.integers(32, 2048), st.integers(32, 2048)),
        "fit": st.sampled_from(["stretch", "cover", "contain"]),
        "progressive": st.booleans(),
        "epochs": st.integers(1, 1_000_000),
        "optimizer": st.sampled_from(["adam", "adamw", "muon"]),
        "lr": finite,
        "ema_decay": st.none() | st.just("auto") | st.floats(0, 0.9),
        "seed": st.integers(0, 2**63 - 1),
        "widths": st.lists(st.integers(1, 4096), min_size=2, max_size=6),
        "join": st.sampled_from(["add", "concat", "sum"]),
        "threads": st.none() | st.integers(1, 1024),
        "device": st.text(st.characters(exclude_categories=["Cs"])),
        "tensorboard": st.booleans(),
        "logger": st.lists(st.sampled_from(["wandb", "mlflow", "tensorboard"]), unique=True),
        "checkpoint_minutes": finite,
        "init_from": st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    },
)


@settings(max_examples=30)
@given(options=OPTIONS, shards=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_run_s_own_file_has_all_its_options(tmp_path_factory: Any, options: dict[str, Any], shards: str) -> None:
    start = default_recipe(options.get("model", "unet"))
    recipe, runtime = apply_options(start, RuntimeOptions(shards=shards), options)
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.toml").write_text(write_config_text(recipe, runtime))
    again = read_config_file(folder)
    named = RuntimeOptions(shards=again.pop("shards"))
    assert apply_options(default_recipe(again["model"]), named, again) == (recipe, runtime)


def test_the_file_names_every_option_that_has_a_value() -> None:
    text = write_config_text(default_recipe("unet"), RuntimeOptions(shards="set"))
    for struct in (Recipe, RuntimeOptions):
        for field in struct.__struct_fields__:
            if field not in {"init_from", "crop_scale", "cuda_graph", *NO_OPTIONS}:  # which have no value by default
                assert f"\n{option_name(field)[2:]} = " in text, field
    assert '\nskip = "sum"\n' in text


@pytest.mark.parametrize("line", ["{} = 1", "[{}]"])
def test_a_name_of_a_megabyte_is_not_repeated(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(line.format("a" * 1_000_000))
    with pytest.raises(UsageError, match=r"line 1: .*a\.\.\.a") as caught:
        read_config_file(path)
    assert len(str(caught.value)) < 500
