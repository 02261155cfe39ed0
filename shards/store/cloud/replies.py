"""What replies of object stores say, in the terms of :mod:`shards.store.store_protocol`."""

from collections.abc import Awaitable, Callable
from typing import Any

from shards.errors import printable
from shards.store.store_protocol import ObjectStatus, StoreError

Write = Callable[[int, memoryview], Awaitable[None]]  # takes bytes of a file, from a place on


class Passing(Exception):  # noqa: N818 - never shown as such
    """A request failed in a way that may pass; the text says how."""


def status_of(meta: Any) -> ObjectStatus:
    """Return size and version of a file by what a reply, or a line of a list, says of it."""
    stamp = meta["e_tag"] or f"modified {meta['last_modified'].isoformat()}"
    if meta["e_tag"] and not stamp.endswith('"'):  # Azure's listings leave out the quotes that its replies have
        stamp = f'"{stamp}"'
    if not (stamp.isascii() and stamp.isprintable()):  # a request with such a condition ends in obstore's panic
        raise StoreError(f"the server names a version by characters that no ETag has: {printable(stamp)[:100]}")
    return ObjectStatus(meta["size"], stamp, meta.get("version") or "")


def expect_plain(place: str, reply: Any) -> None:
    """Raise ``StoreError`` if a reply says that its bytes are not those of the file, which is at ``place``."""
    coding = printable(str(reply.attributes.get("Content-Encoding") or "identity"))[:40]
    if coding.lower() != "identity":
        raise StoreError(
            f"{printable(place)}: the server changes the bytes in transit (Content-Encoding: {coding}); have it send "
            "the files of a set as they are, without compression"
        )


def conditions(match: ObjectStatus | None) -> dict[str, Any]:
    """Return the condition of a request; a weak ETag matches none, and is compared with the reply's instead."""
    return {"if_match": match.stamp} if match is not None and match.stamp.startswith('"') else {}
