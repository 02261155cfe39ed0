"""The audit of one pair: what is packed is proven to decode, and to be what the source held.

:func:`audit_pair` and :func:`shards.build.encode.encode` are pure functions of bytes, so that they can be tested and
measured apart from files and processes.
"""

from __future__ import annotations

from dataclasses import dataclass

from shards.audit.findings import Finding
from shards.audit.image import Picture, audit_picture
from shards.audit.mask import Trimap, audit_trimap
from shards.format.layout import Storage


@dataclass(frozen=True)
class AuditedPair:
    """A picture and a trimap that fit each other; ``findings`` says what was mended or is worth a remark."""

    picture: Picture
    trimap: Trimap

    @property
    def findings(self) -> list[Finding]:
        """The picture's findings, then the trimap's."""
        return [*self.picture.findings, *self.trimap.findings]


def audit_pair(image: bytes, trimap: bytes, *, storage: Storage) -> AuditedPair:
    """Decode a picture and its trimap wholly, check them, and mend what is safe to mend.

    Args:
        image: the picture's file.
        trimap: the trimap's file.
        storage: decides whether the picture's pixels are kept (``jpeg``, ``raw``) or its file (``source``).

    Raises:
        RejectedError: the pair must be left out, and why.
    """
    mask = audit_trimap(trimap)
    picture = audit_picture(image, trimap_size=mask.size, pixels=storage != "source")
    return AuditedPair(picture=picture, trimap=mask)
