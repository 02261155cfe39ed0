"""The CPU engine: decodes, crops, resizes, flips and colours in threads, for every platform.

Decoders (libjpeg-turbo, raw) put pixels into memory; :mod:`pipeline.cpu.pixel_ops` has the operations on them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"cpu_engine": ["CpuEngine"]})
