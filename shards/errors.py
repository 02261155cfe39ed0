"""Errors for users: what is wrong, where, and what to do about it.

This is the lowest module of the project: every other package may use it, and it imports nothing.
"""


class PetsegError(Exception):
    """A problem that the user can act on; the command line prints it as one line and exits with ``exit_code``.

    Any exception other than a ``PetsegError`` or an ``OSError`` (whose text names the file already) is a bug.
    """

    exit_code = 1


class UsageError(PetsegError):
    """An option or argument is wrong, or does not fit another one."""

    exit_code = 2


class SourceError(PetsegError):
    """The source dataset cannot be used."""


class FormatError(PetsegError):
    """A shard set is damaged, incomplete, or of another version."""


class SampleError(PetsegError):
    """One sample cannot be read; the message names shard, key, member and offset."""


def one_line(text: str) -> str:
    """Return a text on one line: what is not printable, line breaks too, appears as an escape such as ``\\x1b``.

    Bytes of a file name that are not UTF-8 (surrogates, see :func:`os.fsdecode`) appear as ``\\xNN``.
    """
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
