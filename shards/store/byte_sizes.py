"""Numbers of bytes as people write and read them: ``256MB``, ``1.5 GiB``, ``4096``."""

import re
from typing import Any, Final

from shards.errors import UsageError, is_whole_number, option
from shards.public_calls import plain_values

_UNITS: Final[dict[str, int]] = {"": 1, "b": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for ending, base in (("b", 1000), ("ib", 1024))
}
_TEXT: Final = re.compile(r"(\d{1,18})(?:\.(\d{1,9}))? ?([a-z]*)", re.ASCII)


def parse_bytes(value: Any, *, name: str) -> int:
    """Return a number of bytes from an integer or a text: a number and kB, MB, GB, TB (by 1000) or KiB, ... (by 1024).

    Fractions of a byte are left out. Anything else raises ``UsageError`` for the option
    of this name.
    """
    if is_whole_number(value := plain_values(value), 0):
        return value
    match = _TEXT.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match is None or match[3] not in _UNITS:
        raise UsageError(f"{option(name, value)}: give a number of bytes, such as 4096, 256MB or 1.5GiB")
    whole, fraction, unit = match[1], match[2] or "", _UNITS[match[3]]
    return int(whole) * unit + int(int(fraction or 0) * unit // 10 ** len(fraction))


def bytes_text(count: int) -> str:
    """Return a number of bytes for people, with three digits at least: ``812 bytes``, ``45.1 kB``, ``1,203 GB``."""
    if count < 1000:
        return f"{count} byte{'' if count == 1 else 's'}"
    units = ("kB", "MB", "GB", "TB")
    power = min((len(str(count)) - 1) // 3, len(units))
    value = count / 1000**power
    return f"{value:,.1f} {units[power - 1]}" if value < 1000 else f"{value:,.0f} {units[power - 1]}"
