"""What a set can be made from: one module for each layout in which datasets are stored, and :func:`scan` to choose one.

The real dataset is downloaded by ``download``; ``synthetic`` draws one, in any layout.
"""

from shards.sources.choose_layout import LAYOUTS, scan
from shards.sources.layout_protocol import Layout, Pair, Source

__all__ = ["LAYOUTS", "Layout", "Pair", "Source", "scan"]
