"""Calls of the public functions from Python: what was meant by a wrong argument, and NumPy's numbers as Python's."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from shards.errors import UsageError, counted, did_you_mean, listed, plain_numbers

_P = ParamSpec("_P")
_R = TypeVar("_R")


class ArgumentNameError(UsageError, TypeError):
    """A function has no argument of this name, or wants a name for it; a ``TypeError``, as Python's own."""


def suggests_names(function: Callable[_P, _R], *, otherwise: Callable[[str], str] = lambda _: "") -> Callable[_P, _R]:
    """Have a public function say what was meant by a wrong argument, and take NumPy's numbers as Python's.

    Of a wrong name that is the nearest one, or what ``otherwise`` returns as the end of the message; of an argument
    without a name, where it needs one, the names that there are.
    """
    parameters = {name: each for name, each in inspect.signature(function).parameters.items() if name != "self"}
    places = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    of_self = "self" in inspect.signature(function).parameters
    called = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def checked(*args: _P.args, **options: _P.kwargs) -> _R:
        for name in options.keys() - parameters.keys():
            meant = did_you_mean(name, parameters) or otherwise(name)
            raise ArgumentNameError(f"{called}() has no argument {name}{meant}")
        if (given := len(args) - of_self) > len(places):
            takes = f"takes {listed(places)} without a name" if places else "takes none without a name"
            raise ArgumentNameError(
                f"{called}() {takes}, not {counted(given, 'argument')}; write NAME=VALUE for the others: "
                f"{listed(name for name in parameters if name not in places)}"
            )
        return function(*map(plain_numbers, args), **plain_numbers(options))

    return checked
