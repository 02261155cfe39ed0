"""How far a loader is from what is possible, and what it is bound by."""

from collections.abc import Sequence

from bench.results.records import Limit, LoaderLine

NEAR = 0.7  # of a limit: from there on, that part of the work is what bounds a loader
BUSY = 0.85  # of the cores' time: from there on, the processor is


def limits_for(line: LoaderLine, limits: Sequence[Limit]) -> dict[str, float]:
    """Return the limits that hold for a line: images per second by name.

    Decoding counts at its scaled rate where that was measured, since a loader is free to decode at a smaller scale.
    """
    work = line.work
    found = {each.name: each.rate for each in limits
             if each.storage in ("", work.storage) and each.mask in ("", work.mask)}  # fmt: skip
    if "decode, scaled" in found:
        found["decode"] = max(found.pop("decode, scaled"), found.get("decode", 0.0))
    return found


def share_of_limit(line: LoaderLine, limits: Sequence[Limit]) -> float | None:
    """Return a line's rate over what all necessary parts together allow: reading, decoding, writing the output once.

    The parts share the cores, so their times add up: 1 / (1/read + 1/decode + 1/copy). None without limits, and on the
    GPU, where the cores do not decode.
    """
    found = limits_for(line, limits)
    return line.rate * sum(1 / rate for rate in found.values()) if found and line.work.device == "cpu" else None


def bound(line: LoaderLine, limits: Sequence[Limit], cores: int) -> str:
    """Return what bounds a line: a part of the work that alone takes 70 % of the time or more; else the processor, if
    the cores were 85 % busy or more; else waiting.
    """
    parts = limits_for(line, limits) if line.work.device == "cpu" else {}
    if parts:
        name, limit = min(parts.items(), key=lambda item: item[1])
        if line.rate >= NEAR * limit:
            return name
    busy = line.cpu_seconds_per_thousand / 1000 * line.rate / cores
    return f"processor, {busy:.0%} busy" if busy >= BUSY else f"waiting, cores {busy:.0%} busy"
