"""LitData: optimised chunks with the same bytes, decoded by the tuned functions in its StreamingDataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.peers.job import Job
from bench.peers.base import EPOCHS_DRAWN, Delivered, folder_files, usual_worker_counts
from bench.peers.converted import stored_members
from bench.peers.fast_decode import FastDecoder, Item, Tensors, deliver

CHUNK_BYTES = 64 << 20  # its documentation's usual size


def make_dataset(job: Job, folder: Path) -> Any:
    """Return a StreamingDataset whose items are decoded."""
    from litdata import StreamingDataset

    class Decoded(StreamingDataset):  # type: ignore[misc]
        """Counts epochs in each worker, for the augmentation."""

        def __init__(self) -> None:
            super().__init__(str(folder), shuffle=True, drop_last=False, seed=job.seed)
            self._decode = FastDecoder(job)
            self._epoch = -1

        def __iter__(self) -> Any:
            self._epoch += 1
            return super().__iter__()

        def __getitem__(self, at: Any) -> Item:
            row = super().__getitem__(at)
            return self._decode(row["image"], row["trimap"], row["index"], self._epoch % EPOCHS_DRAWN)

    return Decoded()


class LitDataStreaming:
    """LitData's dataset in its own loader."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._folder = Path(job.work) / "litdata"
        self._loader: Any = None

    def prepare(self) -> None:
        """Write chunks, uncompressed, with the stored bytes."""
        from litdata.streaming.writer import BinaryWriter

        if self._folder.exists():
            return
        writer = BinaryWriter(str(self._folder), chunk_bytes=CHUNK_BYTES)
        for index, image, trimap in stored_members(self.job):
            writer[index] = {"image": image, "trimap": trimap, "index": index}
        writer.done()
        writer.merge()

    def worker_counts(self) -> tuple[int, ...]:
        """As usual."""
        return usual_worker_counts(self.job.cores)

    def open(self, workers: int) -> None:
        """Make dataset and loader."""
        from litdata import StreamingDataLoader

        self._loader = StreamingDataLoader(
            make_dataset(self.job, self._folder),
            batch_size=self.job.batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=Tensors(self.job.onehot),
            pin_memory=self.job.device == "cuda",
        )

    def epoch(self, number: int) -> Iterator[Delivered]:
        """The next epoch; the library shuffles by itself."""
        for image, mask, index in self._loader:
            yield deliver(image, mask, index)

    def files(self) -> list[Path]:
        """The chunks."""
        return folder_files(self._folder)

    def close(self) -> None:
        """Drop the loader, which ends its processes."""
        self._loader = None


def make(job: Job) -> LitDataStreaming:
    """Return the peer."""
    return LitDataStreaming(job)
