"""A run on disk: its options, its folder, its metrics and its checkpoints. Version 1's files are read unchanged."""

import lazy_loader

_NAMES = {
    "checkpoint": ["Checkpoint", "CheckpointError", "load_checkpoint", "save_checkpoint"],
    "config_file": ["read_config_file"],
    "initial_weights": ["InitialWeights", "fit_weights", "read_initial_weights"],
    "recipe": ["Recipe", "RuntimeOptions", "default_recipe"],
    "run_config": ["RunConfig"],
    "run_folder": ["RunFolder", "create_run", "read_config", "reopen_run"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
