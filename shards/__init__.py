"""Offline preparation: a dataset of images and masks becomes a shard set that can be verified.

Nothing here imports torch or DALI, and importing this package imports nothing before one of its names is used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from shards.errors import FormatError as FormatError
    from shards.errors import PetsegError as PetsegError
    from shards.errors import SampleError as SampleError
    from shards.errors import SourceError as SourceError
    from shards.errors import UsageError as UsageError
    from shards.format.dataset import ShardSet as ShardSet
    from shards.format.dataset import SplitReader as SplitReader
    from shards.format.manifest import Manifest as Manifest
    from shards.format.manifest import load_manifest as load_manifest

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "errors": ["FormatError", "PetsegError", "SampleError", "SourceError", "UsageError"],
        "format.dataset": ["ShardSet", "SplitReader"],
        "format.manifest": ["Manifest", "load_manifest"],
    },
)


def installed_version() -> str:
    """Return petseg's version; of a checkout that is not installed, which has none, ``unknown``."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("petseg")
    except PackageNotFoundError:
        return "unknown (not installed with pip)"
