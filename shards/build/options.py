"""The options of a build, their defaults, and which combinations are allowed."""

import msgspec

from shards.build.encode import DEFAULT_QUALITY, DEFAULT_SIZE
from shards.errors import UsageError
from shards.format.layout import MAX_SIZE, STORAGES, Storage

DEFAULT_FRACTIONS = (0.7, 0.2, 0.1)
DEFAULT_VAL_FRACTION = 0.2


class PackOptions(msgspec.Struct, frozen=True, kw_only=True):
    """All options that decide a set's bytes. ``size`` and ``quality`` are None where the storage does not use them.

    Raises ``UsageError`` if a value is out of range, or two do not go together.
    """

    storage: Storage = "source"
    size: int | None = None
    quality: int | None = None
    split: str = "official"
    fractions: tuple[float, float, float] = (0.8, 0.2, 0.0)
    seed: int = 0
    samples_per_shard: int = 128

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise UsageError(f"--storage {self.storage!r}: choose from {', '.join(STORAGES)}")
        if self.storage == "source" and (self.size is not None or self.quality is not None):
            raise UsageError("--size and --quality need --storage jpeg or raw: source storage keeps images as they are")
        if self.storage != "source" and not 1 <= (self.size or 0) <= MAX_SIZE:
            raise UsageError(f"--size {self.size} is outside 1..{MAX_SIZE}")
        if self.storage != "jpeg" and self.quality is not None:
            raise UsageError("--quality needs --storage jpeg")
        if self.storage == "jpeg" and not 1 <= (self.quality or 0) <= 100:
            raise UsageError(f"--quality {self.quality} is outside 1..100")
        if self.samples_per_shard < 1:
            raise UsageError(f"--samples-per-shard {self.samples_per_shard} is not a positive number")
        if self.split not in ("official", "random"):
            raise UsageError(f"--split {self.split!r} is neither official nor random")
        if any(not 0 <= fraction <= 1 for fraction in self.fractions) or abs(sum(self.fractions) - 1) > 1e-6:
            shown = ",".join(f"{fraction:g}" for fraction in self.fractions)
            raise UsageError(f"fractions {shown} must be between 0 and 1 and add up to 1")


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
) -> PackOptions:
    """Fill in the defaults that depend on other options; None stands for an option that was not given.

    Raises ``UsageError`` for options that do not go together.
    """
    if split == "official" and fractions is not None:
        raise UsageError("--fractions needs --split random; with --split official use --val-fraction")
    if split == "random" and val_fraction is not None:
        raise UsageError("--val-fraction needs --split official; with --split random use --fractions")
    if split == "official":
        val = DEFAULT_VAL_FRACTION if val_fraction is None else val_fraction
        fractions = (1 - val, val, 0.0)
    if storage != "source" and size is None:
        size = DEFAULT_SIZE
    if storage == "jpeg" and quality is None:
        quality = DEFAULT_QUALITY
    train, val, test = fractions or DEFAULT_FRACTIONS
    return PackOptions(
        storage=storage,  # type: ignore[arg-type]
        size=size,
        quality=quality,
        split=split,
        fractions=(float(train), float(val), float(test)),
        seed=seed,
        samples_per_shard=samples_per_shard,
    )
