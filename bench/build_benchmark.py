"""``petseg-bench build``: packing in each storage, with one process and with all cores, and how near to its limit."""

import io
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from PIL import Image

from bench.core.limits import LimitSubject
from bench.core.machine import cpu_seconds
from bench.core.rounds import Run, Subject
from bench.core.subject_process import SubjectProcess
from bench.peers.fast_decode import decode_image
from bench.peers.peer import files_under
from bench.results.goals import MAKING
from bench.results.records import BuildLine, DataInfo, Repeat, Results
from bench.settings import BuildSettings
from petseg.api import build_shards
from shards.build.encode import DEFAULT_QUALITY
from shards.cores import usable_cores
from shards.errors import UsageError
from shards.format.label_files import find_labels
from shards.sources import Pair, Source, scan
from shards.store.owner_files import scratch_folder


class PackSubject(Subject):
    """Packing in one storage by a number of processes, started from one of their own, as in a command of its own."""

    field = "build"
    process: SubjectProcess

    def __init__(self, storage: str, workers: int, **work: Any) -> None:
        process = SubjectProcess("bench.build_benchmark:PackServer", storage=storage, workers=workers, **work)
        process.memory_every = 0.05
        super().__init__(f"petseg {storage}, {workers} worker{'s' if workers > 1 else ''}", process)
        self.part, self._workers, self._bytes = self.name, workers, 0
        self._limit = f"make {storage}" if workers == usable_cores() else ""

    def open(self) -> None:
        """Run once, which warms the page cache, and is when memory is watched."""
        if not self.repeats:
            self.process.ask("pack")

    def turn(self) -> Repeat:
        repeat, self._bytes = self.process.ask("pack", timed=True)
        return cast(Repeat, repeat)

    def line(self) -> BuildLine:
        return BuildLine(name=self.name, repeats=tuple(self.repeats), workers=self._workers, bytes=self._bytes,
                         peak_memory_bytes=self.process.peak_memory_bytes, limit=self._limit)  # fmt: skip


class PackServer:
    """What a process that packs does on command: a source of so many images, into a folder ``out``."""

    def __init__(self, source: Path, out: Path, images: int, **options: Any) -> None:
        self._build = partial(build_shards, source, out, split="random", fractions=(1.0, 0.0, 0.0),
                              samples_per_shard=128, **options)  # fmt: skip
        self._out, self._images = out, images

    def pack(self) -> tuple[Repeat, int]:
        """Pack once; return what that cost, and how many bytes came out."""
        start, cpu = time.perf_counter(), cpu_seconds(os.getpid())
        self._build()
        os.sync()
        seconds, cpu = time.perf_counter() - start, cpu_seconds(os.getpid()) - cpu
        size = sum(path.stat().st_size for path in files_under(self._out))
        shutil.rmtree(self._out)
        return Repeat(images=self._images, seconds=seconds, cpu_seconds=cpu), size

    def close(self) -> None:
        """Nothing is left to be stopped."""


def run_build_benchmark(settings: BuildSettings, *, report: Callable[[str], None] = lambda _: None) -> Results:
    """Measure packing in each storage, in turns.

    A :class:`UsageError` says why nothing could be measured. ``report`` is told what is done now.
    """
    run, source = Run(settings, report), scan(settings.source)
    pairs, labels = usable_pairs(source), source.labels if settings.labels is None else find_labels(settings.labels)
    with scratch_folder("bench") as folder:
        work = {"source": settings.source, "out": folder / "out", "images": len(pairs), "labels": labels}
        subjects = [
            PackSubject(storage, workers, size=None if storage == "source" else settings.size, **work)
            for storage in settings.storages for workers in settings.workers or sorted({1, usable_cores()})
        ]  # fmt: skip
        measured = run.rounds([*_limits(settings, pairs), *subjects], seed=0)
    total = sum(pair.image_stamp.bytes + pair.mask_stamp.bytes for pair in pairs)
    data = DataInfo(path=str(settings.source), fingerprint=f"{len(pairs)} pairs, {total} bytes", split="all",
                    samples=len(pairs), classes=len(labels or ()), bytes={"source": total})  # fmt: skip
    return run.results(data, measured)


def usable_pairs(source: Source) -> list[Pair]:
    """Return the images with masks that can be packed: those that Pillow opens as JPEG or PNG.

    A :class:`UsageError` says that there are none.
    """
    found = []
    for pair in source.pairs:
        with (
            suppress(OSError),  # petseg-shard build rejects or converts it, and reports that
            Image.open(pair.image, formats=["JPEG", "PNG"]),
            Image.open(pair.mask, formats=["PNG"]),
        ):
            found.append(pair)
    if not found:
        raise UsageError(f"{source.folder} has no image with a mask; petseg-shard build says why")
    return found


def _limits(settings: BuildSettings, pairs: list[Pair]) -> list[LimitSubject]:
    """Return what each storage cannot do without: decoding, and for two of them resizing and encoding."""
    files = [(Path(pair.image).read_bytes(), Path(pair.mask).read_bytes()) for pair in pairs]

    def decode(i: int) -> tuple[Any, Image.Image]:
        mask = Image.open(io.BytesIO(files[i][1]))
        mask.load()
        return decode_image(files[i][0]), mask

    def resize(i: int) -> tuple[Image.Image, Image.Image]:
        pixels, mask = decode(i)
        small = Image.fromarray(pixels).resize(settings.size[::-1], Image.Resampling.BILINEAR)
        return small, mask.resize(settings.size[::-1], Image.Resampling.NEAREST)

    def encode(i: int) -> None:
        image, mask = resize(i)
        image.save(io.BytesIO(), "JPEG", quality=DEFAULT_QUALITY)
        mask.save(io.BytesIO(), "PNG")

    tasks: dict[str, Callable[[int], Any]] = {"source": decode, "jpeg": encode, "raw": resize}
    how = "libjpeg-turbo and Pillow in threads"
    return [
        LimitSubject(
            len(pairs), tasks[storage], name=f"make {storage}", how=f"{MAKING[storage]}, {how}", storage=storage
        )
        for storage in settings.storages
    ]
