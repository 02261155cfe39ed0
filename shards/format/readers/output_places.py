"""Where results may be written: over no file unasked, and nowhere inside a shard set or a run.

Every command that writes asks here before it computes anything. A set's and a run's folder hold nothing else, so that
what finds files there by their names finds theirs.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from shards.errors import UsageError, option
from shards.format.layout import FORMAT, MANIFEST_NAME, RUN_CHECKPOINTS, SPLITS, table_name
from shards.store.byte_ranges import ByteRanges

LONGEST_NAME: Final = 255  # bytes, of every common file system
LOOKED_AT: Final = 200  # bytes of a manifest, or of a run's configuration, which name their format first
# Of a run's folder, see petseg.runs.run_folder. Other programs, too, have a config.json, or keep a best.pt.
RUN_CONFIG: Final = "config.json"
RUN_FORMAT: Final = "petseg-run"


def expect_outside(place: Path, *, itself: bool = False, advice: str = "choose another place") -> None:
    """Raise ``UsageError`` if a file or folder is, or would be, inside a shard set or a run; follows links.

    ``itself``: also if it is one.
    """
    real = Path(os.path.realpath(place))
    folders = (real, *real.parents) if itself else real.parents
    for folder, what in _kept(folders):
        raise UsageError(f"{folder} is {what}, which keeps its folder to itself; {advice}")


def expect_replaceable(file: Path, *, overwrite: bool, advice: str = "choose another name") -> None:
    """Raise ``UsageError`` for a folder, a device or a pipe, and without ``overwrite`` for anything that exists."""
    if file.is_dir():
        raise UsageError(f"{file} is a folder; {advice}")
    if file.exists() and not file.is_file():
        raise UsageError(f"{file} is not a file; {advice}")
    if (file.exists() or file.is_symlink()) and not overwrite:
        raise UsageError(f"{file} exists already; {advice}, or add {option('overwrite', True)}")


def expect_folder(folder: Path, *, advice: str) -> None:
    """Raise ``UsageError`` if results cannot be written into a folder of this name, because it is something else."""
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise UsageError(f"{folder} is a file; {advice}")


def expect_no_mount(folder: Path) -> None:
    """Raise ``UsageError`` for a folder that a disk or another folder is mounted on: no other can take its place."""
    real = os.path.realpath(folder)
    mounted = os.path.ismount(real)
    with contextlib.suppress(OSError):  # where Linux tells of a folder that is mounted on one of the same disk
        name = re.sub(rb"[ \t\n\\]", lambda found: b"\\%03o" % found[0][0], os.fsencode(real))
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
        mounted = mounted or any(line.split(b" ")[4] == name for line in lines)
    if mounted:
        empty = not any(folder.iterdir())
        advice = f"name a folder in it, such as {folder / 'NAME'}" if empty else "unmount it, or choose another folder"
        raise UsageError(f"{folder}: a disk or a folder is mounted there, so nothing can take its place; {advice}")


def places_of(path: Path) -> set[object]:
    """Return what tells a file from all others, whatever links to it; CAT.png and cat.png, too, may be one file."""
    places: set[object] = {os.path.realpath(path)}
    with contextlib.suppress(OSError):
        status = path.stat()
        places.add((status.st_dev, status.st_ino))
    return places


def expect_free(
    *files: Path,
    overwrite: bool,
    read: Path | None = None,
    advice: str = "choose another name",
    folder_is_made: bool = False,
) -> None:
    """Raise ``UsageError`` if a result must not, or cannot, be written as these files; see the functions above.

    ``read`` is what the result is made from: not even ``overwrite`` replaces that.
    ``folder_is_made``: its folder need not exist.
    """
    for file in files:
        if read is not None and not places_of(file).isdisjoint(places_of(read)):
            raise UsageError(f"{file} is what is read, and would be overwritten; {advice}")
        expect_outside(file, advice=f"choose another folder for {file.name}")
        if not folder_is_made and not file.parent.is_dir():
            raise UsageError(f"there is no folder {file.parent} to write {file.name} into; make it first, or {advice}")
        if len(os.fsencode(file.name)) > LONGEST_NAME:
            raise UsageError(f"{file.name[:40]}...: the name is longer than the file system takes; {advice}")
        expect_replaceable(file, overwrite=overwrite, advice=advice)


def expect_ending(file: Path, *endings: str, advice: str = "") -> str:
    """Return how the name of a result ends, in lower case; ``UsageError`` unless that says what the file will hold."""
    ending = file.suffix.lower()
    if ending not in endings:
        raise UsageError(f"{file}: the name must end in {' or '.join(endings)}{advice}")
    return ending


def is_manifest(start: bytes) -> bool:
    """Return whether a file that starts like this (:data:`LOOKED_AT` bytes suffice) is a set's manifest."""
    return f'"{FORMAT}"'.encode() in start[:LOOKED_AT]


def is_run_config(file: Path) -> bool:
    """Return whether a file is the configuration of a run."""
    return f'"{RUN_FORMAT}"'.encode() in _start(file)


def _kept(folders: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the folders that are a set's or a run's; of the first one, a damaged manifest or a checkpoint says so."""
    for number, folder in enumerate(folders):
        first = number == 0
        if is_manifest(_start(folder / MANIFEST_NAME)) or (first and _holds(folder, map(table_name, SPLITS))):
            yield folder, "a shard set"
        elif is_run_config(folder / RUN_CONFIG) or (first and _holds(folder, RUN_CHECKPOINTS)):
            yield folder, "a run"


def _start(file: Path) -> bytes:
    with contextlib.suppress(OSError), ByteRanges(file) as opened:
        return opened.read(0, LOOKED_AT)
    return b""


def _holds(folder: Path, names: Iterable[str]) -> bool:
    with contextlib.suppress(OSError):
        return any((folder / name).exists() for name in names)
    return False
