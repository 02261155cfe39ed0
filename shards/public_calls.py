"""Calls of the public functions from Python: what was meant by a wrong argument, and NumPy's numbers as Python's."""

import functools
import inspect
import numbers
import operator
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from shards.errors import UsageError, counted, did_you_mean, listed

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


def plain_numbers(value: Any) -> Any:
    """Return an argument with NumPy's numbers and truth values, also those in lists and the like, as Python's own.

    An array of one dimension is a tuple: compared with a name, it would be no answer but several.
    """
    numpy = sys.modules.get("numpy")  # not imported: no value is of it
    if numpy is not None and isinstance(value, numpy.bool_ | numpy.ndarray) and value.ndim < 2:
        value = value.tolist()
        return tuple(value) if isinstance(value, list) else value
    if type(value) in (list, tuple):
        return type(value)(map(plain_numbers, value))
    if type(value) is dict:
        return {name: plain_numbers(each) for name, each in value.items()}
    if isinstance(value, bool | str) or not isinstance(value, numbers.Real):
        return value
    return operator.index(value) if isinstance(value, numbers.Integral) else float(value)
