"""``petseg-shard`` as a user runs it: its output on stdout and stderr, and its errors."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_sources import Maker, encoded, options, tree

from shards.build.build_set import build
from shards.cli import main
from shards.format.labels import LabelClass, Labels, chosen_colour

Command = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.usefixtures("built_in_this_process")
COMMANDS = ("build", "download", "info", "labels", "preview", "sample", "verify")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    """``run("info", folder)``: the command in this process, which saves seconds of imports."""

    def run_here(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main.main([str(argument) for argument in arguments], prog_name="petseg-shard")
        captured = capsys.readouterr()
        assert caught.value.code == code, captured.err
        return subprocess.CompletedProcess(arguments, code, captured.out, captured.err)

    return run_here


def test_help_names_every_command(run: Command) -> None:
    text = run("--help").stdout
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert "..." not in text.split("Commands:")[1]  # every summary is shown whole


def test_the_whole_path(command: Command, run: Command, tiny_pets: Path, tmp_path: Path) -> None:
    """Build and verify with the installed command, in processes of their own; the rest in this one."""
    out, sheet = tmp_path / "out", tmp_path / "sheet.png"
    built = command("petseg-shard", "build", tiny_pets, out, "--samples-per-shard", "8", "--workers", "2")
    assert "30 of 30 images in 5 shards" in built.stdout
    assert "train 16, val 4, test 10" in built.stdout
    assert not built.stderr
    assert "as the manifest says (no sample was decoded)" in command("petseg-shard", "verify", out).stdout
    run("preview", out, sheet, "--count", "7", "--split", "test")
    assert Image.open(sheet).width > 300
    assert "30 samples in" in run("preview", out, tmp_path / "page.html").stdout
    assert "exists" in run("preview", out, tmp_path / "page.html", code=2).stderr
    run("preview", out, tmp_path / "page.html", "--overwrite", "--count", "9")
    assert "already complete" in run("build", tiny_pets, out, "--samples-per-shard", "8").stdout


@pytest.mark.parametrize("storage", ["jpeg", "raw"])
def test_every_build_option(run: Command, tiny_pets: Path, tmp_path: Path, storage: str) -> None:
    quality = ["--quality", "70"] if storage == "jpeg" else []
    arguments = [
        "--storage",
        storage,
        "--size",
        "32x48",
        "--fit",
        "cover",
        *quality,
        "--split",
        "random",
        "--fractions",
        "0.5,0.25,0.25",
    ]
    arguments += [
        "--max-pixels",
        "10000",
        "--exif",
        "apply",
        "--layout",
        "pets",
        "--labels",
        "pets",
        "--seed",
        "4",
        *(("--samples-per-shard", "6") if storage == "jpeg" else ("--shard-bytes", "55KiB")),
        "--workers",
        "1",
        "--strict",
        "--json",
    ]
    document = json.loads(run("build", tiny_pets, tmp_path / "out", *arguments).stdout)
    assert document["splits"] == {"train": 15, "val": 8, "test": 7}
    assert (document["storage"], document["size"], document["shards"]) == (storage, [32, 48], 7)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["options"] == {
        "layout": "pets",
        "split": "random",
        "fractions": [0.5, 0.25, 0.25],
        "seed": 4,
        "samples_per_shard": 6 if storage == "jpeg" else None,
        "shard_bytes": None if storage == "jpeg" else 55 << 10,
        "max_pixels": 10_000,
        "exif": "apply",
        "quality": 70 if storage == "jpeg" else None,
    }
    arguments = ["--val-fraction", "0.5", "--overwrite", "--workers", "1"]
    assert "train 10, val 10, test 10" in run("build", tiny_pets, tmp_path / "out", *arguments).stdout


def test_info_counts_the_steps_of_a_training(run: Command, tiny_sets: dict[str, Path]) -> None:
    alone = run("info", tiny_sets["raw"]).stdout
    assert "steps: batches per epoch with 16 images per batch\n" in alone
    assert "where it is incomplete, petseg-train leaves it out" in alone
    shared = run("info", tiny_sets["raw"], "--batch-size", "6", "--world-size", "3").stdout
    assert "with 6 images per batch, 2 of them on each of 3 ranks\n" in shared
    assert "with 1 image per batch\n" in run("info", tiny_sets["raw"], "--batch-size", "1").stdout


def test_info_counts_steps(run: Command, tiny_sets: dict[str, Path]) -> None:
    arguments = ("info", tiny_sets["raw"], "--batch-size", "6", "--world-size", "3")
    document = json.loads(run(*arguments, "--json").stdout)
    assert {name: split["steps_per_epoch"] for name, split in document["splits"].items()} == {
        "train": 3,
        "val": 1,
        "test": 2,
    }
    assert document["splits"]["train"]["last_batch"] == 4
    assert document["training"] == {"batch_size": 6, "world_size": 3, "batch_per_rank": 2}
    assert abs(sum(document["splits"]["train"]["class_share"].values()) - 1) < 1e-5
    assert document["labels"]["classes"][0] == {
        "name": "animal", "color": "#cc50a0", "values": [1], "source_colors": []
    }  # fmt: skip
    assert (document["layout"], document["size"], document["fit"]) == ("pets", [24, 24], "stretch")
    text = run(*arguments).stdout
    assert "american_bulldog" in text
    assert document["fingerprint"] in text
    for index, each in enumerate(document["labels"]["classes"]):
        shares = [f"{100 * split['class_share'][each['name']]:.1f} %" for split in document["splits"].values()]
        row = [str(index), each["name"], each["color"], str(each["values"][0]), *shares]
        assert re.search(r"[\s■]+".join(map(re.escape, row)), text), row


def test_info_of_many_classes_and_values(run: Command, maker: Maker, tmp_path: Path) -> None:
    """150 classes are rows; an attribute of many values is abbreviated in the text, and whole in JSON."""
    classes = tuple(LabelClass(name=f"class {n}", color=chosen_colour(n), values=(n,)) for n in range(150))
    for number in range(30):
        values = np.full((44, 60), 5 * number, dtype=np.uint8)
        values[:11] = 255
        maker.add(f"{'x' * number}breed_{number}", mask=encoded(values, "PNG"))
    packing = options(split="random", fractions=(1, 0, 0), labels=Labels(classes=classes, ignore=(255,)))
    build(maker.folder, tmp_path / "set", packing, workers=1)
    text = run("info", tmp_path / "set").stdout
    for number in range(150):
        share = "3.3 %" if number % 5 == 0 else "0.0 %"
        colour = classes[number].color
        assert re.search(rf"^ {number}\s+class {number}\s+■ {colour}\s+{number}\s+{share}", text, re.MULTILINE), number
    assert re.search(r"^ 255\s+\(ignored\)\s+255\s+25.0 %", text, re.MULTILINE)
    assert re.search(r"\(18 other values\)\s+18", text)
    assert max(map(len, text.splitlines())) < 200
    document = json.loads(run("info", tmp_path / "set", "--json").stdout)
    assert len(document["splits"]["train"]["attributes"]["breed"]) == 30
    assert len(document["labels"]["classes"]) == 150
    assert document["splits"]["train"]["ignored_share"] == 0.25


def test_numbers_are_sorted_as_numbers(run: Command, maker: Maker, tmp_path: Path) -> None:
    for number in (9, 10, 100, 2, 12, 3):
        maker.add(f"breed-{number}_1")
    build(maker.folder, tmp_path / "set", options(split="random", fractions=(1, 0, 0)), workers=1)
    text = run("info", tmp_path / "set").stdout
    assert re.findall(r"breed-(\d+)", text) == ["2", "3", "9", "10", "12", "100"]
    assert re.search(r"set: 6 samples, .*, \d+\.\d kB, images up to", text)


def test_a_folder_within_a_dataset_names_the_dataset(run: Command, tiny_pets: Path, tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        failure = run("build", tiny_pets / folder, tmp_path / "out", code=1).stderr
        assert failure.rstrip().endswith("; the folder around it has the layout pets: give that")
    (tmp_path / "loose").mkdir()
    assert "the folder around it" not in run("build", tmp_path / "loose", tmp_path / "out", code=1).stderr


@pytest.mark.parametrize(
    "parts",
    [
        (
            "VOCdevkit/VOC2012/JPEGImages",
            "VOCdevkit/VOC2012/SegmentationClass",
            "VOCdevkit/VOC2012/ImageSets/Segmentation",
        ),
        ("ADEChallengeData2016/images/training/ADE_train_1.jpg", "ADEChallengeData2016/annotations/training"),
        ("oxford-iiit-pet/images", "oxford-iiit-pet/annotations/trimaps"),
    ],
    ids=["voc", "ade20k", "pets"],
)
def test_a_dataset_beside_the_folder_is_not_what_was_meant(
    run: Command, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    for part in (*parts, "other/Train/Urban"):
        (tmp_path / "data" / part).mkdir(parents=True)
    failure = run("build", tmp_path / "data" / "other", tmp_path / "out", code=1).stderr
    assert "has no layout that is known" in failure
    assert "the folder around it" not in failure


@pytest.mark.parametrize(("kind", "advised"), [("images", False), ("set", True)])
def test_verify_advises_to_replace_what_is_a_set(
    run: Command, tiny_pets: Path, tiny_sets: dict[str, Path], tmp_path: Path, kind: str, advised: bool
) -> None:
    folder = tmp_path / "place"
    shutil.copytree(tiny_pets if kind == "images" else tiny_sets["source"], folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    text = run("verify", folder, code=1).stdout
    assert ("replace the set" in text) == advised
    assert text.startswith("manifest.json: ")


def test_info_does_not_make_one_image_of_two(run: Command, tmp_path: Path) -> None:
    """The greatest height and the greatest width may be those of different images."""
    for side in ("images", "masks"):
        (tmp_path / "photos" / side).mkdir(parents=True)
    for name, size in (("tall", (20, 50)), ("wide", (60, 24)), ("third", (24, 24))):
        Image.effect_noise(size, 30).convert("RGB").save(tmp_path / "photos" / "images" / f"{name}.jpg")
        Image.new("L", size, 1).save(tmp_path / "photos" / "masks" / f"{name}.png")
    run("build", tmp_path / "photos", tmp_path / "set", "--labels", "binary", "--split", "random")
    assert "images up to 50 high and up to 60 wide\n" in run("info", tmp_path / "set").stdout


def test_verify_in_json_names_the_place(run: Command, tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(tiny_sets["source"], tmp_path / "out"))
    tar = out / "test-000000.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 4
    tar.write_bytes(data)
    (problem,) = json.loads(run("verify", out, "--json", code=1).stdout)["problems"]
    assert (problem["file"], problem["shard"], problem["offset"]) == ("test-000000.tar", 0, 600)
    assert problem["member"] == f"{problem['key']}.jpg"
    assert f"test-000000.tar, byte 600, {problem['member']}" in run("verify", out, code=1).stdout
    run("verify", out, "--quick")


def test_strict_lists_the_findings(run: Command, pets: Path, tmp_path: Path) -> None:
    (pets / "images" / "Bengal_1.jpg").write_bytes(b"broken")
    result = run("build", pets, tmp_path / "out", "--strict", "--workers", "1", code=1)
    assert "Bengal_1: image-unknown-format" in result.stderr
    assert "nothing was built" in result.stderr
    assert not list(tmp_path.glob("out*"))


def test_strict_counts_warnings_and_lists_them_all(run: Command, pets: Path, tmp_path: Path) -> None:
    for path in (paths := sorted((pets / "images").glob("*.jpg"))[:2]):
        path.write_bytes(encoded(np.asarray(Image.open(path).convert("L")), "JPEG"))
    told = run("build", pets, tmp_path / "out", "--strict", "--workers", "1", code=1).stderr
    assert all(f"{path.stem}: image-grey" in told for path in paths)


def test_strict_at_a_set_that_was_built_without_it_says_what_to_do(run: Command, pets: Path, tmp_path: Path) -> None:
    intact = (broken := pets / "images" / "Bengal_1.jpg").read_bytes()
    broken.write_bytes(b"broken")
    build = ("build", pets, tmp_path / "out", "--workers", "1")
    run(*build)
    told = run(*build, "--strict", code=1).stderr
    assert told.startswith("Error: ")  # no empty line, though there are no findings to list
    assert "listed in its audit.jsonl; correct them, then build it again with --overwrite" in told
    assert "Bengal_1" in (tmp_path / "out" / "audit.jsonl").read_text()
    broken.write_bytes(intact)
    assert "another source" in run(*build, "--strict", code=2).stderr
    run(*build, "--strict", "--overwrite")


def test_sample_then_build(run: Command, tmp_path: Path) -> None:
    assert "3 synthetic images" in run("sample", tmp_path / "pets", "--count", "3", "--seed", "3").stdout
    built = run("build", tmp_path / "pets", tmp_path / "out", "--strict", "--json", "--workers", "1")
    assert json.loads(built.stdout)["samples"] == 3


BAD: list[tuple[list[str], str]] = [
    (["build", "nowhere", "out"], "no such file or folder"),
    (["build", "empty", "out"], "empty has no layout that is known"),
    (["build", "file", "out"], "neither a folder nor a .csv file"),
    (["build", "PETS", "file"], "is a file"),
    (["build", "PETS", "PETS"], "not empty"),
    (["build", "PETS", "out", "--size", "0"], "--size"),
    (["build", "PETS", "out", "--storage", "raw", "--size", "0"], "--size 0"),
    (["build", "PETS", "out", "--storage", "zip"], "'zip' is not one of"),
    (["build", "PETS", "out", "--workers", "0"], "--workers 0"),
    (["build", "PETS", "out", "--workers", "-3"], "--workers -3"),
    (["build", "PETS", "out", "--samples-per-shard", "0"], "--samples-per-shard 0"),
    (["build", "PETS", "out", "--split", "random", "--fractions", "1,2"], "not of the form"),
    (["build", "PETS", "out", "--split", "random", "--fractions", "a,b,c"], "not of the form"),
    (["build", "PETS", "out", "--split", "random", "--fractions", "1,1,1"], "add up to 1"),
    (["build", "PETS", "out", "--fractions", "1,0,0"], "needs --split random"),
    (["build", "PETS", "out", "--val-fraction", "1.5"], "--val-fraction 1.5: give a number from 0 to 1"),
    (["build", "PETS", "out", "--frobnicate"], "No such option"),
    (["build", "PETS"], "Missing argument"),
    (["info", "nowhere"], "no such folder"),
    (["info", "PETS"], "holds images, not shards"),
    (["info", "empty"], "no finished shard set"),
    (["info", "SET", "--batch-size", "7", "--world-size", "2"], "use a multiple of 2"),
    (["verify", "nowhere"], "no such folder"),
    (["build", "SET", "out"], "is a shard set already; petseg-train --shards"),
    (["labels", "SET"], "is a shard set already"),
    (["verify", "SET", "--quick", "--full"], "exclude each other"),
    (["preview", "SET", "sheet.jpg"], "sheet.jpg: the name must end in .png or .html"),
    (["preview", "SET", "sheet.png", "--split", "dev"], "no split 'dev'; it has: train, val, test"),
    (["preview", "SET", "sheet.png", "--count", "0"], "--count 0"),
    (["preview", "SET", "nowhere/sheet.png"], "there is no folder nowhere to write sheet.png into"),
    (["sample", "out", "--count", "0"], "--count"),
    (["download", "out", "--mirror", "ftp://x"], "does not begin with http"),
    (["download", "out", "--mirror", ""], "does not begin with http"),
    (["download", "out", "--mirror", "http://[::1"], "is not an address"),
    (["download", "out", "--mirror", "http://x:port/"], "is not an address"),
    (["download", "out", "--mirror", "http://"], "http://HOST/PATH"),
    (["download", "out", "--mirror", "http://my host/"], "write %20 for a space"),
    (["download", "out", "--mirror", "http://host/\n"], "is not an address"),
    (["preview", "SET", "."], "the name must end in .png or .html"),
    (["preview", "SET", "page.html", "--count", "0"], "a page holds 1 to 20,000 samples"),
    (["preview", "SET", "page.html", "--split", "dev"], "no split 'dev'"),
    (["preview", "nowhere", "page.html"], "no such folder"),
    (["preview", "SET", "nowhere/page.html"], "there is no folder nowhere to write page.html into"),
    (["build", "PETS", "out", "--labels", "nowhere.toml"], "there is no such file"),
    (["build", "PETS", "out", "--layout", "zip"], "--layout"),
    (["build", "PETS", "out", "--storage", "raw", "--size", "12x"], "give N or HxW"),
    (["build", "PETS", "out", "--fit", "cover"], "need --storage jpeg or --storage raw"),
    (["preview", "SET", "sheet.png", "--count", "1001"], "a sheet holds 1 to 1,000 samples"),
    (["preview", "SET", "sheet.png", "--count", str(10**30)], "a sheet holds 1 to 1,000 samples"),
    (["info", "file"], "file is a file; give the folder of a shard set"),
    (["info", "file/set"], "no such folder"),
    (["build", "PETS", "loop"], "loop is a link that leads in a circle"),
    (["info", "loop"], "Too many levels of symbolic links"),
    (["verify", "file"], "file is a file; give the folder of a shard set"),
    (["build", "PETS", ""], "the path is empty"),
    (["build", "", "out"], "the path is empty"),
    (["info", ""], "the path is empty"),
    (["verify", ""], "the path is empty"),
    (["preview", "", "sheet.png"], "the path is empty"),
    (["preview", "SET", ""], "the path is empty"),
    (["sample", ""], "the path is empty"),
    (["download", ""], "the path is empty"),
    (["sample", "file"], "is not a folder"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_gives_one_clear_line(
    tiny_pets: Path,
    tiny_sets: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    places = {"PETS": str(tiny_pets), "SET": str(tiny_sets["source"])}
    with pytest.raises(SystemExit) as caught:
        main.main([places.get(part, part) for part in arguments], prog_name="petseg-shard")
    captured = capsys.readouterr()
    assert caught.value.code in (1, 2)
    assert message in captured.err, captured.err
    assert len([line for line in captured.err.splitlines() if line.startswith("Error: ")]) == 1
    assert not captured.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "loop"]


def test_a_build_reports_its_throughput(run: Command, tiny_pets: Path, tmp_path: Path) -> None:
    """Seconds and images per second of this call; in the report only, since the same set has the same bytes."""
    text = run("build", tiny_pets, tmp_path / "one", "--workers", "1").stdout
    assert re.search(r"\n30 images audited in \d+\.\d s, [\d,]+ images/s\n", text)
    document = json.loads(run("build", tiny_pets, tmp_path / "two", "--json", "--workers", "1").stdout)
    assert document["audited"] == 30
    assert 0 < document["seconds"] < 60
    assert document["images_per_second"] == pytest.approx(30 / document["seconds"], rel=0.05)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "two").iterdir()}
    assert document["bytes"] == sum(sizes.values()) - sizes["manifest.json"]
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    again = json.loads(run("build", tiny_pets, tmp_path / "two", "--json").stdout)
    assert (again["audited"], again["images_per_second"], again["already_complete"]) == (0, None, True)


def test_verify_of_an_empty_folder_fails(run: Command, tmp_path: Path) -> None:
    assert "no finished shard set" in run("verify", tmp_path, code=1).stdout


def test_a_reader_that_goes_away_is_no_error(tiny_sets: dict[str, Path]) -> None:
    program = Path(sys.executable).parent / "petseg-shard"
    line = f"{shlex.join([str(program), 'info', str(tiny_sets['raw']), '--json'])} | head -c 1"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert result.stdout == "{"
    assert not result.stderr
