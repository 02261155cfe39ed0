"""Results that exist: of another network or other options they are not taken for one's own, nor for images."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_sets import write_untrained
from PIL import Image

import petseg
from petseg.cli import predict
from petseg.inference.files import existing_results, file_jobs
from petseg.inference.files.image_files import digest_of, find_images
from petseg.inference.files.result_files import mark_text, result_of
from shards.errors import UsageError
from shards.format.builtin_labels import PETS


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def without_mark(path: Path) -> None:
    """Save a result as versions did that wrote no marks."""
    Image.open(path).save(path)


def test_results_of_another_network_are_refused(call, tiny_run: Path, images: Path, tmp_path: Path) -> None:
    other, out = write_untrained(tmp_path / "other", PETS, size=(32, 32)), tmp_path / "out"
    petseg.predict(tiny_run, [images / "a.jpg", images / "b.jpg"], out)
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    refused = call(predict, other, images, "-o", out, "--skip-existing")
    assert refused.code == 2
    assert "2 results of another network, or with other options, in" in refused.err
    assert f"the first {out / 'a.png'}: --skip-existing goes on with the same ones; " in refused.err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept
    assert "1 image predicted into" in call(predict, tiny_run / "best.pt", images, "-o", out, "--skip-existing").out
    assert "3 images predicted into" in call(predict, other, images, "-o", out, "--overwrite").out
    assert petseg.predict(other, images, out, skip_existing=True).skipped == 3


@pytest.mark.parametrize(
    "more", [{"size": 64}, {"flip_tta": True}, {"scales": (0.5, 1)}, {"window": 32}, {"window": 32, "overlap": 0.5}]
)
def test_results_with_other_options_are_refused(
    tiny_run: Path, images: Path, tmp_path: Path, more: Mapping[str, Any]
) -> None:
    out = tmp_path / "out"
    petseg.predict(tiny_run, images / "a.jpg", out, **more)
    with pytest.raises(UsageError, match=r"1 result of another network, or with other options.*overwrite=True$"):
        petseg.predict(tiny_run, images, out, skip_existing=True)
    assert petseg.predict(tiny_run, images, out, skip_existing=True, batch_size=1, **more).skipped == 1


def other_images(folder: Path, names: str) -> Path:
    folder.mkdir()
    for name in names:
        Image.new("RGB", (40, 30), "red").save(folder / f"{name}.jpg")
    return folder


@pytest.mark.parametrize("names", ["a", "bc", "abc"])
def test_results_of_other_images_of_the_same_names_are_refused(
    call, tiny_run: Path, images: Path, tmp_path: Path, names: str
) -> None:
    """The first photo's mask was taken for the second one's, with the exit code 0."""
    out, others = tmp_path / "out", other_images(tmp_path / "others", names)
    petseg.predict(tiny_run, images, out)
    refused = call(predict, tiny_run, others, "-o", out, "--skip-existing")
    what = (
        "1 result in {} is of another image of the same name" if names == "a" else "{} are of other images of the same"
    )
    assert refused.code == 2
    assert what.format(out if names == "a" else f"{len(names)} results in {out}") in refused.err
    assert f"the first {out / names[0]}.png: --skip-existing leaves out images of the same content; " in refused.err
    advice = "it to predict this image" if names == "a" else "them to predict these images"
    assert refused.err.endswith(f"choose another output folder, or remove {advice}\n")
    for name in names:
        (out / f"{name}.png").unlink()
    assert petseg.predict(tiny_run, others, out, skip_existing=True).skipped == 0
    assert petseg.predict(tiny_run, others, out, skip_existing=True).skipped == len(names)


def test_results_without_a_digest_are_not_compared(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    """As versions wrote them that named the network in the mark, or the image alone."""
    out, others = tmp_path / "out", other_images(tmp_path / "others", "abc")
    petseg.predict(tiny_run, images, out)
    for name, kept in (("a", {"digest": ""}), ("b", {"origin": "", "digest": ""})):
        mark = result_of(out / f"{name}.png")
        assert mark is not None
        assert mark == (f"{name}.jpg", mark.origin, digest_of(images / f"{name}.jpg"))
        for path in (out / f"{name}.png", out / f"{name}.overlay.png"):
            Image.open(path).save(path, pnginfo=mark_text(mark._replace(**kept)))
            assert result_of(path) == mark._replace(**kept)
    for path in out.glob("c.*"):
        without_mark(path)
    made = petseg.predict(tiny_run, others, out, skip_existing=True)
    assert (made.skipped, made.unmarked) == (3, 2)


def test_images_that_cannot_be_read_any_more_fail_as_others(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    petseg.predict(tiny_run, images, out)
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    (images / "b.jpg").unlink()
    (images / "b.jpg").symlink_to("nowhere")
    (images / "c.jpg").unlink()
    os.mkfifo(images / "c.jpg")
    made = petseg.predict(tiny_run, images, out, skip_existing=True)
    assert (made.skipped, made.images, len(made.failed)) == (1, (), 2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept


def test_results_that_do_not_say_what_made_them_are_counted(
    call, tiny_run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    petseg.predict(tiny_run, images, out)
    for path in out.glob("a.*"):
        without_mark(path)
    read: list[Path] = []
    for module in (existing_results, file_jobs):
        monkeypatch.setattr(module, "result_of", lambda path: (read.append(path), result_of(path))[1])
    result = call(predict, tiny_run, images, "-o", out, "--skip-existing")
    assert "3 images that had results skipped (1 of them with results that do not say which network" in result.out
    assert sorted(path.name for path in read) == sorted(path.name for path in out.iterdir())  # each once
    facts = json.loads(call(predict, tiny_run, images, "-o", out, "--skip-existing", "--json").out)
    assert (facts["skipped"], facts["unmarked"], facts["predicted"]) == (3, 1, 0)


def test_results_without_marks_are_no_images(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    """Earlier versions wrote a mask with a palette and its overlay; pictures of other kinds stay images."""
    petseg.predict(tiny_run, images, images)
    for path in images.glob("*.png"):
        without_mark(path)
    found = find_images([str(images)])
    assert ([each.path.name for each in found.files], found.results) == (["a.jpg", "b.jpg", "c.jpg"], 6)
    photo = images / "photo.png"
    Image.open(images / "a.jpg").save(photo)
    Image.open(images / "a.jpg").save(images / "photo.overlay.png")  # an overlay that was copied to its image
    Image.open(images / "a.jpg").convert("P").save(images / "drawn.png")  # a palette, no overlay
    Image.open(images / "a.jpg").save(images / "alone.overlay.png")
    Image.open(images / "a.jpg").save(images / ("x" * 245 + ".png"))  # no overlay of it can have a name
    found = find_images([str(images)])
    names = ["a.jpg", "alone.overlay.png", "b.jpg", "c.jpg", "drawn.png", "photo.png", "x" * 245 + ".png"]
    assert ([each.path.name for each in found.files], found.results) == (names, 7)


def masks_of_a_dataset(folder: Path) -> Path:
    folder.mkdir()
    Image.new("L", (40, 30), 1).save(folder / "a.png")
    Image.new("P", (40, 30), 2).save(folder / "b.png")
    (folder / "c.png").write_text("drawn by hand")
    return folder


@pytest.mark.parametrize("option", ["", "--overwrite"])
@pytest.mark.parametrize("overlay", ["--overlay", "--no-overlay"])
def test_what_is_no_result_is_never_replaced(
    call, tiny_run: Path, images: Path, tmp_path: Path, option: str, overlay: str
) -> None:
    """The message for masks of a dataset advised --overwrite, which replaced them without a word."""
    masks = masks_of_a_dataset(tmp_path / "masks")
    kept = {path.name: path.read_bytes() for path in masks.iterdir()}
    options = [overlay, *([option] if option else [])]
    result = call(predict, tiny_run, images, "-o", masks, *options)
    assert (result.code, result.out) == (2, "")
    what = f"3 files in {masks} are no results of petseg-predict, the first {masks / 'a.png'}: --overwrite replaces"
    assert f"Error: {what} results only; choose another output folder, or remove them\n" in result.err
    assert {path.name: path.read_bytes() for path in masks.iterdir()} == kept


def test_an_overlay_that_is_no_result_is_not_replaced_either(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    """Nor where its mask is to be made, as after a stop."""
    out = tmp_path / "out"
    petseg.predict(tiny_run, images / "a.jpg", out)
    photo = out / "b.overlay.png"
    Image.new("RGB", (40, 30)).save(photo)
    before = photo.read_bytes()
    for how in ({}, {"overwrite": True}, {"skip_existing": True}):
        with pytest.raises(UsageError, match=rf"^1 file in {out} is no result of .*{photo}: overwrite=True replaces "):
            petseg.predict(tiny_run, images, out, **how)
        assert photo.read_bytes() == before
        assert not (out / "b.png").exists()


def test_results_of_earlier_versions_are_replaced(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    """A mask with a palette beside its overlay, that overlay, and what links to results."""
    out = tmp_path / "out"
    petseg.predict(tiny_run, images, out)
    for path in out.glob("[ab].*"):
        without_mark(path)
    (out / "c.png").rename(tmp_path / "kept.png")
    (out / "c.png").symlink_to(tmp_path / "kept.png")
    assert len(petseg.predict(tiny_run, images, out, overwrite=True).images) == 3
    assert all(result_of(path) for path in out.iterdir())


def test_a_mask_that_may_be_anybodys_is_not_to_be_removed(call, tiny_run: Path, images: Path, tmp_path: Path) -> None:
    masks = masks_of_a_dataset(tmp_path / "masks")
    result = call(predict, tiny_run, images, "-o", masks, "--skip-existing")
    assert result.code == 2
    told = "a.overlay.png: --skip-existing goes on where the same options were given; choose another output folder\n"
    assert result.err.endswith(told)
    assert not list(masks.glob("*.overlay.png"))
