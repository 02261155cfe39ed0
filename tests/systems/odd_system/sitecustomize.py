"""Makes a Python process, and the processes that it starts, see another operating system than there is.

Python imports a module of this name at its start where its folder is on PYTHONPATH. PETSEG_ODD_SYSTEM is JSON:
``{"fail": {"fchmod": "EPERM"}}``. A name in ``fail`` is a function of os or fcntl, which then raises this error;
``fsync_folder`` and ``fsync_file`` are os.fsync by what it is called with, ``rename_folder`` is os.rename or replace
of a folder. PETSEG_ODD_SYSTEM_LOG is a file that gets a line for each refusal.
"""

import errno
import functools
import json
import os
import stat


def install(wanted):
    """Replace functions of os and fcntl by ones that fail as ``wanted`` says; return a function that undoes it."""
    import fcntl

    failures = {name: getattr(errno, code) for name, code in wanted.get("fail", {}).items()}
    replaced = []

    def replace(module, name, choose):
        original = getattr(module, name)

        @functools.wraps(original)
        def refusing(*args, **kwargs):
            failure = choose(*args, **kwargs)
            if failure in failures:
                _note(failure)
                code = failures[failure]
                names = [os.fspath(each) for each in args[:1] if isinstance(each, str | bytes | os.PathLike)]
                raise OSError(code, os.strerror(code), *names)
            return original(*args, **kwargs)

        replaced.append((module, name, original))
        setattr(module, name, refusing)

    def of_fsync(descriptor):
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        return "fsync_folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "fsync_file"

    def of_rename(source, target, **_):
        return "rename_folder" if os.path.isdir(source) else "rename_file"  # noqa: PTH112

    for name in ("fchmod", "chmod", "link", "symlink", "memfd_create", "posix_fallocate", "statvfs"):
        replace(os, name, lambda *_, _name=name, **__: _name)
    replace(os, "fsync", of_fsync)
    replace(os, "rename", of_rename)
    replace(os, "replace", of_rename)
    replace(fcntl, "flock", lambda *_: "flock")
    replace(fcntl, "lockf", lambda *_: "lockf")
    if "renameat2" in failures:
        _refuse_renameat2(failures["renameat2"], replaced)

    def undo():
        for module, name, original in replaced:
            setattr(module, name, original)

    return undo


def _refuse_renameat2(code, replaced):
    import ctypes

    original = ctypes.CDLL

    class Library(original):
        def __getattr__(self, name):
            if name != "renameat2":
                return super().__getattr__(name)

            def renameat2(*_):
                _note("renameat2")
                ctypes.set_errno(code)
                return -1

            return renameat2

    replaced.append((ctypes, "CDLL", original))
    ctypes.CDLL = Library


def _note(failure):
    if log := os.environ.get("PETSEG_ODD_SYSTEM_LOG"):
        with open(log, "a") as file:  # noqa: PTH123
            file.write(f"{failure}\n")


if "PETSEG_ODD_SYSTEM" in os.environ:
    install(json.loads(os.environ["PETSEG_ODD_SYSTEM"]))
