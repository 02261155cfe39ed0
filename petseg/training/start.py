"""Starting and resuming a run: options, checks, the run's folder, and the report at the end."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from petseg.host.device import Placement, choose_device, choose_placement, cpu_threads, fast_kernels
from petseg.host.distributed import World, process_group, world_from_environment
from petseg.host.stop_signals import catch_stop_signals
from petseg.loggers.metrics_logger import chosen_loggers, expect_packages
from petseg.loggers.run_loggers import RunLoggers, make_loggers
from petseg.report.artifacts import draw_run
from petseg.report.console_reporter import Reporter, some_names
from petseg.runs.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from petseg.runs.command_line import equivalent_command, resume_command, with_torchrun
from petseg.runs.option_fields import check_fields
from petseg.runs.recipe import (
    Recipe,
    RuntimeOptions,
    apply_options,
    default_recipe,
    default_size,
    differences,
    recipe_from,
)
from petseg.runs.run_config import RunConfig, write_config
from petseg.runs.run_folder import CURVES, GALLERY, LAST, REPORT, RunFolder, create_run, read_config, reopen_run
from petseg.training.cuda_graph import check_graph
from petseg.training.encoder_start import EncoderStart
from petseg.training.loop import TrainingLoop
from shards import ShardSet, UsageError
from shards.format.geometry import size_text


def train(
    shards: str | Path | None = None,
    *,
    run: str | Path | None = None,
    resume: bool = False,
    options: Mapping[str, Any] | None = None,
    command: str | None = None,
    make_reporter: Callable[[], Reporter] = Reporter,
) -> Path:
    """Train a network on a shard set, or resume an interrupted run.

    Args:
        shards: the shard set; when resuming, None for the one the run was started with.
        run: the run's folder; None for the next free ``runs/MODEL-NNN``. Required to resume.
        resume: continue from the run's last.pt instead of starting a new run.
        options: what differs from the defaults: fields of :class:`petseg.runs.recipe.Recipe`,
            :class:`petseg.runs.recipe.RuntimeOptions` and :class:`petseg.nets.model_config.ModelConfig` (``model`` is
            the network's name).
        command: the command that repeats this, for config.json; None for the equivalent ``petseg-train`` command.
        make_reporter: creates the receiver of progress and notes; called on rank 0, after all checks.

    Returns:
        The run's folder.

    Raises:
        PetsegError: an option is wrong or does not fit the run; the data are unusable; the run was interrupted (a
            checkpoint was written) or diverged.
    """
    options = dict(options or {})
    world = world_from_environment()
    command = with_torchrun(command or equivalent_command(shards, run, resume, options), world)
    path = None if run is None else Path(run)
    checkpoint = None
    if resume:
        if path is None:
            raise UsageError("--resume needs --run, the folder of the run to continue")
        recipe, runtime, checkpoint = _read_run(path, shards, options)
        if _finished(checkpoint) and (path / REPORT).is_file():
            reporter = make_reporter() if world.first else Reporter()
            reporter.note(
                f"{path} is already finished; nothing to do. To train for longer, start a new run with more --epochs"
            )
            reporter.close()
            return path
    else:
        if shards is None:
            raise UsageError("--shards is missing: the folder that petseg-shard build created")
        runtime = RuntimeOptions(shards=str(Path(shards).absolute()))
        recipe, runtime = apply_options(default_recipe(options.get("model", "unet")), runtime, options)
    placement = _check(recipe, runtime, world)
    data = ShardSet.open(runtime.shards)
    if "train" not in data.manifest.splits:
        raise UsageError(f"{runtime.shards} has no train split; build the set with one to train on it")
    if resume and path is not None:
        _check_same_data(path, data)
    else:
        recipe = _for_set(recipe, data, options)
    encoder = None
    if checkpoint is None:  # which has the weights
        encoder = EncoderStart(recipe, world)
        recipe = encoder.recipe
    with cpu_threads(runtime.threads), fast_kernels(placement):
        config = RunConfig(recipe=recipe, runtime=runtime, data=data, placement=placement, world=world)
        folder = None
        if world.first:
            folder = reopen_run(path) if resume and path is not None else create_run(path, model=recipe.model.name)
            if not _finished(checkpoint):
                write_config(folder, config, command=command)
        reporter = make_reporter() if world.first else Reporter()
        try:
            return _train(config, folder=folder, reporter=reporter, checkpoint=checkpoint, encoder=encoder)
        finally:
            reporter.close()
            if folder is not None:
                folder.close()


def _train(
    config: RunConfig,
    *,
    folder: RunFolder | None,
    reporter: Reporter,
    checkpoint: Checkpoint | None,
    encoder: EncoderStart | None,
) -> Path:
    world, placement = config.world, config.placement
    with process_group(world, placement.device), catch_stop_signals(ignore_repeats=world.size > 1) as stop:
        path: Path = world.broadcast(None if folder is None else folder.path)
        loggers = RunLoggers() if folder is None else make_loggers(config, folder, note=reporter.note)
        loop = TrainingLoop(
            config,
            folder=folder,
            path=path,
            reporter=reporter,
            stop=stop,
            resume_from=checkpoint,
            initialise=encoder,
            loggers=loggers,
        )
        if config.runtime.compile and not placement.on_gpu:
            reporter.note("--compile: on a CPU it takes most of a minute and makes steps no faster (docs/training.md)")
        stored = config.data.manifest.size
        if config.recipe.crop_scale is not None:
            reporter.note(
                "--crop-scale: validation scores the centre of each image, as large as a crop; petseg-eval scores all "
                "of it, in windows"
            )
        elif stored is not None and any(side > most for side, most in zip(config.recipe.size, stored, strict=True)):
            reporter.note(
                f"--size {size_text(config.recipe.size)} is larger than the set's images ({size_text(stored)}): they "
                "are enlarged, which adds work, not detail; build the set with a larger --size, or --storage source"
            )
        if loop.progress.finished:
            reporter.note(f"{path} is finished ({len(loop.history)} epochs); only its report remains to be drawn")
        elif checkpoint is not None:
            reporter.note(f"continuing in epoch {loop.progress.epoch + 1}, after step {loop.progress.step}")
        if not loop.progress.finished:
            note_absent_classes(config.data, reporter)
        try:
            loop.run()
        except BaseException:
            loggers.close(finished=False)
            raise
    if folder is not None:
        try:
            draw_run(path, data=config.data, placement=placement, seconds=loop.progress.seconds)
            loggers.add_files([folder / name for name in (CURVES, GALLERY, REPORT)])
        except KeyboardInterrupt as error:
            error.add_note(f"the run is finished, only its report is missing: {resume_command(path, World())} draws it")
            raise
        finally:
            loggers.close(finished=True)
    return path


def note_absent_classes(data: ShardSet, reporter: Reporter) -> None:
    """Say which classes have no pixel to learn from."""
    manifest = data.manifest
    counts = manifest.splits["train"].class_pixels
    if absent := [name for name, pixels in zip(manifest.labels.names, counts, strict=True) if not pixels]:
        verb, what = ("occurs", "it") if len(absent) == 1 else ("occur", "them")
        reporter.note(f"{some_names(absent)} {verb} in no mask of train; the network cannot learn {what}")


def _check(recipe: Recipe, runtime: RuntimeOptions, world: World) -> Placement:
    """Refuse options that are impossible here, before anything is written; return device and precision."""
    recipe.check()
    check_fields(runtime)
    expect_packages(chosen_loggers(runtime.logger, tensorboard=runtime.tensorboard))
    device = choose_device(runtime.device, local_rank=world.local_rank)
    placement = choose_placement(device, recipe.precision)
    compiler = os.environ.get("CXX", "g++")
    if runtime.compile and not placement.on_gpu and shutil.which(compiler) is None:
        raise UsageError(f"--compile needs a C++ compiler on a CPU, and there is no {compiler}; omit --compile")
    if runtime.cuda_graph:
        check_graph(placement, world)
    share, remainder = divmod(recipe.batch_size, world.size)
    if remainder:
        raise UsageError(f"--batch-size {recipe.batch_size} cannot be divided evenly among {world.size} processes")
    if recipe.accumulate > share:
        raise UsageError(f"--accumulate {recipe.accumulate}: each process has only {share} images of a batch")
    return placement


def _read_run(
    run: Path, shards: str | Path | None, options: Mapping[str, Any]
) -> tuple[Recipe, RuntimeOptions, Checkpoint | None]:
    """Return an existing run's options, changed where that is allowed, and its last checkpoint if it has one."""
    if not run.is_dir():
        raise UsageError(f"no such run: {run}; start it without --resume")
    document = read_config(run)
    try:
        recipe = recipe_from(document["recipe"])
        runtime = msgspec.convert(document["running"], RuntimeOptions)
    except (KeyError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{run / 'config.json'} is damaged, or of another version ({error})") from None
    checkpoint = load_checkpoint(run / LAST) if (run / LAST).exists() else None
    if checkpoint is not None:
        recipe = recipe_from(checkpoint.config)
    requested, runtime = apply_options(recipe, runtime, options)
    if found := differences(recipe, requested):
        raise UsageError(
            f"{run} cannot be resumed with another recipe: {'; '.join(found)}. Omit these options to continue, or "
            "start a new run with them"
        )
    if shards is not None:
        runtime = msgspec.structs.replace(runtime, shards=str(Path(shards).absolute()))
    return recipe, runtime, checkpoint


def _for_set(recipe: Recipe, data: ShardSet, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a new run with the set's number of classes and, unless requested, its size and fit."""
    model = msgspec.structs.replace(recipe.model, classes=len(data.manifest.labels))
    fit = recipe.fit if "fit" in options or data.manifest.fit is None else data.manifest.fit
    size = recipe.size if "size" in options else default_size(recipe, data.manifest.size)
    return msgspec.structs.replace(recipe, model=model, size=size, fit=fit)


def _check_same_data(run: Path, data: ShardSet) -> None:
    """Raise ``UsageError`` unless a set has the content and the labels that an existing run was started with."""
    started = read_config(run).get("data", {})
    found = data.manifest.fingerprint
    if started.get("fingerprint") != found:
        raise UsageError(
            f"{run} was started with other data: {data.path} has fingerprint {found[:12]}, the run "
            f"{str(started.get('fingerprint'))[:12]}; name its set with --shards, or start a new run"
        )
    if started.get("labels") != json.loads(msgspec.json.encode(data.manifest.labels)):
        raise UsageError(
            f"{run} was started with other labels: {data.path} has the same images and masks, but other values, "
            "colours or foreground classes; name the run's own set with --shards, or start a new run"
        )


def _finished(checkpoint: Checkpoint | None) -> bool:
    return checkpoint is not None and bool(checkpoint.position["finished"])
