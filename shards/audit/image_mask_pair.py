"""The audit of one sample: image and mask decode completely and have the same size."""

from dataclasses import dataclass

from shards.audit.findings import Finding
from shards.audit.image import AuditedImage, audit_image
from shards.audit.mask import AuditedMask, audit_mask
from shards.format.layout import Storage


@dataclass(frozen=True)
class AuditedPair:
    """An image and a mask of the same size."""

    image: AuditedImage
    mask: AuditedMask

    @property
    def findings(self) -> list[Finding]:
        """Repairs and warnings, the image's first."""
        return [*self.image.findings, *self.mask.findings]


def audit_pair(image: bytes, mask: bytes, *, storage: Storage) -> AuditedPair:
    """Decode the content of an image file and its mask file completely, and repair what can be repaired safely.

    ``storage`` decides whether the image's pixels are kept (``jpeg``, ``raw``) or its file (``source``).
    Raises ``RejectedError`` if the pair cannot be packed, and why.
    """
    audited = audit_mask(mask)
    return AuditedPair(audit_image(image, mask_size=audited.size, pixels=storage != "source"), audited)
