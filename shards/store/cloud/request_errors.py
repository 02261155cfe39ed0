"""What a failed request means, by obstore's errors: whether another attempt may help, and what is said of it.

An error's text has a line for people, without the cause, and behind it all nested errors of obstore's libraries.
"""

import re
from typing import Final

from shards.errors import option, printable
from shards.store.addresses import without_secrets
from shards.store.store_protocol import (
    NoRangesError,
    ObjectEndsError,
    ObjectExistsError,
    ObjectMissingError,
    StoreError,
)

_STATUS = re.compile(r"status code: (\d{3})")
_XML_MESSAGE = re.compile(r"<Message>([^<]{1,200})</Message>")
_NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound|specified bucket does not exist", re.IGNORECASE)
_CONFLICT: Final = "ConditionalRequestConflict"  # S3's, while another conditional write of the same name goes on
_BAD_NAME = re.compile(r"invalid path: (.*?(?:empty path segment|path segment \"[^\"]*\"))", re.DOTALL)
_NO_RANGE: Final = "Range request not supported"  # obstore's, where a request of a range was answered with 200
NO_RANGES: Final = "another reply than the range of bytes that was asked for"
SLOW: Final = "a reply that is too slow"
_PASSING: Final = {"408", "429"}  # and those from 500 on: worth another try
# The innermost error of a request that got no reply.
_CAUSES: Final = (
    (re.compile(r"(?:message|error): \"([^\"]{1,200})\""), "{}"),
    (re.compile(r"InvalidCertificate\(\s*([A-Za-z]+)"), "the server's certificate is not valid: {}"),
    (re.compile(r"(InvalidContentType)"), "the server does not speak TLS"),
    (re.compile(r"(TimedOut|kind: Timeout)"), "no answer in time"),
    (re.compile(r"(Parse\()"), "the answer is not HTTP"),
    (re.compile(r"(IncompleteMessage|UnexpectedEof)"), "the connection was closed"),
)


def passing_reason(error: Exception, place: str) -> str:
    """Return why a request failed if that may pass; else raise what it means.

    Args:
        error: obstore's.
        place: the file's address, for messages.

    Raises ``ObjectMissingError``, ``ObjectExistsError``, ``ObjectEndsError``, or ``StoreError`` where there is no
    bucket or no permission, or the server refuses the request.
    """
    text, place = str(error), printable(place)
    if _NO_BUCKET.search(text):
        raise StoreError(f"{place}: there is no such bucket or container; check the address and the endpoint") from None
    if bad := _BAD_NAME.search(text):
        what = printable(without_secrets(bad[1]))[:300]
        raise StoreError(f"{place}: there is an object whose name is no path ({what}); rename or remove it") from None
    match type(error).__name__:
        case "FileNotFoundError" | "NotFoundError":
            raise ObjectMissingError(f"{place}: it does not exist; check the address and the endpoint") from None
        case "AlreadyExistsError" if _CONFLICT in text:
            return "status 409"
        case "AlreadyExistsError":
            raise ObjectExistsError(f"{place} exists already") from None
        case "PermissionDeniedError" | "UnauthenticatedError":
            advice = "check the credentials and the address: a store may answer so for what does not exist, too"
            if place.startswith("http"):
                advice = "check the address; a set on a web server has to be readable without credentials"
            raise StoreError(f"{place}: permission denied{_said(text)}; {advice}") from None
    if _NO_RANGE in text:  # or a proxy's page about an error, which may pass
        return NO_RANGES
    found = _STATUS.search(text)
    code = found[1] if found else ""
    if code == "416":
        raise ObjectEndsError(f"{place} ends before the bytes that were asked for") from None
    if code and code < "500" and code not in _PASSING:
        raise StoreError(f"{place}: the server refused the request: status {code}{_said(text)}") from None
    return f"status {code}" if code else _short(text)


def given_up(place: str, attempts: int, reason: str) -> StoreError:
    """Return the error of a request that failed again and again."""
    if reason == NO_RANGES:
        return NoRangesError(
            f"{printable(place)}: the server sends whole files where a range of bytes is asked for; training and "
            f"evaluation can read whole shards from it, with {option('fetch', 'shard')}; all else takes a server that "
            "supports ranges, or a copy of the set in a local folder"
        )
    return StoreError(
        f"{place} cannot be reached: {attempts} attempts failed, the last one with {reason}; check the network and the "
        "endpoint, and start again: nothing is damaged"
    )


def _said(text: str) -> str:
    found = _XML_MESSAGE.search(text)
    return f" ({printable(without_secrets(found[1]))})" if found else ""


def _short(text: str) -> str:
    """Return the reason that obstore's text gives, without addresses, numbers and times: failures are counted by it."""
    line, _, details = text.partition("\n")
    line = printable(without_secrets(line).rsplit(" - ", 1)[-1]).removeprefix("Generic S3 error: ")
    causes = (shown.format(found[1]) for cause, shown in _CAUSES if (found := cause.search(details)))
    cause = next(causes, "")
    return re.sub(r"\d+", "N", f"{line} ({printable(without_secrets(cause))})" if cause else line)[:200]
