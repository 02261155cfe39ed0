"""What a peer is asked to deliver: plain values, passed to the process that the peer runs in."""

from pathlib import Path

import msgspec

from bench.results.records import LoaderWork
from shards.format.dataset import ShardSet
from shards.format.geometry import Fit, Size
from shards.format.labels import Labels


class FileListing(msgspec.Struct, frozen=True):
    """The split as files, paths of (image, mask) by index: the members of the set, and the files that it was made from,
    where they are known (else the members again), with the labels of the masks among these.
    """

    members: tuple[tuple[str, str], ...]
    originals: tuple[tuple[str, str], ...]
    labels: Labels


class Job(LoaderWork, frozen=True, kw_only=True):
    """The work of one peer on one storage, with all that it takes."""

    shards: str  # the shard set in that storage
    files: str  # a file with a FileListing; empty unless the storage is `source`
    work: str  # a folder for the peer's own copy of the data, if it needs to convert it
    stored_size: Size | None  # of all its images; None: each has its own
    split: str
    samples: int  # in the split
    classes: int
    size: Size  # of the output
    fit: Fit
    batch_size: int
    seed: int  # of order and augmentation
    workers: int  # processes or threads; 0: the benchmark tries several numbers and keeps the fastest
    cores: int  # that this process may use
    address: str = ""  # of the data in an object store, in place of a folder here
    fetched: str = ""  # a folder for what is fetched from there
    handicap: float = 0.0  # part of its speed that the benchmark takes away from the peer, to test compare

    @property
    def resizes(self) -> bool:
        return self.stored_size != self.size

    @property
    def onehot(self) -> bool:
        return self.mask == "onehot"

    def read_files(self) -> FileListing:
        return msgspec.json.decode(Path(self.files).read_bytes(), type=FileListing)

    def read_index(self) -> dict[str, int]:
        """Return the index of every sample by its key."""
        reader = ShardSet.open(self.shards).split(self.split)
        found = {reader.key(index): index for index in range(len(reader))}
        reader.close()
        return found
