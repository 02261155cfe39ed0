"""Why a picture was left out, mended or remarked upon: one code a reason, with its meaning."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

Action: TypeAlias = Literal["left-out", "mended", "remark"]

REASONS: Final[dict[str, str]] = {
    # about the folder
    "not-listed": "no list names the picture",
    "listed-but-missing": "a list names a picture that is not there",
    "listed-twice": "both trainval.txt and test.txt name the picture; it is kept in test only",
    "picture-without-trimap": "there is no trimap of this name",
    "trimap-without-picture": "there is no picture of this name",
    "picture-not-a-file": "the picture is a folder or a special file",
    "trimap-not-a-file": "the trimap is a folder or a special file",
    # about a picture
    "picture-empty": "the picture's file has no bytes",
    "picture-unknown-format": "the picture's file is of no format that can be read",
    "picture-corrupt": "the picture's data are damaged",
    "picture-truncated": "the picture's data end too early",
    "picture-too-large": "the picture has more pixels than is safe to decode",
    "picture-wrong-type": "the file is not the JPEG that its name says; encoded again as JPEG",
    "picture-animated": "the file holds several pictures; the first was taken",
    "picture-alpha": "the picture has an alpha channel; laid over white",
    "picture-cmyk": "the picture is CMYK; turned into RGB",
    "picture-16-bit": "the picture has more than 8 bits a channel; reduced to 8",
    "picture-rare-jpeg": "a kind of JPEG that not every decoder reads; encoded again as a plain one",
    "picture-stray-bytes": "superfluous bytes at the end of the JPEG data; removed",
    "exif-turned": "EXIF says that the picture is to be turned, and the trimap fits then; turned",
    "exif-ignored": "EXIF says that the picture is to be turned, but the trimap fits as it is; the mark was removed",
    # about a trimap
    "trimap-empty": "the trimap's file has no bytes",
    "trimap-unknown-format": "the trimap's file is of no format that can be read",
    "trimap-corrupt": "the trimap's data are damaged",
    "trimap-truncated": "the trimap's data end too early",
    "trimap-too-large": "the trimap has more pixels than is safe to decode",
    "trimap-wrong-type": "the trimap is not the PNG that its name says; stored as PNG",
    "trimap-palette": "the trimap has a palette; its indices are the values, stored as grey",
    "trimap-channels": "the trimap has several channels; stored as one where they agree",
    "trimap-depth": "the trimap has not 8 bits a pixel; stored with 8",
    "trimap-extras": "the trimap carries data that may change how it is decoded; stored without",
    "trimap-values": "the trimap has values other than 1, 2 and 3",
    "no-animal": "no pixel of the trimap is animal (value 1)",
    # about both
    "size-mismatch": "picture and trimap differ in size",
    # about the set
    "duplicate-across-splits": "the same picture is in another split, too: a leak",
}


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One finding on one picture: a line of ``quarantine.jsonl``."""

    name: str
    action: Action
    reason: str
    detail: str = ""
    split: str | None = None

    def line(self) -> str:
        """Return the finding for people: ``Abyssinian_34: not-listed (no list names the picture)``."""
        return f"{self.name}: {self.reason} ({self.detail or REASONS[self.reason]})"
