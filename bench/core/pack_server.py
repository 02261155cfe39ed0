"""What a process that packs does on command."""

import importlib
import os
import shutil
import time

from bench.core.resources import cpu_seconds
from bench.core.subject_process import PackJob
from bench.peers.base import files_under
from bench.results.records import Repeat


class PackServer:
    """One way to pack."""

    def __init__(self, job: PackJob) -> None:
        self.job = job
        if job.module:
            importlib.import_module(job.module)

    def pack(self) -> tuple[Repeat, int]:
        """Pack once; return what that cost, and how many bytes came out."""
        out = self.job.out
        start, cpu = time.perf_counter(), cpu_seconds(os.getpid())
        self.job.run(out)
        os.sync()  # all ways pay for writing, not only those that flush by themselves
        seconds, cpu = time.perf_counter() - start, cpu_seconds(os.getpid()) - cpu
        size = sum(path.stat().st_size for path in files_under(out))
        if out.is_dir():
            shutil.rmtree(out)
        out.unlink(missing_ok=True)
        return Repeat(images=self.job.images, seconds=seconds, cpu_seconds=cpu), size

    def close(self) -> None:
        """Nothing is left to be stopped."""
