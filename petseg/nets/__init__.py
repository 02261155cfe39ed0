"""The networks. A :class:`ModelConfig` describes an architecture as data, and :func:`build_model` builds it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batchnorm": ["synchronise_batch_norm"],
        "factory": ["build_model", "count_parameters", "place"],
        "model_config": ["MAX_SIZE", "MIN_SIZE", "ModelConfig", "default_model_config"],
    },
)
