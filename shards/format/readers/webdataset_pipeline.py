"""A set as a pipeline of the ``webdataset`` library, for those whose training is built on it."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.format.layout import EXTENSIONS

Pixels = npt.NDArray[np.uint8]
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
    return pipeline.to_tuple(*_NAMES).map_tuple(decoded_image, decoded_mask, json.loads)


def decoded_image(data: bytes) -> Pixels:
    """Return an image (JPEG, PNG or .npy) as uint8 (H, W, 3), RGB, decoded by Pillow."""
    return _array(data) if data.startswith(b"\x93NUMPY") else np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def decoded_mask(data: bytes) -> Pixels:
    """Return a mask (PNG or .npy) as uint8 (H, W): class indices, 255 where ignored."""
    return _array(data) if data.startswith(b"\x93NUMPY") else np.asarray(Image.open(io.BytesIO(data)))


def _array(data: bytes) -> Pixels:
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
