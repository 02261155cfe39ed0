"""The key-value store through which the ranks of one start find each other, before there is a process group."""

import functools
import os
import threading
import time
import uuid
from datetime import timedelta

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from shards.errors import PetsegError, UsageError, first_line

WAIT = timedelta(minutes=10)  # for a rank that starts later, or fetches an encoder's weights first
_POLL_SECONDS = 0.02
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class MeetingError(PetsegError):
    """The ranks do not reach each other; nothing was written."""


@functools.cache
def meeting_store(rank: int, size: int) -> Store:
    """Return the store that the ranks of this start share, and no process of an earlier one.

    Kept, because without torchrun rank 0 serves it to the others.

    Raises:
        UsageError: neither torchrun nor the user has said where the ranks meet.
        MeetingError: not all of them came.
    """
    if missing := [name for name in _NEEDED if not os.environ.get(name)]:
        raise UsageError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; start the "
            "processes with torchrun, or set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and "
            "MASTER_PORT for each"
        )
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store = _rendezvous()
        return PrefixStore(f"petseg/{_name_of_start(store, rank, size)}", store)
    except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError
        raise MeetingError(
            f"rank {rank} does not meet the other {size - 1} processes at {where} ({first_line(error)}); this address "
            "must be one of rank 0's machine that all machines reach, and the port must be free there"
        ) from None


def wait_for_one(store: Store, *keys: str, rank: int) -> str:
    """Wait for one of the keys, which rank ``rank`` writes, and return it.

    By looks, because a signal, of Ctrl-C, a scheduler or torchrun, is not handled while a ``get`` of torch's waits.

    Raises:
        MeetingError: that rank has ended, or has not written any.
    """
    deadline = time.monotonic() + WAIT.total_seconds()
    while True:
        try:
            for key in keys:
                if store.check([key]):
                    return key
        except RuntimeError as error:  # without torchrun rank 0 serves the store
            raise MeetingError(
                f"rank {rank} is not reached any more ({first_line(error)}); its own output says why"
            ) from None
        if time.monotonic() > deadline:
            raise MeetingError(f"rank {rank} has not answered within {WAIT}")
        time.sleep(_POLL_SECONDS)


def _rendezvous() -> Store:
    """Return torch's store; made in a thread, because signals are not handled while it waits for the other ranks."""
    met, failed = list[Store](), list[Exception]()

    def meet() -> None:
        try:
            met.append(next(rendezvous("env://", timeout=WAIT))[0])
        except Exception as error:  # noqa: BLE001 - raised below
            failed.append(error)

    thread = threading.Thread(target=meet, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
    for error in failed:
        raise error
    return met[0]


def _name_of_start(store: Store, rank: int, size: int) -> str:
    """Return one new name on all ranks: what is under it was written by processes of this start.

    torchrun may serve one store for several starts, and a machine that joins later counts its restarts from zero, so
    neither says which start this is. Each rank leaves a token of its own; rank 0 answers every token that it finds,
    also those of dead processes, until each rank has confirmed an answer.
    """
    token = uuid.uuid4().hex
    if rank:
        store.set(f"petseg/token/{rank}", token)
        name = store.get(wait_for_one(store, f"petseg/answer/{token}", rank=0)).decode()
        store.set(f"petseg/confirmed/{name}/{rank}", "")
        return name
    missing, deadline = set(range(1, size)), time.monotonic() + WAIT.total_seconds()
    answered = set[str]()
    while missing:
        for other in sorted(missing):
            if store.check([f"petseg/confirmed/{token}/{other}"]):
                missing.discard(other)
            elif store.check([f"petseg/token/{other}"]):
                theirs = store.get(f"petseg/token/{other}").decode()
                if theirs not in answered:
                    store.set(f"petseg/answer/{theirs}", token)
                    answered.add(theirs)
        if missing and time.monotonic() > deadline:
            raise ValueError(f"rank {min(missing)} has not come")
        time.sleep(_POLL_SECONDS)
    return token
