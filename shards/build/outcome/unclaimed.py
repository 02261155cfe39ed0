"""Masks that the labels do not fit: a few are rejected one by one, many mean that the labels are wrong."""

from collections import Counter
from collections.abc import Iterable

from shards.audit.findings import SampleFinding
from shards.audit.mask import INDEXED
from shards.build.plan import PlanOutline
from shards.build.write_shard import ShardRecord
from shards.errors import UsageError, counted, option
from shards.format.labels import Labels

MOST_REJECTED = 0.05  # of all images
SHOWN_VALUES = 12
MOST_VALUES = 100  # of grey masks; more are seldom classes


class LabelsMismatchError(UsageError):
    """The labels do not fit the masks: nothing that was built with them can be used."""


def check_unclaimed(records: Iterable[ShardRecord], plan: PlanOutline) -> None:
    """Raise ``LabelsMismatchError`` if the labels do not fit so many masks that they are wrong; it lists the values."""
    found = list(records)
    rejected = Counter(
        finding.reason for record in found for finding in record.findings if finding.action == "rejected"
    )
    planned = plan.samples
    audited = sum(len(record.stamps) for record in found)
    of = counted(audited, "mask") if audited == planned else f"the first {audited:,} of {planned:,} masks"
    if rejected["mask-values"] > MOST_REJECTED * planned:
        unclaimed = unclaimed_values(found)
        what = "colours" if plan.labels.rgb else "values"
        hint = ", or put it under ignore, in"
        if plan.labels.rgb and all(_is_grey(value) for value in unclaimed):
            what, hint = "grey values, while the labels name colours,", " as a value, and no color, in"
        so_far = "" if audited == planned else ", so far"
        advice = f"give each a class{hint} {_file_advice()}"
        if any(each.reason == "mask-values" and INDEXED in each.detail for record in found for each in record.findings):
            advice = f"{INDEXED}, and no color, in {_file_advice()}"
        if len(unclaimed) > MOST_VALUES and all(map(_is_grey, unclaimed)):
            advice = (
                f"so many values are those of photographs, or of masks resized with interpolation; if not, {advice}"
            )
        raise LabelsMismatchError(
            f"the labels do not fit the masks: {rejected['mask-values']:,} of {of} hold {what} that no class "
            f"claims{so_far}: {values_text(unclaimed)}; {advice}"
        )
    if rejected["mask-channels"] > MOST_REJECTED * planned:
        example = next(each for record in found for each in record.findings if each.reason == "mask-channels")
        raise LabelsMismatchError(_channels_message(example, plan.labels, f"{rejected['mask-channels']:,} of {of}"))


def unclaimed_values(records: Iterable[ShardRecord]) -> dict[str, tuple[int, int]]:
    """Return (masks, pixels) by value or colour that no class claims, the value in most masks first."""
    masks: Counter[str] = Counter()
    pixels: Counter[str] = Counter()
    for record in records:
        for value, (in_masks, in_pixels) in record.unclaimed.items():
            masks[value] += in_masks
            pixels[value] += in_pixels
    return {
        value: (masks[value], pixels[value]) for value in sorted(masks, key=lambda each: (-masks[each], _order(each)))
    }


def values_text(unclaimed: dict[str, tuple[int, int]]) -> str:
    """Return values with their counts for people, the first ones in their own order."""
    first = sorted(list(unclaimed.items())[:SHOWN_VALUES], key=lambda item: _order(item[0]))
    listed = [
        f"{value} (in {counted(in_masks, 'mask')}, {counted(in_pixels, 'pixel')})"
        for value, (in_masks, in_pixels) in first
    ]
    more = f", and {len(unclaimed) - SHOWN_VALUES} more" if len(unclaimed) > SHOWN_VALUES else ""
    return ", ".join(listed) + more


def _channels_message(example: SampleFinding, labels: Labels, masks: str) -> str:
    detail = f"such as that of {example.name} ({example.detail})"
    needed = "colours" if labels.rgb else "one value per pixel"
    advice = (
        "" if labels.rgb else f"; if they are colour images, give every class a color and no value in {_file_advice()}"
    )
    return f"the labels do not fit the masks: {masks} do not hold {needed}, as the labels say, {detail}{advice}"


def _file_advice() -> str:
    file = "labels.toml"
    return f"a labels file (petseg-shard labels SOURCE -o {file} writes one), and build with {option('labels', file)}"


def _order(value: str) -> int:
    """Return what values, and colours ``#rrggbb``, are sorted by."""
    return int(value[1:], 16) if value.startswith("#") else int(value)


def _is_grey(value: str) -> bool:
    return not value.startswith("#") or value[1:3] == value[3:5] == value[5:7]
