"""The loaders that are compared, one file per library; :mod:`bench.peers.registry` lists them and their caveats.

A peer's module, and with it the library, is imported only in the process that measures it.
"""

from bench.peers.registry import PEERS, PeerSpec, find_peer

__all__ = ["PEERS", "PeerSpec", "find_peer"]
