"""Using a trained network: loading it, scoring it; files/ predicts image files. Training validates with it, too."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "evaluation": ["Evaluation"],
        "metrics": ["Scores", "confusion", "predicted_class", "score"],
        "scoring": ["evaluate", "score_run"],
        "trained_network": ["Prediction", "Predictor", "load"],
    },
)
