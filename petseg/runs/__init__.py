"""A run on disk: its recipe, its folder with config.json and metrics.jsonl, and its checkpoints.

Files written by version 1 are read unchanged.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checkpoint": ["Checkpoint", "CheckpointError", "load_checkpoint", "save_checkpoint"],
        "event_log": ["EventLog"],
        "history": ["judged_part"],
        "recipe": ["Recipe", "RuntimeOptions", "default_recipe", "recipe_from"],
        "run_folder": ["RunFolder", "create_run", "read_config", "reopen_run"],
    },
)
