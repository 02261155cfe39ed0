"""Image names become keys that every tar reader agrees on.

A key consists of ``[A-Za-z0-9_-]`` only, because readers cut a member's name at its first dot, DALI splits its index
at white space, and a leading dash or ``../`` is dangerous when the tar is unpacked. A safe name is its own key; any
other name becomes a readable stem and part of its SHA-256. Letters without an ASCII form, such as ``ß``, are missing in
the stem, which the SHA-256 does not mind. The original name is in ``KEY.json``.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from shards.errors import valid_text
from shards.format.layout import MAX_KEY_LENGTH

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")
_DIGEST_STEPS = (10, 20, 40)  # hex digits; more only where two names would share a key


def is_safe(name: str) -> bool:
    """Return whether a name can be used as a key unchanged."""
    return len(name) <= MAX_KEY_LENGTH and _SAFE.fullmatch(name) is not None


def candidate_keys(name: str) -> list[str]:
    """Return the keys that an image's name (any text) may have, most preferred first; usually the first is used."""
    if is_safe(name):
        return [name]
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    stem = _UNSAFE.sub("_", plain).strip("_")
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return [f"{stem[: MAX_KEY_LENGTH - digits - 1] or 'x'}-{digest[:digits]}" for digits in _DIGEST_STEPS]


def assign_keys(names: Iterable[str]) -> dict[str, str]:
    """Give every name a unique key; the order of ``names`` does not matter.

    Raises ``ValueError`` for the same name twice, or keys that cannot be told apart (two names with one SHA-256).
    """
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names, key=lambda name: (not is_safe(name), name)):  # safe names keep theirs
        key = next((key for key in candidate_keys(name) if key not in taken), None)
        if key is None or name in keys:
            raise ValueError(f"no key is left for {name!r}")
        keys[name] = key
        taken.add(key)
    return keys


def shown(name: str) -> str:
    """Return a name as valid Unicode: bytes of a file name that are not UTF-8 appear as ``\\xNN``.

    It may still hold control characters; :func:`shards.errors.printable` escapes those where a text is shown.
    """
    return valid_text(name)
