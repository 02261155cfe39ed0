"""What a peer is asked to deliver: plain values, passed as JSON to the process that the peer runs in."""

from pathlib import Path

import msgspec

PROCESSES = "processes"  # in place of an engine's name: petseg's loader with engine "torch" in worker processes


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One peer on one storage.

    Attributes:
        peer: its name in :data:`bench.peers.PEERS`.
        storage: what the shards store, ``source``, ``jpeg`` or ``raw``; see :mod:`shards.format.layout`.
        shards: the shard set in that storage.
        files: a folder with the split's members as files, ``images/KEY.jpg`` and ``masks/KEY.png``; for peers that read
            files.
        keys: a text file: the key of each sample of the split, in the order of its indices, one a line.
        work: a folder for the peer's own copy of the data, if it needs to convert it.
        split: of the shard set.
        samples: number of samples in the split.
        size: side of the output in pixels.
        batch_size: samples per batch.
        augment: whether training augmentation is applied, with petseg's parameters.
        seed: of order and augmentation.
        workers: processes or threads; 0: the benchmark tries several numbers and keeps the fastest.
        cores: that this process may use.
        mask: form of the masks: ``onehot`` (B, 3, S, S) or ``index`` (B, S, S), as in :class:`petseg.Loader`.
        device: ``cpu`` or ``cuda``.
        engine: of petseg's own loader, or :data:`PROCESSES`; empty for others.
        handicap: the fraction of its speed that the benchmark takes away from the peer, 0 for a real measurement.
    """

    peer: str
    storage: str
    shards: str
    files: str
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
        """Return the file of a sample's image."""
        return Path(self.files) / "images" / f"{key}.jpg"

    def mask_path(self, key: str) -> Path:
        """Return the file of a sample's mask."""
        return Path(self.files) / "masks" / f"{key}.png"
