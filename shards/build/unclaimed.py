"""Values that no class claims: a few masks with them are rejected one by one, many mean that the labels do not fit."""

from collections.abc import Iterable

from shards.build.plan import BuildPlan
from shards.build.write_shard import ShardRecord
from shards.errors import UsageError

MOST_REJECTED = 0.05  # of all images
_SHOWN = 12


def check_unclaimed(records: Iterable[ShardRecord], plan: BuildPlan) -> None:
    """Raise ``UsageError`` if so many masks were rejected for such values that the labels are wrong; it lists them."""
    masks: dict[str, int] = {}
    pixels: dict[str, int] = {}
    rejected = 0
    for record in records:
        rejected += sum(finding.reason == "mask-values" for finding in record.findings)
        for value, (in_masks, in_pixels) in record.unclaimed.items():
            masks[value] = masks.get(value, 0) + in_masks
            pixels[value] = pixels.get(value, 0) + in_pixels
    planned = sum(len(task.samples) for task in plan.tasks)
    if rejected <= MOST_REJECTED * planned:
        return
    order = sorted(masks, key=lambda value: (-masks[value], value))
    listed = [f"{value} (in {masks[value]:,} masks, {pixels[value]:,} pixels)" for value in order[:_SHOWN]]
    more = f", and {len(order) - _SHOWN} more" if len(order) > _SHOWN else ""
    raise UsageError(
        f"the labels do not fit the masks: {rejected:,} of {planned:,} masks hold values that no class claims: "
        f"{', '.join(listed)}{more}; give each a class, or put it under ignore, in a labels file "
        "(petseg-shard labels SOURCE -o labels.toml writes one) and build with --labels labels.toml"
    )
