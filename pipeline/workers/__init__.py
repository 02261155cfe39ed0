"""Batches made by worker processes, each on one thread, in shared memory.

An alternative to threads for the CPU engine: worker processes do not compete for one interpreter lock.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"process_engine": ["ProcessEngine"]})
