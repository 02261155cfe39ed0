"""The networks and their architecture as data: :class:`ModelConfig` describes one, :func:`build_model` builds it.

Every network takes uint8 or float images (B, 3, H, W) in 0..255 and returns logits (B, 3, H, W).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batchnorm": ["synchronise_batch_norm"],
        "factory": ["build_model", "count_parameters", "place"],
        "model_config": ["CLASS_COUNT", "MAX_SIZE", "MIN_SIZE", "ModelConfig", "default_model_config"],
    },
)
