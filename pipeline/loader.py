"""The loader: a shard set becomes batches of tensors, in an order that is arithmetic.

from petseg import Loader
with Loader("pets-shards", split="train", batch_size=32, size=128, augment="train") as loader:
    for batch in loader:  # one epoch
        train(batch.image, batch.mask)
"""

import os
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from pipeline import arguments
from pipeline.batch import Batch
from pipeline.choose_engine import EngineName, choose_engine, make_engine
from pipeline.engine import Decode, DecoderOptions, EngineOptions
from pipeline.io.damage import DamagePolicy, OnError
from pipeline.io.members import MemberReader
from pipeline.order.augmentation import Augmentation
from pipeline.order.epoch_order import Shuffle
from pipeline.order.permutation import BatchSlices
from pipeline.runtime.batch_plan import BatchPlan
from pipeline.runtime.one_thread import GuardedBatches, OneThread
from pipeline.runtime.prefetch import BatchStream
from pipeline.state import VERSION, LoaderFacts, bound_values, check_state
from shards.errors import UsageError
from shards.format.dataset import ShardSet
from shards.format.geometry import Fit
from shards.format.readers.set_files import expect_same_set
from shards.public_calls import suggests_names
from shards.store.remote.remote_files import Fetch

if TYPE_CHECKING:
    import torch


class Loader(LoaderFacts):
    """Batches of one split of a shard set.

    Iterating runs the epoch that :attr:`epoch` (from 0) names, then moves on to the next. An interrupted epoch starts
    again from its first batch; to continue it, pass :meth:`state_dict` to :meth:`load_state_dict`. Of two threads that
    use a loader at the same time, the later one gets an error.

    Args:
        shards: the folder of a shard set, its address in an object store, or an open :class:`shards.ShardSet`.
        split: ``train``, ``val`` or ``test``.
        batch_size: the global batch: all ranks together.
        size: of the output in pixels: N for a square, or (H, W); None: that of the stored images, or 128 where each has
            its own (``source`` storage).
        fit: how an image (or crop) of another aspect ratio is brought to it. ``stretch``: resized. ``cover``: a box of
            the output's aspect ratio is cut out, at the centre or, with ``augment``, at a random place, and resized.
            ``contain``: resized as large as fits, and padded with ImageNet's mean colour, which the mask ignores.
        crop_scale: (min, max) output pixels per image pixel: crops of the output's size replace ``fit``, for images too
            large to be shrunk. With ``augment``, scale and place are drawn, else it is the centre at scale 1 (or, out
            of the range, its geometric mean). Of a smaller image all is shown, padded as by ``contain``.
        decode: ``full``, or ``scaled``: JPEGs larger than needed are decoded at half, a quarter or an eighth of their
            size, which is faster and changes the image a little (docs/performance.md says by how much), not the mask;
            by engine ``torch`` alone.
        device: ``auto`` (CUDA if available, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
        seed: of the order and of the augmentation.
        mask: ``onehot``: uint8 (B, N, H, W), N classes; ``index``: uint8 (B, H, W). See :class:`pipeline.Batch`.
        augment: None, a preset (``"train"``, or ``"strong"`` for few images and many epochs), or an
            :class:`pipeline.Augmentation`.
        shuffle: ``global`` (or True): each epoch has an order of its own. ``block``: likewise, but shards are shuffled,
            and then the samples of ``shuffle_window`` shards together, so that few shards are needed at a time.
            ``none`` (or False): the stored order. None: ``global`` for ``train`` only.
        shuffle_window: the number of shards, for ``block``.
        drop_last: leave out an incomplete last batch, unless it is the only one, instead of padding it.
        rank: which slice of each batch; None: from torch.distributed where it is initialised, else 0.
        world_size: the number of slices; likewise. In training it must divide the batch; in evaluation a rank whose
            slice is empty gets batches of no samples, so that all ranks stay in step.
        prefetch: how many batches are prepared in advance, at least 1; across the end of an epoch, too.
        threads: for decoding, on the CPU; None: one per usable core, shared between the ranks of a machine.
            :attr:`threads` is their number. Engine ``dali`` has two more, which read.
        processes: how many worker processes make batches instead of threads (Linux; engine ``torch``), where threads of
            one interpreter are too slow. At least twice as many batches are prefetched. None: one per usable core, at
            most 8 for ``raw`` and 16 for ``jpeg`` storage, on the CPU, for shuffled epochs of 4,096 samples or more of
            a local set that are stored at no more than ``size``; else, and with ``threads``, none. :attr:`processes` is
            their number.
        engine: ``dali``, ``torch``, or ``auto``; :attr:`engine` and :attr:`engine_reason` say which was chosen and why.
            For a GPU, ``torch`` decodes on the CPU and copies from page-locked memory, on a stream of its own.
        decoder: how DALI decodes on a GPU; None: :class:`pipeline.DecoderOptions`, whose defaults fit the set.
        on_error: ``stop``: a damaged sample raises an error that names it; ``replace``: the next good sample of the
            epoch takes its place, marked invalid, a warning names it, and :attr:`damaged` counts it, until more than
            ``max_damaged`` different samples are damaged.
        timeout: seconds to wait for a batch before giving up.
        fetch: how samples of a set in an object store are fetched; with ``cache``, where to, and ``cache_bytes``, how
            many bytes that may hold: see :meth:`shards.ShardSet.open`.

    Raises:
        UsageError: an argument is invalid, alone or with another one.
        FormatError: not a shard set, or a damaged one.
    """

    @partial(suggests_names, otherwise=arguments.meaning_in_dataloader)
    def __init__(
        self,
        shards: str | Path | ShardSet,
        *,
        split: str = "train",
        batch_size: int,
        size: int | tuple[int, int] | None = None,
        fit: Fit = "stretch",
        crop_scale: tuple[float, float] | None = None,
        decode: Decode = "full",
        device: "str | torch.device" = "auto",
        seed: int = 0,
        mask: Literal["onehot", "index"] = "onehot",
        augment: Literal["train", "strong"] | Augmentation | None = None,
        shuffle: bool | Shuffle | None = None,
        shuffle_window: int = 16,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        prefetch: int = 2,
        threads: int | None = None,
        processes: int | None = None,
        engine: EngineName = "auto",
        decoder: DecoderOptions | None = None,
        on_error: OnError = "stop",
        max_damaged: int = 10,
        timeout: float = 120,
        fetch: Fetch = "auto",
        cache: str | Path | None = None,
        cache_bytes: int | str | None = None,
    ) -> None:
        arguments.check_numbers(batch_size=batch_size, prefetch=prefetch, threads=threads, processes=processes)
        arguments.check_values(seed=seed, fit=fit, mask=mask, decode=decode, drop_last=drop_last, timeout=timeout)
        self.shards = arguments.resolve_shards(shards, fetch=fetch, cache=cache, cache_bytes=cache_bytes)
        self.split = self.shards.split(split)
        if not len(self.split):
            raise UsageError(f"split {split!r} of {self.shards.address} has no samples")
        self.rank, self.world_size = arguments.resolve_ranks(rank=rank, world_size=world_size)
        shuffling = arguments.resolve_shuffle(shuffle, window=shuffle_window, training=split == "train")
        self.shuffle = shuffling.kind
        arguments.check_slices(batch_size=batch_size, world_size=self.world_size, shuffle=shuffling.every_epoch)
        ranks = {"rank": self.rank, "world_size": self.world_size}
        self.slices = BatchSlices(samples=len(self.split), batch_size=batch_size, drop_last=drop_last, **ranks)
        self.size, self.fit = arguments.resolve_size(size, self.shards.manifest.size), fit
        self.batch_size, self.seed, self.mask, self.timeout = batch_size, seed, mask, timeout
        self.augment = arguments.resolve_augment(augment)
        check_set = partial(expect_same_set, self.shards.store, self.shards.manifest)
        self._policy = DamagePolicy(on_error=on_error, budget=max_damaged, check_set=check_set)
        self.device = arguments.resolve_device(device)
        self.threads = threads or arguments.usable_cores()
        self.epoch = self._delivered = self._first = 0  # batches delivered; where the next iteration starts
        self._replaced: dict[int, int] = {}  # damaged samples in each of them
        self._iteration: object | None = None  # identifies the current iteration
        self._stream: BatchStream | None = None  # outlives an iteration: it has prefetched the next epoch
        self._cancel: weakref.finalize | None = None  # type: ignore[type-arg]
        self._iterated, self._process, self._one_thread = False, os.getpid(), OneThread()
        self._reader, manifest = MemberReader(self.split), self.shards.manifest
        self.engine, self.engine_reason = choose_engine(
            engine, device_type=self.device.type, storage=manifest.storage, decode=decode
        )
        if processes is None:
            small = self.device.type == "cpu" and arguments.are_small(manifest.size, self.size)
            many = shuffling.every_epoch and not self.split.remote and len(self.split) >= arguments.MANY_SAMPLES
            processes = arguments.default_processes(
                threads=threads, engine=self.engine, storage=manifest.storage, many_small=small and many
            )
        arguments.check_decoder(decoder)
        arguments.check_processes(processes, threads=threads, engine=self.engine)
        self.processes, self.prefetch = processes, max(prefetch, 2 * processes)
        options = EngineOptions(
            storage=manifest.storage,
            stored_size=manifest.size,
            size=self.size,
            fit=fit,
            crop_scale=arguments.resolve_crop_scale(crop_scale),
            decode=decode,
            classes=len(manifest.labels),
            onehot=mask == "onehot",
            augment=self.augment,
            batch_size=len(self.slices.slice),
            threads=self.threads,
            prefetch=self.prefetch,
            largest=manifest.largest,
            decoder=decoder or DecoderOptions(),
        )
        self._engine = make_engine(
            self.engine, options, self._reader, device=self.device, processes=processes, timeout=timeout
        )
        self._plan = BatchPlan(reader=self._reader, slices=self.slices, options=options, seed=seed, shuffle=shuffling)
        self._bound = bound_values(self._plan)

    @suggests_names
    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration run this epoch from its start."""
        self._go_to(arguments.checked_epoch(epoch), 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's position as plain JSON values: the batches delivered, not those prefetched."""
        ended = self._delivered == len(self)  # though the caller's loop has not ended yet
        epoch, batch = (self.epoch + 1, 0) if ended else (self.epoch, self._delivered)
        return {"version": VERSION, "epoch": epoch, "batch": batch, **self._bound}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state: the next iteration starts with the batch after the last one delivered.

        The number of ranks, threads, the device and the engine may differ from those that the state was saved with.
        Raises ``UsageError`` if it belongs to another set, split, seed, batch size, size, fit, crop or augmentation.
        """
        epoch, batch = check_state(state, batches=len(self), bound=self._bound)
        self._go_to(epoch, batch)

    def __iter__(self) -> Iterator[Batch]:
        """Run one epoch; see the class."""
        arguments.check_process(self._process)
        with self._one_thread:
            return GuardedBatches(self._begin(), self._one_thread)

    def _begin(self) -> Iterator[Batch]:
        first = self._first
        self._go_to(self.epoch, first)
        self._first = 0
        if self._reader.files.drop_changed():  # what was prefetched may be of a file that does not exist any more
            self._drop_stream()
        if self._stream is None:
            self._stream = BatchStream(
                self._plan,
                self._engine,
                self._policy,
                timeout=self.timeout,
                epoch=self.epoch,
                first=first,
                endless=self._plan.shuffle.every_epoch
                or self._iterated,  # in evaluation, one pass may be all that is wanted
            )
            # A loader that is dropped without being closed leaves no thread and no memory behind.
            self._cancel = weakref.finalize(self, self._stream.queue.cancel)
        self._iterated = True
        self._iteration = object()
        return self._iterate(self._iteration)

    def close(self) -> None:
        """Stop, and release threads, files and buffers. Tensors already delivered stay intact."""
        self._iteration = None
        self._drop_stream()
        self._engine.close()
        self._reader.files.close()

    def __reduce__(self) -> NoReturn:
        raise arguments.LoaderCopyError

    def __getitem__(self, index: object) -> NoReturn:
        raise arguments.LoaderIndexError

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _iterate(self, iteration: object) -> Iterator[Batch]:
        yield from iter(lambda: self._take(iteration), None)  # which holds on to no batch

    def _take(self, iteration: object) -> Batch | None:
        """Return the next batch of an iteration, None at its end."""
        if iteration is not self._iteration:
            raise UsageError("this iteration was ended by a newer iter(), set_epoch(), load_state_dict() or close()")
        arguments.check_process(self._process)
        if self._delivered == len(self):
            self.epoch, self._delivered, self._iteration = self.epoch + 1, 0, None
            return None
        assert self._stream is not None
        try:
            samples, image, mask = self._stream.take()
        except BaseException:
            self._iteration = None
            self._drop_stream()
            raise
        self._delivered = samples.number + 1
        valid = int(np.count_nonzero(samples.valid))
        self._replaced[samples.number] = self.slices.valid_on_rank(samples.number) - valid
        return Batch.deliver(samples, image, mask, device=self.device, epoch=self.epoch)

    def _go_to(self, epoch: int, batch: int) -> None:
        """End the current iteration; the next one starts with this batch. What was prefetched is kept if it fits."""
        with self._one_thread:
            self._iteration = None
            if self._stream is not None and not self._stream.is_at(epoch, batch):
                self._drop_stream()
            self.epoch, self._first, self._delivered, self._replaced = epoch, batch, batch, {}

    def _drop_stream(self) -> None:
        if self._stream is not None:
            if self._cancel is not None:
                self._cancel.detach()
            stream, self._stream = self._stream, None
            stream.stop()
