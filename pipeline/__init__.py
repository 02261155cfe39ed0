"""Online: a shard set becomes batches of tensors, on the CPU or the GPU.

``from pipeline import Loader``. Importing this package imports neither torch nor DALI; making a loader does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.batch import Batch
    from pipeline.loader import Loader
    from pipeline.order.augmentation import Augmentation

__all__ = ["Augmentation", "Batch", "Loader"]

_HOME = {"Augmentation": "pipeline.order.augmentation", "Batch": "pipeline.batch", "Loader": "pipeline.loader"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
