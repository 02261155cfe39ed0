"""Predicting: from Python, and files with petseg-predict."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_sets import write_untrained
from PIL import Image

import petseg
from petseg.cli import evaluate, predict
from petseg.inference import probabilities
from petseg.inference.files import file_jobs
from petseg.inference.files.file_jobs import plan_jobs
from petseg.inference.files.image_files import ImageFile, to_rgb
from petseg.inference.files.result_files import result_of
from shards.errors import SampleError, UsageError
from shards.format.builtin_labels import PETS


def image_file(path: Path, size: tuple[int, int] = (50, 40), **options) -> Path:
    generator = np.random.default_rng(1)
    Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path, **options)
    return path


def test_masks_have_the_images_size_and_the_values_1_2_3(call, tiny_run: Path, tmp_path: Path) -> None:
    image_file(tmp_path / "cat.jpg", (61, 37))
    result = call(predict, tiny_run, tmp_path / "cat.jpg", "-o", tmp_path / "out", "--probabilities")
    assert result.code == 0, result.err
    with Image.open(tmp_path / "out" / "cat.png") as mask:
        assert mask.mode == "P"
        assert mask.size == (61, 37)
        assert mask.getpalette()[3:12] == PETS.palette.reshape(-1).tolist()
        values = np.asarray(mask)
    assert set(np.unique(values)) <= {1, 2, 3}
    with np.load(tmp_path / "out" / "cat.probabilities.npz") as file:
        probabilities = file["probabilities"]
    assert probabilities.shape == (3, 37, 61)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-4)
    np.testing.assert_array_equal(probabilities.argmax(0) + 1, values)
    with Image.open(tmp_path / "out" / "cat.overlay.png") as drawn:
        assert drawn.size == (61, 37)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "cat.overlay.png",
        "cat.png",
        "cat.probabilities.npz",
    ]


def test_five_lines_of_python_give_the_same(call, tiny_run: Path, tmp_path: Path) -> None:
    path = image_file(tmp_path / "cat.png")
    call(predict, tiny_run, path, "-o", tmp_path / "out", "--no-overlay", "--flip-tta", "--device", "cpu")
    prediction = petseg.load(tiny_run).predict(path, flip_tta=True)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "cat.png")), prediction.mask)
    assert not (tmp_path / "out" / "cat.overlay.png").exists()
    with pytest.raises(
        UsageError, match=r"cat\.png exists already; choose another output folder, or add overwrite=True$"
    ):
        petseg.predict(tiny_run, [path], tmp_path / "out")
    again = petseg.load(tiny_run / "best.pt").predict(np.asarray(Image.open(path)), flip_tta=True)
    np.testing.assert_array_equal(again.mask, prediction.mask)


def test_batches_do_not_change_a_mask(tiny_run: Path) -> None:
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (30 + i, 60 - i, 3), dtype=np.uint8)) for i in range(5)]
    network = petseg.load(tiny_run, precision="fp32", size=48)
    together = network.predict_batch(images)
    for one, alone in zip(together, (network.predict(p) for p in images), strict=True):
        np.testing.assert_allclose(one.probabilities, alone.probabilities, atol=1e-5)


def test_exif_orientation_is_applied(tiny_run: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = image_file(tmp_path / "phone.jpg", (60, 40), exif=exif)
    assert to_rgb(path).size == (40, 60)
    assert petseg.load(tiny_run).predict(path).mask.shape == (60, 40)


def test_unreadable_images_are_reported_and_the_rest_is_predicted(call, tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    image_file(folder / "good.jpg")
    (folder / "bad.jpg").write_bytes(b"not an image at all")
    (folder / "torn.jpg").write_bytes((folder / "good.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("not an image")
    result = call(predict, tiny_run, folder, "-o", tmp_path / "out")
    assert result.code == 1
    assert "bad.jpg" in result.err
    assert "torn.jpg" in result.err
    assert "2 of 3" in result.err
    assert ", 1 other file ignored" in result.out
    assert (tmp_path / "out" / "good.png").exists()


def test_subfolders_that_are_not_searched_are_said(call, tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("a.jpg", "2025/b.jpg", "2026/c.jpg", ".hidden/d.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image_file(folder / name)
    out = folder / "masks"
    assert "1 image predicted into" in (result := call(predict, tiny_run, folder, "-o", out)).out
    assert ", 2 subfolders not searched (--recursive)\n" in result.out
    again = call(predict, tiny_run, folder, folder / "2025", "-o", out, "--overwrite")
    assert ", 1 subfolder not searched (--recursive)\n" in again.out
    assert "not searched" not in call(predict, tiny_run, folder / "2025", "-o", tmp_path / "flat").out
    assert "not searched" not in call(predict, tiny_run, folder / "a.jpg", "-o", tmp_path / "file").out
    everything = call(predict, tiny_run, folder, "--recursive", "-o", tmp_path / "all").out
    assert "not searched" not in everything


def plan(
    *images: Path | ImageFile, out: Path, overlays: bool = True, overwrite: bool = False
) -> list[file_jobs.FileJob]:
    files = [each if isinstance(each, ImageFile) else ImageFile(each) for each in images]
    return plan_jobs(files, out, overlays=overlays, probabilities=False, overwrite=overwrite).jobs


def test_images_that_have_results_are_skipped(tiny_run: Path, tmp_path: Path) -> None:
    images = [image_file(tmp_path / f"{name}.jpg") for name in "abc"]
    out = tmp_path / "out"
    petseg.predict(tiny_run, images[:2], out)
    mask, overlay = out / "b.png", out / "b.overlay.png"
    mask.unlink()  # a process that was killed leaves an overlay without its mask, never a mask alone
    made = petseg.predict(tiny_run, images, out, skip_existing=True)
    assert (made.images, made.skipped) == (tuple(images[1:]), 1)
    assert mask.is_file()
    overlay.unlink()
    with pytest.raises(UsageError, match=r"b\.png exists, but not .*b\.overlay\.png: skip_existing=True goes on where"):
        petseg.predict(tiny_run, images, out, skip_existing=True)
    again = petseg.predict(tiny_run, images, out, overlays=False, skip_existing=True)
    assert (again.images, again.skipped) == ((), 3)
    with pytest.raises(UsageError, match="give overwrite=True or skip_existing=True, not both"):
        petseg.predict(tiny_run, images, out, overwrite=True, skip_existing=True)
    with pytest.raises(UsageError, match="would overwrite one of the images"):
        petseg.predict(tiny_run, [*images, out / "a.png"], out, skip_existing=True)


def test_results_are_no_images_unless_they_are_named(call, tiny_run: Path, tmp_path: Path) -> None:
    """In the folder of the images, in another one below it, and for a glob; a name that is not UTF-8 is kept."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "b \u00e9.jpg", os.fsdecode(b"c\xff.jpg")):
        image_file(folder / name)
    result = call(predict, tiny_run, folder, "-o", folder)
    assert "3 images predicted into" in result.out, result.err
    mark = result_of(folder / os.fsdecode(b"c\xff.overlay.png"))
    assert mark is not None
    assert mark.image == os.fsdecode(b"c\xff.jpg")
    again = call(predict, tiny_run, folder, "-o", folder, "--skip-existing")
    assert "3 images that had results skipped, 6 results of earlier predictions left out" in again.out, again.err
    call(predict, tiny_run, folder, "-o", folder / "below", "--no-overlay")
    for argument, count in ((folder, 9), (folder / "**", 9), (folder / "*.*", 6)):
        options = ["--recursive"] if argument == folder else []
        found = json.loads(call(predict, tiny_run, argument, *options, "-o", tmp_path / str(count), "--json").out)
        assert (found["predicted"], found["results"]) == (3, count)
        shutil.rmtree(tmp_path / str(count))
    only = call(predict, tiny_run, folder / "below", "-o", tmp_path / "out")
    assert f"no images in {folder / 'below'}, only results of earlier predictions" in only.err
    named = petseg.predict(tiny_run, [folder / "a.png", folder], tmp_path / "out", overlays=False)
    assert (len(named.images), named.results) == (4, 5)
    Image.open(folder / "a.png").convert("RGB").save(folder / "own.png")  # an image of the user's
    assert petseg.predict(tiny_run, folder, tmp_path / "out", overwrite=True).images[-1].name == "own.png"


def test_another_images_result_is_not_taken_for_ones_own(tiny_run: Path, tmp_path: Path) -> None:
    """Two images of one stem, of which the second alone was predicted when the first one was added."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    later, first = image_file(folder / "cat.png"), folder / "cat.jpg"
    petseg.predict(tiny_run, folder, out)
    kept = (out / "cat.png").read_bytes()
    image_file(first)
    for expected in ((first,), ()):  # the third time nothing is left to do
        made = petseg.predict(tiny_run, folder, out, skip_existing=True)
        assert (made.images, made.skipped) == (expected, 2 - len(expected))
        assert (out / "cat.png").read_bytes() == kept
        assert sorted(file.name for file in out.glob("cat.*")) == [
            "cat.jpg.overlay.png",
            "cat.jpg.png",
            "cat.overlay.png",
            "cat.png",
        ]
    marks = [result_of(out / name) for name in ("cat.png", "cat.jpg.png")]
    assert [mark and mark.image for mark in marks] == [later.name, first.name]
    shutil.copy(out / "cat.png", out / "cat.jpg.png")
    with pytest.raises(UsageError, match=r"cat\.jpg\.png is not a result of .*cat\.jpg; choose another output folder"):
        petseg.predict(tiny_run, folder, out, skip_existing=True)
    Image.open(out / "cat.png").save(out / "cat.png")  # without the name, as other programs write it
    assert petseg.predict(tiny_run, first, out, skip_existing=True).images == ()


def test_the_second_of_two_images_with_one_name_keeps_its_ending(tmp_path: Path) -> None:
    jobs = plan(*(tmp_path / name for name in ("cat.jpg", "cat.png", "cat.overlay.jpg")), out=tmp_path / "out")
    assert [[path.name for path in job.outputs] for job in jobs] == [
        ["cat.png", "cat.overlay.png"],
        ["cat.png.png", "cat.png.overlay.png"],
        ["cat.overlay.jpg.png", "cat.overlay.jpg.overlay.png"],
    ]
    assert [job.renamed for job in jobs] == [False, True, True]
    with pytest.raises(UsageError, match="both become"):
        plan(*(tmp_path / name for name in ("a/cat.jpg", "b/cat.jpg", "c/cat.jpg")), out=tmp_path / "out")


@pytest.mark.parametrize("names", [("cat.jpg", "CAT.jpg"), ("\u00e9.jpg", "e\u0301.jpg"), ("\u00c9.png", "\u00e9.jpg")])
def test_results_that_some_file_systems_take_for_one_have_two_names(tmp_path: Path, names: tuple[str, str]) -> None:
    """The second of two names that differ in case or Unicode form only keeps its ending, as of cat.jpg and cat.png."""
    jobs = plan(*(tmp_path / name for name in names), out=tmp_path / "out")
    assert [job.outputs[0].name for job in jobs] == [f"{Path(names[0]).stem}.png", f"{names[1]}.png"]


def test_no_output_overwrites_an_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="overwrite one of"):
        plan(tmp_path / "cat.jpg", tmp_path / "dog.jpg", tmp_path / "cat.png", out=tmp_path)


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_nor_one_that_has_another_name(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    """As cat.png has, beside CAT.png, where case does not count."""
    image_file(tmp_path / "CAT.png")
    link(tmp_path / "cat.png", tmp_path / "CAT.png")
    with pytest.raises(UsageError, match=r"cat\.png would overwrite one of"):
        plan(tmp_path / "cat.jpg", tmp_path / "CAT.png", out=tmp_path, overwrite=True)


@pytest.mark.parametrize("name", ["manifest.json", "best.pt", "last.pt"])
def test_nothing_is_written_into_a_set_or_a_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / name).write_text('{"format": "petseg-shards"' if name == "manifest.json" else "")
    image = ImageFile(tmp_path / "gallery.jpg", Path("gallery"))
    with pytest.raises(UsageError, match="a shard set" if name == "manifest.json" else "a run"):
        plan(image, out=tmp_path, overwrite=True)
    assert plan(tmp_path / "gallery.jpg", out=tmp_path)


def test_two_of_one_name_and_subfolders_through_the_command(call, tiny_run: Path, tmp_path: Path) -> None:
    for name in ("cat.jpg", "cat.png", "sub/cat.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        image_file(tmp_path / "in" / name)
    out = tmp_path / "in" / "masks"
    for overwrite in ((), ("--overwrite",)):  # the second time, the results lie in the folder that is searched
        result = call(
            predict, tiny_run, tmp_path / "in", "--recursive", "-o", out, "--no-overlay", *overwrite, "--json"
        )
        assert result.code == 0, result.err
        assert "cat.png.png: another image has the shorter name" in result.err
        facts = json.loads(result.out)
        assert facts["predicted"] == 3
        assert facts["renamed"] == {str(tmp_path / "in" / "cat.png"): str(out / "cat.png.png")}
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == ["cat.png", "cat.png.png", "sub/cat.png"]


def test_an_image_that_cover_would_make_huge_fails_alone(call, tmp_path: Path) -> None:
    """A row of pixels, a kilobyte as a file, would be enlarged until its side is as long as the network's."""
    run = write_untrained(tmp_path / "run", PETS, fit="cover", size=(32, 32))
    long, wide = tmp_path / "long.png", image_file(tmp_path / "wide.png", (200, 4))
    Image.new("RGB", (60_000, 1)).save(long)
    result = call(predict, run, long, wide, "-o", tmp_path / "out", "--no-overlay")
    assert result.code == 1
    assert f"skipped: {long}: the image, 1x60000 pixels, would be enlarged to 32 x 1920000 (the" in result.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["wide.png"]
    with pytest.raises(SampleError, match="or predict it with window"):
        petseg.load(run).predict(long)


def test_a_name_that_is_too_long_fails_alone(call, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image_file(tmp_path / "in" / f"{'a' * 240}.png")
    image_file(tmp_path / "in" / f"{'b' * 230}.png")
    image_file(tmp_path / "in" / "c.png")
    result = call(predict, tiny_run, tmp_path / "in", "-o", tmp_path / "out", "--probabilities")
    assert result.code == 1
    assert "too long" in result.err
    assert "1 of 3" in result.err
    assert len(list((tmp_path / "out").glob("*.npz"))) == 2
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_messages_show_names_without_escape_sequences(call, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("good\x1b[31m.jpg", "good\x1b[31m.png"):
        image_file(tmp_path / "in" / name)
    (tmp_path / "in" / "bad\x1b[2J\n.png").write_bytes(b"no image")
    image_file(tmp_path / "in" / f"{'a' * 245}\x1b.png")
    result = call(predict, tiny_run, tmp_path / "in", "-o", tmp_path / "out\x1b[0m", "--no-overlay")
    missing = call(predict, tiny_run, tmp_path / "gone\x1b[2J.png", "-o", tmp_path / "out")
    table = call(evaluate, tiny_run, "--shards", tmp_path / "gone\x1b[2J")
    assert (result.code, missing.code, table.code > 0) == (1, 2, True)
    for text in (result.out, result.err, missing.err, table.err):
        assert text
        assert all(line.isprintable() for line in text.removesuffix("\n").split("\n"))
    assert "bad\\x1b[2J\\n.png: the image file has no known format" in result.err
    assert "good\\x1b[31m.png becomes" in result.err
    assert "predicted into" in result.out


@pytest.mark.parametrize(
    ("window", "padded"), [("20", 0), ("30x40", 0), ("31x16", 1), ("16x41", 1), ("400", 2), ("auto", 1), (None, 0)]
)
def test_images_smaller_than_a_window_are_counted(
    call, tiny_run: Path, tmp_path: Path, window: str | None, padded: int
) -> None:
    """``auto`` is 32 pixels here."""
    for name, size in (("small.png", (40, 30)), ("large.png", (70, 60))):
        Image.new("RGB", size).save(tmp_path / name)
    more = [] if window is None else ["--window", window]
    images = [tmp_path / "small.png", tmp_path / "large.png"]
    said = call(predict, tiny_run, *images, "-o", tmp_path / "out", *more).out
    told = f", {padded} image{'s' if padded > 1 else ''} padded, being smaller than a window" if padded else ""
    assert said.endswith(f" overlap by 0.25{told}\n" if window else "/out\n")
    facts = call(predict, tiny_run, *images, "-o", tmp_path / "out", "--overwrite", "--json", *more).out
    assert json.loads(facts)["padded"] == padded


def test_a_picture_s_name_is_no_folder(call, tiny_run: Path, tmp_path: Path) -> None:
    image = image_file(tmp_path / "cat.jpg")
    result = call(predict, tiny_run, image, "-o", tmp_path / "mask.png")
    assert result.code == 2
    assert "mask.png: results are files in a folder, named as their images are; name the folder" in result.err
    assert not (tmp_path / "mask.png").exists()
    (tmp_path / "old.png").mkdir()
    assert call(predict, tiny_run, image, "-o", tmp_path / "old.png").code == 0


def test_results_are_replaced_only_when_asked(call, tiny_run: Path, tmp_path: Path) -> None:
    path = image_file(tmp_path / "cat.jpg")
    out = tmp_path / "out"
    assert call(predict, tiny_run, path, "-o", out, "--probabilities").code == 0
    kept = {file.name: file.read_bytes() for file in out.iterdir()}
    result = call(predict, tiny_run, path, "-o", out, "--flip-tta", "--probabilities")
    assert result.code == 2
    assert "cat.png exists already; choose another output folder, or add --overwrite\n" in result.err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == kept
    assert call(predict, tiny_run, path, "-o", out, "--overwrite", "--flip-tta", "--probabilities").code == 0
    assert all((out / name).read_bytes() != content for name, content in kept.items())


@pytest.mark.parametrize("size", [(1, 1), (5, 90), (90, 5), (31, 33), (32, 32), (301, 257)])
def test_strips_equal_torchs_resizing(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).softmax(1)
    expected = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False, antialias=True)
    for values in (1, 1000, 10**9):
        monkeypatch.setattr(probabilities, "_STRIP_VALUES", values)
        torch.testing.assert_close(probabilities.resize_probabilities(coarse, *size), expected, rtol=1e-5, atol=1e-6)


def test_a_huge_image_is_a_batch_of_its_own(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_jobs, "_BATCH_PIXELS", 50 * 40 * 2)
    sizes: list[int] = []
    network = petseg.load(tiny_run)
    real = network.predict_batch
    monkeypatch.setattr(
        network, "predict_batch", lambda p, *given, **more: (sizes.append(len(p)), real(p, *given, **more))[1]
    )
    files = [
        image_file(tmp_path / f"{name}.png", size)
        for name, size in zip("abcd", [(50, 40)] * 3 + [(300, 200)], strict=True)
    ]
    jobs = plan(*files, image_file(tmp_path / "e.png"), out=tmp_path / "out", overlays=False)
    assert file_jobs.predict_files(network, jobs, on_error=print) == 0
    assert sizes == [3, 1, 1]
    assert len(list((tmp_path / "out").iterdir())) == 5
