"""What can be asked of a loader, and its state: where it stands, and what that is valid for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pipeline.engine import IN_FLIGHT, Engine
from pipeline.io.damage import DamagePolicy
from pipeline.io.members import MemberReader
from pipeline.order.augmentation import Augmentation
from pipeline.order.epoch_order import Shuffle
from pipeline.order.permutation import BatchSlices
from pipeline.runtime.batch_plan import BatchPlan
from shards.errors import UsageError, counted, is_whole_number, shown_value
from shards.format.dataset import ShardSet, SplitReader
from shards.format.geometry import Fit, Size, size_text
from shards.format.labels import Labels
from shards.format.readers.set_files import sample_number

if TYPE_CHECKING:
    import torch

VERSION = 2

# What a saved state must have in common with the loader that loads it, with names for messages.
BOUND = {
    "fingerprint": "the shard set's content",
    "split": "split",
    "samples": "number of samples",
    "seed": "seed",
    "batch_size": "batch_size (global)",
    "drop_last": "drop_last",
    "size": "size",
    "fit": "fit",
    "crop_scale": "crop_scale",
    "decode": "decode",
    "shuffle": "shuffle",
    "augment": "augment",
}


def bound_values(plan: BatchPlan) -> dict[str, Any]:
    """Return the values of :data:`BOUND` for a loader, as plain JSON values."""
    split, options = plan.reader.split, plan.options
    return {
        "fingerprint": split.manifest.fingerprint,
        "split": split.name,
        "samples": plan.slices.samples,
        "seed": plan.seed,
        "batch_size": plan.slices.batch_size,
        "drop_last": plan.slices.drop_last,
        "size": size_text(options.size),
        "fit": options.fit,
        "crop_scale": None if options.crop_scale is None else list(options.crop_scale),
        "decode": options.decode,
        "shuffle": plan.shuffle.bound_value(plan.slices.samples),
        "augment": None if options.augment is None else options.augment.to_json(),
    }


def check_state(state: Mapping[str, Any], *, batches: int, bound: Mapping[str, Any]) -> tuple[int, int]:
    """Return (epoch, batch) of a saved state; ``UsageError`` names what is wrong with it or does not fit the loader."""
    version = state.get("version") if isinstance(state, Mapping) else None
    if is_whole_number(version, 0, VERSION - 1):
        raise UsageError(
            f"this loader state was saved by an earlier petseg (version {version}; this one reads {VERSION}), for a "
            "shard set of an earlier format; build the set again and start a new run"
        )
    if version != VERSION:
        given = f"version {shown_value(version)}" if isinstance(state, Mapping) else shown_value(state)
        raise UsageError(f"a loader state is what state_dict() returned, of version {VERSION}, not {given}")
    state = {"drop_last": False, "decode": "full", **state}  # which earlier states lack
    differences = [
        f"{label}: saved {state.get(name)!r}, now {bound[name]!r}"
        for name, label in BOUND.items()
        if state.get(name) != bound[name]
    ]
    if differences:
        raise UsageError("the saved loader state does not fit this loader; " + "; ".join(differences))
    epoch, batch = state.get("epoch"), state.get("batch")
    if is_whole_number(epoch, 0) and is_whole_number(batch, 0, batches):
        return epoch, batch
    raise UsageError(f"the saved loader state is damaged: epoch {epoch!r}, batch {batch!r} of {batches}")


class LoaderFacts:
    """The part of :class:`pipeline.Loader` that changes nothing."""

    shards: ShardSet
    split: SplitReader
    slices: BatchSlices
    batch_size: int
    size: Size
    fit: Fit
    mask: Literal["onehot", "index"]
    shuffle: Shuffle
    augment: Augmentation | None
    seed: int
    device: "torch.device"
    engine: str
    threads: int
    processes: int
    prefetch: int
    _engine: Engine
    _plan: BatchPlan
    _policy: DamagePolicy
    _reader: MemberReader
    _replaced: dict[int, int]

    @property
    def labels(self) -> Labels:
        """The set's classes: their number is ``len(labels)``, with names and colours in the order of their indices."""
        return self.shards.manifest.labels

    @property
    def damaged(self) -> Mapping[int, str]:
        """The damaged samples that were replaced in the batches delivered so far: by index, where and what."""
        return dict(self._policy.damaged)

    @property
    def retries(self) -> Mapping[str, int]:
        """How many requests to an object store failed and were repeated, by reason."""
        return {} if self.split.remote is None else dict(self.split.remote.retries)

    @property
    def samples(self) -> int:
        """The number of samples of the split."""
        return self.slices.samples

    @property
    def buffer_bytes(self) -> int | None:
        """The maximum memory for finished batches in bytes: ``prefetch`` + 3 of them; None with engine ``dali``.

        Batches that the caller keeps come on top, and as much memory again stays reserved after they are dropped.
        """
        return (self.prefetch + IN_FLIGHT) * each if (each := self._engine.batch_bytes) is not None else None

    def __repr__(self) -> str:
        samples, batches = counted(self.samples, "sample"), counted(len(self), "batch", "batches")
        parts = [f"{samples} in {batches}", f"batch_size={self.batch_size}"]
        parts += ["drop_last"] * self.slices.drop_last
        crop_scale = self._plan.options.crop_scale
        parts += [
            f"size={size_text(self.size)}",
            f"fit={self.fit}" if crop_scale is None else f"crop_scale={crop_scale}",
        ]
        parts += [f"mask={self.mask}", f"shuffle={self.shuffle}", *["augment"] * (self.augment is not None)]
        parts += [f"seed={self.seed}", f"engine={self.engine}", f"device={self.device}"]
        parts += [f"processes={self.processes}" if self.processes else f"threads={self.threads}"]
        parts += [f"storage={self.shards.manifest.storage}", counted(len(self.labels), "class", "classes")]
        if self.slices.world_size > 1:
            parts.append(f"rank {self.slices.rank} of {self.slices.world_size}")
        return f"<Loader of {self.split.name}: {', '.join(parts)}>"

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.slices.batches

    def valid_in_batch(self, batch: int) -> int:
        """Return how many samples of a global batch are valid: not padding, nor known to this rank as replaced."""
        if not is_whole_number(batch, 0, len(self) - 1):
            raise UsageError(f"batch must be a whole number from 0 to {len(self) - 1}, not {shown_value(batch)}")
        return self.slices.valid_in_batch(batch) - self._replaced.get(batch, 0)

    def key(self, index: int) -> str:
        """Return the key of a sample, as in ``KEY.jpg``."""
        return self._reader.key(sample_number(index))

    def name(self, index: int) -> str:
        """Return the name of a sample in its source; the key is made from it."""
        return self._reader.name(sample_number(index))
