"""A set as a pipeline of the ``webdataset`` library, for those whose training is built on it."""

import io
import json
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from shards.errors import SampleError
from shards.format.layout import EXTENSIONS

Pixels = npt.NDArray[np.uint8]
_NPY, _PNG = b"\x93NUMPY", b"\x89PNG\r\n\x1a\n"
_DEPTH = 24  # the byte of a PNG with the bits of a channel
_NAMES = [";".join(dict.fromkeys(names[role] for names in EXTENSIONS.values())) for role in ("image", "mask", "meta")]


def webdataset_pipeline(tars: Sequence[Path], *, shuffle: int, seed: int) -> Any:
    """Return a ``webdataset`` pipeline over these tars; see :meth:`shards.format.dataset.ShardSet.webdataset`."""
    import webdataset

    pipeline = webdataset.WebDataset(
        [str(path.resolve()) for path in tars],
        shardshuffle=len(tars) if shuffle else False,
        detshuffle=True,  # another order in each pass
        seed=seed,
        empty_check=False,  # a worker process may have no tar to read
        nodesplitter=webdataset.split_by_node,
    )
    if shuffle:
        pipeline = pipeline.compose(webdataset.detshuffle(shuffle, seed=seed))
    return pipeline.to_tuple("__key__", "__url__", *_NAMES).map(decoded_sample)


def decoded_sample(sample: tuple[str, str, bytes, bytes, bytes]) -> tuple[Pixels, Pixels, Any]:
    """Return image, mask and description of a sample; raise ``SampleError`` that names it if it is damaged."""
    key, tar, *members = sample
    try:
        return decoded_image(members[0]), decoded_mask(members[1]), json.loads(members[2])
    except (ValueError, EOFError, cv2.error) as error:
        raise SampleError(f"{key} in {tar} cannot be decoded: {error}") from None


def decoded_image(data: bytes) -> Pixels:
    """Return an image (JPEG, PNG or .npy) as uint8 (H, W, 3), RGB.

    Strictly, as the loader does: other decoders fill what is damaged with grey. Raises ``ValueError``.
    """
    if data.startswith(_NPY):
        return _array(data)
    if data.startswith(_PNG):
        return _png(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    return pixels


def decoded_mask(data: bytes) -> Pixels:
    """Return a mask (PNG or .npy) as uint8 (H, W): class indices, 255 where ignored. Raises ``ValueError``."""
    return _array(data) if data.startswith(_NPY) else _png(data, cv2.IMREAD_UNCHANGED)


def _png(data: bytes, flags: int) -> Pixels:
    if not data.startswith(_PNG) or data[_DEPTH : _DEPTH + 1] != b"\x08":
        raise ValueError("it is no PNG of 8 bits per channel")
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    if pixels is None:
        raise ValueError("the PNG is damaged")
    return pixels  # type: ignore[return-value]


def _array(data: bytes) -> Pixels:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except tokenize.TokenError as error:  # of a damaged header
        raise ValueError(str(error)) from None
    if array.dtype != np.uint8:
        raise ValueError(f"it holds values of the type {array.dtype}, not uint8")
    return np.asarray(array)
