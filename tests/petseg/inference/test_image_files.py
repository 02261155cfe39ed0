"""Finding image files, reading images of any format, and drawing masks on them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petseg.inference import class_colours
from petseg.inference.class_colours import indexed_mask, overlay
from petseg.inference.image_files import MAX_PIXELS, find_images, to_rgb
from shards.errors import SampleError


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


def test_globs_folders_and_files_together(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.PNG", ".hidden.jpg"):
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    (tmp_path / "readme.md").touch()
    images, ignored = find_images([str(tmp_path / "*.jpg"), str(tmp_path), str(tmp_path / "a.jpg")])
    assert [p.name for p in images] == ["a.jpg", "b.jpg", "c.PNG"]
    assert ignored == 2


def test_drawings_show_the_classes() -> None:
    mask = np.array([[1, 2, 3]], np.uint8)
    assert np.asarray(indexed_mask(mask)).tolist() == [[1, 2, 3]]
    drawn = np.asarray(overlay(Image.new("RGB", (3, 1), (10, 20, 30)), mask))[0]
    assert drawn[1].tolist() == [10, 20, 30]  # background is left as it is
    assert drawn[2].min() > 200  # border is nearly white
    assert drawn[0, 0] > drawn[0, 2]  # the animal is tinted orange


def test_strips_of_an_overlay_have_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    mask = generator.integers(1, 4, (40, 30), dtype=np.uint8)
    whole = np.asarray(overlay(image, mask))
    monkeypatch.setattr(class_colours, "_STRIP_PIXELS", 100)
    np.testing.assert_array_equal(np.asarray(overlay(image, mask)), whole)
