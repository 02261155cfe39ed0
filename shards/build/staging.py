"""Where a set is while it is being built, so that a kill at any moment loses no finished shard.

``OUT.building`` is next to OUT and becomes OUT by one rename when it is complete. Inside it, ``.work`` holds the
finished shards with their records and the plan's digest; it is removed last, so that whatever a kill leaves shows how
far the build had come:

====================================  ===================================================
``OUT.building`` without manifest     shards are being built; records say which are done
``OUT.building`` with manifest        complete, not yet published
``OUT`` with ``.work``                published; an old set or ``.work`` is to be removed
====================================  ===================================================
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shards.build.write_shard import RECORD_ENDING, write_file
from shards.errors import PetsegError, UsageError, listed
from shards.format.layout import AUDIT_NAME, MANIFEST_NAME, OLD_AUDIT_NAME, is_set_file
from shards.format.readers.output_places import expect_no_mount, expect_outside
from shards.store.atomic import PARTIAL_PREFIX, sync_file, sync_folder
from shards.store.byte_ranges import read_regular
from shards.store.owner_files import OwnedError, claim, folder_activity
from shards.store.refusals import lock_at_once, rename_folder, rename_specially, set_mode

WORK = ".work"
PLAN = "plan"
OWNER_ENDING = ".owner"
_SHOWN = 3  # names in a message
_LOCK_PATIENCE = 2.0  # seconds: the workers of a build that was just killed may take a moment to end


class BusyError(PetsegError):
    """Another build is using the same OUT."""


@dataclass(frozen=True)
class Staging:
    """The folders of one build."""

    out: Path  # where the finished set goes
    folder: Path  # ``OUT.building``
    replaced: Path  # where an old set is for a moment while it is replaced

    @classmethod
    def beside(cls, out: Path) -> Self:
        """Return the staging folder of ``out``; follows symbolic links, so that a link to a set remains one."""
        real = Path(os.path.realpath(out))
        return cls(real, real.with_name(f"{real.name}.building"), real.with_name(f"{real.name}.replaced"))

    @property
    def work(self) -> Path:
        """The folder of finished shards."""
        return self.folder / WORK

    @property
    def plan(self) -> bytes:
        """The digest of the plan that the work folder belongs to, or nothing."""
        try:
            return read_regular(self.work / PLAN)
        except (FileNotFoundError, NotADirectoryError):
            return b""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create and lock the staging folder; raises ``BusyError`` where another build holds it.

        The lock is on the folder itself and ends with the process and its workers. The file ``OUT.building.owner``
        says the same to other machines; see :mod:`shards.store.owner_files`.
        """
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            handle, locked = _lock_folder(self.folder)
            stack.callback(os.close, handle)
            try:
                owner = self.folder.with_name(f"{self.folder.name}{OWNER_ENDING}")
                release = claim(owner, locked=locked, activity=lambda: folder_activity(self.folder, self.work))
            except OwnedError as error:
                raise BusyError(_busy(self.folder, f" ({error.who})")) from None
            stack.callback(release)
            if self.out.is_dir():  # an old set: after the swap it takes the staging folder's place
                stack.callback(os.close, _lock_folder(self.out)[0])
            self._expect_no_other_set()
            yield

    def _expect_no_other_set(self) -> None:
        """Raise ``UsageError`` where a folder beside OUT is a set of its own.

        Of one that a build has left, the work folder says so: in the staging folder, from the publication on in OUT.
        """
        if any((folder / WORK).is_dir() for folder in (self.folder, self.out)):
            return
        for folder in (self.folder, self.replaced):
            if (folder / MANIFEST_NAME).exists() and not folder.is_symlink():
                with contextlib.suppress(OSError):
                    self.folder.rmdir()  # empty, it was made here
                raise UsageError(
                    f"{folder} is a finished set, and has the name of a folder that is needed, and removed, to make "
                    f"{self.out}; rename it, or choose another name for this one"
                )

    def prepare(self, digest: str) -> bool:
        """Prepare the work folder for the plan with this digest; return whether work of another plan was discarded.

        The digest is not flushed to the disk yet, see :meth:`flush_plan`; without it a build starts from nothing.
        Raises ``UsageError`` if the folder holds something that no build created, or cannot become OUT.
        """
        try:
            expect_no_mount(self.out)
        except UsageError:
            with contextlib.suppress(OSError):
                self.folder.rmdir()  # empty, it was made here
            raise
        for folder in (self.folder, self.replaced):
            strangers = listed(foreign_files(folder), most=_SHOWN) if folder.is_dir() else ""
            if strangers and not (folder / WORK).is_dir():
                raise UsageError(f"{folder} holds files that no build created ({strangers}); move them away")
        set_mode(self.folder, 0o755, folder=self.folder)
        if self.plan == digest.encode("ascii"):
            return False
        discarded = any(self.folder.iterdir())
        remove_set(self.folder, keep_folder=True)
        self.work.mkdir()
        write_file(self.work / PLAN, digest.encode("ascii"))
        return discarded

    def flush_plan(self) -> None:
        """Flush what :meth:`prepare` has written to the disk; may run while shards are built."""
        sync_file(self.work / PLAN)
        sync_folder(self.work)

    def publish(self) -> None:
        """Give the complete set, which is flushed already, its name; an old set is swapped as a whole."""
        if not self.out.exists() or not any(self.out.iterdir()):
            rename_folder(self.folder, self.out, last=MANIFEST_NAME)
        elif not rename_specially(self.folder, self.out, "exchange"):
            rename_folder(self.out, self.replaced, last=MANIFEST_NAME)
            rename_folder(self.folder, self.out, last=MANIFEST_NAME)
        sync_folder(self.out.parent)

    def clean_up(self, *, keep_folder: bool = False) -> None:
        """Remove what is left after :meth:`publish`: an old set, then the work folder.

        ``keep_folder`` only empties the staging folder, because the build that goes on holds its lock.
        """
        remove_set(self.folder, keep_folder=keep_folder)
        remove_set(self.replaced)
        remove(self.out / WORK)
        sync_folder(self.out)

    def clean_up_after_a_kill(self) -> None:
        """Remove what is left where a process was killed after :meth:`publish`, if anything is."""
        owner = self.folder.with_name(f"{self.folder.name}{OWNER_ENDING}")
        if (self.out / WORK).is_dir() or owner.exists():
            with self.locked():
                self.clean_up()

    def remove_partials(self) -> None:
        """Remove what a process has left that was killed while it wrote."""
        for partial in [*self.work.glob(f"{PARTIAL_PREFIX}*"), *self.folder.glob(f"{PARTIAL_PREFIX}*")]:
            partial.unlink(missing_ok=True)

    def keep_finished(self) -> str:
        """Remove partial files, and the folder if no shard was finished; return a message about what is kept."""
        if not self.folder.is_dir():
            return ""
        self.remove_partials()
        finished = len(list(self.work.glob(f"*{RECORD_ENDING}")))
        if finished or (self.folder / MANIFEST_NAME).exists():
            return f"{finished} finished shard{' is' if finished == 1 else 's are'} kept in {self.folder}"
        if self.plan or not any(self.folder.iterdir()):
            remove_set(self.folder)
        return ""


def foreign_files(folder: Path) -> list[str]:
    """Return the names in a folder that no build creates, sorted."""
    known = (MANIFEST_NAME, AUDIT_NAME, OLD_AUDIT_NAME, WORK)
    return sorted(path.name for path in folder.iterdir() if path.name not in known and not is_set_file(path.name))


def check_target(out: Path) -> None:
    """Raise ``UsageError`` for an OUT that is a file, holds something other than a shard set, or is inside one."""
    if Path(os.path.realpath(out)).is_symlink():
        raise UsageError(f"{out} is a link that leads in a circle; name a folder that does not exist yet")
    expect_outside(out, advice="choose another folder")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder that does not exist yet")
    if out.is_dir() and any(out.iterdir()):
        strangers = listed(foreign_files(out), most=_SHOWN)
        # Without a manifest but with .work: being copied when it was killed, where folders cannot be renamed.
        if strangers or not ((out / MANIFEST_NAME).exists() or (out / WORK).is_dir()):
            what = f"files that are not part of a shard set ({strangers})" if strangers else "no finished set"
            raise UsageError(f"{out} is not empty and holds {what}; choose another folder")


def remove_set(folder: Path, *, keep_folder: bool = False) -> None:
    """Remove a set's folder (or what is in it), if it exists; the manifest first, so that no half of it looks whole.

    What no build creates stays, and the folder with it; so does what a link leads to.
    """
    if folder.is_dir() and not folder.is_symlink():
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        foreign = {name for name in foreign_files(folder) if not name.startswith(PARTIAL_PREFIX)}
        for entry in sorted(folder.iterdir()):
            if entry.name not in foreign:
                remove(entry)
        if not keep_folder and not foreign:
            folder.rmdir()


def remove(path: Path) -> None:
    """Remove a file or a folder with everything in it, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _lock_folder(folder: Path) -> tuple[int, bool]:
    """Create, open and lock a folder; return its file descriptor, and whether there are locks."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        folder.mkdir(exist_ok=True)
        with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, handle)
            outcome = lock_at_once(handle, folder=folder)
            if outcome != "busy":
                if os.fstat(handle).st_ino == folder.stat().st_ino:  # else the other build has just published it
                    stack.pop_all()
                    return handle, outcome == "locked"
                continue
        if time.monotonic() > deadline:
            raise BusyError(_busy(folder))
        time.sleep(0.05)


def _busy(folder: Path, who: str = "") -> str:
    return f"another build is at work in {folder}{who}; wait for it to end, or choose another folder"
