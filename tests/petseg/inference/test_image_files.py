"""Finding image files, and reading images of any format in little memory."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petseg.inference import image_files
from petseg.inference.image_files import MAX_PIXELS, find_images, to_rgb
from shards.errors import SampleError, UsageError


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


def test_strips_change_no_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    rgba = Image.fromarray(random.integers(0, 256, (23, 17, 4), dtype=np.uint8))
    rgba.save(tmp_path / "rgba.png")
    rgba.convert("P").save(tmp_path / "palette.png", transparency=3)
    Image.fromarray(random.integers(0, 65536, (23, 17), dtype=np.uint16)).save(tmp_path / "grey16.png")
    values = random.random((23, 17)).astype(np.float32)
    values[20, 3] = 200  # in the last strip: decides that 255, not 1, is white
    Image.fromarray(values).save(tmp_path / "float.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba.convert("CMYK").save(tmp_path / "turned.jpg", exif=exif)
    names = ["rgba.png", "palette.png", "grey16.png", "float.tif", "turned.jpg"]
    whole = [np.asarray(to_rgb(tmp_path / name)) for name in names]
    monkeypatch.setattr(image_files, "_STRIP_PIXELS", 40)
    for name, expected in zip(names, whole, strict=True):
        np.testing.assert_array_equal(np.asarray(to_rgb(tmp_path / name)), expected)
    white = np.full((23, 17, 4), 255, np.uint8)
    blended = Image.alpha_composite(Image.fromarray(white), rgba).convert("RGB")
    np.testing.assert_array_equal(whole[0], np.asarray(blended))


def test_a_pil_image_is_not_changed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (9, 5))
    image.info["exif"] = exif.tobytes()
    assert to_rgb(image).size == (5, 9)
    assert image.size == (9, 5)


def test_memory_for_a_large_image_with_transparency(tmp_path: Path) -> None:
    """4 bytes a pixel decoded and 4 converted; a further copy would be more than is allowed here."""
    side = 5000
    Image.new("RGBA", (side, side), (255, 0, 0, 128)).save(tmp_path / "large.png", compress_level=1)
    program = (
        "import resource, sys; from PIL import Image; from petseg.inference.image_files import to_rgb; "
        "Image.init(); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; to_rgb(sys.argv[1]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "large.png")]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert kilobytes * 1024 < 10 * side * side


def test_globs_folders_and_files_together(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.PNG", ".hidden.jpg"):
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    (tmp_path / "readme.md").touch()
    images, ignored = find_images([str(tmp_path / "*.jpg"), str(tmp_path), str(tmp_path / "a.jpg")])
    assert [each.path.name for each in images] == ["a.jpg", "b.jpg", "c.PNG"]
    assert ignored == 2


def test_subfolders_when_asked(tmp_path: Path) -> None:
    for name in ("a.jpg", "one/b.jpg", "one/two/c.jpg", ".cache/d.jpg", "one/out/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    (tmp_path / "one" / "notes.txt").touch()
    images, ignored = find_images([str(tmp_path)])
    assert [(each.path.name, each.subfolder) for each in images] == [("a.jpg", Path())]
    images, ignored = find_images([str(tmp_path)], recursive=True, skip=tmp_path / "one" / "out")
    assert [(each.path.name, each.subfolder.as_posix()) for each in images] == [
        ("a.jpg", "."),
        ("b.jpg", "one"),
        ("c.jpg", "one/two"),
    ]
    assert ignored == 1
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UsageError, match="--recursive"):
        find_images([str(tmp_path)])
