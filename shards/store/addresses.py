"""Addresses of shard sets: a folder, or ``s3://``, ``gs://``, ``az://`` and ``https://`` in a store.

An address holds no credentials: those come from where the cloud's own tools take them (docs/stores.md). One that has a
user, a password or a query is refused, in a message that repeats none of them.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard
from urllib.parse import quote, urlsplit

from shards.errors import NO_ADDRESS, UsageError, printable, shown_value

SCHEMES: Final = {"s3": "an S3 bucket", "gs": "a Google Cloud Storage bucket", "az": "an Azure Blob container"}
WEB_SCHEMES: Final = ("https", "http")  # read only; http from this machine alone
_KNOWN = (*SCHEMES, *WEB_SCHEMES)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOST_SLASH = re.compile(rf"({'|'.join(_KNOWN)}):/(?!/)")
_SECRETS = re.compile(r"(?<=://)[^/@\s]*@|[?#][^\s\"'>)]*")  # of URLs: user and password; query and fragment


@dataclass(frozen=True)
class StoreAddress:
    """A folder in a store: ``s3://bucket/a/b`` has the scheme ``s3``, the host ``bucket`` and the prefix ``a/b``."""

    scheme: str
    host: str  # the bucket or container; of a web address, host and port
    prefix: str  # without slashes at the ends

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/{self.prefix}".rstrip("/")

    @property
    def url(self) -> str:
        """The address as a URL, its path percent-encoded."""
        return f"{self.scheme}://{self.host}/{quote(self.prefix, safe='/%')}".rstrip("/")

    @property
    def name(self) -> str:
        """The last part, for titles."""
        return (self.prefix or self.host).rsplit("/", 1)[-1]


def without_secrets(text: str) -> str:
    """Return a text in which URLs have lost users, passwords, queries and fragments."""
    return _SECRETS.sub("", text) if "://" in text else text


def is_remote(place: str | Path) -> TypeGuard[str]:
    """Whether a place is an address (``SCHEME://...``) rather than a path."""
    return isinstance(place, str) and _SCHEME.match(place) is not None


def expect_places(advice: str = "", /, **places: Any) -> None:
    """Raise ``UsageError`` for empty text, which would be the current folder, and for what is no path, by argument.

    ``advice``: what else takes such a thing, for the end of that message.
    """
    _expect("a path, or an address as text", places, advice)


def _expect(kind: str, places: Mapping[str, Any], advice: str) -> None:
    for name, place in places.items():
        if not isinstance(place, str | Path):
            raise UsageError(f"{name}: expected {kind}, not {shown_value(place)}{advice and '; '}{advice}")
        if place == "":
            raise UsageError(f"{name}: the path is empty; for the current folder, write '.'")
        if "\0" in str(place):
            raise UsageError(f"{name} {_shown(str(place))}: a path cannot contain the character NUL")


def expect_paths(advice: str = "", /, **paths: Any) -> None:
    """Raise ``UsageError`` as :func:`expect_places`, and for addresses: as paths they are local folders named ``s3:``.

    They are not repeated, since they may hold a password.
    """
    _expect("a path", paths, advice)
    for name, path in paths.items():
        if is_remote(path) or (_LOST_SLASH.match(str(path)) and not Path(path).exists()):
            raise UsageError(f"{name}: {NO_ADDRESS}")


def parse_address(place: str | Path) -> StoreAddress | Path:
    """Return an address in its parts, or the path that anything else is.

    Raises ``UsageError`` for an unknown scheme, an address without a bucket or host, one with credentials in it, and
    ``http://`` to another machine; see also :func:`expect_places`.
    """
    expect_places(place=place)
    text = os.fspath(place)
    found = _SCHEME.match(text) if isinstance(place, str) else None
    if found is None:
        if _LOST_SLASH.match(text) and not Path(text).exists():
            raise UsageError(f"{_shown(text)}: the // of an address is missing; give addresses as text, not as Path")
        return Path(place)
    scheme = found[1].lower()
    if scheme not in _KNOWN:
        known = ", ".join(f"{each}://" for each in _KNOWN)
        raise UsageError(f"{_shown(text)}: use a folder, or an address that begins with {known}")
    try:
        parts = urlsplit(text)
        web = scheme in WEB_SCHEMES
        host = parts.hostname if web else parts.netloc
        if web and host:
            port = "" if parts.port is None else f":{parts.port}"
            host = f"{f'[{host}]' if ':' in host else host}{port}"
    except ValueError:
        raise UsageError(f"{_shown(text)} is not a valid address") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            f"{_shown(text)}: an address must not hold a user, a password or a query, which end up in logs; give "
            "credentials as the cloud's own tools take them (environment or configuration files)"
        )
    if not host:
        raise UsageError(f"{_shown(text)}: the {'host' if web else 'bucket'} is missing: {scheme}://NAME/FOLDER")
    if scheme == "http" and not is_loopback(str(parts.hostname)):
        raise UsageError(f"{_shown(text)}: http:// is not encrypted, and accepted from this machine only; use https://")
    return StoreAddress(scheme, host, "/".join(part for part in parts.path.split("/") if part))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(text: str) -> str:
    return printable(without_secrets(text))[:300]
