"""What a build that was interrupted keeps, and how it goes on, added to the error that ended it."""

import errno
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from shards.errors import FULL_DISK, PetsegError, TerminatedError, spelled


@contextmanager
def interruptions_explained(place: str, kept: Callable[[BaseException], str]) -> Iterator[None]:
    """Within the block, say with an error that ends a build what is kept.

    Args:
        place: where the build writes, for errors of a disk that name no file.
        kept: returns what is kept, as a clause, or "" for nothing; called once, with the error.
    """
    try:
        yield
    except (BrokenProcessPool, KeyboardInterrupt, OSError, PetsegError, TerminatedError) as error:
        text = kept(error)
        if isinstance(error, BrokenProcessPool):
            what = f"a worker process was killed, perhaps for lack of memory{'; ' * bool(text)}{text}"
            advice = spelled("run the same command again, with a smaller --workers if it happens again")
            raise PetsegError(f"{what}; {advice}") from None
        if isinstance(error, KeyboardInterrupt | TerminatedError):
            error.add_note(f"{text}; run the same command again to resume" if text else "nothing was finished yet")
        elif isinstance(error, OSError):
            if error.filename is None and error.errno in FULL_DISK | {errno.EIO}:
                error.filename = place
            if text:
                error.add_note(text)
        raise
