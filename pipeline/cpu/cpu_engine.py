"""The CPU engine: a decoder for the storage, then the operations of :mod:`pipeline.cpu.pixel_ops`, in threads."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.cpu import pixel_ops
from pipeline.cpu.pixel_ops import Pixels
from pipeline.cpu.sample_decoders import RawDecoder, SampleDecoder, TurboDecoder
from pipeline.cpu.scaled_jpeg import scaled_box
from pipeline.engine import BatchWork, EngineOptions
from pipeline.io.abandoned import check_wanted
from pipeline.io.damage import DamagedSamples
from pipeline.io.members import MemberReader
from pipeline.io.raw_reader import RawReader
from pipeline.io.scratch import Scratch
from pipeline.runtime.buffers import Allocate, BufferPool, ordinary_memory
from pipeline.runtime.threads import WorkerThreads
from shards.format.geometry import PAD_COLOUR
from shards.format.labels import IGNORE

if TYPE_CHECKING:
    import torch


class CpuEngine:
    """Decodes, crops, resizes, flips, colours and encodes the classes on the CPU.

    Handing work from thread to thread costs more than some of the work. So each of a few threads makes a whole batch;
    only where there are more threads than prefetched batches do several share one.
    """

    name = "torch"
    ahead = 0

    def __init__(self, options: EngineOptions, reader: MemberReader, *, allocate: Allocate = ordinary_memory) -> None:
        self._decoder: SampleDecoder
        if options.storage == "raw" and options.stored_size is not None:
            self._decoder = RawDecoder(RawReader(reader, size=options.stored_size))
        else:
            scaled = options.decode == "scaled"
            self._decoder = TurboDecoder(reader, stored_size=options.stored_size, scaled=scaled)
        self._options = options
        self._describe = reader.describe
        self.makers = min(options.threads, options.prefetch)
        self._sharers = -(-options.threads // self.makers)  # of a batch
        self._images, self._masks = (
            BufferPool(shape, spare=options.spare, allocate=allocate) for shape in options.batch_shapes
        )
        self.batch_bytes: int | None = self._images.bytes_each + self._masks.bytes_each
        self._scratch = Scratch()
        self._as_stored = options.as_stored and self._decoder.fills
        self._threads = WorkerThreads(options.threads - self.makers + 1, name="petseg-decode")

    def prepare(self, work: BatchWork) -> Any:
        """Do all the work, in the calling thread and those of this engine."""
        import torch

        images, masks = self._images.take(), self._masks.take()
        self.fill(work, images.view(np.ndarray), masks.view(np.ndarray))
        # The tensors must hold the arrays themselves, not views: see LentArray.
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)

    def fill(self, work: BatchWork, images: Pixels, masks: Pixels) -> None:
        """Write B samples into arrays of ``options.batch_shapes``; B may be 0. Raises ``DamagedSamples``."""
        if not len(work):
            return
        opened = self._decoder.open(work)
        if self._sharers == 1:
            self._fill(opened, work, slice(0, len(work)), images[: len(work)], masks[: len(work)])
            return
        damaged: dict[int, str] = {}

        def run(positions: slice) -> None:
            try:
                self._fill(opened, work, positions, images[positions], masks[positions])
            except DamagedSamples as error:
                damaged.update({positions.start + position: reason for position, reason in error.reasons.items()})

        parts = min(len(work), self._sharers * self._decoder.chunks_per_thread)
        bounds = [len(work) * part // parts for part in range(parts + 1)]
        self._threads.run(run, [slice(start, end) for start, end in pairwise(bounds)])
        if damaged:
            raise DamagedSamples(dict(sorted(damaged.items())))

    def start(self, prepared: Any) -> Any:
        """Return what ``prepare`` made: there is no device part."""
        return prepared

    def finish(self, started: Any) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return what ``prepare`` made."""
        image, mask = started
        return image, mask

    def close(self) -> None:
        """End the threads."""
        self._threads.stop()

    def _fill(self, opened: Any, work: BatchWork, positions: slice, images: Pixels, masks: Pixels) -> None:
        onehot, count = self._options.onehot, self._options.classes
        # Class indices at output size, as they are stored.
        classes = self._scratch.take("classes", masks.shape[:1] + masks.shape[2:]) if onehot else masks
        if self._as_stored:
            self._decoder.fill(opened, work, positions, images=images, masks=classes)
        else:
            samples = self._decoder.decode(opened, work, positions)
            self._transform(work.part(positions), samples, images, classes)
        invalid = pixel_ops.invalid_masks(classes, count)
        if invalid:
            indices = work.indices[positions].tolist()
            problem = pixel_ops.invalid_problem(count)
            raise DamagedSamples({place: self._describe(indices[place], "mask", problem) for place in invalid})
        if onehot:
            pixel_ops.encode_onehot(classes, masks)

    def _transform(
        self, part: BatchWork, samples: Iterator[tuple[Pixels, Pixels] | str], images: Pixels, classes: Pixels
    ) -> None:
        """Crop, resize, flip, colour and place each sample right after decoding: its pixels are in the CPU's cache."""
        boxes, flips = part.parameters.boxes.tolist(), part.parameters.flip.tolist()
        places = part.parameters.places.tolist() if self._options.letterboxes else None
        colours = pixel_ops.colour_transforms(part.parameters) if self._options.operations.colour else None
        damaged: dict[int, str] = {}
        for place, sample in enumerate(samples):
            check_wanted()
            if isinstance(sample, str):
                damaged[place] = sample
                continue
            image, mask = sample
            box, flip = boxes[place], flips[place]
            colour = None if colours is None else colours[place]
            into, mask_into = images[place], classes[place]
            if places is not None:
                into = pixel_ops.place_inside(into, places[place], PAD_COLOUR)
                mask_into = pixel_ops.place_inside(mask_into, places[place], IGNORE)
            pixel_ops.transform_mask(mask, box, flip=flip, out=mask_into)
            if image.shape[:2] != mask.shape:  # decoded at a reduced scale
                box = scaled_box(box, full=mask.shape, scaled=image.shape[:2])
            pixel_ops.transform_image(image, box, flip=flip, colour=colour, out=into)
        if damaged:
            raise DamagedSamples(damaged)
