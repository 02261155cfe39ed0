"""The loader: a shard set becomes batches of tensors, in an order that is arithmetic.

from pipeline import Loader

with Loader("pets-shards", split="train", batch_size=32, size=128, augment="train") as loader:
    for batch in loader:  # one epoch
        train(batch.image, batch.mask)
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.arguments import (
    check_mask,
    check_numbers,
    check_processes,
    check_seed,
    check_slices,
    check_timeout,
    resolve_augment,
    usable_cores,
)
from pipeline.batch import Batch
from pipeline.choose_engine import EngineName, choose_engine, make_engine
from pipeline.damage import DamagePolicy, OnError
from pipeline.devices import resolve_device
from pipeline.engine import IN_HAND, Options
from pipeline.io.members import MemberReader
from pipeline.order.augmentation import Augmentation
from pipeline.order.permutation import Plan
from pipeline.order.ranks import resolve_ranks
from pipeline.runtime.batch_plan import Labels, Schedule
from pipeline.runtime.prefetch import Stream
from pipeline.state import check_state, make_state
from shards.errors import PetsegError, UsageError
from shards.format.dataset import ShardSet

if TYPE_CHECKING:
    import torch


class Loader:
    """Batches of one split of a shard set.

    Iterating runs one epoch, the one that :attr:`epoch` (from 0) names, and then moves on to the next. An epoch that is
    broken off is started again from its first batch by the next ``iter()``; to go on where it stopped, hand
    :meth:`state_dict` to :meth:`load_state_dict`. Only one iteration can run at a time.

    Args:
        shards: the folder of a shard set, or an open :class:`shards.ShardSet`.
        split: ``train``, ``val`` or ``test``.
        batch_size: the global batch: all ranks together.
        size: side of the output in pixels; whole pictures (or crops) are squashed to size x size.
        device: ``auto`` (CUDA if there, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
        seed: of the order and of the augmentation.
        mask: ``onehot``: uint8 (B, 3, S, S); ``index``: uint8 (B, S, S).
        augment: None, a preset (``"train"``, or ``"strong"`` for few pictures and many epochs), or an
            :class:`pipeline.Augmentation`.
        shuffle: whether each epoch has its own order; None: for ``train`` only.
        rank: which slice of each batch; None: from torch.distributed where it is initialised, else 0.
        world_size: the number of slices; likewise. In training it must divide the batch; in evaluation any number
            will do: a rank whose slice is empty gets batches of no samples, so that all ranks stay in step.
        prefetch: how many batches are read ahead, at least 1; over the end of an epoch, too.
        threads: that decode; None: as many as the process may use cores, shared between the ranks of a machine.
        processes: how many processes make batches instead, each one at a time (Linux; engine ``torch``); 0: none. Worth
            it where batches are wanted faster than threads with one interpreter can make them; each takes about
            60 MiB and a tenth of a second to start. At least twice as many batches are read ahead.
        engine: ``dali``, ``torch``, or ``auto``; :attr:`engine` and :attr:`engine_reason` say which was taken and why.
        on_error: ``stop``: a damaged sample raises an error that names it; ``replace``: the next good sample of the
            epoch takes its place, marked invalid, a warning names it, and :attr:`damaged` counts it.
        max_damaged: with ``replace``, how many different samples may be damaged before the loader stops all the same.
        timeout: seconds to wait for a batch before giving up.

    Raises:
        UsageError: an argument is wrong or does not fit another one.
        FormatError: no shard set, or a damaged one.
    """

    def __init__(
        self,
        shards: str | Path | ShardSet,
        *,
        split: str = "train",
        batch_size: int,
        size: int = 128,
        device: str | torch.device = "auto",
        seed: int = 0,
        mask: Literal["onehot", "index"] = "onehot",
        augment: Literal["train", "strong"] | Augmentation | None = None,
        shuffle: bool | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        prefetch: int = 2,
        threads: int | None = None,
        processes: int = 0,
        engine: EngineName = "auto",
        on_error: OnError = "stop",
        max_damaged: int = 10,
        timeout: float = 120,
    ) -> None:
        check_numbers(batch_size=batch_size, size=size, prefetch=prefetch, threads=threads, processes=processes)
        check_seed(seed)
        check_mask(mask)
        self.shards = shards if isinstance(shards, ShardSet) else ShardSet.open(shards)
        self.split = self.shards.split(split)
        if not len(self.split):
            raise UsageError(f"split {split!r} of {self.shards.path} has no samples")
        self.rank, self.world_size = resolve_ranks(rank=rank, world_size=world_size)
        self.shuffle = split == "train" if shuffle is None else shuffle
        check_slices(batch_size=batch_size, world_size=self.world_size, shuffle=self.shuffle)
        self.plan = Plan(samples=len(self.split), batch_size=batch_size, rank=self.rank, world_size=self.world_size)
        self.batch_size, self.size, self.seed, self.mask = batch_size, size, seed, mask
        self.processes = processes
        self.prefetch = max(prefetch, 2 * processes)
        self.timeout = check_timeout(timeout)
        self.augment = resolve_augment(augment)
        self._policy = DamagePolicy(on_error=on_error, budget=max_damaged)
        self.device = resolve_device(device)
        self.threads = threads or usable_cores()
        self.epoch = 0
        self._delivered = 0  # batches of the present epoch that the caller has got
        self._first = 0  # where the next iteration starts
        self._run: weakref.ref[Run] | None = None  # weak: a loader that nobody holds any more goes at once
        self._stream: Stream | None = None  # outlives an iteration: it has read on into the next epoch
        self._unstopped: weakref.finalize | None = None  # type: ignore[type-arg]
        self._iterated = False
        self._reader = MemberReader(self.split)
        self._process = os.getpid()
        manifest = self.shards.manifest
        self.engine, self.engine_reason = choose_engine(engine, device_type=self.device.type, storage=manifest.storage)
        check_processes(processes, threads=threads, engine=self.engine)
        options = Options(
            storage=manifest.storage,
            stored_size=manifest.size,
            size=size,
            onehot=mask == "onehot",
            augment=self.augment,
        )
        self._engine = make_engine(
            self.engine,
            options,
            reader=self._reader,
            batch_size=len(self.plan.slice),
            threads=self.threads,
            processes=processes,
            prefetch=self.prefetch,
            timeout=self.timeout,
            device=self.device,
        )
        self._schedule = Schedule(
            split=self.split,
            reader=self._reader,
            plan=self.plan,
            seed=seed,
            shuffle=self.shuffle,
            augment=self.augment,
            stored_size=manifest.size,
        )

    @property
    def damaged(self) -> Mapping[int, str]:
        """The damaged samples that were replaced in the batches delivered so far: by index, where and what."""
        return dict(self._policy.damaged)

    @property
    def samples(self) -> int:
        """The number of samples of the split."""
        return self.plan.samples

    @property
    def buffer_bytes(self) -> int | None:
        """The most memory for finished batches in bytes: ``prefetch`` and three more, picture and mask each.

        That is for a caller who holds one batch at a time; those that are kept longer come on top, and the memory of
        as many again stays for the next ones after he lets them go. None where the
        whole graph is DALI's (on a GPU; on the CPU for ``raw`` with engine ``dali``), which has its own memory.
        """
        each = self._engine.batch_bytes
        return None if each is None else (self.prefetch + IN_HAND) * each

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.plan.batches

    def valid_in_batch(self, batch: int) -> int:
        """Return how many samples of a global batch are not padding, over all ranks."""
        return self.plan.valid_in_batch(batch)

    def key(self, index: int) -> str:
        """Return the key of a sample, as in ``KEY.jpg``."""
        if not 0 <= index < self.samples:
            raise UsageError(f"sample {index} is outside 0..{self.samples - 1} of split {self.split.name!r}")
        return self._reader.key(int(index))

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration run this epoch from its start."""
        if epoch < 0:
            raise UsageError(f"epoch must be 0 or more, not {epoch}")
        self._go_to(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader stands, as plain JSON values: the batches delivered, not those read ahead."""
        epoch, batch = self.epoch, self._delivered
        if batch == len(self):  # the last batch is out, though the caller's loop has not noticed the end yet
            epoch, batch = epoch + 1, 0
        return make_state(epoch=epoch, batch=batch, bound=self._bound())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state: the next iteration starts with the batch after the last one delivered.

        The number of ranks, threads, the device and the engine may differ from those that the state was saved with.

        Raises:
            UsageError: the state belongs to another set, split, seed, batch size, size or augmentation.
        """
        epoch, batch = check_state(state, batches=len(self), bound=self._bound())
        self._go_to(epoch, batch)

    def __iter__(self) -> Iterator[Batch]:
        """Run one epoch; see the class."""
        self._check_process()
        first = self._first
        self._go_to(self.epoch, first)
        self._first = 0
        if self._reader.drop_changed():  # what was read ahead may be of a file that is no longer there
            self._drop_stream()
        if self._stream is None:
            self._start_stream(first)
        self._iterated = True
        run = Run(self)
        self._run = weakref.ref(run)
        return run

    def close(self) -> None:
        """Stop, and release threads, files and buffers. Tensors already handed over stay whole."""
        self._end_run()
        self._drop_stream()
        self._engine.close()
        self._reader.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self) -> Batch | None:
        """Return the next batch of the present iteration, None at its end; for :class:`Run`."""
        self._check_process()
        if self._delivered == len(self):
            self.epoch, self._delivered, self._run = self.epoch + 1, 0, None
            return None
        assert self._stream is not None
        try:
            labels, image, mask = self._stream.take()
        except BaseException:
            self._end_run()
            self._drop_stream()
            raise
        self._delivered = labels.number + 1
        return self._batch(labels, image, mask)

    def _go_to(self, epoch: int, batch: int) -> None:
        """End the present iteration; the next one starts with this batch. What was read ahead is kept if it fits."""
        self._end_run()
        if self._stream is not None and not self._stream.stands_at(epoch, batch):
            self._drop_stream()
        self.epoch, self._first, self._delivered = epoch, batch, batch

    def _start_stream(self, first: int) -> None:
        """Begin to read ahead.

        Training goes on into the next epoch while the last batches of one are delivered. One pass over a split in its
        stored order may be all that is wanted; from the second pass on, it goes on as well.
        """
        self._stream = Stream(
            self._schedule,
            self._engine,
            self._policy,
            prefetch=self.prefetch,
            timeout=self.timeout,
            epoch=self.epoch,
            first=first,
            endless=self.shuffle or self._iterated,
        )
        # A loader that is dropped without being closed leaves no thread and no memory behind.
        self._unstopped = weakref.finalize(self, self._stream.ahead.cancel)

    def _drop_stream(self) -> None:
        """Stop reading ahead, and forget what was read."""
        if self._stream is not None:
            if self._unstopped is not None:
                self._unstopped.detach()
            stream, self._stream = self._stream, None
            stream.stop()

    def _end_run(self) -> None:
        """End the present iteration, if there is one: an engine works for one at a time."""
        run = self._run() if self._run is not None else None
        self._run = None
        if run is not None:
            run.ended = True

    def _check_process(self) -> None:
        """Raise ``PetsegError`` in a child of the process that made the loader: its threads stayed behind."""
        if os.getpid() != self._process:
            raise PetsegError(
                "this process was forked after its loader was made, and a fork has none of the loader's threads; "
                "make the loader in the process that uses it"
            )

    def _batch(self, labels: Labels, image: torch.Tensor, mask: torch.Tensor) -> Batch:
        import torch

        valid = torch.from_numpy(labels.valid)
        return Batch(
            image=image,
            mask=mask,
            index=torch.from_numpy(labels.indices),
            valid=valid if self.device.type == "cpu" else valid.to(self.device, non_blocking=True),
            epoch=self.epoch,
            number=labels.number,
        )

    def _bound(self) -> dict[str, Any]:
        return {
            "fingerprint": self.shards.manifest.fingerprint,
            "split": self.split.name,
            "samples": self.samples,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "size": self.size,
            "shuffle": self.shuffle,
            "augment": None if self.augment is None else self.augment.to_json(),
        }


class Run:
    """One iteration of a loader: an iterator that can be ended from outside, and then says so.

    Attributes:
        ended: by something else than its own end.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader: Loader | None = loader
        self.ended = False

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> Batch:
        if self._loader is None:
            raise StopIteration
        if self.ended:
            raise UsageError("this iteration was ended by a newer iter(), set_epoch(), load_state_dict() or close()")
        try:
            batch = self._loader.take()
        except BaseException:
            self._loader = None
            raise
        if batch is None:
            self._loader = None
            raise StopIteration
        return batch
