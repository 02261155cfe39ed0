"""Building the shards that are missing, wherever they are built: the largest first."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import closing

from shards.build.engines.executors import build_in_order
from shards.build.engines.open_executor import open_executor
from shards.build.engines.shard_maker import ShardMaker
from shards.build.outcome.unclaimed import check_unclaimed
from shards.build.plan import PlanOutline, ShardTask
from shards.build.write_shard import ShardRecord

Progress = Callable[[int, int], None]


def build_missing(
    tasks: Mapping[int, ShardTask],
    records: dict[int, ShardRecord],
    make: ShardMaker,
    *,
    outline: PlanOutline,
    workers: int | None,
    executor: Executor | str | None,
    progress: Progress | None,
    finished: Callable[[ShardRecord], None] = lambda record: None,
) -> None:
    """Build the shards that have no record yet, and add their records.

    Args:
        tasks: all shards that are to be there at the end, by their numbers in the plan.
        records: of those that are finished, by the same numbers.
        make: builds one.
        outline: of the plan.
        workers, executor, progress: as for :func:`shards.build.build_set.build`; the progress is that of ``tasks``.
        finished: called with the record of each shard that was built.

    Raises ``LabelsMismatchError`` as soon as it is known that the labels do not fit the masks.
    """
    sizes = {index: len(task.samples) for index, task in tasks.items()}
    done, total = sum(sizes[index] for index in records), sum(sizes.values())
    report = progress or (lambda _done, _total: None)
    report(done, total)
    missing = sorted((index for index in tasks if index not in records), key=lambda index: -sizes[index])
    if not missing:
        return
    with (
        open_executor(executor) as connected,
        closing(
            build_in_order({index: tasks[index] for index in missing}, make, workers=workers, executor=connected)
        ) as results,
    ):
        for index, record in results:
            records[index] = record
            if record.rejected:
                check_unclaimed(records.values(), outline)
            finished(record)
            done += sizes[index]
            report(done, total)
