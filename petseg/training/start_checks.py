"""What must be right before a run starts: the options, and what the ranks have in common, on whichever machines."""

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from petseg.host.agreement import JointStart, RefusedStartError
from petseg.host.device import Placement, choose_device, choose_placement
from petseg.host.distributed import World
from petseg.host.stop_signals import parse_signals
from petseg.loggers.metrics_logger import chosen_loggers, expect_packages
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import Checkpoint
from petseg.runs.option_fields import check_fields, spelling
from petseg.runs.recipe import Recipe, RuntimeOptions
from petseg.runs.run_config import RunConfig, versions
from petseg.runs.run_folder import CONFIG
from petseg.training.cuda_graph import check_graph
from pipeline.choose_engine import choose_engine
from shards import ShardSet, UsageError
from shards.errors import FormatError, counted, listed, option, spelled
from shards.format.geometry import size_text
from shards.store.addresses import is_remote
from shards.store.byte_ranges import read_regular

SHARE = "the run's folder must be on a file system that all machines share, under the same path"
_LEFT_OUT = 0.1  # of the images: from there on, it is said how many an epoch leaves out
_DIRECTORY_SECONDS = 5.0  # until a network file system shows a file that another machine has made


def check_options(recipe: Recipe, runtime: RuntimeOptions, world: World) -> Placement:
    """Refuse options that are impossible here, before anything is written; return device and precision."""
    recipe.check()
    check_fields(runtime)
    parse_signals(runtime.stop_signal)
    expect_packages(chosen_loggers(runtime.logger, tensorboard=runtime.tensorboard))
    device = choose_device(runtime.device, local_rank=world.local_rank)
    placement = choose_placement(device, recipe.precision)
    choose_engine(runtime.engine, device_type=device.type, storage="source", decode=recipe.decode)
    compiler = os.environ.get("CXX", "g++")
    if runtime.compile and not placement.on_gpu and shutil.which(compiler) is None:
        raise UsageError(
            f"{option('compile')} needs a C++ compiler on a CPU, and there is no {compiler}; omit {option('compile')}"
        )
    if runtime.cuda_graph:
        check_graph(placement, world)
    share, remainder = divmod(recipe.batch_size, world.size)
    if remainder:
        raise UsageError(
            f"{option('batch_size', recipe.batch_size)} cannot be divided evenly among {world.size} processes"
        )
    if recipe.accumulate > share:
        raise UsageError(f"{option('accumulate', recipe.accumulate)}: each process has only {share} images of a batch")
    return placement


def agree_on_checkpoint(start: JointStart, run: Path, checkpoint: Checkpoint | None) -> None:
    """Refuse to continue if the ranks have read different checkpoints."""
    step = None if checkpoint is None else checkpoint.position.get("step")
    text = f"finds no checkpoint in {run}" if checkpoint is None else f"reads step {step} from {run}"
    start.must_agree("checkpoint", step, text=text, advice=SHARE)


def agree_on_options(start: JointStart, recipe: Recipe, data: ShardSet) -> None:
    """Refuse to start if the ranks' recipes, sets or programs differ; what does not decide the weights may differ."""
    found = versions()
    program = {name: found[name].partition("+")[0] for name in ("petseg", "torch")}
    text = f"has petseg {program['petseg']} and torch {program['torch']}"
    start.must_agree("program", program, text=text, advice="install the same versions on all machines")
    fields = {**msgspec.to_builtins(recipe), **msgspec.to_builtins(recipe.model)}
    del fields["model"]
    for name, value in fields.items():
        text = f"was started with {option(spelling(name), value)}"
        start.must_agree(name, value, text=text, advice="give every machine the same command")
    fingerprint = data.manifest.fingerprint
    text = f"has a set with fingerprint {fingerprint[:12]} in {data.address}"
    start.must_agree("data", fingerprint, text=text, advice="every machine needs the same shards")


def expect_shared_folder(path: Path, world: World, *, resume: bool, note: Callable[[str], None]) -> None:
    """Say which machines do not see the folder that rank 0 writes; every rank must call this.

    Raises ``UsageError`` if the run is meant to be resumed, since any machine may then be the one that reads it.
    """
    if world.size == world.local_size:
        return
    written = world.broadcast(_digest(path))
    deadline = time.monotonic() + _DIRECTORY_SECONDS
    while (seen := _digest(path) == written) is False and time.monotonic() < deadline:
        time.sleep(0.1)
    hosts = world.gather(None if seen else f"rank {world.rank} on {socket.gethostname()}")
    if not (blind := [host for host in hosts if host is not None]):
        return
    problem = f"{blind[0]} does not see {path}, which rank 0 on {world.broadcast(socket.gethostname())} writes; {SHARE}"
    if resume:
        raise UsageError(problem) if world.first else RefusedStartError(problem, exit_code=UsageError.exit_code)
    note(f"{problem}, if the run is ever to be resumed")


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(read_regular(path / CONFIG)).hexdigest()
    except OSError:
        return None


def note_unusual(config: RunConfig, reporter: Reporter) -> None:
    """Say what is unusual about a training, before it starts."""
    recipe, samples = config.recipe, config.data.manifest.splits["train"].samples
    if config.runtime.compile and not config.placement.on_gpu:
        reporter.note(f"{option('compile')} takes a minute on a CPU, and steps are no faster (docs/training.md)")
    if recipe.batch_size > samples:
        reporter.note(
            f"{option('batch_size', recipe.batch_size)}: there are {counted(samples, 'training image')}, and "
            "what is missing is computed all the same, as copies that batch normalisation alone counts; a smaller "
            "batch is faster"
        )
    if recipe.crop_scale is not None:
        what = "validation scores the centre of each image, as large as a crop; petseg-eval all of it, in windows"
        reporter.note(f"{option('crop_scale')}: {what}")
    else:
        largest, stored = config.data.manifest.largest, config.data.manifest.size
        if any(side > most for side, most in zip(recipe.size, largest, strict=True)):
            more = "; build the set with a larger size, or as source" if stored else ""
            reporter.note(
                f"{option('size', size_text(recipe.size))} is larger than the set's images (up to "
                f"{size_text(largest)}): they are enlarged, which adds work, not detail{more}"
            )
    left_out = samples % recipe.batch_size if recipe.drop_last and samples > recipe.batch_size else 0
    if left_out > _LEFT_OUT * samples:
        step = config.world.size
        sizes = range(recipe.batch_size - step, step * recipe.accumulate - 1, -step)
        better = next((size for size in sizes if samples % size < left_out), None)
        more = f", and {option('batch_size', better)} leaves out {samples % better}" if better is not None else ""
        reporter.note(
            f"{left_out} of {counted(samples, 'training image')} are left out of each epoch, others each time, "
            f"since they fill no batch of {recipe.batch_size}; {option('drop_last', False)} keeps them{more}"
        )
    note_absent_classes(config.data, reporter)


def note_absent_classes(data: ShardSet, reporter: Reporter) -> None:
    """Say which classes have no pixel to learn from, and where a single one has any."""
    manifest = data.manifest
    counts = manifest.splits["train"].class_pixels
    present = [name for name, pixels in zip(manifest.labels.names, counts, strict=True) if pixels]
    if absent := [name for name in manifest.labels.names if name not in present]:
        verb, what = ("occurs", "it") if len(absent) == 1 else ("occur", "them")
        reporter.note(f"{listed(absent)} {verb} in no mask of train; the network cannot learn {what}")
    if len(present) == 1:
        reporter.note(f"all labelled pixels of train are {present[0]}: there is nothing to tell it from")


def open_set(runtime: RuntimeOptions, *, of_run: Path | None) -> ShardSet:
    """Open the set to train on; ``of_run``: the run that names it, where the caller does not.

    Raises ``FormatError``, which of a run says what to do where the set was moved.
    """
    if of_run is not None and not is_remote(runtime.shards) and not Path(runtime.shards).exists():
        raise FormatError(
            f"no such folder: {runtime.shards}, the set that {of_run} was started with; if it was moved, say where it "
            f"is now with {spelled('--shards=SET')}"
        )
    return ShardSet.open(
        runtime.shards, fetch=runtime.fetch, cache=runtime.cache or None, cache_bytes=runtime.cache_bytes or None
    )
