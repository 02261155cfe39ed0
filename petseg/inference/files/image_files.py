"""Finding image files, and reading images of any format and mode: with the decoders that a set's images pass."""

import contextlib
import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin, TiffImagePlugin

from petseg.inference.files.result_files import OVERLAY, is_result, mask_beside
from shards.audit import transcode
from shards.audit.file_kinds.signatures import KNOWN_ENDINGS, START, file_kind, is_proof
from shards.audit.file_kinds.tiff_tags import BITS_PER_SAMPLE
from shards.audit.findings import MAX_PIXELS, REASONS, RejectedError
from shards.audit.image import ImageAudit
from shards.audit.orientation import NORMAL, apply_orientation, find_orientation
from shards.errors import SampleError, UsageError, option, printable
from shards.store.addresses import expect_paths
from shards.store.atomic import file_sha256
from shards.store.byte_ranges import read_regular

_GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True)
class ImageFile:
    """An image file, and in which subfolder of the folder that was named it lies; ``Path()`` for none."""

    path: Path
    subfolder: Path = Path()


class FoundImages(NamedTuple):
    """The image files that were found, and how many files are something else, and results of earlier predictions."""

    files: list[ImageFile]
    ignored: int
    results: int


def digest_of(path: Path) -> str:
    """Return what tells an image file's content from others: 16 hexadecimal digits; "" if it cannot be read."""
    with contextlib.suppress(OSError):
        return file_sha256(path)[:16] if path.is_file() else ""
    return ""


def find_images(arguments: Sequence[str], *, recursive: bool = False, skip: Path | None = None) -> FoundImages:
    """Resolve files, folders and globs (also ``**``) to images.

    A named file is taken whatever its name; of a folder or glob, files with an image's ending, or that begin like an
    image, without results of earlier predictions. Each file is taken once.
    With ``recursive``, folders are searched with their subfolders, without hidden ones and without ``skip``. An
    argument that names nothing raises ``UsageError``.
    """
    images: dict[str, ImageFile] = {}
    ignored = 0
    results: set[str] = set()
    for argument in arguments:
        expect_paths(images=argument)
        path = Path(argument)
        if path.is_dir():
            below = _walk(path, skip=skip) if recursive else (entry for entry in path.iterdir() if _is_shown(entry))
            found = [ImageFile(entry, entry.parent.relative_to(path)) for entry in sorted(below)]
        elif path.is_file():
            images.setdefault(os.path.realpath(path), ImageFile(path))
            continue
        elif path.exists():
            raise UsageError(f"{argument} is neither a file nor a folder, but a device, pipe or socket")
        elif _GLOB_CHARACTERS & set(argument):
            found = [ImageFile(name) for name in sorted(_matches(argument)) if _is_shown(name)]
        else:
            raise UsageError(f"no such image or folder: {argument}")
        alike = [each for each in found if _is_image(each.path)]
        # An overlay that was copied to its image is found by its name: it may have no mark.
        named = {each for each in alike if each.path.name.endswith(OVERLAY)}
        made = {each for each in alike if is_result(each.path)}
        made |= {each for each in named if mask_beside(each.path, OVERLAY).is_file()}
        if len(made) == len(alike):
            reason = _nothing_found(path, argument, recursive=recursive)
            raise UsageError(f"{reason}, only results of earlier predictions" if alike else reason)
        ignored += len(found) - len(alike)
        for each in alike:
            place = os.path.realpath(each.path)
            if each in made:
                results.add(place)
            else:
                images.setdefault(place, each)
    return FoundImages(list(images.values()), ignored, len(results - images.keys()))


def subfolders_not_searched(arguments: Sequence[str], *, skip: Path) -> int:
    """Return how many subfolders of the folders that are named a search that is not recursive leaves out.

    Hidden ones do not count, and ``skip``, where the results are, does not.
    """
    folders = {os.path.realpath(argument) for argument in arguments if Path(argument).is_dir()}
    below = {
        os.path.realpath(entry)
        for each in folders
        for entry in os.scandir(each)
        # Most are files, which need no look; is_dir() would raise for a link to itself.
        if entry.name[0] != "." and not entry.is_file(follow_symlinks=False) and os.path.isdir(entry)  # noqa: PTH112
    }
    return len(below - folders - {os.path.realpath(skip)})


def _matches(pattern: str) -> Iterator[Path]:
    """Yield what a glob names; other than ``glob.glob``, ``**`` follows no links: two to a folder above never end."""
    path = Path(pattern)
    if "**" not in path.parts:
        yield from map(Path, glob.glob(pattern))  # noqa: PTH207
        return
    parts = [*path.parts[bool(path.anchor) :], *(["*"] if path.name == "**" else [])]
    for found in Path(path.anchor).glob("/".join(parts)):
        if not any(part.startswith(".") and part not in path.parts for part in found.parts):
            yield found


def _is_image(path: Path) -> bool:
    ending = path.suffix.lower()
    if path.name.startswith(".") or ending in KNOWN_ENDINGS:
        return not path.name.startswith(".")
    try:
        with path.open("rb") as handle:
            return is_proof(file_kind(handle.read(START)), ending)
    except OSError:
        return False


def _walk(folder: Path, *, skip: Path | None) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, without hidden subfolders and without ``skip``."""
    skipped = None if skip is None else os.path.realpath(skip)
    for where, subfolders, files in os.walk(folder):
        visible = [name for name in subfolders if not name.startswith(".")]
        subfolders[:] = [name for name in visible if os.path.realpath(Path(where, name)) != skipped]
        yield from (path for name in files if _is_shown(path := Path(where, name)))


def _is_shown(path: Path) -> bool:
    """Whether an entry is a file, or has an image's suffix and is none, such as a link to nothing: then it is named."""
    return path.is_file() or (path.suffix.lower() in KNOWN_ENDINGS and not path.is_dir())


def _nothing_found(path: Path, argument: str, *, recursive: bool) -> str:
    if not path.is_dir():
        return f"no images match {argument}"
    if not recursive and any(entry.is_dir() for entry in path.iterdir()):
        return f"no images in {argument} itself; add {option('recursive', True)} for those in its subfolders"
    return f"no images in {argument}"


def to_rgb(image: str | Path | Image.Image | npt.NDArray[np.uint8]) -> Image.Image:
    """Return an image in 8-bit RGB, with its EXIF orientation applied.

    An orientation in XMP is ignored, as everywhere, except in a TIFF that Pillow has opened, and turned already.
    Transparent pixels are blended with white; of an animation the first frame is taken. Takes up to 8 bytes per pixel
    of memory while it works, and 4 for the result. Raises ``SampleError`` for a file that the audit of a set rejects,
    with the same reason: it is no image, is damaged, has more than :data:`MAX_PIXELS` pixels or 8 bits per channel.
    """
    if isinstance(image, Image.Image):
        try:
            return _converted(image)
        except RejectedError as error:
            reason = f"{REASONS[error.reason]} ({printable(error.detail)})"
            raise SampleError(f"the image cannot be used: {reason}") from None
    if not isinstance(image, str | Path):
        array = np.asarray(image)
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
            raise SampleError(f"an image must be uint8 (H, W, 3), not {array.dtype} {array.shape}")
        if not array.size:
            raise SampleError(f"the image has no pixels: its shape is {array.shape}")
        return Image.fromarray(array)
    return read_image(Path(image))[0]


def read_image(path: Path) -> tuple[Image.Image, str]:
    """Return a file's image, as :func:`to_rgb` does, and the :func:`digest_of` of the very bytes that it is made of."""
    name = printable(path)
    if path.exists() and not path.is_file():
        raise SampleError(f"{name}: not a file, but a folder, device, pipe or socket")
    try:
        data = read_regular(path)
        audited = ImageAudit(mask_size=None, pixels=True, max_pixels=MAX_PIXELS, exif="apply").run(data)
    except FileNotFoundError:
        what = "a link that leads nowhere" if path.is_symlink() else "no such file"
        raise SampleError(f"{name}: {what}") from None
    except OSError as error:
        raise SampleError(f"{name}: cannot be read ({error.strerror or printable(error)})") from None
    except RejectedError as error:
        detail = printable(error.detail.replace(" (the option max-pixels)", ""))  # an option of petseg-shard build
        detail = f" ({detail})" if detail else ""
        raise SampleError(f"{name}: {REASONS[error.reason]}{detail}") from None
    assert audited.pixels is not None
    return Image.fromarray(audited.pixels), hashlib.sha256(data).hexdigest()[:16]


def _converted(image: Image.Image) -> Image.Image:
    """Return an image that a caller has opened in RGB, as one of a file is converted.

    Pillow reduces 16-bit colours to their upper 8 bits without a word, so the file's own header is what counts, as long
    as it is there. Raises ``RejectedError``.
    """
    bits: Any = 8
    if isinstance(image, PngImagePlugin.PngImageFile) and image.tile:
        bits = 16 if ";16" in str(image.tile[0].args) else 8
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    if bits > 8:
        raise RejectedError("image-depth", f"pixels of mode {image.mode}")
    transcode.check_depth(image, "image")
    image.load()  # a PNG's EXIF may follow its pixels
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    orientation, _ = find_orientation(exif, 0, len(exif))
    if orientation == NORMAL and image.mode == "RGB" and not image.has_transparency_data:
        return image
    pixels, _ = transcode.to_rgb(transcode.DecodedFile(image, NORMAL, turned=False, bits=8, frames=""))
    return Image.fromarray(apply_orientation(pixels, orientation))
