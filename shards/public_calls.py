"""Calls of the public functions from Python: what was meant by a wrong argument, and other libraries' numbers."""

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
    """Have a public function say what was meant by a wrong argument, and take other libraries' numbers as Python's.

    Arrays stay what they are where the argument is annotated as one.
    Of a wrong name that is the nearest one, or what ``otherwise`` returns as the end of the message; of an argument
    without a name, where it needs one, the names that there are.
    """
    signature = inspect.signature(function).parameters
    parameters = {name: each for name, each in signature.items() if name not in ("self", "cls")}
    places = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    arrays = {name for name, each in parameters.items() if "ndarray" in str(each.annotation)}
    of_self = len(signature) - len(parameters)
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
        values: list[Any] = list(args[:of_self])
        values += [
            each if name in arrays else plain_values(each) for name, each in zip(places, args[of_self:], strict=False)
        ]
        named: dict[str, Any] = {n: each if n in arrays else plain_values(each) for n, each in options.items()}
        return function(*values, **named)

    return checked


class _Array:
    """An array or tensor of several dimensions, in the place of which no argument has one."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __repr__(self) -> str:
        return f"a {self._kind}"


def plain_values(value: Any) -> Any:
    """Return an argument with NumPy's and PyTorch's numbers, also those in lists and the like, as Python's own.

    An array or tensor of one dimension is a tuple, of several an object without a meaning: compared with a name, they
    would be no answer but several. A ``torch.device`` is text.
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")  # not imported: no value is of it
    if torch is not None and isinstance(value, torch.device):
        return str(value)
    arrays = (*((numpy.bool_, numpy.ndarray) if numpy else ()), *((torch.Tensor,) if torch else ()))
    if isinstance(value, arrays):
        plain = value.tolist() if value.ndim < 2 else _Array(type(value).__name__)
        return tuple(plain) if isinstance(plain, list) else plain
    if type(value) in (list, tuple):
        return type(value)(map(plain_values, value))
    if type(value) is dict:
        return {name: plain_values(each) for name, each in value.items()}
    if isinstance(value, bool | str) or not isinstance(value, numbers.Real):
        return value
    return operator.index(value) if isinstance(value, numbers.Integral) else float(value)
