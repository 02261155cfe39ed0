"""Which signals ask a training to stop, and with which exit code it then ends."""

from __future__ import annotations

import os
import signal

import pytest

from petseg.host.stop_signals import InterruptedRunError, catch_stop_signals, parse_signals
from shards.errors import UsageError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_each_signal_is_a_request(number: int) -> None:
    before = signal.getsignal(number)
    with catch_stop_signals(further=parse_signals("USR2")) as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert signal.getsignal(number) == before


def test_others_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    with catch_stop_signals():
        assert signal.getsignal(signal.SIGUSR2) == before
        assert signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
        with catch_stop_signals(further=parse_signals("HUP")) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal == signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_names_of_signals() -> None:
    assert parse_signals("") == ()
    assert parse_signals("usr2, SIGHUP,") == (signal.SIGUSR2, signal.SIGHUP)


@pytest.mark.parametrize("names", ["KILL", "USR3", "12", "USR2;HUP", "STOP", "CHLD"])
def test_other_names_are_refused(names: str) -> None:
    with pytest.raises(UsageError, match=f"stop_signal='{names}': .* is not one of HUP, "):
        parse_signals(names)


def test_exit_codes() -> None:
    """75 says that there is a checkpoint; 143 would also be that of a process that SIGTERM has killed."""
    codes = {number: InterruptedRunError("", number=number).exit_code for number in (1, 2, 10, 12, 15)}
    assert codes == {1: 75, 2: 130, 10: 75, 12: 75, 15: 75}
