"""Training: the loss, an optimisation step, the loop over epochs. ``petseg-train`` calls training.start.train."""

import lazy_loader

_NAMES = {"loop": ["TrainingLoop"], "losses": ["segmentation_loss"], "start": ["train"], "step": ["TrainStep"]}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
