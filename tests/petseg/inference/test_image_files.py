"""Finding image files, and reading images of any format in little memory."""

import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from petseg.inference.files.image_files import MAX_PIXELS, find_images, to_rgb
from shards.audit import transcode
from shards.audit.findings import REASONS, RejectedError
from shards.audit.image import ImageAudit
from shards.errors import SampleError, UsageError, printable


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("L", "a.png"),
        ("LA", "a.png"),
        ("RGBA", "a.png"),
        ("P", "a.gif"),
        ("CMYK", "a.jpg"),
        ("1", "a.png"),
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
    pixels = np.array([[[0, 128, 255], [3, 2, 1]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    np.testing.assert_array_equal(np.asarray(to_rgb(tmp_path / "plain.png")), pixels)
    Image.new("RGBA", (1, 1), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert to_rgb(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    )
    with pytest.raises(SampleError, match="more pixels or bytes than is safe"):
        to_rgb(path)
    with pytest.raises(SampleError, match="uint8"):
        to_rgb(np.zeros((4, 4), np.uint8))


def test_tiles_change_no_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    rgba = Image.fromarray(random.integers(0, 256, (23, 17, 4), dtype=np.uint8))
    rgba.save(tmp_path / "rgba.png")
    rgba.convert("P").save(tmp_path / "palette.png", transparency=3)
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba.convert("CMYK").save(tmp_path / "turned.jpg", exif=exif)
    names = ["rgba.png", "palette.png", "turned.jpg"]
    whole = [np.asarray(to_rgb(tmp_path / name)) for name in names]
    monkeypatch.setattr(transcode, "_TILE_ROWS", 5)
    monkeypatch.setattr(transcode, "_TILE_COLUMNS", 7)
    for name, expected in zip(names, whole, strict=True):
        np.testing.assert_array_equal(np.asarray(to_rgb(tmp_path / name)), expected)
    white = np.full((23, 17, 4), 255, np.uint8)
    blended = Image.alpha_composite(Image.fromarray(white), rgba).convert("RGB")
    np.testing.assert_array_equal(whole[0], np.asarray(blended))
    np.testing.assert_array_equal(whole[0], np.asarray(to_rgb(rgba)))  # opened by the caller
    with pytest.raises(SampleError, match="colours of mode La"):
        to_rgb(Image.new("La", (9, 7)))


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
        "import resource, sys; from PIL import Image; from petseg.inference.files.image_files import to_rgb; "
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
    images, ignored, _ = find_images([str(tmp_path / "*.jpg"), str(tmp_path), str(tmp_path / "a.jpg")])
    assert [each.path.name for each in images] == ["a.jpg", "b.jpg", "c.PNG"]
    assert ignored == 2


@pytest.mark.parametrize("pattern", ["**/*.jpg", "**", "one/**", "./**/*.jpg", "**/two/*.jpg"])
def test_globs_follow_no_links_to_folders(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two links to a folder above double the paths at every level, up to forty of them."""
    for name in ("one/two/c.jpg", ".cache/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    for name in ("x", "y"):
        (tmp_path / "one" / name).symlink_to("..")
    monkeypatch.chdir(tmp_path)
    for argument in (pattern, str(tmp_path / pattern)):
        images, ignored, _ = find_images([argument])
        assert ([each.path.name for each in images], ignored) == (["c.jpg"], 0)


def test_subfolders_when_asked(tmp_path: Path) -> None:
    for name in ("a.jpg", "one/b.jpg", "one/two/c.jpg", ".cache/d.jpg", "one/out/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    (tmp_path / "one" / "notes.txt").touch()
    images, ignored, _ = find_images([str(tmp_path)])
    assert [(each.path.name, each.subfolder) for each in images] == [("a.jpg", Path())]
    images, ignored, _ = find_images([str(tmp_path)], recursive=True, skip=tmp_path / "one" / "out")
    assert [(each.path.name, each.subfolder.as_posix()) for each in images] == [
        ("a.jpg", "."),
        ("b.jpg", "one"),
        ("c.jpg", "one/two"),
    ]
    assert ignored == 1
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UsageError, match="add recursive=True"):
        find_images([str(tmp_path)])


def deep_files(folder: Path) -> dict[str, Path]:
    """Files of more than 8 bits per channel, in each format that can have them."""
    grey = np.arange(0, 63 * 1000, 1000, dtype=np.uint16).reshape(7, 9)
    colours = np.repeat(grey[..., None], 3, axis=2)
    for name, pixels in {"grey.png": grey, "rgb.png": colours, "grey.tif": grey, "rgb.tif": colours}.items():
        assert cv2.imwrite(str(folder / name), pixels)
    rgba = np.concatenate([colours, np.full((7, 9, 1), 65535, np.uint16)], axis=2)
    assert cv2.imwrite(str(folder / "rgba.png"), rgba)
    Image.fromarray(grey.astype(np.float32)).save(folder / "float.tif")
    Image.fromarray(grey.astype(np.int32)).save(folder / "int.tif")
    (folder / "grey.pgm").write_bytes(b"P5 9 7 65535\n" + grey.astype(">u2").tobytes())
    (folder / "rgb.ppm").write_bytes(b"P6 9 7 1023\n" + colours.astype(">u2").tobytes())
    return {path.name: path for path in sorted(folder.iterdir())}


def shallow_files(folder: Path) -> dict[str, Path]:
    """Files of 8 bits per channel or fewer."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for name in ("rgb.png", "rgb.tif", "rgb.ppm", "rgb.bmp", "rgb.jpg", "rgb.webp"):
        image.save(folder / name)
    image.convert("L").save(folder / "grey.pgm")
    image.convert("L").save(folder / "grey.tif")
    image.convert("1").save(folder / "one.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("RGBA").save(folder / "rgba.png")
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("deep", [False, True])
def test_what_a_set_rejects_for_its_depth_is_not_predicted_either(tmp_path: Path, deep: bool) -> None:
    files = (deep_files if deep else shallow_files)(tmp_path)
    assert len(files) >= 9
    for name, path in files.items():
        try:
            ImageAudit(mask_size=(9, 7), pixels=False).run(path.read_bytes())
            rejected = ""
        except RejectedError as error:
            rejected = error.reason
        assert rejected == ("image-depth" if deep else ""), name
        if deep:
            with pytest.raises(SampleError) as caught:
                to_rgb(path)
            assert str(caught.value).startswith(f"{path}: {REASONS['image-depth']} ("), name
        else:
            assert to_rgb(path).size == (9, 7)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("kind", ["PPM", "PNG", "TIFF", "GIF"])
def test_an_image_that_the_caller_has_opened(tmp_path: Path, kind: str, loaded: bool) -> None:
    pixels = np.full((7, 9, 3), (200, 100, 50), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image", kind)
    with Image.open(tmp_path / "image") as image:
        if loaded:
            image.load()
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), pixels)


def test_a_deep_image_given_to_python_is_refused() -> None:
    with pytest.raises(SampleError, match="more than 8 bits"):
        to_rgb(Image.new("I;16", (9, 7)))
    with pytest.raises(SampleError, match="more than 8 bits"):
        to_rgb(Image.new("F", (9, 7)))


@pytest.mark.timeout(60)
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """Opening a pipe waits for a writer; /dev/zero never ends."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.png"))
        for name in ("pipe.png", "link.png", "socket.png"):
            with pytest.raises(SampleError, match="not a file"):
                to_rgb(tmp_path / name)
            with pytest.raises(UsageError, match="neither a file nor a folder"):
                find_images([str(tmp_path / name)])
        with pytest.raises(SampleError, match="not a file"):
            to_rgb("/dev/zero")
        Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
        found = ["a.png", "link.png", "socket.png"]  # what is no file is named by the prediction; the link is the pipe
        for arguments in ([str(tmp_path)], [str(tmp_path / "*.png")]):
            images, ignored, _ = find_images(arguments)
            assert ([each.path.name for each in images], ignored) == (found, 0)
        images, ignored, _ = find_images([str(tmp_path)], recursive=True)
        assert ([each.path.name for each in images], ignored) == (found, 0)


def test_names_cannot_give_orders_to_a_terminal(tmp_path: Path) -> None:
    escape = "\x1b[2J"
    for name in (f"a{escape}.png", "new\nline.png", "right-to-left-\u202e.png"):
        (tmp_path / name).write_bytes(b"no image")
        with pytest.raises(SampleError) as caught:
            to_rgb(tmp_path / name)
        assert str(caught.value).isprintable()
        assert str(caught.value).startswith(f"{printable(tmp_path / name)}: the image file has no known format (")
    assert printable(f"a{escape}\n\u202e\udcff ä") == "a\\x1b[2J\\n\\u202e\\xff ä"
