"""Batches made on the host are copied to a CUDA device, from page-locked memory, by a stream of its own.

Only from page-locked memory does a copy run while the host goes on; and only then must the memory be left alone until
the copy has finished. That is what :class:`HeldMemory` is for: it keeps what the device may still read.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.engine import BatchWork, Engine
from pipeline.io.scratch import Bytes

if TYPE_CHECKING:
    import torch


MOST_COPIES = 2  # that are not finished: the batch that is handed over, and the next one


class DeviceEvent(Protocol):
    """A place in a device's queue of work, as ``torch.cuda.Event``."""

    def query(self) -> bool:
        """Whether the device has got there."""

    def synchronize(self) -> None:
        """Wait until it has."""


class CopyStream(Protocol):
    """Copies to a device, in order, beside the work of other streams."""

    def copy(self, tensors: "Sequence[torch.Tensor]") -> "tuple[list[torch.Tensor], Any, DeviceEvent]":
        """Queue copies; return them, what must stay as it is until then, and the event after them."""

    def hand_over(self, copies: "Sequence[torch.Tensor]", event: DeviceEvent) -> None:
        """Let work that is queued from now on, on the caller's stream, wait for the event; the host does not."""


class HeldMemory:
    """Holds objects until the device has passed an event, for at most ``most`` events.

    With one more, the host waits for the first of them: it is then that many batches ahead of the device.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: deque[tuple[DeviceEvent, Any]] = deque()

    def hold(self, what: Any, until: DeviceEvent) -> None:
        """Hold ``what`` until the device has passed ``until``, and drop what it has passed."""
        self._held.append((until, what))
        while self._held and self._held[0][0].query():
            self._held.popleft()
        while len(self._held) > self._most:
            self._held[0][0].synchronize()
            self._held.popleft()

    def clear(self) -> None:
        """Wait for all events, and drop everything."""
        while self._held:
            self._held[0][0].synchronize()
            self._held.popleft()


class CudaCopyStream:
    """A stream of a CUDA device."""

    def __init__(self, device: "torch.device") -> None:
        import torch

        self._device = device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(self, tensors: "Sequence[torch.Tensor]") -> "tuple[list[torch.Tensor], Any, DeviceEvent]":
        """Queue copies; what is not in page-locked memory, as worker processes' batches, is copied to some first."""
        import torch

        sources = [tensor if tensor.is_pinned() else tensor.pin_memory() for tensor in tensors]
        with torch.cuda.stream(self._stream):
            copies = [source.to(self._device, non_blocking=True) for source in sources]
            return copies, sources, self._stream.record_event()

    def hand_over(self, copies: "Sequence[torch.Tensor]", event: DeviceEvent) -> None:
        """Let the current stream wait; the memory of the copies is reused only after its work on them."""
        import torch

        current = torch.cuda.current_stream(self._device)
        current.wait_event(event)  # type: ignore[arg-type]
        for copy in copies:
            copy.record_stream(current)


def page_locked(shape: tuple[int, ...]) -> Bytes:
    """Return an uninitialised array, uint8, in page-locked memory; only where there is CUDA."""
    import torch

    array: Bytes = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
    return array


class CopyingEngine:
    """Makes batches with an engine of the host, and delivers copies of them on a device.

    The copies of the next batch are queued before the caller's work on the present one, unless worker processes make
    it: they may not be done yet.
    """

    def __init__(self, host: Engine, stream: CopyStream, *, most: int) -> None:
        self._host, self._stream = host, stream
        self._held = HeldMemory(most)
        self.name, self.makers, self.batch_bytes = host.name, host.makers, host.batch_bytes
        self.ahead = 1 if host.makers else 0

    def prepare(self, work: BatchWork) -> Any:
        """Do the host's part."""
        return self._host.prepare(work)

    def start(self, prepared: Any) -> Any:
        """Queue the copies of a batch that is made."""
        started = self._host.start(prepared)
        return self._copy(started) if self.ahead else started

    def finish(self, started: Any) -> "tuple[torch.Tensor, torch.Tensor]":
        """Hand the copies over to the caller's stream, which waits for them; the host does not."""
        (image, mask), event = started if self.ahead else self._copy(started)
        self._stream.hand_over((image, mask), event)
        return image, mask

    def close(self) -> None:
        """Close the host's engine, after the copies that still read its memory."""
        self._held.clear()
        self._host.close()

    def _copy(self, started: Any) -> "tuple[list[torch.Tensor], DeviceEvent]":
        tensors = self._host.finish(started)
        copies, sources, event = self._stream.copy(tensors)
        self._held.hold((tensors, sources), event)
        return copies, event
