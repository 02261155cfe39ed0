"""The machine and its processes: devices, precision, threads, ranks under torchrun, signals.

Nothing here knows about networks or runs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "device": ["Placement", "choose_device", "choose_placement", "cpu_threads"],
        "distributed": ["World", "process_group", "world_from_environment"],
        "openmp": ["limit_openmp_spinning"],
        "stop_signals": ["DivergedError", "InterruptedRunError", "StopRequest", "catch_stop_signals"],
    },
)
