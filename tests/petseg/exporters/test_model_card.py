"""The program in a model card, taken out of it and run in a process of its own, predicts what petseg-predict does."""

from __future__ import annotations

import ast
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import forked_programs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from labelled_sets import many_labels, smooth_image, write_untrained
from PIL import Image

import petseg
from petseg.cli import export, predict
from petseg.exporters.model_card import model_card
from petseg.exporters.usage_program import quoted
from petseg.inference.network_inputs import network_input
from shards.errors import UsageError, escaped_markdown, printable
from shards.format.labels import Labels

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
BLOCKED = """
import importlib.abc
import sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("petseg", "shards", "pipeline", "msgspec"):
            raise ImportError(f"{name} is not plain torch")
sys.meta_path.insert(0, Blocked())
"""
EACH = """
import runpy
for image in sys.argv[1:]:
    sys.argv = ["use.py", image, image + ".mask.png"]
    runpy.run_path("use.py", run_name="__main__")
"""


def run_card(card: Path, images: list[Path]) -> list[Image.Image]:
    """Run the first program of a card beside its file, without petseg, for each image; return the masks it writes."""
    (card.parent / "use.py").write_text(BLOCK.findall(card.read_text())[0])
    command = [sys.executable, "-c", BLOCKED + EACH, *map(str, images)]
    result = forked_programs.run(command, cwd=card.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    masks = [Image.open(f"{image}.mask.png") for image in images]
    for mask in masks:
        mask.load()
    return masks


def check(
    call, run: Path, file: Path, card: Path, folder: Path, sizes: list[tuple[int, int]], options: Sequence[str] = ()
) -> None:
    assert call(export, run, file, *options).code == 0
    images = [smooth_image(folder / f"{number}.png", size, seed=number) for number, size in enumerate(sizes)]
    assert call(predict, run, *images, "-o", folder / "out", "--precision", "fp32").code == 0
    for image, size, found in zip(images, sizes, run_card(card, images), strict=True):
        expected = Image.open(folder / "out" / image.name)
        assert (found.mode, found.size) == (expected.mode, size)
        agreement = (np.asarray(found) == np.asarray(expected)).mean()
        assert len(np.unique(np.asarray(expected).reshape(-1, 3 if found.mode == "RGB" else 1), axis=0)) > 1
        if found.mode == "P":
            used = np.unique(np.asarray(found))
            colours = [np.array(mask.getpalette()).reshape(-1, 3)[used].tolist() for mask in (found, expected)]
            assert colours[0] == colours[1]
        assert agreement > 0.985, (size, agreement)


@given(st.text())
def test_a_files_name_is_a_text_of_the_program(name: str) -> None:
    assert ast.literal_eval(quoted(name)) == name
    assert "\n" not in quoted(name)


def test_a_files_name_puts_nothing_into_the_card(tmp_path: Path) -> None:
    name = 'x"); import os; os.abort() #\n# <img src=x>\n\x1b'
    run = write_untrained(tmp_path / "run", many_labels(5))
    predictor = petseg.load(run, device="cpu", precision="fp32")
    for ending in (".onnx", ".safetensors"):
        card = model_card(predictor, tmp_path / f"{name}{ending}")
        assert card.startswith(f"# {escaped_markdown(printable(name))}\n")
        assert "\x1b" not in card
        programs = BLOCK.findall(card)
        assert len(programs) == (1 if ending == ".onnx" else 2)
        for program in programs:
            texts = [node.value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant)]
            assert f"{name}{ending}" in texts


@pytest.mark.parametrize("fit", ["contain", "cover"])
def test_onnx(call, tmp_path: Path, fit: str, campaign: Callable[[int, int], int]) -> None:
    if fit != "cover" and not campaign(0, 1):
        pytest.skip("with --campaign: each program and export takes seconds")
    run = write_untrained(tmp_path / "run", many_labels(21, rgb=fit == "cover"), fit=fit)
    file = tmp_path / "net.onnx"
    check(call, run, file, tmp_path / "net.onnx.md", tmp_path, [(90, 60), (61, 120), (200, 41)])


@pytest.mark.parametrize(
    ("output", "size"), [("probabilities", "any"), ("classes", "original"), ("logits", "original")]
)
def test_onnx_with_more_inside(
    call, tmp_path: Path, output: str, size: str, campaign: Callable[[int, int], int]
) -> None:
    if output != "classes" and not campaign(0, 1):
        pytest.skip("with --campaign: each export takes seconds")
    run = write_untrained(tmp_path / "run", many_labels(5), fit="contain")
    options = ["--onnx-output", output, "--input-size", size]
    check(call, run, tmp_path / "net.onnx", tmp_path / "net.onnx.md", tmp_path, [(90, 60), (61, 120)], options)
    assert f"- Output: `{output}`" in (tmp_path / "net.onnx.md").read_text()


def test_classes_of_the_networks_size_are_enlarged_as_they_are(call, tmp_path: Path) -> None:
    """Coarser than petseg-predict, which interpolates probabilities; the size and the values are the image's."""
    run = write_untrained(tmp_path / "run", many_labels(5), fit="contain")
    assert call(export, run, tmp_path / "net.onnx", "--onnx-output", "classes").code == 0
    image = smooth_image(tmp_path / "a.png", (90, 61))
    predictor = petseg.load(run, device="cpu", precision="fp32")
    with Image.open(image) as photo:
        shown = network_input(photo.convert("RGB"), size=predictor.size, fit="contain")
    with torch.inference_mode():
        logits = predictor.model(torch.from_numpy(shown.pixels).permute(2, 0, 1)[None])
    small = logits[0].argmax(dim=0).numpy().astype(np.uint8)[shown.rows, shown.columns]
    large = np.asarray(Image.fromarray(small).resize((90, 61), Image.Resampling.NEAREST))
    (found,) = run_card(tmp_path / "net.onnx.md", [image])
    assert found.size == (90, 61)
    assert (np.asarray(found) == predictor.labels.source_values[large]).mean() > 0.99


@pytest.mark.parametrize("fit", ["stretch", "contain", "cover"])
def test_safetensors_needs_plain_torch_alone(
    call, tmp_path: Path, fit: str, campaign: Callable[[int, int], int]
) -> None:
    if fit != "contain" and not campaign(0, 1):
        pytest.skip("with --campaign: each program and export takes seconds")
    run = write_untrained(tmp_path / "run", many_labels(21, rgb=fit == "stretch"), fit=fit)
    check(call, run, tmp_path / "net.safetensors", tmp_path / "net.md", tmp_path, [(90, 60), (61, 120)])


def test_a_trained_run_of_the_pets(call, tiny_run: Path, tmp_path: Path) -> None:
    check(call, tiny_run, tmp_path / "net.safetensors", tmp_path / "net.md", tmp_path, [(90, 60)])
    assert "| 0 | animal | 1 | #cc50a0 |" in (tmp_path / "net.md").read_text()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "L"])
def test_a_photo_of_another_mode_is_read_as_petseg_predict_reads_it(
    call, tiny_run: Path, tmp_path: Path, mode: str
) -> None:
    assert call(export, tiny_run, tmp_path / "a.safetensors").code == 0
    photo = smooth_image(tmp_path / "rgb.png", (90, 70), seed=0).read_bytes()
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    with Image.open(io.BytesIO(photo)) as image:
        other = image.quantize(16) if mode == "P" else image.convert(mode)
        if mode in ("RGBA", "LA"):
            other.putalpha(Image.linear_gradient("L").resize(image.size))
        other.save(path, **({"transparency": 3} if mode == "P" else {}))
    assert call(predict, tiny_run, path, "-o", tmp_path / "out", "--precision", "fp32").code == 0
    expected = np.asarray(Image.open(tmp_path / "out" / "photo.png"))
    assert (np.asarray(run_card(tmp_path / "a.md", [path])[0]) == expected).mean() > 0.985


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_a_photo_of_more_than_8_bits_is_refused(call, tiny_run: Path, tmp_path: Path, dtype: type) -> None:
    assert call(export, tiny_run, tmp_path / "a.safetensors").code == 0
    Image.fromarray(np.full((40, 50), 1000, dtype)).save(tmp_path / "deep.tif")
    with pytest.raises(AssertionError, match="more than 8 bits"):
        run_card(tmp_path / "a.md", [tmp_path / "deep.tif"])


def test_a_transposed_network_that_covers(call, tmp_path: Path) -> None:
    """Its exported graph takes sides that are multiples of 4 alone, and so the card's program gives it such sides."""
    run = write_untrained(tmp_path / "run", many_labels(4), fit="cover", upsample="transposed", stem="half")
    assert call(export, run, tmp_path / "net.onnx").code == 0
    card = (tmp_path / "net.onnx.md").read_text()
    assert "multiples of 4" in card
    (mask,) = run_card(tmp_path / "net.onnx.md", [smooth_image(tmp_path / "a.png", (97, 41))])
    assert mask.size == (97, 41)


def test_the_card_names_classes_values_colours_ignored_pixels_and_scores(call, tmp_path: Path) -> None:
    labels = many_labels(21)
    run = write_untrained(tmp_path / "run", labels, fit="contain")
    call(export, run, tmp_path / "net.safetensors")
    card = (tmp_path / "net.md").read_text()
    for index, each in enumerate(labels.classes):
        score = "-" if index == 0 else "0.250"
        assert f"| {index} | {escaped_markdown(each.name)} | {index + 3} | {each.color} | {score} |" in card
    for part in ("21 classes", "value 0 counted nowhere", "fit into 32 x 48", "mean IoU 0.250", "Limits"):
        assert part in " ".join(card.split())


@pytest.mark.parametrize(("name", "options"), [("net.safetensors", []), ("net.onnx", ["--input-size", "fixed"])])
def test_a_run_on_crops_is_predicted_in_windows(
    call, tmp_path: Path, name: str, options: list[str], campaign: Callable[[int, int], int]
) -> None:
    """Larger and smaller than a window, at another scale than that of the image."""
    if name == "net.onnx" and not campaign(0, 1):
        pytest.skip("with --campaign: each program and export takes seconds")
    run = write_untrained(tmp_path / "run", many_labels(5), crop_scale=(0.5, 0.5))
    card = tmp_path / ("net.onnx.md" if name == "net.onnx" else "net.md")
    check(call, run, tmp_path / name, card, tmp_path, [(150, 97), (230, 40), (61, 50)], options)
    text = " ".join(card.read_text().split())
    assert "crops of 32x48 pixels, at 0.5 to 0.5 pixels" in text
    assert "windows of 64x96 image pixels over an image, and scales each by 0.5" in text


def test_a_run_on_crops_is_not_shown_whole_images(call, tmp_path: Path) -> None:
    for crop_scale in (None, (0.5, 1.0)):
        run = write_untrained(tmp_path / f"run{crop_scale}", many_labels(3), crop_scale=crop_scale)
        call(export, run, tmp_path / "net.safetensors", "--overwrite")
        assert ("crops of 32x48" in (tmp_path / "net.md").read_text()) == (crop_scale is not None)
    result = call(export, run, tmp_path / "net.onnx", "--input-size", "original")
    assert result.code == 2
    assert "trained on crops" in result.err


def test_options_of_another_format_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    for file, options in {
        "net.onnx": {"license": "mit"},
        "net.safetensors": {"dataset": "pets"},
        "weights.safetensors": {"onnx_output": "classes"},
        "repository": {"hub": True, "input_size": "any"},
    }.items():
        with pytest.raises(UsageError, match=r"for hub=True|for an ONNX file"):
            petseg.export(tiny_run, tmp_path / file, **options)
    assert not list(tmp_path.iterdir())


def test_names_mean_nothing_in_markdown() -> None:
    assert escaped_markdown("100% | `tick` <b> $x$") == r"100% \| \`tick\` \<b\> \$x\$"
    assert escaped_markdown("see http://x, www.x.y") == r"see http\://x, www\.x.y"
    assert [escaped_markdown(x) for x in ("- a", "1. a", "+", "-0.5%", "1.4x (2)")] == [
        r"\- a", r"1\. a", r"\+", "-0.5%", "1.4x (2)",
    ]  # fmt: skip


def test_no_ignored_pixels_and_one_class(call, tmp_path: Path) -> None:
    labels = Labels(classes=many_labels(1).classes)
    run = write_untrained(tmp_path / "run", labels)
    assert call(export, run, tmp_path / "net.safetensors").code == 0
    card = (tmp_path / "net.md").read_text()
    assert "one class" in card
    assert "every pixel had a class" in card


@pytest.mark.parametrize("name", ["net.onnx", "net.safetensors"])
def test_nothing_is_overwritten_unless_asked(call, tiny_run: Path, tmp_path: Path, name: str) -> None:
    card = tmp_path / ("net.onnx.md" if name == "net.onnx" else "net.md")
    card.write_text("mine")
    result = call(export, tiny_run, tmp_path / name)
    assert result.code == 2
    assert "--overwrite" in result.err
    assert card.read_text() == "mine"
    assert not (tmp_path / name).exists()


def test_files_are_replaced_when_asked(call, tiny_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    for path in (file, tmp_path / "net.md"):
        path.write_text("mine")
        assert "exists already" in call(export, tiny_run, file).err
    assert call(export, tiny_run, file, "--overwrite").code == 0
    assert "Segments" in (tmp_path / "net.md").read_text()
    with pytest.raises(UsageError, match="exists already"):
        petseg.export(tiny_run, file)
    assert petseg.export(tiny_run, file, overwrite=True) == file


def test_a_checkpoint_is_never_replaced(call, tiny_run: Path) -> None:
    before = (tiny_run / "best.pt").read_bytes()
    for name in ("best.pt", "new.onnx"):
        assert "a run, which keeps its folder to itself" in call(export, tiny_run, tiny_run / name, "--overwrite").err
    assert not (tiny_run / "new.onnx").exists()
    assert (tiny_run / "best.pt").read_bytes() == before
