"""The functions of the public face: each does what the command of its name does."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.batch import Batch
from pipeline.loader import Loader
from shards.errors import PetsegError, UsageError, expect_flags
from shards.format.dataset import ShardSet
from shards.format.geometry import Fit, Size
from shards.format.label_files import find_labels
from shards.format.labels import Labels
from shards.format.layout import Storage
from shards.public_calls import suggests_names
from shards.store.addresses import expect_paths, expect_places, is_remote

if TYPE_CHECKING:
    from petseg.exporters.onnx_network import InputSize, OnnxOutput
    from petseg.host.device import Precision
    from petseg.inference.files.file_jobs import FilePredictions
    from shards.build.outcome.build_result import BuildResult
    from shards.build.tasks.set_copy import CopyResult
    from shards.build.tasks.task_build import TaskResult

__all__ = [
    "Batch",
    "Loader",
    "PetsegError",
    "ShardSet",
    "build_shards",
    "copy_shards",
    "export",
    "join_shards",
    "predict",
]


@suggests_names
def build_shards(
    source: str | Path,
    out: str | Path,
    *,
    storage: Storage = "source",
    layout: str = "auto",
    labels: "str | Path | Labels | None" = None,
    size: int | Size | None = None,
    fit: Fit | None = None,
    quality: int | None = None,
    split: str = "official",
    fractions: tuple[float, float, float] | None = None,
    val_fraction: float | None = None,
    seed: int = 0,
    samples_per_shard: int | None = None,
    shard_bytes: int | str | None = None,
    max_pixels: int | None = None,
    exif: str = "auto",
    image_suffix: str | None = None,
    mask_suffix: str | None = None,
    workers: int | None = None,
    executor: Executor | str | None = None,
    task: int | str | None = None,
    tasks: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
) -> "BuildResult | TaskResult":
    """Pack a dataset of images and masks into a shard set, as ``petseg-shard build``.

    Args:
        source: the dataset's folder, or a .csv file; text may be an address in an object store.
        out: the set's folder, or an address as text; the set appears when it is complete. An interrupted build is
            resumed by the same call.
        storage: ``source`` keeps the original files; ``jpeg`` and ``raw`` hold images and masks at ``size``.
        layout: ``pets``, ``folders``, ``voc``, ``cityscapes``, ``ade20k``, ``csv``, or ``auto``, which finds out.
        labels: the classes: a labels file, the name of built-in labels, or :class:`shards.format.Labels`; None for the
            layout's own.
        size: (height, width) of the stored images in pixels, or one number for both, 1..4096; None for the default of
            ``jpeg`` and ``raw``.
        fit: ``stretch``, ``cover`` or ``contain``: how images are brought to ``size``; None for stretch.
        quality: of ``jpeg``, 1..100; None for the default.
        split: ``official`` for the dataset's own lists, or ``random``.
        fractions: shares of train, val and test of a random split; they add up to 1.
        val_fraction: share of the official training images that becomes the val split.
        seed: of the random split and of the order within the shards.
        samples_per_shard: from 1; None: as many as ``shard_bytes`` holds.
        shard_bytes: size of a tar, about, as a number or text such as ``"1GB"``; None for 256 MB. A split has at least
            16 tars, or one for every 32 samples.
        max_pixels: larger images are rejected, 1..2**29; None for 2**28.
        exif: the rotation that EXIF asks for: ``auto`` (what the mask fits), ``apply`` or ``ignore``.
        image_suffix: of the layout ``folders``: what the names of images end with; None to find out.
        mask_suffix: likewise, of masks; images and masks may then be in one folder.
        workers: processes; None for the cores that this process may use. The bytes do not depend on it.
        executor: replaces the processes: ``"dask:ADDRESS"``, ``"ray"``, ``"ray:ADDRESS"``, or an executor of yours; its
            workers must see the same folders under the same paths.
        task: build only the shards of this task, from 0, or ``"auto"``: as the cluster's scheduler says. Then
            :func:`join_shards` makes the set.
        tasks: the number of tasks; None for what the scheduler says. See docs/cluster.md.
        overwrite: replace a finished set; with tasks, and in a store, discard unfinished work of other options.
        strict: fail, and publish nothing, if the audit rejects or repairs anything; not with ``task``.

    Raises:
        UsageError: options do not go together, or ``out`` holds something else.
        SourceError: the source cannot be used.
        StrictError: see ``strict``.
        OSError: the disk is full, or ``out`` cannot be written.
    """
    from shards.audit.findings import MAX_PIXELS
    from shards.build.build_set import build
    from shards.build.options import options_from
    from shards.build.tasks.scheduler_variables import task_number
    from shards.build.tasks.task_build import build_task
    from shards.sources.choose_layout import scan

    expect_places(source=source, out=out, **({"labels": labels} if not isinstance(labels, Labels | None) else {}))
    expect_flags(overwrite=overwrite, strict=strict)
    options = options_from(
        storage=storage,
        size=size,
        quality=quality,
        split=split,
        fractions=fractions,
        val_fraction=val_fraction,
        seed=seed,
        samples_per_shard=samples_per_shard,
        shard_bytes=shard_bytes,
        fit=fit,
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
        exif=exif,
        labels=labels if labels is None or isinstance(labels, Labels) else find_labels(str(labels)),
    )
    if (number := task_number(task, tasks)) is not None and strict:
        raise UsageError("strict is for the whole set: give it to join_shards()")
    found = scan(source, layout=layout, image_suffix=image_suffix, mask_suffix=mask_suffix)
    place = _place(out)
    if number is None:
        return build(found, place, options, workers=workers, executor=executor, overwrite=overwrite, strict=strict)
    return build_task(found, place, options, number=number, workers=workers, executor=executor, overwrite=overwrite)


def _place(out: str | Path) -> str | Path:
    return out if is_remote(out) else Path(out)


@suggests_names
def join_shards(out: str | Path, *, overwrite: bool = False, strict: bool = False) -> "BuildResult":
    """Make a set of the shards that all tasks have built, as ``petseg-shard join``; see shards.build.tasks.join."""
    from shards.build.tasks.join_set import join

    expect_places(out=out)
    expect_flags(overwrite=overwrite, strict=strict)
    return join(_place(out), overwrite=overwrite, strict=strict)


@suggests_names
def copy_shards(source: str | Path, target: str | Path, *, overwrite: bool = False) -> "CopyResult":
    """Copy a set between folders and object stores, as ``petseg-shard copy``; see shards.build.tasks.copy_set."""
    from shards.build.tasks.set_copy import copy_set

    expect_places(source=source, target=target)
    expect_flags(overwrite=overwrite)
    return copy_set(source, target, overwrite=overwrite)


@suggests_names
def predict(
    run: str | Path,
    images: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    recursive: bool = False,
    overlays: bool = True,
    probabilities: bool = False,
    overwrite: bool = False,
    skip_existing: bool = False,
    batch_size: int = 8,
    flip_tta: bool = False,
    scales: Sequence[float] = (1.0,),
    window: int | str | Size | None = None,
    overlap: float | None = None,
    size: int | str | Size | None = None,
    device: str = "auto",
    precision: "Precision" = "auto",
) -> "FilePredictions":
    """Segment image files at their original resolution and write the masks, as ``petseg-predict``.

    Args:
        run: a run's folder, or a checkpoint.
        images: files, folders or glob patterns, or one of them; results of earlier predictions that are found, not
            named, are left out.
        out: folder for NAME.png, NAME.overlay.png and NAME.probabilities.npz; created if missing. The masks have the
            values and colours of those that the run was trained on.
        recursive: search folders with their subfolders, which ``out`` gets, too.
        overlays: also write the images with their masks drawn over them.
        probabilities: also write float32 (N, H, W), of N classes.
        overwrite: replace existing results; a file that is none, such as a mask of a dataset, is an error.
        skip_existing: leave out images that have results, to go on; those of other networks, options or images fail.
        batch_size: images per batch, from 1.
        flip_tta: average with the predictions of the horizontally flipped images.
        scales: average over inputs whose size is multiplied by these factors.
        window: slide windows of this size, in image pixels, over the images: N, (height, width), "HxW", or "auto" for
            the size of the network's input. None: whole images, or "auto" for a run that was trained on crops.
        overlap: of windows, as a share of their side; None for 0.25.
        size: of the images given to the network, pixels: N, (height, width) or "HxW"; None for that of its training.
        device, precision: see :func:`petseg.load`.

    Raises:
        PetsegError: no such run or images, or a result exists already. Images that cannot be read are in the result.
    """
    from petseg.inference.files.existing_results import FileJob
    from petseg.inference.files.file_jobs import FilePredictions, origin_of, plan_jobs, predict_files
    from petseg.inference.files.image_files import find_images
    from petseg.inference.network_inputs import InferenceOptions, check_batch_size
    from petseg.inference.trained_network import load
    from petseg.runs.run_folder import A_RUN

    check_batch_size(batch_size)
    options = InferenceOptions.of(window=window, overlap=overlap, scales=scales, flip_tta=flip_tta)
    written = {"overlays": overlays, "probabilities": probabilities}
    what = {**written, "overwrite": overwrite, "skip_existing": skip_existing}
    expect_flags(recursive=recursive, **what)
    names = list(images) if isinstance(images, Iterable) and not isinstance(images, str) else [images]
    for name in names:
        expect_paths("petseg.load(run).predict(image) takes arrays and PIL images", images=name)
    expect_paths(A_RUN, run=run)
    expect_paths(out=out)
    files, ignored, results = find_images([str(name) for name in names], recursive=recursive, skip=Path(out))
    predictor = load(run, size=size, device=device, precision=precision)
    origin = origin_of(predictor, options)  # refuses options that do not fit, before anything is written
    jobs, skipped, unmarked = plan_jobs(files, Path(out), origin=origin, **what)
    Path(out).mkdir(parents=True, exist_ok=True)
    done: list[FileJob] = []
    failed: list[PetsegError] = []
    predict_files(predictor, jobs, batch_size=batch_size, options=options, on_error=failed.append, on_done=done.append)
    return FilePredictions(
        images=tuple(job.image for job in done),
        failed=tuple(failed),
        skipped=skipped,
        ignored=ignored,
        results=results,
        unmarked=unmarked,
    )


@suggests_names
def export(
    run: str | Path,
    file: str | Path,
    *,
    size: int | str | Size | None = None,
    onnx_output: "OnnxOutput | None" = None,
    input_size: "InputSize | None" = None,
    hub: bool = False,
    license: str | None = None,  # noqa: A002 - the command's option
    dataset: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a run's network, as ``petseg-export``: an ONNX or safetensors file with a model card, or a folder.

    Args:
        run: a run's folder, or a checkpoint.
        file: the file to write; its suffix decides the format.
        size: of the network's images, as for :func:`predict`.
        onnx_output, input_size: see :class:`petseg.exporters.onnx_network.OnnxOptions`; None for logits of images of
            any size.
        hub: write the folder ``file`` in the layout of a Hugging Face repository.
        license, dataset: of that repository's card, see :func:`petseg.exporters.hub_repository.export_hub`.
        overwrite: replace existing files of these names.

    Raises:
        UsageError: an option does not belong to what is written, the name has another ending, or such a file exists.
        PetsegError: no such run, the ``export`` extra is not installed, or the exported network's check failed.
    """
    from petseg.exporters.hub_repository import export_hub
    from petseg.exporters.onnx_model import export_onnx
    from petseg.exporters.onnx_network import OnnxOptions
    from petseg.exporters.safetensors_weights import export_weights
    from petseg.inference.trained_network import load
    from petseg.runs.run_folder import A_RUN
    from shards.format.readers.output_places import expect_ending, expect_free

    expect_paths(f"{A_RUN}; export_onnx() and export_weights() take a Predictor", run=run)
    expect_paths(file=file)
    expect_flags(hub=hub, overwrite=overwrite)
    if not hub:
        expect_free(Path(file), overwrite=overwrite, read=Path(run))
    ending = "" if hub else expect_ending(Path(file), ".onnx", ".safetensors", advice="; hub=True writes a folder")
    if not hub and (license is not None or dataset is not None):
        raise UsageError("license and dataset are for hub=True: they stand in the card of a repository")
    if ending != ".onnx" and (onnx_output, input_size) != (None, None):
        raise UsageError(f"onnx_output and input_size are for an ONNX file, and {file} is none")
    options = OnnxOptions(output=onnx_output or "logits", input_size=input_size or "any")
    predictor = load(run, device="cpu", precision="fp32", size=size)
    if hub:
        export_hub(predictor, file, license=license, dataset=dataset, overwrite=overwrite)
    elif ending == ".safetensors":
        export_weights(predictor, file, overwrite=overwrite)
    else:
        export_onnx(predictor, file, options=options, overwrite=overwrite)
    return Path(file)
