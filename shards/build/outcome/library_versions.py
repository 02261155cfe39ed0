"""The libraries that the bytes of a set depend on, and their versions."""

from collections.abc import Mapping
from importlib import metadata
from typing import Final

LIBRARIES: Final = ("numpy", "pillow", "simplejpeg", "zlib-ng")


def library_versions() -> dict[str, str]:
    """Return the version of each library that the bytes of a set depend on, as its manifest has them."""
    return {name: metadata.version(name) for name in LIBRARIES}


def which_differ(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Return the libraries of other versions, as a clause for people: ``pillow 11.0 where 10.1 is needed``; or ""."""
    names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    return ", ".join(f"{name} {found.get(name, '(none)')} instead of {expected.get(name, '(none)')}" for name in names)
