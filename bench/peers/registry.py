"""Every peer: what it can read, what must be installed, and what it does differently from petseg's loader.

To add one, write a module with a subclass of :class:`bench.peers.base.Peer` and add a line to :data:`PEERS`.
"""

import importlib.util
import pkgutil
from dataclasses import KW_ONLY, dataclass

from bench.peers.base import Peer

ALL = ("source", "jpeg", "raw")


@dataclass(frozen=True)
class Caveat:
    """Something that a peer does differently from petseg's loader, or does not do."""

    text: str  # printed wherever its figures are
    storages: tuple[str, ...] = ALL  # where it applies
    image: bool = False  # its images differ because of it


@dataclass(frozen=True)
class PeerSpec:
    """What is known of a peer without importing it."""

    name: str  # on the command line and in results
    path: str  # its module in this package and its class there
    _: KW_ONLY
    storages: tuple[str, ...] = ("source",)  # what it can read
    augments: bool = False  # whether it has the training augmentation
    needs: str = ""  # a module that must be installed, beyond those that petseg itself needs
    install: str = "make peers, or pip install 'petseg[peers]'"
    caveats: tuple[Caveat, ...] = ()
    ours: bool = False  # petseg's own loader
    reads_ahead: bool = False  # whether it reads for the next epoch before that is requested

    def load(self) -> type[Peer]:
        """Import its module and return its class."""
        found: type[Peer] = pkgutil.resolve_name(f"bench.peers.{self.path}")
        return found

    def is_installed(self) -> bool:
        """Return whether the module that it needs is installed."""
        try:
            return not self.needs or importlib.util.find_spec(self.needs) is not None
        except ModuleNotFoundError:  # the parent package is missing as well
            return False

    def caveats_on(self, storage: str) -> list[Caveat]:
        """Return the caveats that apply to a storage."""
        return [caveat for caveat in self.caveats if storage in caveat.storages]


_SCALED = Caveat("decodes JPEGs at a reduced scale, then averages areas", ("source",), image=True)
_BUFFER = Caveat("shuffles within a buffer, not over the whole epoch")
_FFCV = (
    Caveat("stores masks in their delivered form and size: nothing is decoded, resized or made one-hot"),
    Caveat("re-encodes the JPEGs when packing, and averages areas", ("source", "jpeg"), image=True),
    Caveat("resizes masks when packing", ("source",)),
)

PEERS: tuple[PeerSpec, ...] = (
    PeerSpec("petseg", "petseg_loader:PetsegPeer", storages=ALL, augments=True, ours=True),
    PeerSpec("tutorial", "torch_dataloader:TutorialPeer", augments=True),
    PeerSpec("tuned", "torch_dataloader:TunedPeer", augments=True, caveats=(_SCALED,)),
    PeerSpec(
        "webdataset", "webdataset_library:WebDatasetPeer", storages=ALL, augments=True, caveats=(_SCALED, _BUFFER)
    ),
    PeerSpec(
        "dali-reader",
        "dali_reader:DaliReaderPeer",
        storages=ALL,
        needs="nvidia.dali",
        install="NVIDIA builds it for Linux only: pip install nvidia-dali-cuda120",
        caveats=(_BUFFER,),
        reads_ahead=True,
    ),
    PeerSpec(
        "streaming",
        "mosaic_streaming:MosaicStreamingPeer",
        storages=("source", "raw"),
        augments=True,
        needs="streaming",
        caveats=(_SCALED,),
    ),
    PeerSpec(
        "litdata",
        "litdata_streaming:LitDataPeer",
        storages=("source", "raw"),
        augments=True,
        needs="litdata",
        caveats=(_SCALED,),
    ),
    PeerSpec("spdl", "spdl_threads:SpdlPeer", augments=True, needs="spdl", caveats=(_SCALED,)),
    PeerSpec(
        "ffcv",
        "ffcv_loader:FfcvPeer",
        storages=ALL,
        needs="ffcv",
        install="make peers; it needs system packages, see docs/performance.md",
        caveats=_FFCV,
    ),
)


def find_peer(name: str) -> PeerSpec:
    """Return the peer of a name."""
    found = next((spec for spec in PEERS if spec.name == name), None)
    if found is None:
        raise LookupError(f"no peer {name!r}")
    return found
