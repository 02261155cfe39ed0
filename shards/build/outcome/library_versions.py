"""The libraries that the bytes of a set depend on, and their versions.

A package may have been built with another version of the C library that it wraps, so that has an entry of its own.
Masks are deflated by zlib-ng without its hash tables (Z_RLE), whose matches differ from processor to processor.
"""

from collections.abc import Mapping
from importlib import metadata
from typing import Final

from PIL import features
from zlib_ng import zlib_ng

LIBRARIES: Final = ("numpy", "pillow", "simplejpeg", "zlib-ng")
PILLOWS_OWN: Final = {"libjpeg_turbo": "libjpeg-turbo", "webp": "libwebp", "libtiff": "libtiff"}  # decoders


def library_versions() -> dict[str, str]:
    """Return the version of each library that the bytes of a set depend on, as its manifest has them."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    found["zlib-ng (C)"] = str(zlib_ng.ZLIBNG_RUNTIME_VERSION)
    pillows = {f"{name} (pillow)": features.version(feature) for feature, name in PILLOWS_OWN.items()}
    return found | {name: version for name, version in pillows.items() if version is not None}


def which_differ(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Return the libraries of other versions, as a clause for people: ``pillow 11.0 where 10.1 is needed``; or ""."""
    names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    return ", ".join(f"{name} {found.get(name, '(none)')} instead of {expected.get(name, '(none)')}" for name in names)
