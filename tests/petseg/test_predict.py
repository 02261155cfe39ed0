from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import petseg
from petseg.cli import predict
from petseg.inference.class_colours import COLOURS, indexed_mask, overlay
from petseg.inference.file_jobs import plan_jobs
from petseg.inference.image_files import MAX_PIXELS, find_images, to_rgb
from shards.errors import SampleError, UsageError


def picture(path: Path, size: tuple[int, int] = (50, 40), **options) -> Path:
    generator = np.random.default_rng(1)
    Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path, **options)
    return path


def test_masks_have_the_pictures_size_and_the_trimaps_values(call, tiny_run: Path, tmp_path: Path) -> None:
    picture(tmp_path / "cat.jpg", (61, 37))
    result = call(predict, tiny_run, tmp_path / "cat.jpg", "-o", tmp_path / "out", "--probabilities")
    assert result.code == 0, result.err
    with Image.open(tmp_path / "out" / "cat.png") as mask:
        assert mask.mode == "P"
        assert mask.size == (61, 37)
        assert mask.getpalette()[3:12] == [v for colour in COLOURS for v in colour]
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
    path = picture(tmp_path / "cat.png")
    call(predict, tiny_run, path, "-o", tmp_path / "out", "--no-overlay", "--mirror", "--device", "cpu")
    prediction = petseg.load(tiny_run).predict(path, flip_tta=True)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "cat.png")), prediction.mask)
    assert not (tmp_path / "out" / "cat.overlay.png").exists()
    again = petseg.load(tiny_run / "best.pt").predict(np.asarray(Image.open(path)), flip_tta=True)
    np.testing.assert_array_equal(again.mask, prediction.mask)


def test_batches_do_not_change_a_mask(tiny_run: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (30 + i, 60 - i, 3), dtype=np.uint8)) for i in range(5)]
    network = petseg.load(tiny_run, precision="fp32", size=48)
    together = network.predict_batch(pictures)
    for one, alone in zip(together, (network.predict(p) for p in pictures), strict=True):
        np.testing.assert_allclose(one.probabilities, alone.probabilities, atol=1e-5)


def test_exif_orientation_is_applied(tiny_run: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = picture(tmp_path / "phone.jpg", (60, 40), exif=exif)
    assert to_rgb(path).size == (40, 60)
    assert petseg.load(tiny_run).predict(path).mask.shape == (60, 40)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("L", "a.png"),
        ("LA", "a.png"),
        ("RGBA", "a.png"),
        ("P", "a.gif"),
        ("CMYK", "a.jpg"),
        ("1", "a.png"),
        ("I;16", "a.png"),
        ("F", "a.tif"),
        ("LAB", "a.tif"),
        ("L", "a.bmp"),
        ("RGB", "a.webp"),
        ("RGB", "a.tif"),
    ],
)
def test_any_format_and_mode(tmp_path: Path, mode: str, name: str) -> None:
    Image.new(mode, (9, 7), None).save(tmp_path / name)
    assert (to_rgb(tmp_path / name).mode, to_rgb(tmp_path / name).size) == ("RGB", (9, 7))


def test_values_survive_reading(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 32768, 65535]], np.uint16)).save(tmp_path / "grey16.png")
    assert np.asarray(to_rgb(tmp_path / "grey16.png"))[0, :, 0].tolist() == [0, 0, 128, 255]
    for name, values in {"unit": [[0, 0.5, 1, np.nan]], "bytes": [[0, 128, 255, 999]]}.items():
        Image.fromarray(np.array(values, np.float32)).save(tmp_path / f"{name}.tif")
    assert np.asarray(to_rgb(tmp_path / "unit.tif"))[0, :, 0].tolist() == [0, 128, 255, 0]
    assert np.asarray(to_rgb(tmp_path / "bytes.tif"))[0, :, 0].tolist() == [0, 128, 255, 255]
    Image.new("RGBA", (1, 1), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert to_rgb(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    import struct
    import zlib

    side = int(MAX_PIXELS**0.5) + 1
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b""))]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    )
    with pytest.raises(SampleError, match="pixels"):
        to_rgb(path)
    with pytest.raises(SampleError, match="uint8"):
        to_rgb(np.zeros((4, 4), np.uint8))


def test_what_cannot_be_read_is_told_and_the_rest_is_done(call, tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    picture(folder / "good.jpg")
    (folder / "bad.jpg").write_bytes(b"no picture at all")
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("not a picture")
    result = call(predict, tiny_run, folder, "-o", tmp_path / "out")
    assert result.code == 1
    assert "bad.jpg" in result.err
    assert "cut.jpg" in result.err
    assert "2 of 3" in result.err
    assert "1 other files" in result.out
    assert (tmp_path / "out" / "good.png").exists()


def test_globs_folders_and_files_together(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.PNG", ".hidden.jpg"):
        picture(tmp_path / name)
    (tmp_path / "readme.md").touch()
    found = find_images([str(tmp_path / "*.jpg"), str(tmp_path), str(tmp_path / "a.jpg")])
    assert [p.name for p in found.images] == ["a.jpg", "b.jpg", "c.PNG"]
    assert found.ignored == 2


def test_no_output_falls_on_another_or_on_an_input(tmp_path: Path) -> None:
    options = {"overlays": True, "probabilities": False, "overwrite": False}
    with pytest.raises(UsageError, match="both become"):
        plan_jobs([tmp_path / "a" / "cat.jpg", tmp_path / "b" / "cat.png"], tmp_path / "out", **options)
    with pytest.raises(UsageError, match="both become"):
        plan_jobs([tmp_path / "cat.jpg", tmp_path / "cat.overlay.jpg"], tmp_path / "out", **options)
    with pytest.raises(UsageError, match="overwrite one of"):
        plan_jobs([tmp_path / "cat.jpg", tmp_path / "dog.jpg", tmp_path / "cat.png"], tmp_path, **options)


def test_results_are_replaced_only_when_asked(call, tiny_run: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / "cat.jpg")
    out = tmp_path / "out"
    out.mkdir()
    (out / "cat.png").write_text("drawn by hand")
    result = call(predict, tiny_run, path, "-o", out)
    assert result.code == 2
    assert "--overwrite" in result.err
    assert (out / "cat.png").read_text() == "drawn by hand"
    assert call(predict, tiny_run, path, "-o", out, "--overwrite", "--json").code == 0
    assert Image.open(out / "cat.png").mode == "P"


def test_drawings_show_the_classes() -> None:
    mask = np.array([[1, 2, 3]], np.uint8)
    assert np.asarray(indexed_mask(mask)).tolist() == [[1, 2, 3]]
    drawn = np.asarray(overlay(Image.new("RGB", (3, 1), (10, 20, 30)), mask))[0]
    assert drawn[1].tolist() == [10, 20, 30]  # background is left as it is
    assert drawn[2].min() > 200  # border is nearly white
    assert drawn[0, 0] > drawn[0, 2]  # the animal is tinted orange


@pytest.mark.parametrize("size", [(1, 1), (5, 90), (90, 5), (31, 33), (32, 32), (301, 257)])
def test_strips_are_torchs_own_resizing(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from petseg.inference import probabilities

    coarse = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).softmax(1)
    expected = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False, antialias=True)
    for pixels in (1, 1000, 10**9):
        monkeypatch.setattr(probabilities, "_STRIP_PIXELS", pixels)
        torch.testing.assert_close(probabilities.resize_probabilities(coarse, *size), expected, rtol=1e-5, atol=1e-6)


def test_strips_of_an_overlay_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    from petseg.inference import class_colours as images

    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    mask = generator.integers(1, 4, (40, 30), dtype=np.uint8)
    whole = np.asarray(overlay(picture, mask))
    monkeypatch.setattr(images, "_STRIP_PIXELS", 100)
    np.testing.assert_array_equal(np.asarray(overlay(picture, mask)), whole)


def test_a_huge_picture_is_held_alone(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from petseg.inference import file_jobs as module

    monkeypatch.setattr(module, "_BATCH_PIXELS", 50 * 40 * 2)
    sizes: list[int] = []
    network = petseg.load(tiny_run)
    real = network.predict_batch
    monkeypatch.setattr(network, "predict_batch", lambda p, **given: (sizes.append(len(p)), real(p, **given))[1])
    files = [
        picture(tmp_path / f"{name}.png", size)
        for name, size in zip("abcd", [(50, 40)] * 3 + [(300, 200)], strict=True)
    ]
    options = {"overlays": False, "probabilities": False, "overwrite": False}
    jobs = plan_jobs([*files, picture(tmp_path / "e.png")], tmp_path / "out", **options)
    (tmp_path / "out").mkdir()
    assert module.predict_files(network, jobs, on_error=print) == 0
    assert sizes == [3, 1, 1]
    assert len(list((tmp_path / "out").iterdir())) == 5
