"""Optimisation: the Muon optimiser, learning-rate schedules, and the moving average of the weights. Knows no data."""

import lazy_loader

_NAMES = {
    "ema": ["WeightAverage"],
    "learning_rate": ["learning_rate_at"],
    "muon": ["Muon"],
    "parameter_groups": ["current_state", "parameter_groups"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
