# ruff: noqa: RUF009 - option() returns a field, not a value
"""The options of the benchmarks: each field becomes an option of its command (:mod:`bench.cli`)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from shards.console import PathArgument
from shards.errors import UsageError
from shards.format.geometry import FITS, Fit, Size, parse_size, size_text
from shards.format.layout import STORAGES


class Names(click.ParamType):  # type: ignore[type-arg]
    """Comma-separated names, such as ``a,b,c``."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Return the parts; nothing for an empty text."""
        return value if isinstance(value, tuple) else tuple(x.strip() for x in value.split(",") if x.strip())


class Counts(Names):
    """Comma-separated positive integers."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the integers."""
        parts = super().convert(value, param, ctx)
        if not all(str(part).isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r}: give comma-separated positive integers, such as 1,2", param, ctx)
        return tuple(map(int, parts))


class Pixels(click.ParamType):  # type: ignore[type-arg]
    """A size in pixels, N or HxW."""

    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        """Return (height, width)."""
        return parse_size(value, name="--size", least=8)


PATH, NAMES, SIZE = PathArgument(), Names(), Pixels()
AT_LEAST_0, AT_LEAST_1 = click.IntRange(0), click.IntRange(1)
SECONDS = click.FloatRange(0, 600, min_open=True)


def option(kind: Any, default: Any = None, text: str = "", **more: Any) -> Any:
    """Declare a field of settings and its option: a click type or the names to choose from, default, and help."""
    kind = click.Choice(kind.split()) if isinstance(kind, str) else kind
    shown = default is not None and default != () and not text.endswith("]")
    metadata = {"type": kind, "help": text, "show_default": shown, **more}
    if metadata.get("required"):
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def shown_value(value: Any) -> Any:
    """Return the value of an option as one writes it on the command line."""
    if isinstance(value, tuple):
        sides = len(value) == 2 and all(isinstance(side, int) for side in value)
        return size_text((value[0], value[1])) if sides else ",".join(map(str, value))
    return value


def plain(settings: Any) -> dict[str, Any]:
    """Return settings as JSON values, for the results."""
    found = {field.name: shown_value(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    return dict(msgspec.to_builtins(found, enc_hook=str))


@dataclass(frozen=True, kw_only=True)
class _Common:
    repeats: int = option(
        AT_LEAST_1, 5, "Timed repeats of each subject, in turns with the others, in up to 5 processes."
    )


@dataclass(frozen=True, kw_only=True)
class _OfShards(_Common):
    shards: Path = option(PATH, text="A shard set; of source storage for all storages.", required=True)
    split: str = option(str, "train")
    seed: int = option(int, 0)


@dataclass(frozen=True, kw_only=True)
class LoaderSettings(_OfShards):
    """The options of ``petseg-bench loader``; a :class:`UsageError` where one is wrong."""

    storages: tuple[str, ...] = option(
        NAMES, (), "Which storages, comma-separated; those that --shards is not are built in a temporary folder.  "
        "[default: all of a set of source storage, else its own]",
    )  # fmt: skip
    peers: tuple[str, ...] = option(NAMES, (), "Only these loaders, by name, comma-separated.  [default: all]")
    size: Size = option(SIZE, (128, 128), "Size of the output in pixels.")
    fit: Fit = option(" ".join(FITS), "stretch", "How images are brought to --size.")
    batch_size: int = option(AT_LEAST_1, 32)
    workers: int = option(AT_LEAST_0, 0, "Processes or threads for each loader.  [default: each takes its best]")
    seconds: float = option(SECONDS, 0.5, "How long one repeat takes, in complete epochs.")
    augment: str = option("none train both", "both")
    mask: str = option(
        "onehot index both", "both", "Form; both: one-hot, and of raw storage, in evaluation, class indices too."
    )
    cache: str = option("warm cold both", "warm", "cold: drop the files from the page cache before each repeat.")
    device: str = option("cpu cuda", "cpu")
    source: Path | None = option(PATH, text="Read the tutorial's files from here, what the set was built from.")
    work: Path | None = option(PATH, text="Make temporary folders here, on the disk to be measured.")
    handicap: float = option(
        click.FloatRange(0, 1, max_open=True), 0.0, "Slow every loader by this part, to see that compare finds it."
    )

    def __post_init__(self) -> None:
        from bench.peers import PEERS

        _check_names("--peers", self.peers, sorted(PEERS))
        _check_names("--storages", self.storages, STORAGES)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(_OfShards):
    """The options of ``petseg-bench train``; a :class:`UsageError` where one is wrong."""

    models: tuple[str, ...] = option(NAMES, ("unet", "tutorial"), "Which networks.")
    precisions: tuple[str, ...] = option(NAMES, ("auto",), "auto, fp32, bf16, fp16; comma-separated.")
    size: Size | None = option(SIZE, None, "Size of the images.  [default: each recipe's]")
    fit: Fit | None = option(" ".join(FITS), None, "How images are brought to it.  [default: each recipe's]")
    batch_size: int | None = option(AT_LEAST_1, None, "[default: each recipe's]")
    device: str = option("auto cpu cuda", "auto")
    engine: str = option("auto dali torch", "auto")
    seconds: float = option(SECONDS, 3.0, "How long one repeat of one mode takes at least.")

    def __post_init__(self) -> None:
        _check_names("--models", self.models, ("unet", "tutorial"))


@dataclass(frozen=True, kw_only=True)
class BuildSettings(_Common):
    """The options of ``petseg-bench build``; a :class:`UsageError` where one is wrong."""

    source: Path = option(PATH, required=True, argument=True)
    labels: str | None = option(str, None, "The classes: built in, or a file.  [default: the source's]")
    storages: tuple[str, ...] = option(NAMES, STORAGES)
    size: Size = option(SIZE, (128, 128), "Size of the stored images, for jpeg and raw.")
    workers: tuple[int, ...] = option(
        Counts(), (), "Numbers of processes, comma-separated.  [default: 1 and all cores]"
    )
    work: Path | None = option(PATH, text="Make temporary folders here, on the disk to be measured.")

    def __post_init__(self) -> None:
        _check_names("--storages", self.storages, STORAGES)


def _check_names(option_name: str, names: tuple[str, ...], known: Any) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"{option_name}: {name!r} is not known; there are: {', '.join(known)}")
