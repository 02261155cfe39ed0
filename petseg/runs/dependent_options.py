"""Options of ``petseg-train`` that do something only together with another one."""

from collections.abc import Iterable

from petseg.runs.recipe import Recipe, RuntimeOptions
from shards.errors import UsageError, spelled


def check_dependent_options(given: Iterable[str], recipe: Recipe, runtime: RuntimeOptions) -> None:
    """Raise ``UsageError`` for the first option that was given, by its field, and would change nothing.

    ``given`` are those of the command line, not those of a configuration file: a run's own file has all of them.
    """
    idle = {
        "warmup": (recipe.schedule != "onecycle", spelled("--warmup is for --schedule=onecycle")),
        "fit": (
            recipe.crop_scale is not None,
            spelled("--fit is for whole images, and --crop-scale trains on crops: give one of them"),
        ),
        "plain_share": (recipe.augment == "none", spelled("--plain-share is for --augment=train and --augment=strong")),
        "patience": (
            recipe.patience and recipe.epochs <= recipe.validate_every > 1,
            spelled("--patience needs validations before the last epoch: give a --validate-every below --epochs"),
        ),
        "max_damaged": (
            runtime.on_error != "replace",
            spelled("--max-damaged is for --on-error=replace"),
        ),
        "logger": (
            runtime.tensorboard and not runtime.logger,
            spelled("--logger=none leaves --tensorboard as it is: give --no-tensorboard"),
        ),
        "tensorboard": (
            "tensorboard" in runtime.logger and not runtime.tensorboard,
            spelled("--no-tensorboard leaves --logger=tensorboard as it is: give another --logger, or none"),
        ),
    }
    for field in given:
        if field in idle and idle[field][0]:
            raise UsageError(idle[field][1])
