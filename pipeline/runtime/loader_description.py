"""What a loader says of itself and of its samples."""

from collections.abc import Mapping

from pipeline.engine import IN_FLIGHT, Engine
from pipeline.io.damage import DamagePolicy
from pipeline.io.members import MemberReader
from pipeline.order.permutation import BatchSlices
from shards.format.dataset import ShardSet, SplitReader
from shards.format.geometry import Fit, Size, size_text
from shards.format.labels import Labels


class LoaderDescription:
    """The part of :class:`pipeline.Loader` that changes nothing."""

    shards: ShardSet
    split: SplitReader
    slices: BatchSlices
    batch_size: int  # global
    size: Size
    fit: Fit
    engine: str
    threads: int
    processes: int
    prefetch: int
    _engine: Engine
    _reader: MemberReader
    _policy: DamagePolicy
    _replaced: dict[int, int]  # damaged samples in batches delivered

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
        each = self._engine.batch_bytes
        return None if each is None else (self.prefetch + IN_FLIGHT) * each

    def __repr__(self) -> str:
        workers = f"processes={self.processes}" if self.processes else f"threads={self.threads}"
        return (
            f"<Loader of {self.split.name}: {self.samples} samples, batch_size={self.batch_size}, size="
            f"{size_text(self.size)}, fit={self.fit}, engine={self.engine}, {workers}, "
            f"storage={self.shards.manifest.storage}, {len(self.labels)} classes>"
        )

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.slices.batches

    def valid_in_batch(self, batch: int) -> int:
        """Return how many samples of a global batch are valid: not padding, nor known to this rank as replaced."""
        return self.slices.valid_in_batch(batch) - self._replaced.get(batch, 0)

    def key(self, index: int) -> str:
        """Return the key of a sample, as in ``KEY.jpg``."""
        return self._reader.key(int(index))

    def name(self, index: int) -> str:
        """Return the name of a sample in its source; the key is made from it."""
        return self._reader.name(int(index))
