"""The engine on the CPU: whatever decodes, the operations on pixels are those of :mod:`pipeline.host`, in threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pipeline import host
from pipeline.buffers import BufferPool, Scratch
from pipeline.damage import DamagedSamples
from pipeline.decode_raw import RawDecoder
from pipeline.engine import Options, Work
from pipeline.raw import RawReader
from pipeline.threads import Workers

if TYPE_CHECKING:
    import torch

Pixels = host.Pixels


class Decoder(Protocol):
    """Turns samples into pixels on the host."""

    chunks_per_thread: int  # several where samples cost unequal time

    def open(self, work: Work) -> Any:
        """Do what is done for a whole batch at once; whatever it returns is handed to ``pixels``.

        Raises:
            DamagedSamples: some samples cannot be used; places in the batch.
        """

    def pixels(self, opened: Any, work: Work, places: slice) -> tuple[Sequence[Pixels], Sequence[Pixels]]:
        """Return pictures (H, W, 3) and trimaps (H, W) at some places of the batch; called by several threads.

        Raises:
            DamagedSamples: some samples cannot be used; places count from the start of the slice.
        """

    def close(self) -> None:
        """Release threads and memory."""


SPARE = 4  # batches' worth of memory that is kept for the next ones


def raw_as_stored(decoder: Decoder, options: Options) -> RawReader | None:
    """Return what gathers pixels right into a batch, where nothing is to be done to them; else None."""
    same = options.storage == "raw" and options.stored_size == options.size and options.augment is None
    return decoder.raw if same and isinstance(decoder, RawDecoder) else None


class HostEngine:
    """Decodes with one of several decoders; crops, resizes, mirrors, colours and encodes the classes on the CPU."""

    def __init__(
        self, *, name: str, decoder: Decoder, place: Any, options: Options, batch_size: int, threads: int
    ) -> None:
        self.name = name
        self._decoder = decoder
        self._place = place  # says where a sample is, for messages: (index, role) -> str
        self._options = options
        self._threads = threads
        size = options.size
        self._images = BufferPool((batch_size, size, size, 3), spare=SPARE)
        self._masks = BufferPool(
            (batch_size, 3, size, size) if options.onehot else (batch_size, size, size), spare=SPARE
        )
        self._scratch = Scratch()
        self._as_stored = raw_as_stored(decoder, options)
        self._workers = Workers(threads, name="petseg-decode")

    def prepare(self, work: Work) -> Any:
        """Do all the work, in this engine's threads."""
        import torch

        count = len(work)
        images, masks = self._images.take(), self._masks.take()
        opened = self._decoder.open(work)
        damaged: dict[int, str] = {}

        def run(places: slice) -> None:
            try:
                self._fill(opened, work, places, images[places], masks[places])
            except DamagedSamples as error:
                damaged.update({places.start + place: reason for place, reason in error.reasons.items()})

        self._workers.run(run, self._chunks(count))
        if damaged:
            raise DamagedSamples(dict(sorted(damaged.items())))
        # The tensors must hold the lent arrays themselves, not views: see BufferPool.
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)

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
        parts = min(count, self._threads * self._decoder.chunks_per_thread)
        return [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]

    def _fill(self, opened: Any, work: Work, places: slice, images: Pixels, masks: Pixels) -> None:
        part = work.part(places)
        # The trimaps at output size: a class index takes the same place as a trimap value.
        small = self._scratch.take("trimaps", masks.shape[:1] + masks.shape[2:]) if self._options.onehot else masks
        if self._as_stored is not None:
            self._as_stored.gather(part.indices, part.rows, images=images, trimaps=small)
        else:
            pictures, trimaps = self._decoder.pixels(opened, work, places)
            self._check_shapes(part, pictures, trimaps)
            self._fit(part, pictures, trimaps, images, small)
        illegal = host.illegal_values(small)
        if illegal:
            raise DamagedSamples(
                {place: self._say(part, place, "trimap", "a value other than 1, 2, 3") for place in illegal}
            )
        host.write_mask(small, masks)

    def _fit(
        self, part: Work, pictures: Sequence[Pixels], trimaps: Sequence[Pixels], images: Pixels, small: Pixels
    ) -> None:
        boxes, flips = part.parameters.boxes.tolist(), part.parameters.flip.tolist()
        colours = host.colour_transforms(part.parameters) if self._options.colour else None
        for place, (top, left, height, width) in enumerate(boxes):
            box = top, left, height, width
            colour = None if colours is None else colours[place]
            host.fit_picture(pictures[place], box, flip=flips[place], colour=colour, out=images[place])
            host.fit_trimap(trimaps[place], box, flip=flips[place], out=small[place])

    def _check_shapes(self, part: Work, pictures: Sequence[Pixels], trimaps: Sequence[Pixels]) -> None:
        """Compare what was decoded with the sizes in the table, from which the boxes were made."""
        stored = self._options.stored_size
        damaged: dict[int, str] = {}
        for place, (picture, trimap) in enumerate(zip(pictures, trimaps, strict=True)):
            row = part.rows[place]
            expected = (int(row["height"]), int(row["width"])) if stored is None else (stored, stored)
            for role, shape in (("image", picture.shape[:2]), ("trimap", trimap.shape)):
                if shape != expected:
                    problem = f"{shape[1]} x {shape[0]} pixels, the table says {expected[1]} x {expected[0]}"
                    damaged.setdefault(place, self._say(part, place, role, problem))
        if damaged:
            raise DamagedSamples(damaged)

    def _say(self, part: Work, place: int, role: str, problem: str) -> str:
        return f"{self._place(int(part.indices[place]), role)}: {problem}"
