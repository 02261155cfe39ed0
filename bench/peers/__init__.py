"""The loaders that are compared, one file each; a file is imported only where its loader runs.

To add one: write a module with a class that follows :class:`bench.peers.base.Peer`, and a line in :data:`PEERS`.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from bench.peers.job import Job
from bench.peers.base import Peer

ALL = ("source", "jpeg", "raw")


@dataclass(frozen=True)
class Less:
    """Something that a loader does less, or otherwise, than ours.

    Attributes:
        text: in words, printed wherever its figures are.
        storages: where.
        image: its pictures differ by it.
        mask: its masks differ by it.
    """

    text: str
    storages: tuple[str, ...] = ALL
    image: bool = False
    mask: bool = False


@dataclass(frozen=True, kw_only=True)
class PeerSpec:
    """What is known of a loader without importing it.

    Attributes:
        name: on the command line and in results.
        module: in this package.
        title: what it is, in a few words.
        storages: what it can read.
        augments: whether it has the training augmentation.
        needs: modules that must be installed, beyond those that petseg itself needs.
        install: how to install them.
        less: what it does less, or otherwise, than ours.
        ours: whether it is petseg's own loader.
        converts: whether it reads a format of its own, made from the pictures beforehand.
        reads_ahead: whether it works on the next epoch before it is asked to.
    """

    name: str
    module: str
    title: str
    storages: tuple[str, ...] = ("source",)
    augments: bool = False
    needs: tuple[str, ...] = ()
    install: str = "make peers, or pip install 'petseg[peers]'"
    less: tuple[Less, ...] = ()
    ours: bool = False
    converts: bool = False
    reads_ahead: bool = False

    def missing(self) -> list[str]:
        """Return the modules that it needs and that are not installed."""
        return [name for name in self.needs if not _is_installed(name)]

    def marks(self, storage: str) -> list[str]:
        """Return in words what it does less or otherwise, on one storage."""
        return [less.text for less in self.less if storage in less.storages]

    def image_differs(self, storage: str) -> bool:
        """Return whether it declares that its pictures differ from ours."""
        return any(less.image for less in self.less if storage in less.storages)

    def mask_differs(self, storage: str) -> bool:
        """Return whether it declares that its masks differ from ours."""
        return any(less.mask for less in self.less if storage in less.storages)


_SCALED = Less("decodes JPEGs at a reduced scale, then averages areas", ("source",), image=True)
_BUFFER = Less("shuffles within a buffer, not over the whole epoch")

PEERS: tuple[PeerSpec, ...] = (
    PeerSpec(name="petseg", module="petseg_loader", title="petseg", storages=ALL, augments=True, ours=True),
    PeerSpec(name="tutorial", module="tutorial", title="the tutorial: Dataset with PIL, DataLoader", augments=True),
    PeerSpec(
        name="tuned",
        module="tuned",
        title="DataLoader, tuned: libjpeg-turbo at scale, OpenCV",
        augments=True,
        less=(_SCALED,),
    ),
    PeerSpec(
        name="webdataset",
        module="webdataset_library",
        title="webdataset, tuned decoding",
        storages=ALL,
        augments=True,
        less=(_SCALED, _BUFFER),
    ),
    PeerSpec(
        name="dali-reader",
        module="dali_reader",
        title="DALI's own fn.readers.webdataset",
        storages=ALL,
        needs=("nvidia.dali",),
        install="NVIDIA builds it for Linux only: pip install nvidia-dali-cuda120",
        less=(_BUFFER,),
        reads_ahead=True,
    ),
    PeerSpec(
        name="streaming",
        module="mosaic_streaming",
        title="MosaicML Streaming, tuned decoding",
        storages=("source", "raw"),
        augments=True,
        needs=("streaming",),
        less=(_SCALED,),
        converts=True,
    ),
    PeerSpec(
        name="litdata",
        module="litdata_streaming",
        title="LitData, tuned decoding",
        storages=("source", "raw"),
        augments=True,
        needs=("litdata",),
        less=(_SCALED,),
        converts=True,
    ),
    PeerSpec(
        name="spdl",
        module="spdl_threads",
        title="SPDL, tuned decoding in threads",
        augments=True,
        needs=("spdl",),
        less=(_SCALED,),
    ),
    PeerSpec(
        name="ffcv",
        module="ffcv_loader",
        title="FFCV",
        storages=ALL,
        needs=("ffcv",),
        install="make peers; it needs packages of the system, see docs/performance.md",
        less=(
            Less("stores masks as they are delivered, at the output size: nothing is decoded, resized or made one-hot"),
            Less("encodes the JPEGs anew when packing, and averages areas", ("source", "jpeg"), image=True),
            Less("resizes trimaps when packing", ("source",)),
        ),
        converts=True,
    ),
)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package that it is a part of
        return False


def find_peer(name: str) -> PeerSpec | None:
    """Return the peer of this name, or None."""
    return next((spec for spec in PEERS if spec.name == name), None)


def preload(name: str) -> None:
    """Import what a peer imports in the end, which takes seconds; call only in a process of its own."""
    spec = find_peer(name)
    for module in ("torch", *(spec.needs if spec else ())):
        importlib.import_module(module)


def make_peer(job: Job) -> Peer:
    """Import a job's loader and make it; call only in a process of its own."""
    spec = find_peer(job.peer)
    if spec is None:
        raise LookupError(f"no peer {job.peer!r}")
    module = importlib.import_module(f"bench.peers.{spec.module}")
    peer: Peer = module.make(job)
    return peer


__all__ = ["PEERS", "Peer", "PeerSpec", "find_peer", "make_peer", "preload"]
