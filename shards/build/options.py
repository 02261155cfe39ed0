"""What a user may ask of a build, its defaults, and which combinations make sense."""

from __future__ import annotations

import msgspec

from shards.build.encode import DEFAULT_QUALITY, DEFAULT_SIZE
from shards.errors import UsageError
from shards.format.layout import MAX_SIZE, Storage
from shards.format.manifest import BuildOptions

DEFAULT_FRACTIONS = (0.7, 0.2, 0.1)
DEFAULT_VAL_FRACTION = 0.2


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for. ``size`` and ``quality`` are None where the storage does not use them."""

    storage: Storage = "source"
    size: int | None = None
    quality: int | None = None
    split: str = "official"
    fractions: tuple[float, float, float] = (0.8, 0.2, 0.0)
    seed: int = 0
    samples_per_shard: int = 128

    def for_manifest(self) -> BuildOptions:
        """Return the part that the manifest keeps beside storage and size."""
        return BuildOptions(
            split=self.split,
            fractions=self.fractions,
            seed=self.seed,
            samples_per_shard=self.samples_per_shard,
            quality=self.quality,
        )


def options_from(
    *,
    storage: str,
    size: int | None,
    quality: int | None,
    split: str,
    fractions: tuple[float, float, float] | None,
    val_fraction: float | None,
    seed: int,
    samples_per_shard: int,
) -> Options:
    """Fill in the defaults that depend on other options; None stands for an option that was not given.

    Raises:
        UsageError: options that do not go together.
    """
    if split == "official" and fractions is not None:
        raise UsageError("--fractions needs --split random; with --split official use --val-fraction")
    if split == "random" and val_fraction is not None:
        raise UsageError("--val-fraction needs --split official; with --split random use --fractions")
    if split == "official":
        val = DEFAULT_VAL_FRACTION if val_fraction is None else val_fraction
        fractions = (1 - val, val, 0.0)
    if storage != "source":
        size = DEFAULT_SIZE if size is None else size
    if storage == "jpeg":
        quality = DEFAULT_QUALITY if quality is None else quality
    fractions = fractions or DEFAULT_FRACTIONS
    options = Options(
        storage=storage,  # type: ignore[arg-type]
        size=size,
        quality=quality,
        split=split,
        fractions=(float(fractions[0]), float(fractions[1]), float(fractions[2])),
        seed=seed,
        samples_per_shard=samples_per_shard,
    )
    check_options(options)
    return options


def check_options(options: Options) -> None:
    """Raise ``UsageError`` for options that make no sense or do not fit together."""
    if options.storage == "source":
        if options.size is not None or options.quality is not None:
            raise UsageError(
                "--size and --quality need --storage jpeg or raw: source storage keeps pictures as they are"
            )
    elif options.size is None or not 1 <= options.size <= MAX_SIZE:
        raise UsageError(f"--size {options.size} is outside 1..{MAX_SIZE}")
    if options.storage != "jpeg" and options.quality is not None:
        raise UsageError("--quality needs --storage jpeg")
    if options.storage == "jpeg" and not 1 <= (options.quality or 0) <= 100:
        raise UsageError(f"--quality {options.quality} is outside 1..100")
    if options.samples_per_shard < 1:
        raise UsageError(f"--samples-per-shard {options.samples_per_shard} is not a positive number")
    if options.split not in ("official", "random"):
        raise UsageError(f"--split {options.split!r} is neither official nor random")
    if any(not 0 <= fraction <= 1 for fraction in options.fractions) or abs(sum(options.fractions) - 1) > 1e-6:
        shown_fractions = ",".join(f"{fraction:g}" for fraction in options.fractions)
        raise UsageError(f"fractions {shown_fractions} must be between 0 and 1 and add up to 1")
