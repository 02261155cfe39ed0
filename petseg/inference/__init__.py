"""Using a trained network: loading it, predicting image files, scoring it. Training validates with it, too."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "evaluation": ["Evaluation"],
        "existing_results": ["FileJob"],
        "file_jobs": ["plan_jobs", "predict_files"],
        "image_files": ["find_images", "to_rgb"],
        "metrics": ["Scores", "confusion", "predicted_class", "score"],
        "scoring": ["evaluate", "score_run"],
        "trained_network": ["Prediction", "Predictor", "load"],
    },
)
