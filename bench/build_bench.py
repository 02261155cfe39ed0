"""``petseg-bench build``: packing, beside what else makes a tar of the same files, and beside decoding them alone."""

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
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from bench.environment import Started, usable_cores
from bench.gpu import gpu_names
from bench.limits import Probe, decode_jpeg, run_probe
from bench.loader_settings import Note
from bench.parts import Parts
from bench.process_tree import Peak, memory_bytes, watch_memory
from bench.results import BuildLine, Data, Limit, Results
from shards.build.build_set import build
from shards.build.options import options_from
from shards.errors import UsageError
from shards.format.layout import STORAGES
from shards.sources.pets import scan

JPEG_QUALITY = 90  # petseg-shard's own default


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """The options of ``petseg-bench build``; see its help."""

    source: Path
    storages: tuple[str, ...] = STORAGES
    size: int = 128
    workers: tuple[int, ...] = ()
    repeats: int = 5
    work: Path | None = None

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            UsageError: with the option.
        """
        if self.repeats < 1:
            raise UsageError(f"--repeats {self.repeats}: must be 1 or more")
        for storage in self.storages:
            if storage not in STORAGES:
                raise UsageError(f"--storages: {storage!r} is not known; there are: {', '.join(STORAGES)}")


@dataclass
class _Way:
    """One way to pack; ``run`` makes a file or folder at the path it is given."""

    name: str
    workers: int
    run: Callable[[Path], object]
    limit: str = ""
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    bytes: int = 0
    peak: int = 0


def run_build_bench(settings: BuildSettings, *, note: Note) -> Results:
    """Measure every way in turn, as often as asked for.

    Raises:
        UsageError: an option is wrong.
        SourceError: the source cannot be used.
    """
    settings.check()
    started, parts = Started(), Parts()
    pairs = usable_pairs(settings.source)
    if settings.work is not None:
        settings.work.mkdir(parents=True, exist_ok=True)
    ways = list(_ways(settings, pairs))
    limits: dict[Probe, list[float]] = {probe: [] for probe in _probes(settings, pairs)}
    with tempfile.TemporaryDirectory(prefix="petseg-bench-", dir=settings.work) as name:
        for number in range(-1, settings.repeats):  # the first round warms the page cache; memory is looked at then
            for probe, rates in limits.items():
                note(f"round {number + 1} of {settings.repeats}: limit, {probe.name}")
                with parts.of("limits"):
                    rate = run_probe(probe, cores=usable_cores())
                if number >= 0:
                    rates.append(rate)
            for way in ways:
                note(f"round {number + 1} of {settings.repeats}: {way.name}")
                with parts.of(way.name):
                    _time(way, Path(name) / "out", keep=number >= 0)
    total = sum(pair.bytes for pair in pairs)
    return Results(
        format="petseg-bench",
        version=1,
        kind="build",
        environment=started.finish(gpu=gpu_names()),
        data=Data(
            path=str(settings.source),
            fingerprint=f"{len(pairs)} pairs, {total} bytes",
            split="all",
            samples=len(pairs),
            bytes={"source": total},
        ),
        settings=msgspec.to_builtins(settings, enc_hook=str),
        build=tuple(
            BuildLine(
                name=way.name,
                seconds=tuple(way.seconds),
                pictures=len(pairs),
                workers=way.workers,
                bytes=way.bytes,
                peak_memory_bytes=way.peak,
                limit=way.limit,
                cpu_seconds=tuple(way.cpu_seconds),
            )
            for way in ways
        ),
        limits=tuple(
            Limit(name=probe.name, storage=probe.storage, rates=tuple(rates), how=probe.how)
            for probe, rates in limits.items()
        ),
        parts=parts.rounded(),
    )


@dataclass(frozen=True)
class Files:
    """A picture and its trimap: name, paths, and bytes of both."""

    name: str
    image: Path
    trimap: Path
    bytes: int


def usable_pairs(source: Path) -> list[Files]:
    """Return the pictures with trimaps that every way can pack: those that Pillow opens as JPEG and PNG.

    Raises:
        SourceError: the source cannot be used.
    """
    found = []
    for pair in scan(source).pairs:
        image, trimap = Path(pair.image), Path(pair.mask)
        try:
            with Image.open(image) as opened, Image.open(trimap) as opened_trimap:
                fits = opened.format == "JPEG" and opened_trimap.format == "PNG"
        except OSError:
            fits = False  # petseg-shard build leaves it out as well, and says so there
        if fits:
            found.append(Files(pair.name, image, trimap, pair.image_stamp.bytes + pair.mask_stamp.bytes))
    if not found:
        raise UsageError(f"{source} has no picture with a trimap; petseg-shard build says why")
    return found


def _ways(settings: BuildSettings, pairs: list[Files]) -> Iterator[_Way]:
    for storage in settings.storages:
        for workers in settings.workers or sorted({1, usable_cores()}):
            limit = f"make {storage}" if workers == usable_cores() else ""
            yield _Way(f"petseg {storage}, {workers} workers", workers, _packer(settings, storage, workers), limit)
    listing = "".join(f"{path.resolve()}\n" for pair in pairs for path in (pair.image, pair.trimap))
    yield _Way("tar cf", 1, lambda out: _tar(out, listing))
    yield _Way("webdataset TarWriter", 1, lambda out: _webdataset(out, pairs, audit=False))
    yield _Way(
        "webdataset TarWriter, decoding each with Pillow first", 1, lambda out: _webdataset(out, pairs, audit=True)
    )
    yield _Way("copy of the files", 1, lambda out: _copy(out, pairs))


def _packer(settings: BuildSettings, storage: str, workers: int) -> Callable[[Path], object]:
    options = options_from(
        storage=storage,
        size=None if storage == "source" else settings.size,
        quality=None,
        split="random",
        fractions=(1.0, 0.0, 0.0),
        val_fraction=None,
        seed=0,
        samples_per_shard=128,
    )
    return lambda out: build(settings.source, out, options, workers=workers)


def _tar(out: Path, listing: str) -> None:
    command = ["tar", "--absolute-names", "--create", "--file", str(out), "--files-from", "-"]
    subprocess.run(command, input=listing.encode(), check=True)


def _webdataset(out: Path, pairs: list[Files], *, audit: bool) -> None:
    import webdataset

    with webdataset.TarWriter(str(out)) as writer:
        for pair in pairs:
            image, trimap = pair.image.read_bytes(), pair.trimap.read_bytes()
            if audit:
                _decode(image)
                _decode(trimap)
            writer.write({"__key__": pair.name, "jpg": image, "trimap.png": trimap})


def _copy(out: Path, pairs: list[Files]) -> None:
    out.mkdir()
    for pair in pairs:
        shutil.copy(pair.image, out / f"{pair.name}.jpg")
        shutil.copy(pair.trimap, out / f"{pair.name}.png")


@dataclass(frozen=True)
class _Cost:
    """What one run cost: seconds, processor seconds with all workers, and the peak of memory, 0 if not looked at."""

    seconds: float
    cpu_seconds: float
    peak: int = 0


def _time(way: _Way, out: Path, *, keep: bool) -> None:
    """Run a way once, and remove what it made. Memory is looked at in the runs whose time is not kept."""
    cost = _run_apart(lambda: way.run(out), look=not keep)
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    if keep:
        way.seconds.append(cost.seconds)
        way.cpu_seconds.append(cost.cpu_seconds)
    way.bytes = sum(path.stat().st_size for path in files)
    way.peak = max(way.peak, cost.peak)
    if out.is_dir():
        shutil.rmtree(out)
    out.unlink(missing_ok=True)


def _run_apart(run: Callable[[], object], *, look: bool) -> _Cost:
    """Run something in a process forked for it: as in a command of its own, without threads or what others imported.

    Looking at memory takes a few per cent of a core, so that it is not done while time is measured.

    Raises:
        UsageError: the process was killed.
        Exception: what the function raised.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(run, theirs))
    process.start()
    theirs.close()
    try:
        before = memory_bytes(process.pid or 0)
        with watch_memory(process.pid or 0, every=0.05) if look else nullcontext(Peak()) as peak:
            ours.send("go")
            answer = ours.recv()
    except (EOFError, BrokenPipeError):
        raise UsageError("the process that was measured was killed, perhaps for lack of memory") from None
    finally:
        ours.close()
        process.join()
    if isinstance(answer, BaseException):
        raise answer
    seconds, cpu = answer
    return _Cost(seconds, cpu, max(0, peak.bytes - before))


def _child(run: Callable[[], object], answer: Connection) -> None:
    try:
        answer.recv()
        start, cpu = time.perf_counter(), os.times()
        run()
        os.sync()  # all ways pay for writing, not only those that flush by themselves
        seconds, after = time.perf_counter() - start, os.times()
        answer.send((seconds, sum(after[:4]) - sum(cpu[:4])))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        os._exit(1)  # the parent is told as well, and says it
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        answer.send(error)


def _probes(settings: BuildSettings, pairs: list[Files]) -> list[Probe]:
    """Return what each storage cannot do without: decoding, and for two of them resizing and encoding."""
    images = [pair.image.read_bytes() for pair in pairs]
    trimaps = [pair.trimap.read_bytes() for pair in pairs]
    square = (settings.size, settings.size)

    def decode(i: int) -> tuple[Any, Image.Image]:
        return decode_jpeg(images[i]), _decode(trimaps[i])

    def resize(i: int) -> tuple[Image.Image, Image.Image]:
        pixels, trimap = decode(i)
        small = Image.fromarray(pixels).resize(square, Image.Resampling.BILINEAR)
        return small, trimap.resize(square, Image.Resampling.NEAREST)

    def encode(i: int) -> None:
        image, trimap = resize(i)
        image.save(io.BytesIO(), "JPEG", quality=JPEG_QUALITY)
        trimap.save(io.BytesIO(), "PNG")

    tasks: dict[str, tuple[str, Callable[[int], Any]]] = {
        "source": ("decoding alone", decode),
        "jpeg": ("decoding, resizing, encoding", encode),
        "raw": ("decoding and resizing", resize),
    }
    return [
        Probe(
            f"make {storage}",
            storage,
            f"{tasks[storage][0]}, libjpeg-turbo and Pillow in threads",
            len(pairs),
            tasks[storage][1],
        )
        for storage in settings.storages
    ]


def _decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
