"""The fields of the option structs as command-line options: their names, types, limits and descriptions."""

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from shards.errors import UsageError

_SPELLINGS = {"name": "model", "join": "skip"}  # fields whose option has another name


def option_name(field: str) -> str:
    """Return how a field is spelled on the command line: ``batch_size`` is ``--batch-size``."""
    return f"--{_SPELLINGS.get(field, field).replace('_', '-')}"


def field_types(struct: type[msgspec.Struct]) -> dict[str, tuple[Any, msgspec.Meta]]:
    """Return each field's type, without ``| None``, and its limits and description."""
    found = {}
    for name, hint in get_type_hints(struct, include_extras=True).items():
        given = get_args(hint)[0] if get_origin(hint) in (Union, types.UnionType) else hint
        found[name] = get_args(given) if get_origin(given) is Annotated else (given, msgspec.Meta())
    return found


def check_fields(options: msgspec.Struct) -> None:
    """Raise ``UsageError`` for the first value of a wrong type or out of its limits, naming the option."""
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        value = getattr(options, name)
        try:
            msgspec.convert(value, hint)
        except msgspec.ValidationError:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            raise UsageError(f"{option_name(name)} {text}: {_expected(*field_types(type(options))[name])}") from None


def _expected(kind: Any, limits: msgspec.Meta) -> str:
    if get_origin(kind) is Literal:
        return f"choose from {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple and get_origin(get_args(kind)[0]) is Literal:
        return f"choose some of {', '.join(get_args(get_args(kind)[0]))}, separated by commas"
    number = "a whole number" if kind is int else "a number"
    if limits.le is not None:
        return f"give {number} from {limits.ge} to {limits.le}"
    if limits.gt is not None:
        return f"give {number} above {limits.gt}"
    if limits.ge is not None:
        return f"give {number} of at least {limits.ge}"
    return f"expected {kind.__name__ if isinstance(kind, type) else kind}"
