"""Damaged samples, and the policy for them while a loader runs."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from shards.errors import SampleError, UsageError, counted, is_whole_number, option, printable

OnError = Literal["stop", "replace"]

log = logging.getLogger("petseg.loader")


class DamagedSamples(Exception):  # noqa: N818 - a list of samples, never shown to the user
    """Samples of one batch that cannot be used; caught by the loader, which knows the policy.

    ``reasons`` has, by position in the batch, a message with the sample's location and what is wrong with it.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = dict(reasons)


class DamagedSampleError(SampleError):
    """A damaged sample stops a loader that could have replaced it: the message says so.

    ``found`` is the message without that, see :func:`without_replacement`.
    """

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}, or replace damaged samples, with {option('on_error', 'replace')}")
        self.found = found


@contextmanager
def without_replacement() -> Iterator[None]:
    """Within the block, a damaged sample is an error that does not name ``on_error``: for those who do not offer it."""
    try:
        yield
    except DamagedSampleError as error:
        raise SampleError(error.found) from None


@dataclass
class DamagePolicy:
    """Counts damaged samples and decides when to stop.

    Batches are prepared in advance, by several threads; what they find counts when its batch is delivered, in order.
    """

    on_error: OnError  # stop: the first one raises; replace: another sample takes its place, marked invalid
    budget: int  # how many different samples may be replaced before the loader stops all the same
    check_set: Callable[[], None] = lambda: None  # raises if the set is not there any more: then no sample is damaged
    damaged: dict[int, str] = field(default_factory=dict)  # by sample index: what is wrong, in all delivered batches
    _undelivered: set[int] = field(default_factory=set)  # found, in batches that were not delivered yet

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "replace"):
            raise UsageError(f"on_error {self.on_error!r} is unknown; use stop or replace")
        if not is_whole_number(self.budget, 0):
            raise UsageError(f"max_damaged must be a whole number of 0 or more, not {self.budget!r}")

    def may_replace(self, found: Mapping[int, str]) -> bool:
        """Record the damaged samples of a batch (reasons by index); False if :meth:`admit` will raise for them."""
        self._undelivered.update(found)
        return self.on_error == "replace" and len({*self.damaged, *found}) <= self.budget

    def is_known(self, index: int) -> bool:
        """Whether a sample was found to be damaged, delivered or not."""
        return index in self.damaged or index in self._undelivered

    def forget(self) -> None:
        """Forget what was found in batches that will not be delivered."""
        self._undelivered.clear()

    def admit(self, found: Mapping[int, str]) -> None:
        """Count the damaged samples (reasons by sample index) of a batch that is about to be delivered.

        Raises ``SampleError`` if the policy is to stop or the budget is exceeded, and what ``check_set`` raises.
        """
        if not found:
            return
        self.check_set()
        if self.on_error == "stop":
            first, *others = found.values()
            more = f" (and {len(others)} more in the same batch)" if others else ""
            raise DamagedSampleError(f"{first}{more}; run petseg-shard verify")
        for index, reason in found.items():
            if index not in self.damaged:
                self.damaged[index] = reason
                log.warning("replaced a damaged sample (%d so far): %s", len(self.damaged), printable(reason))
        if len(self.damaged) > self.budget:
            last, found_all = next(reversed(self.damaged.values())), counted(len(self.damaged), "damaged sample")
            raise SampleError(
                f"{found_all}, more than {option('max_damaged', self.budget)} allows; the last one: {last}; run "
                "petseg-shard verify"
            )
