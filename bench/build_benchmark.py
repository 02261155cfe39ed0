"""``petseg-bench build``: packing, compared with what else makes a tar of the same files, and with decoding alone."""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from bench.core.limits import LimitSubject, decode_jpeg
from bench.core.machine import RunClock, usable_cores
from bench.core.resources import PeakMemory, memory_bytes, watch_memory
from bench.core.rounds import PartSeconds, Subject, run_rounds
from bench.results.goals import MAKING
from bench.results.records import BuildLine, DataInfo, Repeat, Results, Skipped
from bench.settings import BuildSettings
from shards.build.build_set import build
from shards.build.options import options_from
from shards.errors import UsageError
from shards.sources.pets import scan

JPEG_QUALITY = 90  # petseg-shard's own default


@dataclass(frozen=True)
class FilePair:
    """An image and its mask: name, paths, and bytes of both."""

    name: str
    image: Path
    mask: Path
    bytes: int


class BuildSubject(Subject):
    """One way to pack: ``run`` makes a file or folder at the path it is given, in a process forked for it: as in a
    command of its own, without threads or what others imported.
    """

    def __init__(
        self, name: str, run: Callable[[Path], object], *, out: Path, images: int, workers: int = 1, limit: str = ""
    ) -> None:
        super().__init__(name)
        self.part = name
        self._run, self._out, self._images = run, out, images
        self._workers, self._limit = workers, limit
        self._bytes = self._peak = 0

    def open(self) -> None:
        """Run once, which warms the page cache; memory is watched then, since that takes some per cent of a core."""
        if self.process == 0:
            self._measure(watch=True)

    def turn(self) -> Repeat:
        """Run once."""
        return self._measure(watch=False)

    def line(self) -> BuildLine:
        """Return what was found."""
        return BuildLine(name=self.name, repeats=tuple(self.repeats), peak_memory_bytes=self._peak,
                         workers=self._workers, bytes=self._bytes, limit=self._limit)  # fmt: skip

    def _measure(self, *, watch: bool) -> Repeat:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=self._work, args=(theirs,))
        process.start()
        theirs.close()
        try:
            before = memory_bytes(process.pid or 0)
            with watch_memory(process.pid or 0, every=0.05) if watch else nullcontext(PeakMemory()) as peak:
                ours.send("go")
                answer = ours.recv()
        except (EOFError, BrokenPipeError):
            raise UsageError("the process that was measured was killed, perhaps for lack of memory") from None
        finally:
            ours.close()
            process.join()
        if isinstance(answer, BaseException):
            raise answer
        files = [self._out] if self._out.is_file() else [path for path in self._out.rglob("*") if path.is_file()]
        self._bytes = sum(path.stat().st_size for path in files)
        self._peak = max(self._peak, peak.bytes - before)
        if self._out.is_dir():
            shutil.rmtree(self._out)
        self._out.unlink(missing_ok=True)
        return Repeat(images=self._images, seconds=answer[0], cpu_seconds=answer[1])

    def _work(self, answer: Connection) -> None:
        try:
            answer.recv()
            start, cpu = time.perf_counter(), os.times()
            self._run(self._out)
            os.sync()  # all ways pay for writing, not only those that flush by themselves
            seconds, after = time.perf_counter() - start, os.times()
            answer.send((seconds, sum(after[:4]) - sum(cpu[:4])))
        except (KeyboardInterrupt, EOFError, BrokenPipeError):
            os._exit(1)  # the parent gets Ctrl-C as well, and reports it
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
            answer.send(error)


def run_build_benchmark(settings: BuildSettings, *, parts: PartSeconds) -> Results:
    """Measure every way to pack, in turns.

    Raises:
        UsageError: an option is wrong.
        SourceError: the source cannot be used.
    """
    clock, skipped, pairs = RunClock(), list[Skipped](), usable_pairs(settings.source)
    if settings.work is not None:
        settings.work.mkdir(parents=True, exist_ok=True)
    limits = _limits(settings, pairs)
    with tempfile.TemporaryDirectory(prefix="petseg-bench-", dir=settings.work) as name:
        subjects = list(_subjects(settings, pairs, Path(name) / "out"))
        run_rounds([*limits, *subjects], repeats=settings.repeats, seed=0, parts=parts, skipped=skipped)
    total = sum(pair.bytes for pair in pairs)
    fingerprint = f"{len(pairs)} pairs, {total} bytes"
    data = DataInfo(path=str(settings.source), fingerprint=fingerprint, split="all", samples=len(pairs),
                    bytes={"source": total})  # fmt: skip
    return Results(
        kind="build", environment=clock.finish(), data=data, settings=msgspec.to_builtins(settings, enc_hook=str),
        build=tuple(subject.line() for subject in subjects if subject.repeats), skipped=tuple(skipped),
        limits=tuple(limit.line() for limit in limits), parts=parts.rounded(),
    )  # fmt: skip


def usable_pairs(source: Path) -> list[FilePair]:
    """Return the images with masks that every way can pack: those that Pillow opens as JPEG and PNG.

    Raises:
        SourceError: the source cannot be used.
    """
    found = []
    for pair in scan(source).pairs:
        image, mask = Path(pair.image), Path(pair.mask)
        try:
            with Image.open(image) as opened, Image.open(mask) as opened_mask:
                fits = opened.format == "JPEG" and opened_mask.format == "PNG"
        except OSError:
            fits = False  # petseg-shard build rejects it as well, and reports why
        if fits:
            found.append(FilePair(pair.name, image, mask, pair.image_stamp.bytes + pair.mask_stamp.bytes))
    if not found:
        raise UsageError(f"{source} has no image with a mask; petseg-shard build says why")
    return found


def _subjects(settings: BuildSettings, pairs: list[FilePair], out: Path) -> Iterator[BuildSubject]:
    common: dict[str, Any] = {"out": out, "images": len(pairs)}
    for storage in settings.storages:
        for workers in settings.workers or sorted({1, usable_cores()}):
            limit = f"make {storage}" if workers == usable_cores() else ""
            run = _packer(settings, storage, workers)
            name = f"petseg {storage}, {workers} worker{'s' if workers > 1 else ''}"
            yield BuildSubject(name, run, workers=workers, limit=limit, **common)
    listing = "".join(f"{path.resolve()}\n" for pair in pairs for path in (pair.image, pair.mask))
    yield BuildSubject("tar cf", lambda out: _tar(out, listing), **common)
    yield BuildSubject("webdataset TarWriter", lambda out: _webdataset(out, pairs, decode=False), **common)
    name = "webdataset TarWriter, decoding each with Pillow first"
    yield BuildSubject(name, lambda out: _webdataset(out, pairs, decode=True), **common)
    yield BuildSubject("copy of the files", lambda out: _copy(out, pairs), **common)


def _packer(settings: BuildSettings, storage: str, workers: int) -> Callable[[Path], object]:
    size = None if storage == "source" else settings.size
    options = options_from(storage=storage, size=size, quality=None, split="random", fractions=(1.0, 0.0, 0.0),
                           val_fraction=None, seed=0, samples_per_shard=128)  # fmt: skip
    return lambda out: build(settings.source, out, options, workers=workers)


def _tar(out: Path, listing: str) -> None:
    command = ["tar", "--absolute-names", "--create", "--file", str(out), "--files-from", "-"]
    subprocess.run(command, input=listing.encode(), check=True)


def _webdataset(out: Path, pairs: list[FilePair], *, decode: bool) -> None:
    import webdataset

    with webdataset.TarWriter(str(out)) as writer:
        for pair in pairs:
            image, mask = pair.image.read_bytes(), pair.mask.read_bytes()
            for data in (image, mask) if decode else ():
                _decode(data)
            writer.write({"__key__": pair.name, "jpg": image, "trimap.png": mask})


def _copy(out: Path, pairs: list[FilePair]) -> None:
    out.mkdir()
    for pair in pairs:
        shutil.copy(pair.image, out / f"{pair.name}.jpg")
        shutil.copy(pair.mask, out / f"{pair.name}.png")


def _limits(settings: BuildSettings, pairs: list[FilePair]) -> list[LimitSubject]:
    """Return what each storage cannot do without: decoding, and for two of them resizing and encoding."""
    images, masks = [pair.image.read_bytes() for pair in pairs], [pair.mask.read_bytes() for pair in pairs]
    square = (settings.size, settings.size)

    def decode(i: int) -> tuple[Any, Image.Image]:
        return decode_jpeg(images[i]), _decode(masks[i])

    def resize(i: int) -> tuple[Image.Image, Image.Image]:
        pixels, mask = decode(i)
        small = Image.fromarray(pixels).resize(square, Image.Resampling.BILINEAR)
        return small, mask.resize(square, Image.Resampling.NEAREST)

    def encode(i: int) -> None:
        image, mask = resize(i)
        image.save(io.BytesIO(), "JPEG", quality=JPEG_QUALITY)
        mask.save(io.BytesIO(), "PNG")

    tasks: dict[str, Callable[[int], Any]] = {"source": decode, "jpeg": encode, "raw": resize}
    how = "libjpeg-turbo and Pillow in threads"
    return [
        LimitSubject(f"make {storage}", storage, f"{MAKING[storage]}, {how}", len(pairs), tasks[storage])
        for storage in settings.storages
    ]


def _decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
