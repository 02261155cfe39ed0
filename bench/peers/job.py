"""What one peer is asked to do: plain values, handed as JSON to the process that the peer runs in."""

from __future__ import annotations

from pathlib import Path

import msgspec

PROCESSES = "processes"  # our loader with engine torch in processes of its own, where an engine's name is asked for


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a comparison of loaders.

    Attributes:
        peer: its name in :data:`bench.peers.PEERS`.
        storage: what is stored, ``source``, ``jpeg`` or ``raw``; see :mod:`shards.format.layout`.
        shards: the shard set in that storage.
        pictures: a folder with the split's members as files, ``images/KEY.jpg`` and ``trimaps/KEY.png``; for peers that
            read files or convert them.
        keys: a text file: the key of each sample of the split, in the order of its indices, one a line.
        work: a folder of the peer's own, for what it converts the pictures into.
        split: of the shard set.
        samples: number of samples in the split.
        size: side of the output in pixels.
        batch_size: samples a batch.
        augment: whether training augmentation is applied, with our parameters.
        seed: of order and augmentation.
        workers: processes or threads; 0: the peer tries several and keeps the fastest.
        cores: that this process may use.
        mask: form of the masks: ``onehot`` (B, 3, S, S) or ``index`` (B, S, S), as our Loader's.
        device: ``cpu`` or ``cuda``.
        engine: of our own loader, ``processes`` for engine ``torch`` in processes; empty for others.
        handicap: the part of its speed that the peer is to lose, 0 for a real measurement.
    """

    peer: str
    storage: str
    shards: str
    pictures: str
    keys: str
    work: str
    split: str
    samples: int
    size: int
    batch_size: int
    augment: bool
    seed: int
    workers: int
    cores: int
    mask: str = "onehot"
    device: str = "cpu"
    engine: str = ""
    handicap: float = 0.0

    @property
    def onehot(self) -> bool:
        """Whether masks are one-hot."""
        return self.mask == "onehot"

    def read_keys(self) -> list[str]:
        """Return the key of every sample of the split, by index."""
        return Path(self.keys).read_text(encoding="ascii").splitlines()

    def image_path(self, key: str) -> Path:
        """Return the file of a sample's picture."""
        return Path(self.pictures) / "images" / f"{key}.jpg"

    def trimap_path(self, key: str) -> Path:
        """Return the file of a sample's trimap."""
        return Path(self.pictures) / "trimaps" / f"{key}.png"
