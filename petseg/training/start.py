"""Starting and resuming a run: everything around the loop of :mod:`petseg.training.loop`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from petseg.host.device import Placement, choose_device, choose_placement, cpu_threads
from petseg.host.distributed import World, process_group, world_of_environment
from petseg.host.stop_signals import catch_stop
from petseg.nets.model_config import default_model_config
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from petseg.runs.command_line import command_of, resume_command, with_torchrun
from petseg.runs.recipe import Recipe, Running, default_recipe, differences, recipe_from
from petseg.runs.run_config import write_config
from petseg.runs.run_folder import LAST, REPORT, RunFolder, create_run, read_config, reopen_run
from shards import ShardSet, UsageError

LR_OF_ADAM = 4e-3  # unet's default for adam and adamw
_MODEL_FIELDS = ("widths", "stem", "blocks", "norm", "upsample", "join", "dropout", "encoder", "pretrained")


def train(
    shards: str | Path | None = None,
    *,
    run: str | Path | None = None,
    resume: bool = False,
    options: Mapping[str, Any] | None = None,
    command: str | None = None,
    make_reporter: Callable[[], Reporter] = Reporter,
) -> Path:
    """Train a network on a shard set, or go on with a run that was broken off.

    Args:
        shards: the shard set; when resuming, None for the one that the run was begun with.
        run: the run's folder; None for the next free ``runs/MODEL-NNN``. Needed to resume.
        resume: go on from the run's last.pt instead of starting anew.
        options: what differs from the defaults: fields of :class:`petseg.runs.recipe.Recipe`,
            :class:`petseg.runs.recipe.Running` and :class:`petseg.nets.model_config.ModelConfig` (``model`` is the network's name).
        command: what would repeat this, for config.json; None for the ``petseg-train`` command of these arguments.
        make_reporter: makes what is told of progress; silence by default. Called on rank 0, once all is checked.

    Returns:
        The run's folder.

    Raises:
        PetsegError: an option is wrong or does not fit the run; the data are unusable; the run was interrupted (a
            checkpoint was written) or diverged.
    """
    options = dict(options or {})
    world = world_of_environment()
    command = with_torchrun(command or command_of(shards, run, resume, options), world)
    checkpoint = None
    if resume:
        if run is None:
            raise UsageError("--resume needs --run: which run is to go on?")
        recipe, running, checkpoint = _kept(Path(run), shards, options)
        if _finished(checkpoint) and (Path(run) / REPORT).is_file():
            return _tell_finished(Path(run), make_reporter() if world.first else Reporter())
    else:
        recipe, running = _asked(shards, options)
    placement = _check(recipe, running, world)
    data = ShardSet.open(running.shards)
    if "train" not in data.manifest.splits:
        raise UsageError(f"{running.shards} has no train split; build the set with one to train on it")
    if resume:
        _check_data(Path(run or ""), data)
    with cpu_threads(running.threads, local_processes=world.local_size):
        folder = None
        if world.first:
            folder = (
                reopen_run(Path(run or ""))
                if resume
                else create_run(None if run is None else Path(run), model=recipe.model.name)
            )
            if not _finished(checkpoint):
                write_config(
                    folder, recipe=recipe, running=running, data=data, command=command, placement=placement, world=world
                )
        reporter = make_reporter() if world.first else Reporter()
        try:
            return _carry_out(
                recipe=recipe,
                running=running,
                data=data,
                folder=folder,
                placement=placement,
                world=world,
                reporter=reporter,
                checkpoint=checkpoint,
            )
        finally:
            reporter.close()
            if folder is not None:
                folder.close()


def _carry_out(
    *,
    recipe: Recipe,
    running: Running,
    data: ShardSet,
    folder: RunFolder | None,
    placement: Placement,
    world: World,
    reporter: Reporter,
    checkpoint: Checkpoint | None,
) -> Path:
    from petseg.training.loop import Trainer

    with process_group(world, placement.device), catch_stop(patient=world.size > 1) as stop:
        path: Path = world.first_says(None if folder is None else folder.path)
        trainer = Trainer(
            recipe=recipe,
            running=running,
            shards=data,
            folder=folder,
            name=path,
            placement=placement,
            world=world,
            reporter=reporter,
            stop=stop,
            resume_from=checkpoint,
        )
        if running.compile and not placement.on_gpu:
            reporter.note("--compile: on a CPU it took most of a minute and made steps no faster (docs/training.md)")
        if trainer.position.finished:
            reporter.note(f"{path} is finished ({len(trainer.history)} epochs); only its report is still to be drawn")
        elif checkpoint is not None:
            reporter.note(f"going on in epoch {trainer.position.epoch + 1}, after step {trainer.position.step}")
        try:
            trainer.run()
        finally:
            if folder is not None and trainer.history:
                folder.write_metrics(trainer.history)
    if folder is not None:
        from petseg.report.artifacts import draw_run

        try:
            draw_run(path, data=data, placement=placement, seconds=trainer.position.seconds)
        except KeyboardInterrupt as error:
            error.add_note(f"the run is finished, only its report is missing: {resume_command(path, World())} draws it")
            raise
    return path


def _asked(shards: str | Path | None, options: Mapping[str, Any]) -> tuple[Recipe, Running]:
    """Return what a new run is to do."""
    if shards is None:
        raise UsageError("--shards is missing: the folder that petseg-shard build made")
    recipe, running = default_recipe(options.get("model", "unet")), Running(shards=str(Path(shards).absolute()))
    return apply_options(recipe, running, options)


def _check(recipe: Recipe, running: Running, world: World) -> Placement:
    """Refuse what cannot be carried out here, before anything is written; return where it is computed."""
    recipe.check()
    running.check()
    device = choose_device(running.device, local_rank=world.local_rank)
    placement = choose_placement(device, recipe.precision)
    compiler = os.environ.get("CXX", "g++")
    if running.compile and not placement.on_gpu and shutil.which(compiler) is None:
        raise UsageError(f"--compile needs a C++ compiler on a CPU, and there is no {compiler}; leave --compile out")
    if recipe.batch_size % world.size:
        raise UsageError(f"--batch-size {recipe.batch_size} cannot be shared evenly by {world.size} processes")
    if recipe.accumulate > recipe.batch_size // world.size:
        share = recipe.batch_size // world.size
        raise UsageError(f"--accumulate {recipe.accumulate}: a process has only {share} pictures of a batch")
    return placement


def apply_options(recipe: Recipe, running: Running, options: Mapping[str, Any]) -> tuple[Recipe, Running]:
    """Return both with the given fields changed; field names as in :func:`train`.

    Raises:
        UsageError: there is no such field.
    """
    options = dict(options)
    model = recipe.model
    name = options.pop("model", model.name)
    if name != model.name:
        model = default_model_config(name)
    if options.get("encoder", "none") != "none":
        options.setdefault("stem", "full")  # the default belongs to our own encoder
    model = msgspec.structs.replace(model, **{key: options.pop(key) for key in _MODEL_FIELDS if key in options})
    if recipe.optimizer == "muon" and options.get("optimizer") in ("adam", "adamw"):
        options.setdefault("lr", LR_OF_ADAM)  # the default belongs to muon
    if options.get("optimizer") == "adam":
        options.setdefault("weight_decay", 0.0)  # the default belongs to adamw
    of_recipe = {key: options.pop(key) for key in recipe.__struct_fields__ if key in options}
    of_running = {key: options.pop(key) for key in running.__struct_fields__ if key in options}
    if options:
        raise UsageError(f"no such option: {', '.join(sorted(options))}")
    return (
        msgspec.structs.replace(recipe, model=model, **of_recipe),
        msgspec.structs.replace(running, **of_running),
    )


def _kept(
    run: Path, shards: str | Path | None, options: Mapping[str, Any]
) -> tuple[Recipe, Running, Checkpoint | None]:
    """Return what a run was begun with, changed where it may be, and its last checkpoint if it has one."""
    if not run.is_dir():
        raise UsageError(f"no such run: {run}; start it without --resume")
    config = read_config(run)
    try:
        recipe = recipe_from(config["recipe"])
        running = msgspec.convert(config["running"], Running)
    except (KeyError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{run / 'config.json'} is damaged, or of another version ({error})") from None
    checkpoint = load_checkpoint(run / LAST) if (run / LAST).exists() else None
    if checkpoint is not None:
        recipe = recipe_from(checkpoint.config)
    asked, running = apply_options(recipe, running, options)
    if wrong := differences(recipe, asked):
        raise UsageError(
            f"{run} cannot be resumed with another recipe: {'; '.join(wrong)}. Leave these options out to go on, or "
            "start a new run with them"
        )
    if shards is not None:
        running = msgspec.structs.replace(running, shards=str(Path(shards).absolute()))
    return recipe, running, checkpoint


def _finished(checkpoint: Checkpoint | None) -> bool:
    return checkpoint is not None and bool(checkpoint.position["finished"])


def _tell_finished(run: Path, reporter: Reporter) -> Path:
    reporter.note(f"{run} is finished already; nothing to do. To train for longer, start a new run with more --epochs")
    reporter.close()
    return run


def _check_data(run: Path, data: ShardSet) -> None:
    begun = read_config(run).get("data", {}).get("fingerprint")
    if begun != data.manifest.fingerprint:
        raise UsageError(
            f"{run} was begun with other data: {data.path} has fingerprint {data.manifest.fingerprint[:12]}, the run "
            f"{str(begun)[:12]}; name its set with --shards, or start a new run"
        )
