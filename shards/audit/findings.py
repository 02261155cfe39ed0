"""What the audit finds: why a sample is rejected, repaired, or packed with a warning.

The spelling of actions and reason codes stands in ``audit.jsonl``: it is part of the format.
"""

from typing import Final, Literal, TypeAlias

import msgspec

Action: TypeAlias = Literal["rejected", "repaired", "warning"]

MAX_PIXELS = 2**27  # 134 million, by default: above what telephones make, below what exhausts memory
MOST_PIXELS = 2**28  # that --max-pixels can allow

REASONS: Final[dict[str, str]] = {
    "not-listed": "no list names the image",
    "listed-but-missing": "a list names an image that does not exist",
    "listed-twice": "both trainval.txt and test.txt name the image; it is kept in test only",
    "image-without-mask": "there is no mask of this name",
    "mask-without-image": "there is no image of this name",
    "image-not-a-file": "the image is a folder or a special file",
    "mask-not-a-file": "the mask is a folder or a special file",
    "image-empty": "the image file is empty",
    "image-unknown-format": "the image file has no known format",
    "image-corrupt": "the image data is damaged",
    "image-truncated": "the image data ends too early",
    "image-too-large": "the image has more pixels than is safe to decode",
    "image-wrong-type": "the file is not a JPEG, as its name says; encoded again as JPEG",
    "image-animated": "the file holds several images; the first was taken",
    "image-alpha": "the image has an alpha channel; composited over white",
    "image-cmyk": "the image is CMYK; converted to RGB",
    "image-16-bit": "the image has more than 8 bits per channel; reduced to 8",
    "image-rare-jpeg": "a kind of JPEG that not every decoder reads; encoded again as a plain one",
    "image-stray-bytes": "extra bytes at the end of the JPEG data; removed",
    "exif-rotated": "EXIF says that the image must be rotated, and only then the mask fits; rotated",
    "exif-ignored": "EXIF says that the image must be rotated, but the mask fits without; the tag was removed",
    "mask-empty": "the mask file is empty",
    "mask-unknown-format": "the mask file has no known format",
    "mask-corrupt": "the mask data is damaged",
    "mask-truncated": "the mask data ends too early",
    "mask-too-large": "the mask has more pixels than is safe to decode",
    "mask-wrong-type": "the mask is not a PNG, as its name says; stored as PNG",
    "mask-palette": "the mask has a palette; its indices are the values, stored as grayscale",
    "mask-channels": "the mask has several channels; stored as one where they agree",
    "mask-depth": "the mask does not have 8 bits per pixel; stored with 8",
    "mask-extras": "the mask carries data that may change how it is decoded; stored without",
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
        return f"{self.name}: {self.reason} ({self.detail or REASONS[self.reason]})"


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


def check_pixels(width: int, height: int, what: str, *, max_pixels: int = MAX_PIXELS) -> None:
    """Reject an image whose header asks for more memory than is safe; ``what`` is "image" or "mask"."""
    if width * height > max_pixels:
        raise RejectedError(
            f"{what}-too-large", f"{width} x {height} pixels, at most {max_pixels} are decoded (--max-pixels)"
        )
