"""Shared by all command lines: how errors, interrupts, progress and JSON reach the terminal.

Imports click only, so that ``--help`` answers at once.
"""

import codecs
import contextlib
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from shards.errors import (
    FULL_DISK,
    INTERRUPTED,
    PetsegError,
    TerminatedError,
    first_line,
    is_out_of_memory,
    printable,
    valid_text,
)

_LONGEST_PATH = 160  # characters of a path in a message
_ASCII, _NAMES = ("ascii", "us-ascii", "ansi_x3.4-1968", "646"), "petseg.names"  # encodings; an error handler
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose a folder that you may write to",
    errno.EEXIST: "exists already; choose another name",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "not a folder",
    errno.EISDIR: "is a folder, a file was expected",
    errno.ENAMETOOLONG: "the name is longer than the file system takes; choose a shorter one",
    errno.ELOOP: "symbolic links that lead in a circle",
    errno.EFBIG: "File too large: a limit of this session (`ulimit -f`) or of the file system; raise it, or choose "
    "another folder",
    errno.EIO: "input/output error; check the disk or the network share, then run the same command again",
    errno.ESTALE: "stale file handle: the file was replaced on its server; run the same command again",
    errno.ENXIO: "is a socket or a device, a file was expected",
    errno.EMFILE: "too many open files; raise the limit with `ulimit -n`",
}


class PathArgument(click.Path):
    """A path as a :class:`pathlib.Path`; refuses an empty one, such as ``"$OUT"`` with OUT not set."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; fail if it is empty."""
        if value == "":
            self.fail("the path is empty; for the current folder, write .", param, ctx)
        return super().convert(value, param, ctx)


class PlaceArgument(PathArgument):
    """A path as a :class:`pathlib.Path`, or the address of a folder in an object store as text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path or address; fail if it is empty, or an address that cannot be used."""
        if isinstance(value, str) and "://" in value:
            from shards.store.addresses import parse_address

            return value if not isinstance(parse_address(value), Path) else Path(value)
        return super().convert(value, param, ctx)


PATH = PathArgument()
PLACE = PlaceArgument()
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


class FriendlyMixin:
    """Turns exceptions that a user can act on into one line on stderr and an exit code; for outermost commands.

    SIGTERM and SIGHUP are exceptions too, so that what is half done is removed, unless the command has its own signals.
    """

    own_signals = False

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command; never show a traceback for an error that the user can act on."""
        kwargs["standalone_mode"] = False
        open_streams()
        try:
            expect_current_folder()
            with contextlib.nullcontext() if self.own_signals else raise_stop_signals():
                result = super().main(*args, **kwargs)  # type: ignore[misc]
        except click.ClickException as error:
            show(error)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt) as error:
            # click turns KeyboardInterrupt into Abort; the notes are on the exception that it was raised from.
            notes = [*getattr(error, "__notes__", []), *getattr(error.__cause__, "__notes__", [])]
            fail("; ".join(["interrupted", *notes]), INTERRUPTED)
        except (PetsegError, TerminatedError) as error:
            fail("; ".join([str(error), *getattr(error, "__notes__", [])]), error.exit_code)
        except BrokenPipeError:
            # The reader of the output has closed it (`petseg-shard info | head`): nothing to report.
            drop_output()
            sys.exit(1)
        except OSError as error:
            fail("; ".join([describe_os_error(error), *getattr(error, "__notes__", [])]), 1)
        except RecursionError:
            fail("folders, or values in a file, are nested too deeply", 1)
        except (ImportError, MemoryError, RuntimeError) as error:
            lacking = describe_shortage(error)
            if lacking is None:
                raise
            fail("; ".join([lacking, *getattr(error, "__notes__", [])]), 1)
        sys.exit(result if isinstance(result, int) else 0)


class FriendlyCommand(FriendlyMixin, click.Command):
    """A single command (``petseg-train``)."""


class TrainingCommand(FriendlyCommand):
    """A command that writes a checkpoint where a signal asks it to stop."""

    own_signals = True


class FriendlyGroup(FriendlyMixin, click.Group):
    """A command with subcommands (``petseg-shard build``)."""


def open_streams() -> None:
    """Make stdin, stdout and stderr usable: one that the caller has closed is /dev/null; no character is an error.

    Were the numbers 0 to 2 free, the next file to be opened would get one, and with it what libraries print.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
        elif mode == "w" and getattr(stream, "errors", None) in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")  # bytes in a file's name that are not UTF-8
        if mode == "w" and (getattr(stream, "encoding", None) or "").lower() in _ASCII:
            stream.reconfigure(encoding="utf-8", errors=_NAMES)  # locale C: names as their bytes are, if that is UTF-8


def _as_valid_text(error: UnicodeError) -> tuple[bytes, int]:
    """Handle what UTF-8 cannot hold: in locale C, names of files are surrogates, one for each byte."""
    assert isinstance(error, UnicodeEncodeError)
    return valid_text(error.object[error.start : error.end]).encode(), error.end


codecs.register_error(_NAMES, _as_valid_text)


def expect_current_folder() -> None:
    """Raise ``PetsegError`` if the current folder was removed: paths mean nothing then, and torch does not load."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise PetsegError(
            f"the current folder is not there any more ({error.strerror}); change to another one"
        ) from None


def drop_output() -> None:
    """Send what stdout still holds, and all that follows, nowhere."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)


def fail(message: str, exit_code: int) -> None:
    """Print one line ``Error: message`` on stderr and exit with ``exit_code``."""
    say(f"Error: {message}", err=True)
    sys.exit(exit_code)


def show(error: click.ClickException) -> None:
    """Print click's own error, such as an unknown option, as one line that says where to find help."""
    message = error.format_message()
    if "\n" in message or not isinstance(error, click.UsageError):
        error.show()
        return
    sentence = message if message.endswith((".", "?", "?)")) else f"{message}."
    advice = f" See: {error.ctx.command_path} --help" if error.ctx is not None else ""
    say(f"Error: {sentence}{advice}", err=True)


def describe_os_error(error: OSError) -> str:
    """Return what the operating system refused, where, and what to do, in one line."""
    if error.filename is None and error.errno in FULL_DISK:  # every file that is written for a user has a name
        text = f"stdout, or a temporary file, cannot be written ({error.strerror})"
        return f"{text}; free some space and run the same command again"
    name = str(error.filename or "")
    if len(name) > _LONGEST_PATH:
        name = f"{name[: _LONGEST_PATH // 2]}...{name[-_LONGEST_PATH // 2 :]}"
    where = f" ({name})" if name else ""
    return f"{_ADVICE.get(error.errno or 0) or error.strerror or error}{where}"


def describe_shortage(error: Exception) -> str | None:
    """Return what the machine lacks, if that is why a library has failed; torch has no types of errors for it."""
    text = first_line(error)
    if is_out_of_memory(error):
        return "out of memory: use a smaller --batch-size, --size or number of workers"
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return "no more threads or processes can be started; end other programs, or raise the limit (`ulimit -u`)"
    if isinstance(error, ImportError) and ".so" in text:
        return f"a library cannot be loaded, for lack of memory or because it is not installed whole: {text}"
    return None


def say(*lines: object, err: bool = False) -> None:
    """Print lines on stdout (or stderr), with whatever a terminal would obey as an escape, see :func:`printable`."""
    click.echo("\n".join(map(printable, lines)), err=err)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON object and nothing else (``--json``)."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show progress on stderr if that is a terminal; provide a function of (done, total), or None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, refresh=True)


@contextlib.contextmanager
def current_work(text: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being done, if that is a terminal; provide a function that says what comes next."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status.update


@contextlib.contextmanager
def raise_stop_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise :class:`TerminatedError`, as Ctrl-C raises KeyboardInterrupt.

    So ``finally`` removes what is half done. A signal that is ignored (``nohup``) stays so.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise TerminatedError(number)

    with signals_handled(stop, (signal.SIGTERM, signal.SIGHUP)):
        yield


@contextlib.contextmanager
def signals_handled(
    handler: Callable[[int, FrameType | None], None], numbers: Sequence[signal.Signals]
) -> Iterator[None]:
    """Handle signals by ``handler`` in the block, except ignored ones; only in the main thread, which receives them."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in numbers}
        previous = {number: old for number, old in previous.items() if old not in (signal.SIG_IGN, None)}
    try:
        for number in previous:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
