"""The DALI engine: one graph from stored bytes to tensors, for the GPU; it runs on the CPU as well.

Importing this folder does not import DALI.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"dali_engine": ["DaliEngine"], "graph": ["build_graph"]}
)
