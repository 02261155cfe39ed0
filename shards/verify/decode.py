"""Decoding what is stored, as strictly as the audit did when it was packed."""

from __future__ import annotations

import numpy as np

from shards.audit.findings import RejectedError
from shards.audit.pair import audit_pair
from shards.build.encode import npy_header
from shards.format.layout import Storage


def check_stored(
    image: bytes, trimap: bytes, *, storage: Storage, size: int | None, original: tuple[int, int]
) -> tuple[int, int, int]:
    """Decode a stored sample wholly.

    Args:
        image: the picture's member.
        trimap: the trimap's member.
        storage: of the set.
        size: of the set, None in ``source`` storage.
        original: (width, height) of the picture in the source, pixels.

    Returns:
        The trimap's pixels of each class.

    Raises:
        RejectedError: something does not decode, or is not of the size that it should have.
    """
    if storage == "raw":
        return _check_raw(image, trimap, size or 0)
    pair = audit_pair(image, trimap, storage="source")
    for finding in pair.findings:
        if finding.action == "mended":  # what is packed needs no mending
            raise RejectedError(finding.reason, finding.detail)
    expected = original if size is None else (size, size)
    if pair.trimap.size != expected:
        raise RejectedError("size-mismatch", f"{pair.trimap.size} pixels, expected {expected}")
    return pair.trimap.class_pixels


def _check_raw(image: bytes, trimap: bytes, size: int) -> tuple[int, int, int]:
    for what, data, shape in (("picture", image, (size, size, 3)), ("trimap", trimap, (size, size))):
        head = npy_header(shape)
        if not data.startswith(head) or len(data) != len(head) + int(np.prod(shape)):
            raise RejectedError(f"{what}-corrupt", f"not a .npy file of uint8 {shape}")
    counts = np.bincount(np.frombuffer(trimap, np.uint8, offset=len(npy_header((size, size)))), minlength=4)
    if len(counts) > 4 or counts[0]:
        raise RejectedError("trimap-values", "1, 2 and 3 are expected")
    return int(counts[1]), int(counts[2]), int(counts[3])
