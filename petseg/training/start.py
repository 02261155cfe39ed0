"""Starting and resuming a run: options, checks, the run's folder, and the report at the end."""

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from petseg.host.agreement import JointStart, joint_start
from petseg.host.device import cpu_threads, fast_kernels
from petseg.host.distributed import LostRankError, World, process_group, world_from_environment
from petseg.host.stop_signals import InterruptedRunError, catch_stop_signals, parse_signals
from petseg.loggers.run_loggers import RunLoggers, make_loggers
from petseg.report.artifacts import draw_run
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import Checkpoint, CheckpointError
from petseg.runs.command_line import equivalent_command, resume_command, with_torchrun
from petseg.runs.config_file import read_config_file
from petseg.runs.dependent_options import check_dependent_options
from petseg.runs.initial_weights import FittingWeights, fit_weights
from petseg.runs.run_config import RunConfig, device_name, write_config
from petseg.runs.run_folder import (
    BEST,
    CONFIG,
    CURVES,
    GALLERY,
    LAST,
    METRICS,
    REPORT,
    RunFolder,
    create_run,
    read_metrics,
    reopen_run,
)
from petseg.runs.run_options import (
    check_same_data,
    check_same_set,
    checked_arguments,
    existing_options,
    for_set,
    initial_weights_again,
    new_options,
    suggests_options,
)
from petseg.training.encoder_start import EncoderStart
from petseg.training.loop import TrainingLoop
from petseg.training.progress import read_progress
from petseg.training.start_checks import (
    SHARE,
    agree_on_checkpoint,
    agree_on_options,
    check_options,
    expect_shared_folder,
    note_unusual,
    open_set,
)
from shards import FormatError
from shards.errors import FILE_LIMIT, PetsegError, SampleError, TerminatedError, UsageError, counted, option, spelled
from shards.format.geometry import size_text


@suggests_options
def train(
    shards: str | Path | None = None,
    *,
    run: str | Path | None = None,
    resume: bool | Literal["auto"] = False,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    command: str | None = None,
    make_reporter: Callable[[], Reporter] = Reporter,
) -> Path:
    """Train a network on a shard set, or resume an interrupted run.

    Args:
        shards: the shard set; when resuming, None for the one the run was started with.
        run: the run's folder; None for the next free ``runs/MODEL-NNN``. Required to resume.
        resume: continue from the run's last.pt instead of starting a new run; ``"auto"``: if there is one, else start.
        config: a configuration file, or a run whose options are taken; see petseg.runs.config_file. Arguments and
            ``options`` win over it.
        options: what differs from the defaults: fields of :class:`petseg.runs.recipe.Recipe`,
            :class:`petseg.runs.recipe.RuntimeOptions` and :class:`petseg.nets.model_config.ModelConfig` (``model`` is
            the network's name).
        command: the command that repeats this, for config.json; None for the equivalent ``petseg-train`` command.
        make_reporter: creates the receiver of progress and notes, such as :class:`petseg.ConsoleReporter`, which
            prints what the command prints; without it nothing is shown. Called on rank 0, after all checks.

    Returns:
        The run's folder.

    Raises:
        PetsegError: an option is wrong or does not fit the run; the data are unusable; the run was interrupted (a
            checkpoint was written) or diverged.
    """
    options = checked_arguments(options, make_reporter, places={"shards": shards, "run": run, "config": config})
    given = tuple(options)
    world = world_from_environment()
    command = with_torchrun(command or equivalent_command(shards, run, resume, options, config=config), world)
    with contextlib.ExitStack() as opened:
        with joint_start(world) as start:
            if config is not None:
                options = read_config_file(config) | options
                in_file = {name: options.pop(name, None) for name in ("shards", "run")}
                shards, run = shards or in_file["shards"], run or in_file["run"]
            path = None if run is None else Path(run)
            existing = path if _continues(path, resume, shards=shards, start=start) else None
            checkpoint, initial = None, None
            if existing is not None:
                recipe, runtime, checkpoint = existing_options(existing, shards, options)
                agree_on_checkpoint(start, existing, checkpoint)
                if checkpoint is not None and read_progress(checkpoint).finished and (existing / REPORT).is_file():
                    check_same_set(existing, shards)
                    return _already_finished(existing, checkpoint, make_reporter() if world.first else None)
                if checkpoint is None:
                    initial = initial_weights_again(existing, recipe)
            else:
                recipe, runtime, initial = new_options(shards, options)
            placement = check_options(recipe, runtime, world)
            check_dependent_options(given, recipe, runtime)
            data = open_set(runtime, of_run=existing if shards is None else None)
            if "train" not in data.manifest.splits:
                raise UsageError(f"{runtime.shards} has no train split; build the set with one to train on it")
            if existing is not None:
                check_same_data(existing, data)
            else:
                recipe = for_set(recipe, data, options)
            agree_on_options(start, recipe, data)
            encoder = EncoderStart(recipe, world, resumed=checkpoint is not None)
            recipe = encoder.recipe
            weights = None if initial is None else fit_weights(initial, recipe.model, data.manifest.labels)
            opened.enter_context(cpu_threads(runtime.threads))
            opened.enter_context(fast_kernels(placement))
            settings = RunConfig(recipe=recipe, runtime=runtime, data=data, placement=placement, world=world)
            folder = None
            if world.first:
                folder = reopen_run(existing, checkpoint) if existing else create_run(path, model=recipe.model.name)
                opened.callback(folder.close)
                if checkpoint is None:  # else once it is known to fit
                    record = None if weights is None else weights.record
                    write_config(folder, settings, command=command, initialised_from=record)
        reporter = make_reporter() if world.first else Reporter()
        opened.callback(reporter.close)
        return _train(
            settings,
            folder=folder,
            reporter=reporter,
            checkpoint=checkpoint,
            encoder=encoder,
            weights=weights,
            resume=bool(resume),
            command=command,
        )


def _train(
    config: RunConfig,
    *,
    folder: RunFolder | None,
    reporter: Reporter,
    checkpoint: Checkpoint | None,
    encoder: EncoderStart,
    weights: FittingWeights | None,
    resume: bool,
    command: str,
) -> Path:
    world, placement = config.world, config.placement
    signals = catch_stop_signals(further=parse_signals(config.runtime.stop_signal), ignore_repeats=world.size > 1)
    group = process_group(world, placement.device, minutes=config.runtime.rank_timeout)
    with signals as stop, _advice_to_ranks(folder, config), group:
        path: Path = world.broadcast(None if folder is None else folder.path)
        expect_shared_folder(path, world, resume=resume, note=reporter.note)
        loggers = RunLoggers() if folder is None else make_loggers(config, folder, note=reporter.note)
        with _advice(path, config):
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
            if folder is not None and checkpoint is not None and not loop.progress.finished:
                write_config(folder, config, command=command)
            if weights is not None:
                loop.train_step.start_from(weights.weights)
                reporter.note(weights.summary)
                if set(weights.source.trained_on) - {config.data.manifest.fingerprint}:
                    reporter.note(
                        "these weights were trained on another set, or on another build or split of this one: where "
                        "both hold the same images, scores of the validation are too high"
                    )
            _note_start(loop, checkpoint, reporter)
            try:
                loop.run()
            except BaseException:
                loggers.close(finished=False)
                raise
    if folder is not None:
        missing = f"the run is finished, only its report is missing: {resume_command(path, World())} draws it"
        try:
            if stop.signal is not None:  # after the last step, or while a finished run was opened
                raise InterruptedRunError(f"stopped; {missing}", number=stop.signal)
            with _advice(path, config):
                folder.expect_own()
                draw_run(path, data=config.data, placement=placement, seconds=loop.progress.seconds, note=reporter.note)
            loggers.add_files([folder / name for name in (CURVES, GALLERY, REPORT)])
        except (KeyboardInterrupt, TerminatedError) as error:
            error.add_note(missing)
            raise
        finally:
            loggers.close(finished=True)
    return path


def _note_start(loop: TrainingLoop, checkpoint: Checkpoint | None, reporter: Reporter) -> None:
    """Say what is about to be trained, before the first epoch ends, and what is unusual about it."""
    config, path, recipe = loop.config, loop.path, loop.config.recipe
    if loop.progress.finished:
        reporter.note(f"{path} is finished, after epoch {len(loop.history)}; only its report remains to be drawn")
        return
    if checkpoint is not None:
        steps = f"{loop.progress.step} of {loop.train_step.total_steps}"
        reporter.note(f"continuing in epoch {loop.progress.epoch + 1}, after step {steps}")
    split = config.data.manifest.splits["train"]
    reporter.note(
        f"training {recipe.network_text} on {counted(split.samples, 'image')} of {config.data.address}, "
        f"{counted(len(config.labels), 'class', 'classes')}, {counted(recipe.epochs, 'epoch')}, size "
        f"{size_text(recipe.size)}, batch {recipe.batch_size}, {device_name(config.placement)}, "
        f"{config.placement.precision}; run in {path}"
    )
    note_unusual(config, reporter)


@contextlib.contextmanager
def _advice(path: Path, config: RunConfig) -> Iterator[None]:
    """Add to what may stop a training, a full disk or a damaged sample, how it is continued."""
    try:
        yield
    except (FormatError, SampleError) as error:
        stops = isinstance(error, SampleError) and config.runtime.on_error == "stop"
        command = f"{resume_command(path, config.world)}{' --on-error replace' * stops}"
        raised = SampleError if stops else type(error)
        raise raised(f"{error}; then continue with: {command}") from None
    except OSError as error:
        kept = "the last checkpoint is kept; " if (path / LAST).exists() else ""
        limit = f": {FILE_LIMIT}" if error.errno == errno.EFBIG else ""
        what = f"{error.strerror or error}{limit} ({error.filename or path}); {kept}once that is fixed, continue with"
        raise PetsegError(f"{what}: {resume_command(path, config.world)}") from None


@contextlib.contextmanager
def _advice_to_ranks(folder: RunFolder | None, config: RunConfig) -> Iterator[None]:
    """Add to the loss of another rank how the run is continued."""
    try:
        yield
    except LostRankError as error:
        if folder is None or not (folder / LAST).exists():
            raise
        raise LostRankError(
            f"{error}; the last checkpoint is kept, continue with: {resume_command(folder.path, config.world)}"
        ) from None


def _continues(path: Path | None, resume: Any, *, shards: str | Path | None, start: JointStart) -> bool:
    """Whether an existing run is continued; all ranks agree."""
    if not isinstance(resume, bool) and resume != "auto":  # 1 would be neither
        raise UsageError(f"resume {resume!r}: choose from True, False, 'auto'")
    if not resume:
        return False
    if path is None:
        raise UsageError(spelled("--resume needs --run, the folder of the run to continue"))
    # Without a checkpoint there is nothing to continue, and nothing is lost by starting. Rank 0 looks, because others
    # might see what it has just created.
    names = [LAST, BEST, METRICS] if shards is not None and resume == "auto" else [LAST, CONFIG]
    found = bool(start.first_decides(lambda: any((path / name).is_file() for name in names)))
    if found and not any((path / name).is_file() for name in names):
        raise UsageError(f"{path}, which rank 0 continues, is not there; {SHARE}")
    return found or resume is True


def _already_finished(path: Path, checkpoint: Checkpoint, reporter: Reporter | None) -> Path:
    """Say that there is nothing to do, except that damaged metrics are restored; ``reporter``: rank 0's."""
    if reporter is None:
        return path
    try:
        read_metrics(path)
    except CheckpointError:
        with contextlib.closing(reopen_run(path, checkpoint)) as folder:
            folder.write_metrics(checkpoint.history)
    longer = f"start a new run with more epochs, or with {option('init_from', path)} from this one's weights"
    reporter.note(f"{path} is already finished; nothing to do. To train for longer, {longer}")
    reporter.close()
    return path
