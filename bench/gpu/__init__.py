"""What needs a GPU, in one command: tests, trainings and benchmarks, and how the host's threads scale there."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"gpu_proof": ["plan_parts", "run_parts"], "gpu_scaling": ["plan_loaders"]}
)
