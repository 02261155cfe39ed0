"""Errors for users: what is wrong, where, and what to do about it.

This is the lowest module of the project: every other package may use it, and it imports none of the project. Commands
import it before Ctrl-C is theirs, so it imports little when it is loaded.
"""

import contextlib
import errno
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeGuard

# Plain RuntimeErrors of torch's CPU allocator, CUDA, cuDNN and cuBLAS, C++, and oneDNN.
_NO_MEMORY = re.compile(r"out of memory|allocate memory|ALLOC_FAILED|bad.alloc|not create a (primitive|memory)", re.I)
INTERRUPTED: Final = 130  # 128 + SIGINT, what a shell reports for Ctrl-C
FILE_LIMIT: Final = "a limit of this session (`ulimit -f`) or of the file system"
NO_ADDRESS: Final = "an address, where only a file or folder of this machine can be given"
_NO_THREADS = "no more threads or processes can be started; end other programs, or raise the limit (`ulimit -u`)"
_AGAIN = "run the same command again"
_SAID_OF_IT = {  # after the name of the file
    errno.EEXIST: "exists already; choose another name",
    errno.EISDIR: "is a folder, a file was expected",
    errno.ENXIO: "is a socket or a device, a file was expected",
}
_ADVICE = {
    **_SAID_OF_IT,
    errno.ENOSPC: f"the disk is full; free some space and {_AGAIN}",
    errno.EDQUOT: f"the disk quota is used up; free some space and {_AGAIN}",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "permission denied; choose a folder that you may write to"),
    errno.EROFS: "the file system is read-only; choose a folder that you may write to",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "not a folder",
    errno.ENAMETOOLONG: "the name is longer than the file system takes; choose a shorter one",
    errno.ELOOP: "symbolic links that lead in a circle",
    errno.EFBIG: f"File too large: {FILE_LIMIT}; raise it, or choose another folder",
    errno.EIO: f"input/output error; check the disk or the network share, then {_AGAIN}",
    errno.ESTALE: f"stale file handle: the file was replaced on its server; {_AGAIN}",
    errno.EMFILE: "too many open files; raise the limit with `ulimit -n`",
}

FULL_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # of an OSError: what only writing raises


class PetsegError(Exception):
    """A problem that the user can act on; the command line prints it as one line and exits with ``exit_code``.

    Any exception other than a ``PetsegError`` or an ``OSError`` (whose text names the file already) is a bug.
    """

    exit_code = 1


class UsageError(PetsegError):
    """An option or argument is wrong, or does not fit another one."""

    exit_code = 2


class TerminatedError(BaseException):
    """SIGTERM or SIGHUP arrived; the exit code is the shell's for that signal.

    As KeyboardInterrupt it is no ``Exception``: libraries, and the checks of damaged files, catch those and go on.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class SourceError(PetsegError):
    """The source dataset cannot be used."""


class FormatError(PetsegError):
    """A shard set is damaged, incomplete, or of another version."""


class CacheTooSmallError(PetsegError):
    """What is needed at once of a set in an object store does not fit into the cache."""


class SampleError(PetsegError):
    """One sample cannot be read; the message names shard, key, member and offset."""


@contextlib.contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Within the block, what a command imports before it runs, Ctrl-C and a lack of memory are one line."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("Error: interrupted\n")
        sys.exit(INTERRUPTED)
    except (ImportError, MemoryError) as error:
        if (text := "out of memory" if isinstance(error, MemoryError) else describe_shortage(error)) is None:
            raise
        sys.exit(f"Error: {text}")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is used up; who takes one for a file's damage asks this first."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))


def valid_text(text: str) -> str:
    """Return a text as valid Unicode: bytes of a file name that are not UTF-8 (surrogates) appear as ``\\xNN``.

    Surrogates that stand for no byte, which JSON may hold, appear as ``\\uNNNN``, and so do all others beside them.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def printable(text: object) -> str:
    """Return a text, such as a file's name, as it is shown: on one line, and without anything a terminal would obey.

    What cannot be printed, from line breaks to escape sequences, appears as an escape such as ``\\x1b``; bytes of a
    file name that are not UTF-8 (surrogates, see :func:`os.fsdecode`) appear as ``\\xNN``.
    """
    line = valid_text(str(text))
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def escaped_markdown(text: str) -> str:
    """Return a line of text as Markdown, also in a table, in which it means nothing but itself: no link, no list."""
    text = re.sub(r"[\\`*_{}\[\]<>#!|~&$]|:(?=//)|(?<=www)\.", r"\\\g<0>", text)
    return re.sub(r"^(\d*)([-+.)])(?=\s|$)", r"\1\\\2", text)


def is_whole_number(value: object, least: float = float("-inf"), most: float = float("inf")) -> TypeGuard[int]:
    """Return whether an argument is an integer within bounds; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: object, least: float = float("-inf"), most: float = float("inf")) -> TypeGuard[int | float]:
    """Return whether an argument is a number within bounds; NaN, True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def expect_flags(**flags: object) -> None:
    """Raise ``UsageError`` for the first argument that is neither True nor False: any text would be taken for True."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise UsageError(f"{name} must be True or False, not {shown_value(value)}")


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun: ``1 image``, ``2,000 images``, ``2 classes``."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def abridged(name: str, *, most: int = 100) -> str:
    """Return a name or value, which may be anybody's, for a message: of a long one the beginning and the end."""
    return name if len(name) <= most else f"{name[: most // 2]}...{name[-most // 2 :]}"


def listed(names: Iterable[str], *, most: int = 5) -> str:
    """Return names in one line, of many only the first ones: ``dog, cat``, ``a, b, c and 7 more``."""
    first = list(names)
    return ", ".join(map(abridged, first[:most])) + (f" and {len(first) - most} more" if len(first) > most else "")


def first_line(error: BaseException) -> str:
    """Return an error's text, or its type where it has none, for a message of one line; at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def describe_os_error(error: OSError, *, again: str = _AGAIN) -> str:
    """Return what the operating system refused, where, and what to do, in one line; ``again``: how to go on then."""
    if error.filename is None and error.errno in FULL_DISK:  # every file that is written for a user has a name
        do = f"raise {FILE_LIMIT}" if error.errno == errno.EFBIG else "free some space"
        return f"stdout, or a temporary file, cannot be written ({error.strerror}); {do} and {again}"
    name = abridged(str(error.filename or ""), most=160)
    if name and (said := _SAID_OF_IT.get(error.errno or 0)):
        return f"{name} {said}"
    where = f" ({name})" if name else ""
    if error.errno == errno.EAGAIN and error.strerror == os.strerror(errno.EAGAIN):  # of fork; streams say more
        return f"{_NO_THREADS}{where}"
    return f"{_ADVICE.get(error.errno or 0, '').replace(_AGAIN, again) or error.strerror or error}{where}"


@contextlib.contextmanager
def work_is_done(result: str) -> Iterator[None]:
    """Within the block, which only prints: an error of stdout says that ``result`` is there, not to start again."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise PetsegError(f"stdout cannot be written ({error.strerror}), but {result}") from None


def describe_shortage(error: Exception) -> str | None:
    """Return what the machine lacks, if that is why a library has failed; torch has no types of errors for it."""
    text = first_line(error)
    if is_out_of_memory(error):
        return spelled("out of memory: use a smaller --batch-size, --size or number of workers")
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return _NO_THREADS
    if isinstance(error, ImportError) and ".so" in text:
        return f"a library cannot be loaded, for lack of memory or because it is not installed whole: {text}"
    return None


_OPTION: Final = re.compile(r"(?<![\w-])--(no-)?([a-z][a-z-]*[a-z])(?:=([\w.]+))?")
_NONE_GIVEN: Final = object()
_by_command = False  # whether options were given on the command line


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Within the block, :func:`option` spells options as commands have them."""
    global _by_command  # noqa: PLW0603
    before, _by_command = _by_command, True
    try:
        yield
    finally:
        _by_command = before


def option(name: str, value: object = _NONE_GIVEN, *, typed: object = _NONE_GIVEN) -> str:
    """Return an option as its caller has to write it.

    ``option("cache_bytes")`` is ``--cache-bytes`` for a command, and ``cache_bytes`` from Python; with the value True
    ``--overwrite``, or ``overwrite=True``; with another one ``--fetch range``, or ``fetch='range'``. ``typed``: the
    value of a command, where it is not a list's or a text's usual one.
    """
    if not _by_command:
        return name if value is _NONE_GIVEN else f"{name}={shown_value(value)}"
    text = name.replace("_", "-")
    if value is False:
        return f"--no-{text}"
    if value is _NONE_GIVEN or value is True:
        return f"--{text}"
    return f"--{text} {_typed(value if typed is _NONE_GIVEN else typed)}"


def _typed(value: object) -> str:
    """Return a value as it is typed on a command line."""
    if isinstance(value, tuple | list):
        return abridged(",".join(map(_typed, value)))
    return abridged(f"{value:g}" if isinstance(value, float) else shlex.quote(str(value)))


def shown_value(value: object) -> str:
    """Return a wrong value for a message, as Python writes it; of an array, whose lines are many, the type."""
    text = repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
    return f"a {type(value).__name__}" if "\n" in text else abridged(text)


def spelled(text: str) -> str:
    """Return a message, without anything in it that a user gave, with its options as the caller has to write them.

    ``--shuffle-window is for --shuffle=block`` is ``--shuffle-window is for --shuffle block`` for a command, and
    ``shuffle_window is for shuffle='block'`` from Python; ``--no-progressive`` is ``progressive=False`` there, and
    ``--tasks=N`` ``tasks=N``.
    """

    def spell(match: re.Match[str]) -> str:
        negated, name, value = match.groups()
        field = name.replace("-", "_")
        if value and value.isupper() and not _by_command:
            return f"{field}={value}"
        given = int(value) if value and value.isdecimal() else value or _NONE_GIVEN
        return option(field, False if negated else given)

    return _OPTION.sub(spell, text)


def did_you_mean(name: str, names: Iterable[str], *, other_words: Mapping[str, str] | None = None) -> str:
    """Return the nearest of some names as the end of a message, ``; did you mean lr?``; "" if none is near.

    ``other_words``: what others call some of the names, and the name.
    """
    import difflib

    words = dict(other_words or {})
    close = difflib.get_close_matches(name, sorted({*names, *words}), n=1)
    return f"; did you mean {words.get(close[0], close[0])}?" if close else ""
