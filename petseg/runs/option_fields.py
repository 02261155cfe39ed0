"""The fields of the option structs as command-line options: their names, types, limits and descriptions."""

import functools
import math
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from shards.errors import UsageError, did_you_mean, option

_SPELLINGS = {"name": "model", "join": "skip"}  # fields whose option has another name
_OTHER_WORDS = {"learning_rate": "lr", "image_size": "size"}  # what other programs call a field
AUTO = "auto"  # written for None, where None chooses a value


def option_name(field: str) -> str:
    """Return how a field is spelled on the command line: ``batch_size`` is ``--batch-size``."""
    return f"--{spelling(field).replace('_', '-')}"


def spelling(field: str) -> str:
    """Return the name of a field's option, as :func:`shards.errors.option` takes it."""
    return _SPELLINGS.get(field, field)


def field_of_option(name: str) -> str:
    """Return the field of an option's name without dashes: ``batch-size`` and ``batch_size`` are ``batch_size``."""
    field = name.replace("-", "_")
    return "join" if field == "skip" else field


def nearest(name: str, *structs: msgspec.Struct | type[msgspec.Struct]) -> str:
    """Return the option that a name which is none was meant for, as the end of a message; "" if none is near."""
    fields = [field for struct in structs for field in struct.__struct_fields__]
    return did_you_mean(name, fields, other_words=_OTHER_WORDS)


def shown_value(field: str, value: Any) -> Any:
    """Return a field's value as its option spells it: a skip connection that adds is a ``sum``."""
    return "sum" if (field, value) == ("join", "add") else value


@functools.cache
def _hints(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(struct, include_extras=True)


@functools.cache
def field_types(struct: type[msgspec.Struct]) -> dict[str, tuple[Any, msgspec.Meta]]:
    """Return each field's type, without ``| None``, and its limits and description."""
    found = {}
    for name, hint in _hints(struct).items():
        given = get_args(hint)[0] if get_origin(hint) in (Union, types.UnionType) else hint
        found[name] = get_args(given) if get_origin(given) is Annotated else (given, msgspec.Meta())
    return found


def takes_auto(struct: type[msgspec.Struct], field: str) -> bool:
    """Whether None stands for a chosen number in a field, which options write as ``auto``."""
    optional = type(None) in get_args(_hints(struct)[field])
    return optional and field_types(struct)[field][0] in (int, float)


def check_fields(options: msgspec.Struct) -> None:
    """Raise ``UsageError`` for the first value of a wrong type or out of its limits, naming the option."""
    for name in _hints(type(options)):
        convert_field(type(options), name, getattr(options, name))


def convert_field(struct: type[msgspec.Struct], field: str, value: Any) -> Any:
    """Return a value as a field has it: a list or names as a tuple, a whole number as a float, ``auto`` as None.

    Raises ``UsageError``, naming the option, for any other type (no text stands for a number), for a number out of its
    limits, and for infinity and NaN.
    """
    auto = takes_auto(struct, field)
    if auto and value == AUTO:
        return None
    hint = _hints(struct)[field]
    if isinstance(value, str) and _is_list_of_names(field_types(struct)[field][0]):
        value = [name.strip() for name in value.split(",") if name.strip() != "none"]
    try:
        converted = msgspec.convert(value, hint)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise msgspec.ValidationError("not a finite number")
    except msgspec.ValidationError:
        name = spelling(field)
        given = f"{option(name)} {value}" if isinstance(value, bool) else option(name, value)
        raise UsageError(f"{given}: {expected_text(struct, field)}") from None
    return float(converted) if field_types(struct)[field][0] is float and converted is not None else converted


def expected_text(struct: type[msgspec.Struct], field: str) -> str:
    """Return what a field takes, as the end of a message: ``give a whole number from 1 to 1024, or auto``."""
    return _expected(*field_types(struct)[field]) + (", or auto" if takes_auto(struct, field) else "")


def _is_list_of_names(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_origin(get_args(kind)[0]) is Literal


def _expected(kind: Any, limits: msgspec.Meta) -> str:
    if get_origin(kind) is Literal:
        return f"choose from {', '.join(get_args(kind))}"
    if _is_list_of_names(kind):
        return f"choose some of {', '.join(get_args(get_args(kind)[0]))}, separated by commas"
    if kind not in (int, float):
        whole = "a list of whole numbers" if kind == tuple[int, ...] else "a list of numbers"
        return f"expected {'true or false' if kind is bool else whole if get_origin(kind) is tuple else 'text'}"
    number = "a whole number" if kind is int else "a number"
    if limits.le is not None:
        least = f"above {limits.gt}," if limits.gt is not None else f"from {limits.ge}"
        return f"give {number} {least} to {limits.le}"
    least = f" above {limits.gt}" if limits.gt is not None else f" of at least {limits.ge}" * (limits.ge is not None)
    return f"give {number}{least}"
