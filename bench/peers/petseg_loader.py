"""petseg's own loader."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from bench.peers.peer import SCALED, Caveat, Delivered, Job, Peer
from bench.results.records import OURS, PROCESSES, SCALED_DECODING
from shards.cores import usable_cores
from shards.format.layout import STORAGES, table_name


class PetsegPeer(Peer):
    """:class:`pipeline.loader.Loader` with its defaults, with worker processes, or with scaled decoding."""

    name, storages, augments, needs = OURS, STORAGES, True, "pipeline.loader"
    ours = decodes_on_gpu = True

    @classmethod
    def caveats_on(cls, job: Job) -> list[Caveat]:
        return [SCALED] if job.engine == SCALED_DECODING else []

    def worker_counts(self) -> tuple[int, ...]:
        return super().worker_counts() if self.job.engine == PROCESSES else ()

    def open(self) -> None:
        from pipeline.loader import Loader

        job, in_processes, scaled = self.job, self.job.engine == PROCESSES, self.job.engine == SCALED_DECODING
        self._loader = Loader(
            job.address or job.shards, cache=job.fetched or None, split=job.split, batch_size=job.batch_size,
            size=job.size, fit=job.fit, device=job.device, seed=job.seed, augment="train" if job.augment else None,
            mask=cast(Any, job.mask), shuffle=True, threads=None if in_processes else job.workers or None,
            processes=(job.workers or usable_cores()) if in_processes else 0,
            engine=cast(Any, "torch" if in_processes or scaled else job.engine or "auto"),
            decode="scaled" if scaled else "full",
        )  # fmt: skip

    def discard_prefetched(self) -> None:
        """Drop what was read ahead for the next epoch: what is timed is the first of a new loader, whose threads, but
        not worker processes, have started before the clock does.
        """
        if self.job.engine == PROCESSES:
            self._loader.set_epoch(self._loader.epoch + 1)
            return
        self._loader.close()
        self.open()

    def epoch(self, number: int) -> Iterator[Delivered]:
        """Deliver one epoch; padding is marked with index -1."""
        self._loader.set_epoch(number)
        last = len(self._loader) - 1
        for batch in self._loader:
            index = batch.index.numpy()
            if batch.number == last:
                index = index.copy()
                index[~batch.valid.cpu().numpy()] = -1
            yield Delivered(batch.image, batch.mask, index)

    def files(self) -> list[Path]:
        return [*self.split_files(), Path(self.job.shards) / table_name(cast(Any, self.job.split))]

    def close(self) -> None:
        if self._loader is not None:
            self._loader.close()
        super().close()
