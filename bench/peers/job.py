"""What a peer is asked to deliver: plain values, passed to the process that the peer runs in."""

from pathlib import Path

import msgspec

PROCESSES = "processes"  # in place of an engine's name: petseg's loader with engine "torch" in worker processes


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One peer on one storage."""

    peer: str  # its name in bench.peers.PEERS
    storage: str  # what the shards store; see shards.format.layout
    shards: str  # the shard set in that storage
    files: str  # a folder with the split's members as images/KEY.jpg and masks/KEY.png, and keys.txt, by index
    work: str  # a folder for the peer's own copy of the data, if it needs to convert it
    split: str
    samples: int  # in the split
    size: int  # side of the output in pixels
    batch_size: int
    augment: bool  # whether training augmentation is applied, with petseg's parameters
    seed: int  # of order and augmentation
    workers: int  # processes or threads; 0: the benchmark tries several numbers and keeps the fastest
    cores: int  # that this process may use
    mask: str = "onehot"  # (B, 3, S, S), or "index" (B, S, S), as in petseg.Loader
    device: str = "cpu"  # or "cuda"
    engine: str = ""  # of petseg's own loader, or PROCESSES; empty for others
    handicap: float = 0.0  # part of its speed that the benchmark takes away from the peer, to test compare

    @property
    def onehot(self) -> bool:
        """Whether masks are one-hot."""
        return self.mask == "onehot"

    def read_keys(self) -> list[str]:
        """Return the key of every sample of the split, by index."""
        return (Path(self.files) / "keys.txt").read_text(encoding="ascii").splitlines()

    def image_path(self, key: str) -> Path:
        """Return the file of a sample's image."""
        return Path(self.files) / "images" / f"{key}.jpg"

    def mask_path(self, key: str) -> Path:
        """Return the file of a sample's mask."""
        return Path(self.files) / "masks" / f"{key}.png"
