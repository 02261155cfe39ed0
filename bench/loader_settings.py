"""The options of ``petseg-bench loader``, and the passes over all loaders that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.peers import PEERS
from shards.errors import UsageError

Note = Callable[[str], None]
BASELINE = "tutorial"  # what rates are given as multiples of
INDEX_STORAGE = "raw"  # with masks of both forms: where classes instead of one-hot make a difference worth a pass


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """The options of ``petseg-bench loader``; see its help."""

    shards: Path
    split: str = "train"
    storages: tuple[str, ...] = ("source", "jpeg", "raw")
    peers: tuple[str, ...] = ()
    size: int = 128
    batch_size: int = 32
    workers: int = 0
    repeats: int = 5
    seconds: float = 0.5
    augment: str = "both"
    mask: str = "both"
    cache: str = "warm"
    device: str = "cpu"
    seed: int = 0
    starts: int = 3
    soak: int = 100
    source: Path | None = None
    work: Path | None = None
    handicap: float = 0.0

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            UsageError: with the option.
        """
        for name, value, least in (("--size", self.size, 8), ("--batch-size", self.batch_size, 1),
                                   ("--repeats", self.repeats, 1), ("--workers", self.workers, 0),
                                   ("--starts", self.starts, 0), ("--soak", self.soak, 0)):  # fmt: skip
            if value < least:
                raise UsageError(f"{name} {value}: must be {least} or more")
        if not 0 < self.seconds <= 600:
            raise UsageError(f"--seconds {self.seconds}: must be above 0 and at most 600")
        if not 0 <= self.handicap < 1:
            raise UsageError(f"--handicap {self.handicap}: must be 0 or more and below 1")
        known = {spec.name for spec in PEERS}
        for name in self.peers:
            if name not in known:
                raise UsageError(f"--peers: {name!r} is not known; there are: {', '.join(sorted(known))}")

    @property
    def measures_ours(self) -> bool:
        """Whether our own loader is among the peers."""
        return not self.peers or any(spec.ours and spec.name in self.peers for spec in PEERS)


@dataclass(frozen=True)
class Pass:
    """One round of measurements in which all lines do the same work.

    Attributes:
        augment: with training augmentation.
        cache: warm or cold.
        mask: form of the masks.
        only: the one storage that is measured, beside the baseline; empty for all.
    """

    augment: bool
    cache: Literal["warm", "cold"]
    mask: Literal["onehot", "index"]
    only: str = ""

    def holds(self, peer: str, storage: str) -> bool:
        """Return whether a loader on a storage is measured in this pass."""
        return self.only in ("", storage) or peer == BASELINE


def passes(settings: LoaderSettings) -> list[Pass]:
    """Return what is measured, one pass after another.

    Cold passes are of evaluation, unless only training is asked for: what reading costs does not depend on it. With
    masks of both forms, class indices are a pass of their own over ``raw`` storage, evaluation, warm.
    """
    augments = {"none": [False], "train": [True], "both": [False, True]}[settings.augment]
    form: Literal["onehot", "index"] = "index" if settings.mask == "index" else "onehot"
    found = []
    if settings.cache != "cold":
        found += [Pass(augment, "warm", form) for augment in augments]
        if settings.mask == "both" and False in augments and INDEX_STORAGE in settings.storages:
            found.insert(1, Pass(augment=False, cache="warm", mask="index", only=INDEX_STORAGE))
    if settings.cache != "warm":
        found.append(Pass(augments[0], "cold", form))
    return found
