# ruff: noqa: RUF009 - option() returns a field, not a value
"""The options of the benchmarks: each field becomes an option of its command, whose help is the docstring."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import click
import msgspec

from petseg.cli.shared_options import NamedType
from shards.console import PATH
from shards.format.geometry import FITS, Fit, Size, parse_size, size_text
from shards.format.layout import STORAGES


class CommaSeparated(NamedType):
    """Values of a type, separated by commas; none for an empty text."""

    def __init__(self, kind: click.ParamType, name: str) -> None:  # type: ignore[type-arg]
        self.kind, self.name = kind, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(self.kind.convert(part.strip(), param, ctx) for part in value.split(",") if part.strip())


class Pixels(NamedType):
    """A size in pixels, as (height, width)."""

    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        return parse_size(value, name="size", least=8)


def names(*choices: str) -> CommaSeparated:
    """Return the type of a list of some of the choices; of any names if there are none."""
    return CommaSeparated(click.Choice(choices) if choices else click.STRING, "NAME,...")


SIZE, AT_LEAST_1, WORKERS = Pixels(), click.IntRange(1), click.IntRange(0, 64)
SECONDS = click.FloatRange(0, 600, min_open=True)


def option(kind: Any, default: Any = None, text: str = "", **more: Any) -> Any:
    """Declare a field of settings and its option: a click type or the names to choose from, default, and help."""
    kind = click.Choice(kind.split()) if isinstance(kind, str) else kind
    shown = default is not None and default != () and not text.endswith("]")
    found = {} if more.get("required") else {"default": default}
    return dataclasses.field(metadata={"type": kind, "help": text, "show_default": shown, **more}, **found)


def shown_value(value: Any, kind: Any) -> Any:
    """Return the value of an option of a click type as one writes it on the command line."""
    if isinstance(value, tuple):
        return size_text((value[0], value[1])) if isinstance(kind, Pixels) else ",".join(map(str, value))
    return value


def plain(settings: Any) -> dict[str, Any]:
    """Return settings as JSON values, for the results."""
    found = {x.name: shown_value(getattr(settings, x.name), x.metadata["type"]) for x in dataclasses.fields(settings)}
    return dict(msgspec.to_builtins(found, enc_hook=str))


def with_options(settings: type[Any]) -> Callable[[Any], Any]:
    """Return what gives a command the fields of ``settings`` as its options."""

    def add(command: Any) -> Any:
        for field in reversed(dataclasses.fields(settings)):
            how = dict(field.metadata)
            if how.pop("argument", False):
                command = click.argument(field.name, type=how["type"])(command)
                continue
            if field.default is not dataclasses.MISSING:
                how["default"] = shown_value(field.default, how["type"])
            command = click.option(f"--{field.name.replace('_', '-')}", **how)(command)
        return command

    return add


@dataclass(frozen=True, kw_only=True)
class _Common:
    repeats: int = option(AT_LEAST_1, 5, "Timed repeats of each subject, in turns with others, in up to 5 processes.")


@dataclass(frozen=True, kw_only=True)
class _OfShards(_Common):
    shards: Path = option(PATH, text="A shard set; of source storage for all storages.", required=True)
    split: str = option(str, "train", "Which of its splits: train, val or test.")
    seed: int = option(click.IntRange(0, 2**63 - 1), 0, "Of the order and of the augmentation.")


@dataclass(frozen=True, kw_only=True)
class LoaderSettings(_OfShards):
    """Images per second of petseg's loader and of others, over the same images, checked to be the same work."""

    kind: ClassVar = "loader"
    storages: tuple[str, ...] = option(
        names(*STORAGES), (), "Which storages; those that --shards is not are built in a temporary folder.  "
        "[default: all of a set of source storage, else its own]")  # fmt: skip
    peers: tuple[str, ...] = option(names(), (), "Only these loaders, by name.  [default: all]")
    size: Size = option(SIZE, (128, 128), "Size of the output in pixels.")
    fit: Fit = option(" ".join(FITS), "stretch", "How images are brought to --size.")
    batch_size: int = option(AT_LEAST_1, 32, "Images in a batch.")
    workers: int = option(WORKERS, 0, "Processes or threads for each loader.  [default: each takes its best]")
    seconds: float = option(SECONDS, 0.5, "How long one repeat takes, in complete epochs.")
    augment: str = option("none train both", "both", "Without augmentation, with that of training, or both.")
    mask: str = option("onehot index both", "both",
                       "Form; both: one-hot, and of raw storage, in evaluation, class indices too.")  # fmt: skip
    cache: str = option("warm cold both", "warm", "cold: drop the files from the page cache before each repeat.")
    device: str = option("cpu cuda", "cpu", "Where the batches are wanted.")
    source: Path | None = option(PATH, text="Read the tutorial's files from here, what the set was built from.")
    handicap: float = option(click.FloatRange(0, 1, max_open=True), 0.0,
                             "Slow every loader by this part, to see that compare finds it.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainSettings(_OfShards):
    """How much of the network's speed the loader costs: the loader alone, compute-only, end-to-end."""

    kind: ClassVar = "train"
    models: tuple[str, ...] = option(names("unet", "tutorial"), ("unet", "tutorial"), "Which networks.")
    precisions: tuple[str, ...] = option(names("auto", "fp32", "bf16", "fp16"), ("auto",), "Of convolutions.")
    size: Size | None = option(SIZE, None, "Size of the images.  [default: each recipe's]")
    fit: Fit | None = option(" ".join(FITS), None, "How images are brought to it.  [default: each recipe's]")
    batch_size: int | None = option(AT_LEAST_1, None, "Images in a batch.  [default: each recipe's]")
    device: str = option("auto cpu cuda", "auto", "Where the network runs.")
    engine: str = option("auto dali torch", "auto", "The loader's engine.")
    seconds: float = option(SECONDS, 3.0, "How long one repeat of one mode takes at least.")


@dataclass(frozen=True, kw_only=True)
class BuildSettings(_Common):
    """How fast SOURCE is packed, with one process and with all cores, and how near that is to decoding alone."""

    kind: ClassVar = "build"
    source: Path = option(PATH, required=True, argument=True)
    labels: str | None = option(str, None, "The classes: built in, or a file.  [default: the source's]")
    storages: tuple[str, ...] = option(names(*STORAGES), STORAGES, "Which storages.")
    size: Size = option(SIZE, (128, 128), "Size of the stored images, for jpeg and raw.")
    workers: tuple[int, ...] = option(
        CommaSeparated(AT_LEAST_1, "N,..."), (), "Numbers of processes.  [default: 1 and all cores]"
    )


@dataclass(frozen=True, kw_only=True)
class RemoteSettings:
    """Epochs of SHARDS over an object store, a server on loopback that is slow to reply, beside other libraries."""

    shards: Path = option(PATH, required=True, argument=True)
    size: int = option(AT_LEAST_1, 128, "Of the output, pixels.")
    batch_size: int = option(AT_LEAST_1, 32, "Images in a batch.")
    delay: float = option(click.FloatRange(0, 10), 0.02, "Seconds before each reply.")
    epochs: int = option(click.IntRange(2), 5, "Of each run; the first one fetches.")
    repeats: int = option(AT_LEAST_1, 3, "Runs of each subject, in turns.")
    time_limit: float = option(
        click.FloatRange(0, 86_400, min_open=True), 300.0, "Seconds for each run and conversion."
    )
