"""Optimisation: the Muon optimiser, the learning-rate schedules, and the moving average of the weights.

Nothing here knows about data, runs or files.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "ema": ["WeightAverage", "default_decay"],
        "learning_rate": ["Schedule", "learning_rate_at"],
        "muon": ["Muon"],
    },
)
