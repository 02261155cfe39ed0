"""Bad input through the command line: one clear line, a non-zero exit, nothing harmed."""

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from petseg.cli import evaluate, export, predict, train


def check(result, *parts: str) -> None:
    assert result.code != 0
    assert result.out == ""
    (line,) = result.err.strip().splitlines()
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--shards"]),
        (["--resume"], ["--run"]),
        (["--shards", "nowhere"], ["no such folder", "nowhere", "petseg-shard build"]),
        (["--shards", "SET", "--size", "0"], ["--size 0"]),
        (["--shards", "SET", "--size", "31"], ["--size 31", "32"]),
        (["--shards", "SET", "--epochs", "0"], ["--epochs"]),
        (["--shards", "SET", "--batch-size", "0"], ["--batch-size"]),
        (["--shards", "SET", "--lr", "0"], ["--lr"]),
        (["--shards", "SET", "--lr", "nan"], ["--lr"]),
        (["--shards", "SET", "--warmup", "2"], ["--warmup"]),
        (["--shards", "SET", "--dice-weight", "-1"], ["--dice-weight"]),
        (["--shards", "SET", "--label-smoothing", "1"], ["--label-smoothing"]),
        (["--shards", "SET", "--ema-decay", "1"], ["--ema-decay"]),
        (["--shards", "SET", "--ema-decay", "x"], ["--ema-decay", "valid float, nor auto"]),
        (["--shards", "SET", "--threads", "x"], ["--threads", "valid integer, nor auto"]),
        (["--shards", "SET", "--size", "20x5000"], ["--size 20x5000: give"]),
        (["--shards", "SET", "--clip-norm", "-1"], ["--clip-norm"]),
        (["--shards", "SET", "--patience", "-1"], ["--patience"]),
        (["--shards", "SET", "--seed", "-1"], ["--seed"]),
        (["--shards", "SET", "--validate-every", "0"], ["--validate-every"]),
        (["--shards", "SET", "--accumulate", "99"], ["--accumulate"]),
        (["--shards", "SET", "--threads", "0"], ["--threads"]),
        (["--shards", "SET", "--prefetch", "0"], ["--prefetch"]),
        (["--shards", "SET", "--checkpoint-minutes", "-1"], ["--checkpoint-minutes"]),
        (["--shards", "SET", "--optimizer", "adam", "--weight-decay", "1"], ["adamw"]),
        (["--shards", "SET", "--widths", "a,b"], ["--widths"]),
        (["--shards", "SET", "--model", "tutorial", "--blocks", "2"], ["tutorial"]),
        (["--shards", "SET", "--model", "resnet"], ["--model"]),
        (["--shards", "SET", "--device", "cuda:99"], ["--device"]),
        (["--shards", "SET", "--device", "toaster"], ["--device toaster"]),
        (["--shards", "SET", "--device", "cpu", "--precision", "fp16"], ["fp16", "bf16"]),
        (["--shards", "SET", "--engine", "dali", "--decode", "scaled"], ["decode='scaled' works with engine torch"]),
        (["--shards", "SET", "--encoder", "resnet18", "--decoder-widths", "8"], ["names 1 level; with", "has 4"]),
        (["--shards", "SET", "--run", "FILE"], ["--run", "is a file"]),
        (["--shards", "SET", "--run", "FILE/below"], ["not a folder"]),
        (["--shards", "SET", "--run", "FULL"], ["not empty"]),
        (["--shards", "EMPTY"], ["no finished shard set"]),
        (["--resume", "--run", "nowhere"], ["no such run"]),
        (["--resume", "--run", "EMPTY"], ["no run"]),
    ],
    ids=" ".join,
)
def test_train(call, synthetic_set: Path, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    names = {"SET": synthetic_set, "FILE": tmp_path / "file", "EMPTY": tmp_path / "empty", "FULL": tmp_path / "full"}
    words = [str(names.get(word, word)).replace("FILE/", f"{tmp_path / 'file'}/") for word in arguments]
    if "--run" not in words and "--resume" not in words:
        words += ["--run", str(tmp_path / "run")]
    check(call(train, *words), *parts)
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("program", [train, evaluate, predict, export], ids=lambda program: program.name)
def test_what_click_refuses_is_printable_too(call, program) -> None:
    check(call(program, "--colour", "red"), "--colour", "See: petseg --help")
    check(call(program, "--size", "large"), "--size", "'large'", "See: petseg --help")


def test_shards_of_another_version(call, synthetic_set: Path, tmp_path: Path) -> None:
    copy = tmp_path / "set"
    shutil.copytree(synthetic_set, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))
    check(call(train, "--shards", copy, "--run", tmp_path / "run"), "version 99")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_no_cuda_here(call, synthetic_set: Path, tmp_path: Path) -> None:
    check(call(train, "--shards", synthetic_set, "--run", tmp_path / "r", "--device", "cuda"), "no CUDA device")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_compiling_without_a_compiler(call, synthetic_set: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    check(call(train, "--shards", synthetic_set, "--run", tmp_path / "r", "--compile"), "no-such-compiler", "--compile")
    assert not (tmp_path / "r").exists()


@pytest.fixture
def own_run(tiny_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_run, tmp_path / "tiny")


def test_a_run_is_never_overwritten(call, synthetic_set: Path, own_run: Path) -> None:
    before = (own_run / "last.pt").read_bytes()
    check(call(train, "--shards", synthetic_set, "--run", own_run), "already contains a run", "--resume")
    assert (own_run / "last.pt").read_bytes() == before


def test_resuming_with_what_does_not_fit_says_which(call, own_run: Path) -> None:
    result = call(train, "--resume", "--run", own_run, "--lr", "0.5", "--epochs", "9", "--model", "tutorial")
    check(result, "--lr is 0.01, not 0.5", "--epochs is 2, not 9", "--model is unet, not tutorial")
    check(call(train, "--resume", "--run", own_run / "last.pt"), f"is a file; give the run's folder, {own_run}")


@pytest.fixture
def started_run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run that was killed before its first checkpoint."""
    run = tmp_path / "started"
    run.mkdir()
    shutil.copy(tiny_run / "config.json", run)
    return run


def test_resuming_with_other_data(
    call, own_run: Path, started_run: Path, synthetic_pets: Path, tmp_path: Path, command
) -> None:
    other = tmp_path / "other"
    command("petseg-shard", "build", synthetic_pets, other, "--split", "random", "--seed", "5", "--workers", "1")
    check(call(train, "--resume", "--run", own_run, "--shards", other), "other data")  # it is finished
    assert call(train, "--resume", "--run", own_run, "--shards", tmp_path / "gone").code == 0
    check(call(train, "--resume", "--run", started_run, "--shards", other), "other data")


def test_two_processes_on_one_run(call, started_run: Path) -> None:
    from petseg.runs.run_folder import RunFolder

    folder = RunFolder(started_run)
    try:
        check(call(train, "--resume", "--run", started_run), "in use")
    finally:
        folder.close()


def test_damaged_checkpoint(call, tiny_run: Path, synthetic_set: Path, tmp_path: Path) -> None:
    broken = tmp_path / "run"
    shutil.copytree(tiny_run, broken)
    data = bytearray((broken / "best.pt").read_bytes())
    with zipfile.ZipFile(broken / "best.pt") as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
    data[entry.header_offset + entry.file_size] ^= 1  # in the entry's data, not in its header, which nobody reads
    (broken / "best.pt").write_bytes(data)
    (broken / "last.pt").write_bytes(data[:100])
    check(call(evaluate, broken, "--shards", synthetic_set), "best.pt", "damaged")
    check(call(train, "--resume", "--run", broken), "last.pt", "damaged")
    check(call(export, broken, tmp_path / "a.onnx"), "damaged")
    (broken / "config.json").write_text("{")
    check(call(train, "--resume", "--run", broken), "config.json", "damaged")


def test_evaluate(call, tiny_run: Path, synthetic_set: Path, tmp_path: Path) -> None:
    check(call(evaluate, tmp_path / "nowhere", "--shards", synthetic_set), "no such run")
    check(call(evaluate, tmp_path, "--shards", synthetic_set), "no checkpoint", "it is no run")
    check(call(evaluate, tiny_run, "--shards", tmp_path), "no finished shard set")
    check(call(evaluate, tiny_run, "--shards", synthetic_set, "--split", "dev"), "no split 'dev'", "--split test")
    check(call(evaluate, tiny_run, "--shards", synthetic_set, "--batch-size", 0), "--batch-size")
    check(call(evaluate, tiny_run, "--shards", synthetic_set, "--size", 5), "--size 5")


def test_predict(call, tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    image = tmp_path / "cat.png"
    Image.new("RGB", (40, 30), "red").save(image)
    check(call(predict, tiny_run, tmp_path / "nope.jpg", "-o", out), "nope.jpg")
    check(call(predict, tiny_run, "*.nothing", "-o", out), "no images match")
    (tmp_path / "empty").mkdir()
    check(call(predict, tiny_run, tmp_path / "empty", "-o", out), "no images in")
    check(call(predict, tmp_path / "run", image, "-o", out), "no such run")
    check(call(predict, tiny_run, image, "-o", tmp_path), "overwrite one of the images")
    check(call(predict, tiny_run, image, "-o", out, "--batch-size", 0), "--batch-size")
    assert not out.exists()
    (tmp_path / "file").write_text("mine")
    check(call(predict, tiny_run, image, "-o", tmp_path / "file"), "file is a file; choose another output folder")
    assert (tmp_path / "file").read_text() == "mine"


def test_export(call, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(call(export, tiny_run, tmp_path / "net.pb"), ".onnx")
    check(call(export, tiny_run, tmp_path / "no" / "net.onnx"), "there is no folder")
    from importlib import util

    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, package=None: None if name == "onnxscript" else real(name))
    check(call(export, tiny_run, tmp_path / "net.onnx"), "onnxscript", "pip install 'petseg[export]'")


@pytest.mark.parametrize("program", [train, evaluate, predict, export], ids=lambda program: program.name)
def test_the_short_spelling_of_help(call, program) -> None:
    short, long = call(program, "-h"), call(program, "--help")
    assert (short.code, short.out) == (0, long.out)
    assert "-h, --help" in short.out


@pytest.mark.parametrize("program", [train, evaluate, predict, export], ids=lambda program: program.name)
def test_help_has_no_empty_default_and_no_name_of_the_code(call, program) -> None:
    text = call(program, "--help").out
    assert "[default: ]" not in " ".join(text.split())
    assert not re.search(r"--[a-z-]+ (_[A-Z]|N\|HXW)", text)
    options = {name for each in program.params for name in each.opts if name.startswith("--")}
    assert options <= set(re.findall(r"--[a-z-]+", text))


def test_a_finished_run_is_told_how_to_score_it_without_its_set(
    call, own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("the set was opened")

    monkeypatch.setattr("shards.format.dataset.ShardSet.open", opened)
    result = call(train, "--resume", "--run", own_run)
    assert (result.code, f"score it with: petseg-eval {own_run} --shards" in result.out) == (0, True)


@pytest.mark.parametrize(
    ("place", "given"),
    [("/gone/pets shards", False), ("/gone/pets", True), ("s3://bucket/pets", False), ("SET", False), ("SET", True)],
)
def test_a_set_that_is_gone_is_not_named_to_score_a_finished_run(
    call, own_run: Path, synthetic_set: Path, place: str, *, given: bool
) -> None:
    place = str(synthetic_set) if place == "SET" else place
    config = json.loads((own_run / "config.json").read_text())
    config["running"]["shards"] = "/before" if given else place
    (own_run / "config.json").write_text(json.dumps(config))
    result = call(train, "--resume", "--run", own_run, *(["--shards", place] if given else []))
    assert result.code == 0, result.err
    told = result.out.strip().partition("score it with: ")[2]
    gone = f"petseg-eval {own_run} --shards SET (the set is no longer in {place}; SET is where it is now)"
    assert told == (gone if place.startswith("/gone") else f"petseg-eval {own_run} --shards {place}")


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (train, ("--shards", "SET", "--run", "ADDRESS")),
        (evaluate, ("ADDRESS", "--shards", "SET")),
        (evaluate, ("RUN", "--shards", "SET", "--csv", "ADDRESS")),
        (predict, ("RUN", "a.jpg", "-o", "ADDRESS")),
        (predict, ("RUN", "ADDRESS/a.jpg", "-o", "out")),
        (train, ("--shards", "SET", "--run", "r", "--encoder", "resnet18", "--encoder-weights", "ADDRESS/a.pt")),
        (export, ("RUN", "ADDRESS/a.onnx")),
    ],
)
def test_an_address_is_no_path(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Any, arguments: tuple[str, ...]
) -> None:
    """A run in a local folder named ``s3:`` is lost with its machine; and an address may hold a password."""
    monkeypatch.chdir(tmp_path)
    for address in ("s3://bucket/runs", "https://me:secret@host/x?sig=secret"):
        result = call(program, *(argument.replace("ADDRESS", address) for argument in arguments))
        assert result.code == 2
        assert "an address, where only a file or folder of this machine can be given" in result.err
        assert "secret" not in result.err
    assert not [*tmp_path.iterdir()]
