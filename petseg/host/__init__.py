"""The machine: device, precision, threads, ranks, signals, files of tensors. Knows no networks and no runs."""

import lazy_loader

_NAMES = {
    "agreement": ["JointStart", "RefusedStartError", "joint_start"],
    "device": ["Placement", "choose_device", "choose_placement", "cpu_threads", "fast_kernels"],
    "distributed": ["LostRankError", "World", "process_group", "world_from_environment"],
    "lasting_output": ["LastingOutput", "lasting_output"],
    "stop_signals": ["DivergedError", "InterruptedRunError", "StopRequest", "catch_stop_signals"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
