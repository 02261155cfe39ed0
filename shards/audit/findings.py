"""What the audit finds: why a sample is rejected, repaired, or packed with a warning.

The spelling of actions and reason codes stands in ``audit.jsonl``: it is part of the format.
"""

from typing import Final, Literal, TypeAlias, get_args

import msgspec

Action: TypeAlias = Literal["rejected", "repaired", "warning"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

MAX_PIXELS = 2**28  # 268 million, by default: above the 200 million of telephones, below what exhausts memory
MAX_FILE_BYTES = 2**30  # of an image's or a mask's file
MAX_LINE = 2**24  # bytes of a line of audit.jsonl; the longest names that a table can hold take a few million
MAX_SIDE = 2**20  # pixels; OpenCV, which loads what is packed, decodes no longer ones

REASONS: Final[dict[str, str]] = {
    "not-listed": "no list names the image",
    "listed-but-missing": "a list names an image that does not exist",
    "listed-twice": "both trainval.txt and test.txt name the image; it is kept in test only",
    "name-differs": "the name is spelled differently in a list, or by its mask, and nothing else can be meant",
    "name-case-only": "another sample's name differs in case only; some file systems take both for one",
    "image-without-mask": "there is no mask of this name",
    "mask-without-image": "there is no image of this name",
    "image-not-a-file": "the image is a folder or a special file",
    "mask-not-a-file": "the mask is a folder or a special file",
    "image-empty": "the image file is empty",
    "image-unknown-format": "the image file has no known format",
    "image-corrupt": "the image data is damaged",
    "image-truncated": "the image data ends too early",
    "image-too-large": "the image has more pixels or bytes than is safe to decode",
    "image-depth": "the image has more than 8 bits per channel; convert it to 8, how depends on what it shows",
    "image-channels": "the image has other than 1, 3 or 4 channels",
    "image-transcoded": "the image is neither a JPEG nor a PNG; stored as PNG without loss",
    "image-animated": "the file holds several images; the first was taken",
    "image-alpha": "the image has an alpha channel; composited over white where it is not opaque",
    "image-cmyk": "the image is CMYK; converted to RGB",
    "image-grey": "the image is grey; loaded as RGB with equal channels",
    "image-rare-jpeg": "a kind of JPEG that not every decoder reads; stored as PNG without loss",
    "image-rare-png": "a kind of PNG that not every decoder reads alike; stored as a plain one without loss",
    "image-extras": "the PNG carries data that may change how it is decoded; stored without",
    "image-stray-bytes": "extra bytes at the end of the JPEG data; removed",
    "exif-rotated": "EXIF says that the image must be rotated, and only then the mask fits; rotated",
    "exif-ignored": "EXIF says that the image must be rotated, but the mask fits without; the tag was removed",
    "exif-ambiguous": "EXIF asks for a rotation, and the mask fits with it and without; not rotated (see option exif)",
    "mask-empty": "the mask file is empty",
    "mask-unknown-format": "the mask file has no known format",
    "mask-corrupt": "the mask data is damaged",
    "mask-truncated": "the mask data ends too early",
    "mask-too-large": "the mask has more pixels or bytes than is safe to decode",
    "mask-lossy": "the mask is a JPEG, a lossy WebP or a TIFF of such data, which changes values; save masks as PNG",
    "mask-depth": "the mask has more than 8 bits per channel",
    "mask-channels": "the mask does not have one channel of values",
    "mask-equal-channels": "the mask has several channels, all equal; one was taken",
    "mask-values": "the mask has values that no class claims",
    "no-foreground": "no pixel of the mask is foreground",
    "mask-ignored": "every pixel of the mask is ignored",
    "size-mismatch": "image and mask differ in size",
    "duplicate-across-splits": "the same image is also in another split: a leak",
}


class Finding(msgspec.Struct, frozen=True):
    """A repair or a warning (the sample is packed), or the reason of a rejection (it is not)."""

    action: Action
    reason: str
    detail: str = ""


class SampleFinding(msgspec.Struct, frozen=True):
    """A finding with the sample that it is about: a line of ``audit.jsonl``, fields in the order of the file."""

    name: str
    action: Action
    reason: str
    detail: str = ""
    split: str | None = None

    def line(self) -> str:
        """Return the finding for people: ``Abyssinian_34: not-listed (no list names the image)``."""
        return f"{self.name}: {self.reason} ({self.detail or reason_text(self.reason)})"


def reason_text(reason: str) -> str:
    """Return what a reason means; a set of a later version may have others."""
    return REASONS.get(reason, "of another version")


class RejectedError(Exception):
    """The sample must be rejected, for a reason of :data:`REASONS`."""

    def __init__(self, reason: str, detail: str = "", unclaimed: dict[str, int] | None = None) -> None:
        super().__init__(reason, detail, unclaimed)  # all, so that it survives pickling
        self.reason = reason
        self.detail = detail
        self.unclaimed = unclaimed or {}  # pixels by value or colour that no class claims


def damaged(what: str, error: Exception, *, truncated: bool) -> RejectedError:
    """Return the rejection of a file that does not decode; ``what`` is "image" or "mask"."""
    return RejectedError(f"{what}-{'truncated' if truncated else 'corrupt'}", str(error))


def repaired(reason: str, detail: str = "") -> Finding:
    """Return a finding for something that was changed safely."""
    return Finding("repaired", reason, detail)


def check_file_size(size: int, what: str) -> None:
    """Reject a file of so many bytes, before it is read, if that is too many; ``what`` is "image" or "mask"."""
    if size > MAX_FILE_BYTES:
        raise RejectedError(f"{what}-too-large", f"a file of {size:,} bytes; at most {MAX_FILE_BYTES:,} are read")


def check_pixels(width: int, height: int, what: str, *, max_pixels: int = MAX_PIXELS) -> None:
    """Reject an image whose header asks for more memory than is safe; ``what`` is "image" or "mask"."""
    if width * height > max_pixels:
        limit = f"at most {max_pixels:,} are decoded (the option max-pixels)"
    elif max(width, height) > MAX_SIDE:
        limit = f"no side may be longer than {MAX_SIDE:,}"
    else:
        return
    raise RejectedError(f"{what}-too-large", f"{height} x {width} pixels (height x width); {limit}")
