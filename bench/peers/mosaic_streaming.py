"""MosaicML Streaming: MDS shards with the same bytes, decoded by the tuned functions in a DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.peers.job import Job
from bench.peers.base import EPOCHS_DRAWN, Delivered, folder_files, usual_worker_counts
from bench.peers.converted import stored_members
from bench.peers.fast_decode import FastDecoder, Item, Tensors, deliver


def make_dataset(job: Job, folder: Path) -> Any:
    """Return a StreamingDataset whose items are decoded."""
    from streaming import StreamingDataset

    class Decoded(StreamingDataset):  # type: ignore[misc]
        """Counts epochs in each worker, for the augmentation."""

        def __init__(self) -> None:
            super().__init__(local=str(folder), shuffle=True, batch_size=job.batch_size, shuffle_seed=job.seed,
                             num_canonical_nodes=1)  # fmt: skip
            self._decode = FastDecoder(job)
            self._epoch = -1

        def __iter__(self) -> Iterator[Any]:
            self._epoch += 1
            yield from super().__iter__()

        def __getitem__(self, at: Any) -> Item:
            row = super().__getitem__(at)
            return self._decode(row["image"], row["trimap"], row["index"], self._epoch % EPOCHS_DRAWN)

    return Decoded()


class MosaicStreaming:
    """StreamingDataset in a DataLoader."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._folder = Path(job.work) / "mds"
        self._loader: Any = None

    def prepare(self) -> None:
        """Write MDS shards, uncompressed, with the stored bytes."""
        from streaming import MDSWriter
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        if self._folder.exists():
            return
        columns = {"image": "bytes", "trimap": "bytes", "index": "int"}
        with MDSWriter(out=str(self._folder), columns=columns) as writer:
            for index, image, trimap in stored_members(self.job):
                writer.write({"image": image, "trimap": trimap, "index": index})

    def worker_counts(self) -> tuple[int, ...]:
        """As usual."""
        return usual_worker_counts(self.job.cores)

    def open(self, workers: int) -> None:
        """Make dataset and DataLoader."""
        from torch.utils.data import DataLoader

        self._loader = DataLoader(
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
        """The MDS shards."""
        return folder_files(self._folder)

    def close(self) -> None:
        """Drop the loader, which ends its processes and frees its shared memory."""
        self._loader = None


def make(job: Job) -> MosaicStreaming:
    """Return the peer."""
    return MosaicStreaming(job)
