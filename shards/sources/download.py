"""The real dataset: torchvision's addresses, its checksums, and its way of unpacking."""

import contextlib
import hashlib
import http.client
import json
import os
import socket
import tarfile
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from shards.console import progress_bar
from shards.errors import FULL_DISK, SourceError, TerminatedError, UsageError, option
from shards.format.readers.output_places import expect_folder, expect_outside
from shards.store.addresses import without_secrets
from shards.store.atomic import atomic_file, write_atomically
from shards.store.byte_ranges import read_regular

MARK = ".downloaded.json"  # written last: which archives are unpacked here
_CHUNK = 1 << 16  # bytes
_TIMEOUT = 60.0  # seconds without a byte after which a connection is given up


def official_archives(mirror: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return the addresses of the dataset's archives (at ``mirror``/FILE, if given) and their MD5, from torchvision.

    Raises ``UsageError`` if the mirror is not an http, https or file address, or holds a user, a password or a query.
    """
    if mirror is not None:  # checked before torchvision is imported, which takes seconds
        shown = without_secrets(mirror)
        try:
            parts = urlsplit(mirror)
            local = parts.scheme == "file"
            secret = "@" in parts.netloc or (not local and bool(parts.query or parts.fragment))
            complete = local or secret or (bool(parts.hostname) and parts.port != 0)
        except ValueError:
            raise UsageError(f"{option('mirror', shown)} is not an address") from None
        if parts.scheme not in ("http", "https", "file"):
            raise UsageError(f"{option('mirror', shown)} does not begin with http:, https: or file:")
        if secret:
            what = "an address must not hold a user, a password or a query, which end up in logs"
            raise UsageError(f"{option('mirror', shown)}: {what}")
        if not complete or any(letter <= " " or letter > "~" for letter in mirror):
            what = "is not an address of the form http://HOST/PATH; write %20 for a space"
            raise UsageError(f"{option('mirror', shown)} {what}")
    from torchvision.datasets import OxfordIIITPet

    archives = [(str(url), str(md5)) for url, md5 in OxfordIIITPet._RESOURCES]
    if mirror is not None:
        archives = [(f"{mirror.rstrip('/')}/{url.rsplit('/', 1)[1]}", md5) for url, md5 in archives]
    return tuple(archives)


def download(folder: Path, *, archives: Sequence[tuple[str, str]] | None = None) -> bool:
    """Download and unpack the dataset into ``folder``, in the official layout.

    Run again after an interruption, it keeps archives that arrived completely (by their MD5) and fetches the others.
    Files of other origin are never replaced.

    Args:
        folder: created if it does not exist.
        archives: (address, MD5) of each; default: :func:`official_archives`.

    Returns False if everything existed already. Raises ``SourceError`` for no network, no such file, or content that
    does not match its MD5, ``UsageError`` for a folder with other files of these names.
    """
    from torchvision.datasets.utils import extract_archive

    archives = official_archives() if archives is None else archives
    sums = [md5 for _, md5 in archives]
    with contextlib.suppress(OSError, ValueError, RecursionError):
        marked = json.loads(read_regular(folder / MARK))
        if marked == sums and (folder / "images").is_dir() and (folder / "annotations").is_dir():
            return False
    expect_folder(folder, advice="choose another folder")
    expect_outside(folder, itself=True, advice="choose another folder")
    files = [folder / url.rsplit("/", 1)[1] for url, _ in archives]
    missing = [file for file, md5 in zip(files, sums, strict=True) if not _has_arrived(file, md5)]
    folder.mkdir(parents=True, exist_ok=True)
    for (url, md5), file in zip(archives, files, strict=True):
        with _plain_errors(url, folder):
            if file in missing:
                _fetch(url, file, md5)
            extract_archive(str(file), str(folder))
    write_atomically(folder / MARK, json.dumps(sums) + "\n")
    return True


def _has_arrived(file: Path, md5: str) -> bool:
    """Return whether an archive is there; raise ``UsageError`` if something else is, or the folder that it unpacks to.

    What is on its way has another name, and is not unpacked.
    """
    if not os.path.lexists(file):
        unpacked = file.with_name(file.name.removesuffix(".tar.gz"))
        if os.path.lexists(unpacked):
            raise UsageError(f"{unpacked} exists already, without {file.name}; choose another folder, or remove it")
        return False
    if file.is_file():
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, _md5).hexdigest() == md5:
                return True
    raise UsageError(
        f"{file} exists already, and is not the dataset's archive, or only a part; choose another folder, or remove it"
    )


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


def _fetch(url: str, file: Path, md5: str) -> None:
    """Download a file, which appears when it is complete; ``SourceError`` if that is not what it should be."""
    digest = _md5()
    request = urllib.request.Request(url, headers={"User-Agent": "petseg"})
    with (
        urllib.request.urlopen(request) as response,
        progress_bar(file.name) as progress,
        atomic_file(file, replace=False) as handle,
    ):
        length = int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(_CHUNK):
            handle.write(chunk)
            digest.update(chunk)
            if progress is not None:
                progress(handle.tell(), max(length, handle.tell()))
        if digest.hexdigest() != md5:
            if handle.tell() < length:
                what = f"the server broke off after {handle.tell():,} of {length:,} bytes"
                raise SourceError(f"cannot download {url}: {what}; run the same command again")
            raise SourceError(
                f"{url}: what arrived, {handle.tell():,} bytes, is not what torchvision expects (its MD5 is another); "
                "run the same command again"
            )


@contextlib.contextmanager
def _plain_errors(url: str, folder: Path) -> Iterator[None]:
    """Turn what urllib and torchvision raise into one line; give up on a silent server."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    again = "run the same command again"
    try:
        yield
    except (KeyboardInterrupt, TerminatedError) as error:
        error.add_note(f"complete archives are kept in {folder}; {again} to resume")
        raise
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise SourceError(f"{url}: the archive cannot be unpacked: {error}; {again}") from None
    except http.client.HTTPException as error:
        what = f"the server broke off or does not speak HTTP ({type(error).__name__}: {error})"
        raise SourceError(f"cannot download {url}: {what}; {again}") from None
    except FileExistsError as error:
        what = "another process has downloaded or unpacked it meanwhile"
        raise SourceError(f"{error.filename}: {what}; when that has ended, {again}") from None
    except OSError as error:
        if error.filename is None and error.errno in FULL_DISK:  # tarfile names no file
            error.filename = str(folder)
        if error.filename is not None and not hasattr(error, "reason") and not hasattr(error, "code"):
            raise  # about a file on this machine: the console explains it
        reason = getattr(error, "reason", None) or error
        raise SourceError(
            f"cannot download {url}: {reason}; check the network and {again}, or get the dataset "
            f"elsewhere, unpack images.tar.gz and annotations.tar.gz in {folder} and build from there"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
