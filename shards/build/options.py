"""The options of a build, their defaults, and which combinations are allowed."""

from typing import Any

import msgspec

from shards.audit.findings import MAX_PIXELS
from shards.audit.orientation import EXIF_MODES, ExifMode
from shards.build.encode import DEFAULT_QUALITY, DEFAULT_SIZE
from shards.errors import UsageError, option, spelled
from shards.format.builtin_labels import BUILTIN
from shards.format.geometry import FITS, Fit, Size, parse_size, size_text
from shards.format.labels import Labels
from shards.format.layout import MAX_SIZE, MOST_PIXELS, STORAGES, Storage
from shards.format.manifest import Manifest
from shards.store.byte_sizes import parse_bytes

DEFAULT_FRACTIONS = (0.7, 0.2, 0.1)
DEFAULT_VAL_FRACTION = 0.2
DEFAULT_SHARD_BYTES = 256_000_000
DEFAULT_FIT: Fit = "stretch"
MAX_SHARD_BYTES = 10**12


class PackOptions(msgspec.Struct, frozen=True, kw_only=True):
    """All options that decide a set's bytes.

    ``size`` (height, width), ``fit`` and ``quality`` are None where the storage does not use them; ``labels`` None
    stands for the source's own. Shards have ``samples_per_shard`` samples, or ``shard_bytes`` where that is None.

    Raises ``UsageError`` if a value is out of range, or two do not go together.
    """

    storage: Storage = "source"
    size: Size | None = None
    fit: Fit | None = None
    quality: int | None = None
    split: str = "official"
    fractions: tuple[float, float, float] = (0.8, 0.2, 0.0)
    seed: int = 0
    samples_per_shard: int | None = None
    shard_bytes: int | None = DEFAULT_SHARD_BYTES
    max_pixels: int = MAX_PIXELS
    exif: ExifMode = "auto"
    labels: Labels | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        for name, value, choices in (("storage", self.storage, STORAGES), ("exif", self.exif, EXIF_MODES)):
            if value not in choices:
                raise UsageError(f"{option(name, value)}: choose from {', '.join(choices)}")
        if self.storage == "source" and (self.size, self.fit, self.quality) != (None, None, None):
            raise UsageError(
                spelled(
                    "--size, --fit and --quality need --storage=jpeg or --storage=raw: source storage keeps images "
                    "as they are"
                )
            )
        if self.storage != "source":
            parse_size(self.size, name="size", most=MAX_SIZE)
            if self.fit not in FITS:
                raise UsageError(f"{option('fit', self.fit)}: choose from {', '.join(FITS)}")
        if not 1 <= self.max_pixels <= MOST_PIXELS:
            raise UsageError(f"{option('max_pixels', self.max_pixels)} is outside 1..{MOST_PIXELS} (2^29)")
        if self.labels is not None:
            self.labels.check()
        self._check_quality()
        if self.samples_per_shard is None and not 1 <= (self.shard_bytes or 0) <= MAX_SHARD_BYTES:
            raise UsageError(f"{option('shard_bytes', self.shard_bytes)} is outside 1..{MAX_SHARD_BYTES} (1 TB)")
        if self.samples_per_shard is not None and self.samples_per_shard < 1:
            raise UsageError(f"{option('samples_per_shard', self.samples_per_shard)} is not a positive number")
        if self.split not in ("official", "random"):
            raise UsageError(f"{option('split', self.split)} is neither official nor random")
        if any(not 0 <= fraction <= 1 for fraction in self.fractions) or abs(sum(self.fractions) - 1) > 1e-6:
            raise UsageError(f"{option('fractions', self.fractions)}: give numbers from 0 to 1 that add up to 1")

    def _check_numbers(self) -> None:
        for name in ("quality", "seed", "samples_per_shard", "shard_bytes", "max_pixels"):
            number = getattr(self, name)
            missing = number is None and name in ("seed", "max_pixels")
            if missing or (number is not None and (type(number) is not int or not -(2**63) <= number < 2**63)):
                raise UsageError(f"{option(name, number)}: give a whole number of at most 63 bits")

    def _check_quality(self) -> None:
        if self.storage != "jpeg" and self.quality is not None:
            raise UsageError(spelled("--quality needs --storage=jpeg"))
        if self.storage == "jpeg" and not 1 <= (self.quality or 0) <= 100:
            raise UsageError(f"{option('quality', self.quality)} is outside 1..100")


def options_from(
    *,
    storage: str,
    size: int | str | Size | None,
    quality: int | None,
    split: str,
    fractions: tuple[float, float, float] | None,
    val_fraction: float | None,
    seed: int,
    samples_per_shard: int | None = None,
    shard_bytes: int | str | None = None,
    fit: str | None = None,
    max_pixels: int = MAX_PIXELS,
    exif: str = "auto",
    labels: Labels | None = None,
) -> PackOptions:
    """Fill in the defaults that depend on other options; None stands for an option that was not given.

    Raises ``UsageError`` for options that do not go together.
    """
    if split == "official" and fractions is not None:
        raise UsageError(spelled("--fractions needs --split=random; with --split=official use --val-fraction"))
    if split == "random" and val_fraction is not None:
        raise UsageError(spelled("--val-fraction needs --split=official; with --split=random use --fractions"))
    if split == "official":
        val = DEFAULT_VAL_FRACTION if val_fraction is None else val_fraction
        if isinstance(val, bool) or not isinstance(val, int | float) or not 0 <= val <= 1:
            raise UsageError(f"{option('val_fraction', val)}: give a number from 0 to 1")
        fractions = (1 - val, val, 0.0)
    if storage != "source":
        size = DEFAULT_SIZE if size is None else size
        fit = DEFAULT_FIT if fit is None else fit
    if storage == "jpeg" and quality is None:
        quality = DEFAULT_QUALITY
    if samples_per_shard is not None and shard_bytes is not None:
        raise UsageError(spelled("--samples-per-shard and --shard-bytes: give one of them"))
    if samples_per_shard is None and shard_bytes is None:
        shard_bytes = DEFAULT_SHARD_BYTES
    try:
        train, val, test = map(float, DEFAULT_FRACTIONS if fractions is None else fractions)
    except (TypeError, ValueError):
        raise UsageError(f"{option('fractions', fractions)}: give three numbers, of train, val and test") from None
    return PackOptions(
        storage=storage,  # type: ignore[arg-type]
        size=None if size is None else parse_size(size, name="size", most=MAX_SIZE),
        fit=fit,  # type: ignore[arg-type]
        quality=quality,
        split=split,
        fractions=(train, val, test),
        seed=seed,
        samples_per_shard=samples_per_shard,
        shard_bytes=None if shard_bytes is None else parse_bytes(shard_bytes, name="shard_bytes"),
        max_pixels=max_pixels,
        exif=exif,  # type: ignore[arg-type]
        labels=labels,
    )


def options_of(manifest: Manifest) -> list[str]:
    """Return what to give to ``petseg-shard build`` to make a set again from its source.

    These are the layout, and all options that are not the defaults. ``LABELS.toml`` stands for labels that are not
    built in. The suffixes of the layout ``folders`` are in no manifest.
    """
    built, random = manifest.options, manifest.options.split == "random"
    known = next((name for name, labels in BUILTIN.items() if labels == manifest.labels), "LABELS.toml")
    labels = None if known == built.layout != "voc" else known  # of VOC, other names of images have no labels
    fractions = ",".join(map(str, built.fractions))
    options: list[tuple[str, Any, Any]] = [  # value, default
        ("layout", built.layout, None),
        ("labels", labels, None),
        ("storage", manifest.storage, "source"),
        ("size", size_text(manifest.size) if manifest.size else None, str(DEFAULT_SIZE)),
        ("fit", manifest.fit, DEFAULT_FIT),
        ("quality", built.quality, DEFAULT_QUALITY),
        ("split", built.split, "official"),
        ("fractions", fractions if random else None, ",".join(map(str, DEFAULT_FRACTIONS))),
        ("val-fraction", None if random else built.fractions[1], DEFAULT_VAL_FRACTION),
        ("seed", built.seed, 0),
        ("shard-bytes", built.shard_bytes, DEFAULT_SHARD_BYTES),
        ("samples-per-shard", built.samples_per_shard, None),
        ("max-pixels", built.max_pixels, MAX_PIXELS),
        ("exif", built.exif, "auto"),
    ]
    return [word for name, value, usual in options if value not in (None, usual) for word in (f"--{name}", str(value))]
