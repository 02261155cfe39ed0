"""Online part: a shard set becomes batches of tensors, on the CPU or the GPU.

Importing this package imports neither torch nor DALI; creating a :class:`Loader` does.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from pipeline.batch import Batch as Batch
    from pipeline.engine import DecoderOptions as DecoderOptions
    from pipeline.loader import Loader as Loader
    from pipeline.order.augmentation import Augmentation as Augmentation

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batch": ["Batch"],
        "engine": ["DecoderOptions"],
        "loader": ["Loader"],
        "order.augmentation": ["Augmentation"],
    },
)
