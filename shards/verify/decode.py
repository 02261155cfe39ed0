"""Decoding what is stored, as strictly as the audit did when it was packed."""

import numpy as np

from shards.audit.findings import REPAIRED, RejectedError
from shards.audit.image_mask_pair import audit_pair
from shards.format.layout import Storage
from shards.format.npy import npy_header


def check_stored(
    image: bytes, mask: bytes, *, storage: Storage, size: int | None, original: tuple[int, int]
) -> tuple[int, int, int]:
    """Decode a stored sample completely and return the mask's pixels of each class.

    ``size`` is that of the set; ``original`` is the (width, height) of the source image in pixels.

    Raises:
        RejectedError: something does not decode, or has a wrong size.
    """
    if storage == "raw":
        return _check_raw(image, mask, size or 0)
    pair = audit_pair(image, mask, storage="source")
    for finding in pair.findings:
        if finding.action == REPAIRED:  # what is packed must need no repair
            raise RejectedError(finding.reason, finding.detail)
    expected = original if size is None else (size, size)
    if pair.mask.size != expected:
        raise RejectedError("size-mismatch", f"{pair.mask.size} pixels, expected {expected}")
    return pair.mask.class_pixels


def _check_raw(image: bytes, mask: bytes, size: int) -> tuple[int, int, int]:
    for what, data, shape in (("picture", image, (size, size, 3)), ("trimap", mask, (size, size))):
        header = npy_header(shape)
        if not data.startswith(header) or len(data) != len(header) + int(np.prod(shape)):
            raise RejectedError(f"{what}-corrupt", f"not a .npy file of uint8 {shape}")
    counts = np.bincount(np.frombuffer(mask, np.uint8, offset=len(npy_header((size, size)))), minlength=4)
    if len(counts) > 4 or counts[0]:
        raise RejectedError("trimap-values", "1, 2 and 3 are expected")
    return int(counts[1]), int(counts[2]), int(counts[3])
