"""The loaders that are compared, one file per library, with their caveats. Their libraries are imported only in the
process that measures them.
"""

from bench.peers.dali_reader import DaliReaderPeer
from bench.peers.ffcv_loader import FfcvPeer
from bench.peers.litdata_streaming import LitDataPeer
from bench.peers.mosaic_streaming import MosaicStreamingPeer
from bench.peers.peer import Peer
from bench.peers.petseg_loader import PetsegPeer
from bench.peers.spdl_threads import SpdlPeer
from bench.peers.torch_dataloader import TunedPeer, TutorialPeer
from bench.peers.webdataset_library import WebDatasetPeer

__all__ = ["PEERS"]

_ALL = (PetsegPeer, TutorialPeer, TunedPeer, WebDatasetPeer, DaliReaderPeer, MosaicStreamingPeer, LitDataPeer, SpdlPeer,
        FfcvPeer)  # fmt: skip
PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in _ALL}
