"""The loader: a shard set becomes batches of tensors, in an order that is arithmetic.

from pipeline import Loader

with Loader("pets-shards", split="train", batch_size=32, size=128, augment="train") as loader:
    for batch in loader:  # one epoch
        train(batch.image, batch.mask)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.arguments import (
    check_mask,
    check_numbers,
    check_seed,
    check_slices,
    check_timeout,
    resolve_augment,
    usable_cores,
)
from pipeline.augment import Augmentation, draw_parameters, find_impossible
from pipeline.batch import Batch
from pipeline.damage import DamagePolicy, OnError
from pipeline.devices import resolve_device
from pipeline.engine import Options, Work
from pipeline.engines import EngineName, choose_engine, make_engine
from pipeline.epoch import IN_HAND, EpochRun, Labels
from pipeline.order import Indices, Plan, permutation
from pipeline.ranks import resolve_ranks
from pipeline.reading import MemberReader
from pipeline.state import check_state, make_state
from shards.errors import PetsegError, UsageError
from shards.shardset import ShardSet

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
        prefetch: how many batches are read ahead, at least 1.
        threads: that decode; None: as many as the process may use cores, shared between the ranks of a machine.
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
        engine: EngineName = "auto",
        on_error: OnError = "stop",
        max_damaged: int = 10,
        timeout: float = 120,
    ) -> None:
        check_numbers(batch_size=batch_size, size=size, prefetch=prefetch, threads=threads)
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
        self.batch_size, self.size, self.seed, self.mask, self.prefetch = batch_size, size, seed, mask, prefetch
        self.timeout = check_timeout(timeout)
        self.augment = resolve_augment(augment)
        self._policy = DamagePolicy(on_error=on_error, budget=max_damaged)
        self.device = resolve_device(device)
        self.threads = threads or usable_cores()
        self.epoch = 0
        self._delivered = 0  # batches of the present epoch that the caller has got
        self._first = 0  # where the next iteration starts
        self._run: Run | None = None
        self._reader = MemberReader(self.split)
        self._process = os.getpid()
        manifest = self.shards.manifest
        self.engine, self.engine_reason = choose_engine(engine, device_type=self.device.type, storage=manifest.storage)
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
            device=self.device,
        )

    @property
    def damaged(self) -> Mapping[int, str]:
        """The damaged samples found so far: by index, where and what."""
        return dict(self._policy.damaged)

    @property
    def samples(self) -> int:
        """The number of samples of the split."""
        return self.plan.samples

    @property
    def buffer_bytes(self) -> int | None:
        """The most memory for finished batches in bytes: ``prefetch`` and three more, picture and mask each.

        That is for a caller who holds one batch at a time; those that are kept longer come on top. None where the
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
        self._end_run()
        self.epoch, self._first, self._delivered = epoch, 0, 0

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
        self._end_run()
        self.epoch, self._first, self._delivered = epoch, batch, batch

    def __iter__(self) -> Iterator[Batch]:
        """Run one epoch; see the class."""
        self._check_process()
        self._end_run()
        first, self._first = self._first, 0
        self._delivered = first
        self._run = Run(self._batches(first), self._check_process)
        return self._run

    def close(self) -> None:
        """Stop, and release threads, files and buffers. Tensors already handed over stay whole."""
        self._end_run()
        self._engine.close()
        self._reader.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batches(self, first: int) -> Generator[Batch]:
        self._reader.new_epoch()
        epoch = self.epoch
        run = EpochRun(
            engine=self._engine,
            plan=self.plan,
            order=self._order(epoch),
            make_work=lambda indices: self._work(indices, epoch),
            policy=self._policy,
            prefetch=self.prefetch,
            timeout=self.timeout,
        )
        with contextlib.closing(run.batches(first)) as batches:
            for labels, image, mask in batches:
                self._delivered = labels.number + 1
                yield self._batch(labels, image, mask)
        self.epoch, self._delivered = epoch + 1, 0

    def _end_run(self) -> None:
        """Stop the present iteration, if there is one: an engine works for one at a time."""
        if self._run is not None:
            self._run.end()
            self._run = None

    def _check_process(self) -> None:
        """Raise ``PetsegError`` in a child of the process that made the loader: its threads stayed behind."""
        if os.getpid() != self._process:
            raise PetsegError(
                "this process was forked after its loader was made, and a fork has none of the loader's threads; "
                "make the loader in the process that uses it"
            )

    def _order(self, epoch: int) -> Indices:
        if self.shuffle:
            return permutation(self.seed, epoch, self.samples)
        return np.arange(self.samples, dtype=np.int64)

    def _work(self, indices: Indices, epoch: int) -> Work:
        rows = self.split.rows(indices)
        stored = self.shards.manifest.size  # None: each picture has its own, in the table
        heights = rows["height"].astype(np.int64) if stored is None else np.full(len(rows), stored)
        widths = rows["width"].astype(np.int64) if stored is None else np.full(len(rows), stored)
        parameters = draw_parameters(
            self.augment, seed=self.seed, epoch=epoch, indices=indices, heights=heights, widths=widths
        )
        impossible = find_impossible(parameters, heights=heights, widths=widths)
        if impossible is not None:
            place, problem = impossible
            raise PetsegError(
                f"{self._reader.place(int(indices[place]), 'image')}: {problem}, in epoch {epoch} with seed "
                f"{self.seed}; load without augmentation, and run petseg-shard verify"
            )
        self._reader.trim()
        return Work(indices=indices, rows=rows, parameters=parameters)

    def _batch(self, labels: Labels, image: torch.Tensor, mask: torch.Tensor) -> Batch:
        import torch

        return Batch(
            image=image,
            mask=mask,
            index=torch.from_numpy(labels.indices),
            valid=torch.from_numpy(labels.valid).to(self.device, non_blocking=True),
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
    """One iteration of a loader: an iterator that can be ended from outside, and then says so."""

    def __init__(self, batches: Generator[Batch], check_process: Callable[[], None]) -> None:
        self._batches = batches
        self._check_process = check_process
        self._ended = False

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> Batch:
        if self._ended:
            raise UsageError("this iteration was ended by a newer iter(), set_epoch(), load_state_dict() or close()")
        self._check_process()
        return next(self._batches)

    def end(self) -> None:
        """Stop reading ahead."""
        self._ended = True
        self._batches.close()
