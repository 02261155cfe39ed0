"""Image files in, result files out: what is predicted, where results go, and which files are results already.

The prediction itself is in :mod:`petseg.inference.trained_network`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "existing_results": ["FileJob"],
        "file_jobs": ["plan_jobs", "predict_files"],
        "image_files": ["find_images", "to_rgb"],
    },
)
