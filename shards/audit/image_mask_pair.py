"""The audit of one sample: image and mask decode completely and have the same size."""

from dataclasses import dataclass

from shards.audit.findings import MAX_PIXELS, Finding
from shards.audit.image import AuditedImage, ImageAudit
from shards.audit.mask import AuditedMask, audit_mask
from shards.audit.orientation import ExifMode
from shards.format.labels import Labels


@dataclass(frozen=True)
class AuditedPair:
    """An image and a mask of the same size."""

    image: AuditedImage
    mask: AuditedMask

    @property
    def findings(self) -> list[Finding]:
        """Repairs and warnings, the image's first."""
        return [*self.image.findings, *self.mask.findings]


def audit_pair(
    image: bytes,
    mask: bytes,
    *,
    labels: Labels,
    pixels: bool,
    max_pixels: int = MAX_PIXELS,
    exif: ExifMode = "auto",
) -> AuditedPair:
    """Decode the content of an image file and its mask file completely, and repair what can be repaired safely.

    Args:
        image: the image file's content.
        mask: the mask file's content.
        labels: which values or colours the mask may have, and what they stand for.
        pixels: whether the image's pixels are kept (``jpeg``, ``raw`` storage) or its file (``source``).
        max_pixels: larger images are rejected before they are decoded.
        exif: whether the rotation that EXIF asks for is applied.

    Raises ``RejectedError`` if the pair cannot be packed, and why.
    """
    audited = audit_mask(mask, labels=labels, max_pixels=max_pixels)
    wanted = ImageAudit(mask_size=audited.size, pixels=pixels, max_pixels=max_pixels, exif=exif)
    return AuditedPair(wanted.run(image), audited)
