"""The loaders that are compared, one file per library, with their caveats; :mod:`bench.peers.registry` lists them."""

from bench.peers.registry import OURS, PEERS

__all__ = ["OURS", "PEERS"]
