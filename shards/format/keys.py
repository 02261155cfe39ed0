"""Names of pictures become keys that every tar reader agrees on.

A key is made of ``[A-Za-z0-9_-]`` only, because readers cut a member's name at its first dot, DALI's index is cut at
white space, and a leading dash or ``../`` is a danger to whoever unpacks the tar. A name that is fit already is its
own key; another one becomes a readable stem and a piece of its SHA-256. The original name stays in ``KEY.json``.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from shards.format.layout import MAX_KEY_LENGTH

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_UNFIT = re.compile(r"[^A-Za-z0-9_]+")
_DIGEST_STEPS = (10, 20, 40)  # hex digits; more only where two names would share a key


def is_safe(name: str) -> bool:
    """Return whether a name can be a key as it is."""
    return len(name) <= MAX_KEY_LENGTH and _SAFE.fullmatch(name) is not None


def candidate_keys(name: str) -> list[str]:
    """Return the keys that a name may have, best first; almost always the first is the one.

    Args:
        name: the picture's name without its ending, any text.
    """
    if is_safe(name):
        return [name]
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    stem = _UNFIT.sub("_", plain).strip("_")
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    keys = []
    for digits in _DIGEST_STEPS:
        short = stem[: MAX_KEY_LENGTH - digits - 1]
        keys.append(f"{short}-{digest[:digits]}" if short else f"x-{digest[:digits]}")
    return keys


def assign_keys(names: Iterable[str]) -> dict[str, str]:
    """Give every name a key of its own, whatever the order of ``names``.

    Raises:
        ValueError: the same name twice, or keys that cannot be told apart (two names with one SHA-256).
    """
    ordered = sorted(names, key=lambda name: (not is_safe(name), name))  # fit names keep theirs
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for name in ordered:
        key = next((key for key in candidate_keys(name) if key not in taken), None)
        if key is None or name in keys:
            raise ValueError(f"no key is left for {name!r}")
        keys[name] = key
        taken.add(key)
    return keys


def shown(name: str) -> str:
    """Return a name as valid Unicode: bytes of a file name that are no UTF-8 appear as ``\\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
