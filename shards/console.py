"""Shared by all command lines: how errors, interrupts, progress and JSON reach the terminal.

Imports click only, so that ``--help`` answers at once.
"""

import codecs
import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from shards import installed_version
from shards.errors import (
    INTERRUPTED,
    NO_ADDRESS,
    PetsegError,
    TerminatedError,
    command_line,
    describe_os_error,
    describe_shortage,
    printable,
    valid_text,
)

if TYPE_CHECKING:
    from rich.console import Console

# A signal within this time of another one repeats it: a shell, or torchrun, signalled both a process and its group.
REPEAT_SECONDS: Final = 0.5
_PIPE_WIDTH = 140  # characters
_ASCII, _NAMES = ("ascii", "us-ascii", "ansi_x3.4-1968", "646"), "petseg.names"  # encodings; an error handler


class PathArgument(click.Path):
    """A path as a :class:`pathlib.Path`; refuses addresses, and an empty one, such as ``"$OUT"`` with OUT not set."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; fail if it is empty, or an address, without repeating that: it may hold a password."""
        if value == "" or "://" in os.fspath(value):  # which as a path is a local folder named s3:
            self.fail(NO_ADDRESS if value else "the path is empty; for the current folder, write .", param, ctx)
        return super().convert(value, param, ctx)


class PlaceArgument(PathArgument):
    """A path as a :class:`pathlib.Path`, or the address of a folder in an object store as text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path or address; fail if it is empty, or an address that cannot be used."""
        from shards.store.addresses import parse_address

        if isinstance(value, str) and "://" in value:
            return value if not isinstance(parse_address(value), Path) else Path(value)
        return super().convert(value, param, ctx)


PATH = PathArgument()
PLACE = PlaceArgument()
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


def _version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(f"{ctx.command_path} {installed_version()}")
        ctx.exit()


class FriendlyMixin:
    """Turns exceptions that a user can act on into one line on stderr and an exit code; for outermost commands.

    Signals that ask to stop are exceptions too, so that what is half done is removed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        version = click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
        )
        self.params.append(version)  # type: ignore[attr-defined]

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command; never show a traceback for an error that the user can act on."""
        kwargs["standalone_mode"] = False
        open_streams()
        with command_line(), raise_stop_signals():  # also while the message is printed
            try:
                expect_current_folder()
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
        what = f"the current folder is not there any more ({error.strerror})"
        raise PetsegError(f"{what}; change to another one") from None


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


def say(*lines: object, err: bool = False) -> None:
    """Print lines on stdout (or stderr), with whatever a terminal would obey as an escape, see :func:`printable`."""
    click.echo("\n".join(map(printable, lines)), err=err, nl=bool(lines))


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON object and nothing else (``--json``)."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def can_draw(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that obeys escape sequences; where TERM is not set, none is known to."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def stdout_console(**options: Any) -> "Console":
    """Return rich's console for tables on stdout, of a fixed width in pipes; names such as ``:cat:`` stay names."""
    from rich.console import Console

    if not sys.stdout.isatty():
        return Console(width=_PIPE_WIDTH, emoji=False, **options)
    return Console(force_terminal=None if can_draw(sys.stdout) else False, emoji=False, **options)


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show progress on stderr if that is a terminal; provide a function of (done, total), or None."""
    if not can_draw(sys.stderr):
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
    if not can_draw(sys.stderr):
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status.update


@contextlib.contextmanager
def raise_stop_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise :class:`TerminatedError`, as Ctrl-C raises KeyboardInterrupt.

    So ``finally`` removes what is half done, which a signal within :data:`REPEAT_SECONDS` after it does not
    interrupt. A signal that is ignored (``nohup``) stays so.
    """
    taken = -math.inf

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal taken
        if _loses_exceptions(frame):  # soon again, to whoever handles it by then
            signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        elif (now := time.monotonic()) - taken > REPEAT_SECONDS:
            taken = now
            raise KeyboardInterrupt if number == signal.SIGINT else TerminatedError(number)

    with signals_handled(stop, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        yield


def _loses_exceptions(frame: FrameType | None) -> bool:
    """Whether an exception may be lost here: importers take any for a missing module, and ``__del__`` drops its own."""
    while frame is not None and frame.f_code.co_filename != __file__:
        if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def signals_handled(
    handler: Callable[[int, FrameType | None], None], numbers: Sequence[signal.Signals]
) -> Iterator[None]:
    """Handle signals by ``handler`` in the block, except ignored ones; only in the main thread, which receives them.

    A handler that the block itself has installed stays.
    """
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
            if signal.getsignal(number) is handler:
                signal.signal(number, old)
