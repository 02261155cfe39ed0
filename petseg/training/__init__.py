"""Training: the loss, one optimisation step, the loop over epochs, and starting or resuming a run.

:func:`petseg.training.start.train` is what ``petseg-train`` calls.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "loop": ["TrainingLoop"],
        "losses": ["balanced_class_weights", "dice_loss", "segmentation_loss"],
        "start": ["train"],
        "step": ["StepResult", "TrainStep"],
    },
)
