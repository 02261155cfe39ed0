"""Which process works in a folder, where the file system's locks do not say so to other machines, or there are none.

``flock`` is a machine's own on many network file systems (NFS before Linux 2.6.12 and with ``local_lock``, Lustre with
``localflock``), and not supported on others. An owner file, created exclusively, says which process of which machine
works there. One that a killed process left is taken over: at once on the same machine, where the process is known to
be gone; else when nothing has changed in the folder for :data:`WATCH_SECONDS`.

Temporary folders have one too, so that the next command removes what a killed one has left.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from shards.errors import PetsegError, printable
from shards.store.byte_ranges import read_regular

log = logging.getLogger("petseg.files")

WATCH_SECONDS = 90.0  # clients of NFS see another's changes after up to a minute
BEAT_SECONDS = 15.0
_POLL_SECONDS = 1.0
_MOST_BYTES = 1 << 16  # of an owner file
_PROC = Path("/proc")
_SCRATCH = re.compile(r"\.?petseg-[a-z]+-[a-z0-9_]{8}")
_SCRATCH_OWNER, _SCRATCH_FILES = ".owner", "files"


class OwnedError(PetsegError):
    """Another process works in a folder. ``who`` says which."""

    def __init__(self, who: str) -> None:
        super().__init__(who)
        self.who = who


class Owner(msgspec.Struct, frozen=True):
    """A process: its machine's name and boot, its number, when it began (ticks since boot), and a random token."""

    host: str
    boot: str
    pid: int
    began: int
    token: str

    @classmethod
    def this_process(cls) -> "Owner":
        """Return the owner that this process is."""
        return cls(socket.gethostname(), _boot(), os.getpid(), _began(os.getpid()), secrets.token_hex(8))

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None where that cannot be known, since it is another machine's."""
        if (self.host, self.boot) != (socket.gethostname(), _boot()):
            return None
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):  # the latter: no number of a process
            return False
        except OSError:  # of another user
            pass
        return self.began == _began(self.pid)


@dataclasses.dataclass(frozen=True)
class OwnerFile:
    """An owner file of this process."""

    path: Path
    own: Owner
    released: threading.Event

    def __call__(self) -> None:
        """Remove the file, if it is still this one."""
        self.released.set()
        with contextlib.suppress(OSError):
            if _read(self.path) == self.own:
                self.path.unlink()

    def is_there(self) -> bool | None:
        """Whether the file at the path is this one: False if it is another process's, None if there is none."""
        found = _read(self.path)
        return None if found is None else found == self.own


def claim(path: Path, *, locked: bool, activity: Callable[[], object] = lambda: None, beat: bool = False) -> OwnerFile:
    """Create the owner file ``path`` for this process; return it, to be called when the work is done.

    Args:
        path: the file; its folder exists.
        locked: whether this process holds the folder's lock, so that no other process of this machine works there.
        activity: returns what changes while a process works there.
        beat: touch the file every :data:`BEAT_SECONDS`, in a thread, for work that changes nothing for longer.

    Raises ``OwnedError`` if another process works there, ``OSError`` if the file cannot be created.
    """
    own = Owner.this_process()
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if path.is_dir() and not path.is_symlink():  # nobody's owner file, and not to be removed
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from None
            found = _touched(path)
            _expect_abandoned(path, activity, locked=locked)
            _remove(path, found)
            continue
        try:
            os.write(descriptor, msgspec.json.encode(own))
        except OSError as error:
            path.unlink(missing_ok=True)  # an empty one would be watched, as another process's
            raise OSError(error.errno, error.strerror, str(path)) from None
        finally:
            os.close(descriptor)
        break
    _remove_set_aside(path)
    released = threading.Event()
    if beat:
        threading.Thread(target=_beat, args=(path, own, released), name="owner", daemon=True).start()
    return OwnerFile(path, own, released)


@contextlib.contextmanager
def scratch_folder(what: str, *, parent: Path | None = None) -> Iterator[Path]:
    """Provide an empty folder for the time of the block: ``petseg-WHAT-xxxxxxxx/files``, in TMPDIR.

    In ``parent``, if given, it is a hidden one, so that a file in it can be renamed to be beside it.
    Those there that belong to processes of this machine that have ended, killed so that they could remove nothing, are
    removed first.
    """
    place = Path(tempfile.gettempdir() if parent is None else parent)
    _remove_abandoned(place)
    prefix = f"{'' if parent is None else '.'}petseg-{what}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as name:
        claim(Path(name, _SCRATCH_OWNER), locked=False)
        files = Path(name, _SCRATCH_FILES)
        files.mkdir()
        yield files


def _remove_abandoned(place: Path) -> None:
    with contextlib.suppress(OSError):  # a folder in which names can be used, but not listed
        for entry in os.scandir(place):
            if _SCRATCH.fullmatch(entry.name) and _is_abandoned(entry):
                for part in (_SCRATCH_FILES, ""):  # the owner last: what another signal leaves is removed the next time
                    shutil.rmtree(Path(entry.path, part), ignore_errors=True)


def _is_abandoned(folder: os.DirEntry[str]) -> bool:
    """Whether a folder is a scratch folder of this user, and its process is known to have ended.

    A run that was killed has an owner file too, and may have such a name (petseg-run-20260131): it holds more.
    """
    with contextlib.suppress(OSError):
        if folder.is_dir(follow_symlinks=False) and folder.stat(follow_symlinks=False).st_uid == os.geteuid():
            if not {entry.name for entry in os.scandir(folder)} <= {_SCRATCH_OWNER, _SCRATCH_FILES}:
                return False
            owner = _read(Path(folder.path, _SCRATCH_OWNER))
            return owner is not None and owner.boot != "" and owner.is_alive() is False
    return False


def _beat(path: Path, own: Owner, released: threading.Event) -> None:
    while not released.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            if _read(path) == own:
                os.utime(path)


def _expect_abandoned(path: Path, activity: Callable[[], object], *, locked: bool) -> None:
    owner = _read(path)
    alive = None if owner is None else owner.is_alive()
    if alive is False or (alive and locked):  # then it is a number that another process has now
        return
    who = "a process" if owner is None else f"process {owner.pid} on {owner.host}"
    if alive:
        raise OwnedError(who)
    text = f"{path} was left by {who}; waiting up to {WATCH_SECONDS:.0f} s to see whether that still works"
    log.warning("%s", printable(text))
    before, deadline = (_touched(path), activity()), time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline and path.exists():
        time.sleep(_POLL_SECONDS)
        if (_touched(path), activity()) != before and path.exists():
            raise OwnedError(who)


def _remove(path: Path, found: object) -> None:
    """Remove an owner file, unless it is not the one any more that was found: another process was faster."""
    aside = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if _touched(aside) == found:
            aside.unlink()
        else:
            aside.rename(path)


def _remove_set_aside(path: Path) -> None:
    """Remove owner files that processes had set aside in :func:`_remove` when they were killed."""
    name = re.compile(re.escape(path.name) + "-[0-9a-f]{16}")
    with contextlib.suppress(OSError):  # a folder in which names can be used, but not listed
        for entry in os.scandir(path.parent):
            if name.fullmatch(entry.name):
                owner = _read(Path(entry.path))
                if owner is not None and owner.is_alive() is False:  # one that lives gets its file back
                    Path(entry.path).unlink(missing_ok=True)


def _touched(path: Path) -> object:
    """Return what an owner file says and when it was written; opened first, since NFS then asks the server."""
    owner = _read(path)
    with contextlib.suppress(OSError):
        return owner, path.stat().st_mtime_ns
    return owner, None


def folder_activity(*folders: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of the entries of some folders, those that exist, as an ``activity``."""
    found = []
    for folder in folders:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    found.append((entry.name, status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


def _read(path: Path) -> Owner | None:
    """Return what an owner file says; None if it is not there, or half written."""
    try:
        return msgspec.json.decode(read_regular(path, most=_MOST_BYTES), type=Owner)
    except (OSError, RecursionError, msgspec.DecodeError):
        return None


def _boot() -> str:
    """Return the boot's identity and that of the container: process numbers count within both."""
    with contextlib.suppress(OSError):
        return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()} {(_PROC / 'self/ns/pid').readlink()}"
    return ""


def _began(pid: int) -> int:
    """Return when a process began, in clock ticks since boot (field 22 of proc(5)'s stat); 0: unknown."""
    try:
        return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
