"""What the audit finds: why a sample is rejected, repaired, or packed with a warning.

The spelling of actions and reason codes, and the details that callers add, stand in ``quarantine.jsonl``: they are part
of format 1, in which a rejection is "left-out", a repair "mended" and a warning "remark".
"""

from typing import Final, Literal, TypeAlias

import msgspec

Action: TypeAlias = Literal["left-out", "mended", "remark"]

MAX_PIXELS = 2**26  # 67 million: above any photograph that one would train on, below what exhausts memory

REASONS: Final[dict[str, str]] = {
    "not-listed": "no list names the image",
    "listed-but-missing": "a list names an image that does not exist",
    "listed-twice": "both trainval.txt and test.txt name the image; it is kept in test only",
    "picture-without-trimap": "there is no mask of this name",
    "trimap-without-picture": "there is no image of this name",
    "picture-not-a-file": "the image is a folder or a special file",
    "trimap-not-a-file": "the mask is a folder or a special file",
    "picture-empty": "the image file is empty",
    "picture-unknown-format": "the image file has no known format",
    "picture-corrupt": "the image data is damaged",
    "picture-truncated": "the image data ends too early",
    "picture-too-large": "the image has more pixels than is safe to decode",
    "picture-wrong-type": "the file is not a JPEG, as its name says; encoded again as JPEG",
    "picture-animated": "the file holds several images; the first was taken",
    "picture-alpha": "the image has an alpha channel; composited over white",
    "picture-cmyk": "the image is CMYK; converted to RGB",
    "picture-16-bit": "the image has more than 8 bits per channel; reduced to 8",
    "picture-rare-jpeg": "a kind of JPEG that not every decoder reads; encoded again as a plain one",
    "picture-stray-bytes": "extra bytes at the end of the JPEG data; removed",
    "exif-turned": "EXIF says that the image must be rotated, and only then the mask fits; rotated",
    "exif-ignored": "EXIF says that the image must be rotated, but the mask fits without; the tag was removed",
    "trimap-empty": "the mask file is empty",
    "trimap-unknown-format": "the mask file has no known format",
    "trimap-corrupt": "the mask data is damaged",
    "trimap-truncated": "the mask data ends too early",
    "trimap-too-large": "the mask has more pixels than is safe to decode",
    "trimap-wrong-type": "the mask is not a PNG, as its name says; stored as PNG",
    "trimap-palette": "the mask has a palette; its indices are the values, stored as grayscale",
    "trimap-channels": "the mask has several channels; stored as one where they agree",
    "trimap-depth": "the mask does not have 8 bits per pixel; stored with 8",
    "trimap-extras": "the mask carries data that may change how it is decoded; stored without",
    "trimap-values": "the mask has values other than 1, 2 and 3",
    "no-animal": "no pixel of the mask is animal (value 1)",
    "size-mismatch": "image and mask differ in size",
    "duplicate-across-splits": "the same image is also in another split: a leak",
}


class Finding(msgspec.Struct, frozen=True):
    """A repair or a warning (the sample is packed), or the reason of a rejection (it is not)."""

    action: Action
    reason: str
    detail: str = ""


class SampleFinding(msgspec.Struct, frozen=True):
    """A finding with the sample that it is about: a line of ``quarantine.jsonl``, fields in the order of the file."""

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

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)  # both, so that it survives pickling
        self.reason = reason
        self.detail = detail


def damaged(what: str, error: Exception, *, truncated: bool) -> RejectedError:
    """Return the rejection of a file that does not decode; ``what`` is "picture" or "trimap"."""
    return RejectedError(f"{what}-{'truncated' if truncated else 'corrupt'}", str(error))


def repaired(reason: str, detail: str = "") -> Finding:
    """Return a finding for something that was changed safely."""
    return Finding("mended", reason, detail)


def check_pixels(width: int, height: int, what: str) -> None:
    """Reject an image whose header asks for more memory than is safe; ``what`` is "picture" or "trimap"."""
    if width * height > MAX_PIXELS:
        raise RejectedError(f"{what}-too-large", f"{width} x {height} pixels, at most {MAX_PIXELS} are decoded")
