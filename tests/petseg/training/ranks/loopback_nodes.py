"""Machines of one training, played by loopback addresses: each is a torchrun of its own, with one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from forked_programs import ForkedPopen
from torch.distributed import TCPStore

# 24 training images in batches of 10 make three steps an epoch, the last one with padding: 21 steps.
OPTIONS = {"size": 32, "widths": (8, 16), "epochs": 7, "batch_size": 10, "threads": 1, "lr": 1e-3, "drop_last": False}
ARGUMENTS = ["--size", "32", "--widths", "8,16", "--epochs", "7", "--batch-size", "10", "--threads", "1"]
ARGUMENTS += ["--lr", "1e-3", "--no-drop-last", "--device", "cpu"]

COMMAND = Path(__file__).with_name("undrawn_command.py")
# A rendezvous that waits briefly for further machines, and notices soon that one is gone.
RENDEZVOUS = "is_host=0,last_call_timeout=1,join_timeout=100,keep_alive_interval=1,keep_alive_max_attempt=4"


class LoopbackNodes:
    """A training's machines; the store where they meet is served here, so that any of them may die."""

    interface = "lo"

    def __init__(self, folder: Path, *, nodes: str, arguments: list[str], options: tuple[str, ...] = ()) -> None:
        self.folder, self._arguments = folder, arguments
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._end_point = f"127.0.0.1:{self._store.port}"
        where = ["--nnodes", nodes, "--nproc-per-node", "1", "--rdzv-id", "test", "--rdzv-backend", "c10d"]
        self._torchrun = ["torchrun", *where, "--monitor-interval", "0.1", *options]
        self.processes = list[subprocess.Popen[str]]()

    def prefix(self, address: str) -> list[str]:
        """Return what a machine's command begins with."""
        return []

    def meeting(self, address: str) -> list[str]:
        """Return a machine's options of where they meet."""
        return ["--rdzv-endpoint", self._end_point, "--rdzv-conf", RENDEZVOUS]

    def start(self, address: str, *, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Start the torchrun of a machine; what it prints is in ``ADDRESS.N.txt``."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": self.interface}
        # Of torch 2.14: with a shared store, a machine that comes back waits for an address that nobody sends again.
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        command = [*self.prefix(address), *self._torchrun, *self.meeting(address), "--local-addr", address]
        command += ["--no-python", "--", sys.executable, str(COMMAND)]
        output = self.folder / f"{address}.{len(self.processes)}.txt"
        with output.open("w") as stream:
            process = ForkedPopen(
                [*command, *self._arguments],
                env=environment,
                stdout=stream,
                stderr=stream,
                text=True,
                start_new_session=True,
                cwd=cwd,
            )
        self.processes.append(process)
        return process

    def wait(self, process: subprocess.Popen[str], *, seconds: float = 120) -> int:
        """Wait for the end of a machine's torchrun and return its exit code."""
        return process.wait(timeout=seconds)

    def output(self, process: subprocess.Popen[str]) -> str:
        """Return what a machine has printed."""
        (path,) = self.folder.glob(f"*.{self.processes.index(process)}.txt")
        return path.read_text()

    def wait_for(self, condition, *, seconds: float = 120) -> None:
        """Wait until ``condition()`` holds; fail if a machine has ended before."""
        deadline = time.monotonic() + seconds
        while not condition():
            for process in self.processes:
                assert process.poll() in (None, -signal.SIGKILL), self.output(process)
            assert time.monotonic() < deadline, "\n".join(map(self.output, self.processes))
            time.sleep(0.02)

    def kill(self, process: subprocess.Popen[str]) -> None:
        """End a machine as a power cut does: torchrun and its ranks at once."""
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait(timeout=20)

    def close(self) -> None:
        """End what is still running."""
        for process in self.processes:
            if process.poll() is None:
                self.kill(process)


class NamespaceNodes(LoopbackNodes):
    """Two machines that are network namespaces, with a cable between them; the first serves the store. Needs root."""

    interface = "cable"
    addresses = ("10.213.0.1", "10.213.0.2")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._names = {address: f"petseg-{os.getpid()}-{address[-1]}" for address in self.addresses}
        first, second = self._names.values()
        ip("netns", "add", first)
        ip("netns", "add", second)
        ip("-n", first, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", second)
        for address, name in self._names.items():
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def prefix(self, address: str) -> list[str]:
        return ["ip", "netns", "exec", self._names[address]]

    def meeting(self, address: str) -> list[str]:
        host = RENDEZVOUS.replace("is_host=0", f"is_host={int(address == self.addresses[0])}")
        return ["--rdzv-endpoint", f"{self.addresses[0]}:29500", "--rdzv-conf", host]

    def cut(self) -> None:
        """Take the cable out: connections are not closed, nothing arrives any more."""
        ip("-n", self._names[self.addresses[1]], "link", "set", "cable", "down")

    def close(self) -> None:
        super().close()
        for name in self._names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def ip(*arguments: str) -> None:
    """Run iproute2's command; the test is skipped where it may not be."""
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")


def descendants(pid: int) -> list[int]:
    """Return a process and all that it has started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(found for child in children for found in descendants(int(child)))]
