"""What every loader should deliver: made by our loader, once for each kind of work, and kept in the workspace."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import msgspec

from bench.driver import PeerProcess
from bench.job import Job
from bench.peers import PEERS


class References:
    """Makes references where they are asked for, all in one process of our loader; a context manager that ends it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._process: PeerProcess | None = None

    def __enter__(self) -> References:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, job: Job) -> Path:
        """Return the folder with what this job's storage should deliver, made with the engine that our loader takes.

        Raises:
            CheckError: our loader failed.
        """
        words = ["reference", job.storage, job.mask, *(["augmented"] if job.augment else [])]
        folder = self._folder / "-".join(words)
        if not folder.exists():
            ours = next(spec for spec in PEERS if spec.ours)
            plain = msgspec.structs.replace(job, peer=ours.name, engine="auto", device="cpu", workers=0)
            if self._process is None:
                self._process = self._stack.enter_context(PeerProcess(plain))
            self._process.ask("reference", job=msgspec.to_builtins(plain), folder=str(folder))
        return folder
