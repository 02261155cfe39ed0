"""Large images, of 67 million pixels with --campaign: what they need in memory, as a multiple of their pixels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from shards.audit.png_data import encode_rgb, encode_unfiltered

MOST = 9  # bytes a pixel, without the file: 3 of RGB, 4 of Pillow's copy that is resized, 1 of the mask

AUDIT = """
import resource, sys
from pathlib import Path
from shards.audit.image_mask_pair import audit_pair
from shards.build.encode import encode
from shards.format.builtin_labels import PETS
image, mask = (Path(path).read_bytes() for path in sys.argv[1:3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size, fit = (None, None) if sys.argv[3] == "source" else ((128, 128), "stretch")
pair = audit_pair(image, mask, labels=PETS, pixels=size is not None)
stored = encode(pair, storage=sys.argv[3], size=size, fit=fit, quality=None)
assert pair.image.width * pair.image.height > 2**24
assert stored.counts.sum() == (pair.image.width * pair.image.height if size is None else 128 * 128)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.fixture(scope="module")
def width(campaign: Callable[[int, int], int]) -> int:
    return campaign(4104, 8208)


@pytest.fixture(scope="module")
def files(width: int, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("large")
    x, y = np.arange(width, dtype=np.uint16)[None], np.arange(width, dtype=np.uint16)[:, None]
    pixels = np.empty((width, width, 3), np.uint8)
    for channel in range(3):
        pixels[..., channel] = (x * (channel + 1) + y * 2) // 13
    contents = {
        "jpg": simplejpeg.encode_jpeg(pixels, quality=85),
        "png": encode_rgb(pixels),
        "mask": encode_unfiltered(((x // 64 + y // 64) % 3 + 1).astype(np.uint8)),
    }
    paths = {name: folder / name for name in contents}
    for name, data in contents.items():
        paths[name].write_bytes(data)
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["source", "jpeg"])
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_memory_is_bounded(files: dict[str, Path], width: int, kind: str, storage: str) -> None:
    arguments = [sys.executable, "-c", AUDIT, str(files[kind]), str(files["mask"]), storage]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=300)
    most = MOST if storage == "jpeg" else 3  # `source` storage makes no pixels
    assert int(done.stdout) < most * width**2
