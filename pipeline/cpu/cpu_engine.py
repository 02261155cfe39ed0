"""The engine on the CPU: whatever decodes, the operations on pixels are those of :mod:`pipeline.cpu.pixel_ops`, in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

from pipeline.cpu import pixel_ops as host
from pipeline.damage import DamagedSamples
from pipeline.engine import Options, Work, size_problem, stored_sizes
from pipeline.runtime.buffers import BufferPool, Scratch
from pipeline.runtime.threads import Workers

if TYPE_CHECKING:
    import torch

Pixels = host.Pixels


Decoded = tuple[Pixels, Pixels]  # a picture (H, W, 3) and a trimap (H, W) with values 1, 2, 3
Problem = tuple[str, str]  # the member's role, and what is wrong with it


class Decoder(Protocol):
    """Turns samples into pixels on the host."""

    chunks_per_thread: int  # several where samples cost unequal time
    fills: bool  # whether there is a ``fill``

    def open(self, work: Work) -> Any:
        """Do what is done for a whole batch at once; whatever it returns is handed to ``decode``.

        Called by several threads, each for a batch of its own.

        Raises:
            DamagedSamples: some samples cannot be used; places in the batch.
        """

    def decode(self, opened: Any, work: Work, places: slice) -> Iterator[Decoded | Problem]:
        """Yield the samples at some places of the batch, in order; called by several threads.

        Pixels are valid until the next sample is asked for.

        Raises:
            DamagedSamples: some samples cannot be used; places count from the start of the slice.
        """

    def close(self) -> None:
        """Release threads and memory."""


class Filler(Decoder, Protocol):
    """A decoder that can put pixels straight into a batch where they are wanted as they are stored."""

    def fill(self, opened: Any, work: Work, places: slice, *, images: Pixels, trimaps: Pixels) -> None:
        """Write n samples, uint8 (n, S, S, 3) and (n, S, S); called by several threads.

        Raises:
            DamagedSamples: some samples cannot be used; places count from the start of the slice.
        """


class HostEngine:
    """Decodes with one of several decoders; crops, resizes, mirrors, colours and encodes the classes on the CPU.

    Handing work from thread to thread costs more than some of the work. So each of a few threads makes a batch of its
    own; only where there are more threads than batches ahead do several share one.

    Args:
        name: of the engine.
        decoder: makes pixels.
        tell: says what is wrong with a sample, and where it is: (index, role, problem) -> text.
        options: what the engine is built for.
        batch_size: the most samples of a batch.
        threads: that work, all together.
        makers: how many of them make a batch each.
        spare: for how many batches memory is kept while nobody needs it.
    """

    has_device_part = False

    def __init__(
        self,
        *,
        name: str,
        decoder: Decoder,
        tell: Callable[[int, str, str], str],
        options: Options,
        batch_size: int,
        threads: int,
        makers: int,
        spare: int,
    ) -> None:
        self.name = name
        self.makers = makers
        self._decoder = decoder
        self._tell = tell
        self._options = options
        self._sharers = -(-threads // makers)  # of a batch
        self.shapes = batch_shapes(options, batch_size)
        self._images, self._masks = (BufferPool(shape, spare=spare) for shape in self.shapes)
        self.batch_bytes: int | None = self._images.bytes_each + self._masks.bytes_each
        self._scratch = Scratch()
        as_stored = options.stored_size == options.size and options.augment is None
        self._filler = cast(Filler, decoder) if as_stored and decoder.fills else None
        self._workers = Workers(threads - makers + 1, name="petseg-decode")

    def prepare(self, work: Work) -> Any:
        """Do all the work, in the calling thread and those of this engine."""
        import torch

        images, masks = self._images.take(), self._masks.take()
        self.fill(work, images, masks)
        # The tensors must hold the lent arrays themselves, not views: see BufferPool.
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)

    def fill(self, work: Work, images: Pixels, masks: Pixels) -> None:
        """Write B samples into arrays of the :func:`batch_shapes` of this engine.

        Raises:
            DamagedSamples: some samples cannot be used; places in the batch.
        """
        opened = self._decoder.open(work)
        if self._sharers == 1:  # nobody to share the batch with
            self._fill(opened, work, slice(0, len(work)), images[: len(work)], masks[: len(work)])
            return
        damaged: dict[int, str] = {}

        def run(places: slice) -> None:
            try:
                self._fill(opened, work, places, images[places], masks[places])
            except DamagedSamples as error:
                damaged.update({places.start + place: reason for place, reason in error.reasons.items()})

        self._workers.run(run, self._chunks(len(work)))
        if damaged:
            raise DamagedSamples(dict(sorted(damaged.items())))

    def start(self, prepared: Any) -> Any:
        """Nothing is left to do."""
        return prepared

    def finish(self, started: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what ``prepare`` made."""
        image, mask = started
        return image, mask

    def close(self) -> None:
        """End the threads."""
        self._workers.stop()
        self._decoder.close()

    def _chunks(self, count: int) -> list[slice]:
        """Cut a batch into parts for the threads: as even as can be."""
        parts = min(count, self._sharers * self._decoder.chunks_per_thread)
        return [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]

    def _fill(self, opened: Any, work: Work, places: slice, images: Pixels, masks: Pixels) -> None:
        # The trimaps at output size: a class index takes the same place as a trimap value.
        small = self._scratch.take("trimaps", masks.shape[:1] + masks.shape[2:]) if self._options.onehot else masks
        if self._filler is not None:
            self._filler.fill(opened, work, places, images=images, trimaps=small)
        else:
            self._fit(work.part(places), self._decoder.decode(opened, work, places), images, small)
        illegal = host.illegal_values(small)
        if illegal:
            part = work.part(places)
            raise DamagedSamples(
                {place: self._say(part, place, "trimap", "a value other than 1, 2, 3") for place in illegal}
            )
        host.write_mask(small, masks)

    def _fit(self, part: Work, samples: Iterator[Decoded | Problem], images: Pixels, small: Pixels) -> None:
        """Crop, resize, mirror and colour each sample as it is decoded, while its pixels are still in the cache."""
        boxes, flips = part.parameters.boxes.tolist(), part.parameters.flip.tolist()
        colours = host.colour_transforms(part.parameters) if self._options.colour else None
        heights, widths = stored_sizes(part.rows, self._options.stored_size)
        damaged: dict[int, str] = {}
        for place, sample in enumerate(samples):
            problem = problem_of(sample, heights[place], widths[place])
            if problem is not None:
                damaged[place] = self._say(part, place, *problem)
                continue
            picture, trimap = cast(Decoded, sample)
            top, left, height, width = boxes[place]
            box, flip = (top, left, height, width), flips[place]
            colour = None if colours is None else colours[place]
            host.fit_picture(picture, box, flip=flip, colour=colour, out=images[place])
            host.fit_trimap(trimap, box, flip=flip, out=small[place])
        if damaged:
            raise DamagedSamples(damaged)

    def _say(self, part: Work, place: int, role: str, problem: str) -> str:
        return self._tell(int(part.indices[place]), role, problem)


def batch_shapes(options: Options, batch_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of a batch's pictures (B, S, S, 3) and masks (B, 3, S, S) or (B, S, S) in memory, all uint8."""
    size = options.size
    masks = (batch_size, 3, size, size) if options.onehot else (batch_size, size, size)
    return (batch_size, size, size, 3), masks


def problem_of(sample: Decoded | Problem, height: int, width: int) -> Problem | None:
    """Say what is wrong: what the decoder says, or that the size is not the table's, from which the crop was made."""
    first, second = sample
    if isinstance(first, str) or isinstance(second, str):
        return str(first), str(second)
    for role, pixels in (("image", first), ("trimap", second)):
        problem = size_problem(pixels, height, width)
        if problem:
            return role, problem
    return None
