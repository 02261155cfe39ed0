"""The options of the benchmarks: each field becomes an option of its command (:mod:`bench.cli`)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from shards.console import PathArgument
from shards.errors import UsageError
from shards.format.layout import STORAGES


class Names(click.ParamType):  # type: ignore[type-arg]
    """Comma-separated names, such as ``a,b,c``, or positive integers."""

    name = "names"

    def __init__(self, *, numbers: bool = False) -> None:
        self._numbers = numbers

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Return the parts; nothing for an empty text."""
        parts = value if isinstance(value, tuple) else tuple(x.strip() for x in value.split(",") if x.strip())
        if not self._numbers:
            return parts
        if not all(str(part).isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r}: give comma-separated positive integers, such as 1,2", param, ctx)
        return tuple(map(int, parts))


PATH, NAMES = PathArgument(), Names()
AT_LEAST_0, AT_LEAST_1, SIZE = click.IntRange(0), click.IntRange(1), click.IntRange(8, 4096)
SECONDS = click.FloatRange(0, 600, min_open=True)


def option(kind: Any, default: Any = None, text: str = "", **more: Any) -> Any:
    """Declare a field of settings and its option: a click type or the names to choose from, default, and help."""
    kind = click.Choice(kind.split()) if isinstance(kind, str) else kind
    shown = default is not None and default != () and not text.endswith("]")
    metadata = {"type": kind, "help": text, "show_default": shown, **more}
    if metadata.get("required"):
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class _Common:
    repeats: int = option(
        AT_LEAST_1, 5, "Timed repeats of each subject, in turns with the others, in up to 5 processes."
    )


@dataclass(frozen=True, kw_only=True)
class _OfShards(_Common):
    shards: Path = option(PATH, text="A shard set; of source storage for all storages.", required=True)  # noqa: RUF009
    split: str = option(str, "train")
    seed: int = option(int, 0)


@dataclass(frozen=True, kw_only=True)
class LoaderSettings(_OfShards):
    """The options of ``petseg-bench loader``; a :class:`UsageError` where one is wrong."""

    storages: tuple[str, ...] = option(
        NAMES, STORAGES, "Which storages; those that --shards is not are built in a temporary folder."
    )
    peers: tuple[str, ...] = option(NAMES, (), "Only these loaders, by name, comma-separated.  [default: all]")
    size: int = option(SIZE, 128, "Side of the output in pixels.")
    batch_size: int = option(AT_LEAST_1, 32)
    workers: int = option(AT_LEAST_0, 0, "Processes or threads for each loader.  [default: each takes its best]")
    seconds: float = option(SECONDS, 0.5, "How long one repeat takes, in complete epochs.")
    augment: str = option("none train both", "both")
    mask: str = option(
        "onehot index both", "both", "Form; both: one-hot, and of raw storage, in evaluation, class indices too."
    )
    cache: str = option("warm cold both", "warm", "cold: drop the files from the page cache before each repeat.")
    device: str = option("cpu cuda", "cpu")
    source: Path | None = option(PATH, text="Read the images of file-based loaders from here, the set's own source.")  # noqa: RUF009
    work: Path | None = option(PATH, text="Make temporary folders here, on the disk to be measured.")  # noqa: RUF009
    handicap: float = option(
        click.FloatRange(0, 1, max_open=True), 0.0, "Slow every loader by this part, to see that compare finds it."
    )

    def __post_init__(self) -> None:
        from bench.peers import PEERS

        _check_names("--peers", self.peers, sorted(spec.name for spec in PEERS))
        _check_names("--storages", self.storages, STORAGES)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(_OfShards):
    """The options of ``petseg-bench train``; a :class:`UsageError` where one is wrong."""

    models: tuple[str, ...] = option(NAMES, ("unet", "tutorial"), "Which networks.")
    precisions: tuple[str, ...] = option(NAMES, ("auto",), "auto, fp32, bf16, fp16; comma-separated.")
    size: int | None = option(SIZE, None, "Side of the images.  [default: each recipe's; with a consumer 128]")
    batch_size: int | None = option(AT_LEAST_1, None, "[default: each recipe's; with a consumer 32]")
    device: str = option("auto cpu cuda", "auto")
    engine: str = option("auto dali torch", "auto")
    seconds: float = option(SECONDS, 3.0, "How long one repeat of one mode takes at least.")
    consumer_rate: float | None = option(
        click.FloatRange(0, 1e7, min_open=True), None, "In a network's place, take so many images/s from each loader."
    )
    storages: tuple[str, ...] | None = option(NAMES, None, "With a consumer: which storages.  [default: all]")
    peers: tuple[str, ...] | None = option(NAMES, None, "With a consumer: only these loaders.  [default: all]")

    def __post_init__(self) -> None:
        _check_names("--models", self.models, ("unet", "tutorial"))
        if self.consumer_rate is None and (self.storages, self.peers) != (None, None):
            raise UsageError("--storages and --peers go with --consumer-rate: training uses petseg's loader")

    def for_consumer(self) -> LoaderSettings:
        """Return which loaders a consumer is put behind."""
        return LoaderSettings(
            shards=self.shards, split=self.split, storages=self.storages or STORAGES, peers=self.peers or (),
            size=self.size or 128, batch_size=self.batch_size or 32, repeats=self.repeats, seconds=self.seconds,
            augment="none", device="cuda" if self.device == "cuda" else "cpu", seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BuildSettings(_Common):
    """The options of ``petseg-bench build``; a :class:`UsageError` where one is wrong."""

    source: Path = option(PATH, required=True, argument=True)  # noqa: RUF009
    storages: tuple[str, ...] = option(NAMES, STORAGES)
    size: int = option(SIZE, 128, "Side of the stored images, for jpeg and raw.")
    workers: tuple[int, ...] = option(
        Names(numbers=True), (), "Numbers of processes, comma-separated.  [default: 1 and all cores]"
    )
    work: Path | None = option(PATH, text="Make temporary folders here, on the disk to be measured.")  # noqa: RUF009

    def __post_init__(self) -> None:
        _check_names("--storages", self.storages, STORAGES)


def _check_names(option_name: str, names: tuple[str, ...], known: Any) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"{option_name}: {name!r} is not known; there are: {', '.join(known)}")
