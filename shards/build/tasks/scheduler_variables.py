"""Which part of a build this process is to do: ``--task K --tasks N``, or what a cluster's scheduler has set."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shards.errors import UsageError, is_whole_number, option, spelled

AUTO: Final = "auto"
SLURM_ID, SLURM_COUNT = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"
SLURM_MIN, SLURM_STEP = "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"
KUBERNETES_INDEX = "JOB_COMPLETION_INDEX"
RANK, WORLD_SIZE = "RANK", "WORLD_SIZE"
_INDICES: Final = (SLURM_ID, KUBERNETES_INDEX, RANK)  # the first one that is set counts


@dataclass(frozen=True, kw_only=True)
class TaskNumber:
    """Task ``task`` of ``tasks``, counted from 0: it builds every shard whose number in the plan is K modulo N."""

    task: int
    tasks: int
    origin: str  # where the two come from, for people; "" for options

    def __str__(self) -> str:
        come_from = f" (from {self.origin})" if self.origin else ""
        return f"task {self.task} of {self.tasks}, counted from 0{come_from}"


def task_number(
    task: int | str | None, tasks: int | None, environment: Mapping[str, str] = os.environ
) -> TaskNumber | None:
    """Return the part that was asked for; None if neither option was given: then the whole set is to be built.

    Args:
        task: K from 0, ``auto``, or None.
        tasks: N, or None.
        environment: what gives K where it is ``auto`` or None, and N where it is None.

    K is taken from ``SLURM_ARRAY_TASK_ID``, ``JOB_COMPLETION_INDEX`` or ``RANK``, N from ``SLURM_ARRAY_TASK_COUNT``
    (then K is counted from the array's first number) or ``WORLD_SIZE``. Kubernetes sets no N: give it.

    Raises ``UsageError`` if one of them is neither given nor set, is no number, or K is not below N.
    """
    if task is None and tasks is None:
        return None
    if tasks is not None and not is_whole_number(tasks, 1):
        raise UsageError(f"{option('tasks', tasks)} is not a positive number")
    origin: list[str] = []
    found = next((name for name in _INDICES if environment.get(name)), None)
    if task is None or task == AUTO:
        if found is None:
            raise UsageError(
                f"{spelled('which task is this? Give --task=K')}, or run it where {', '.join(_INDICES)} is set"
            )
        number = _integer(found, environment)
        origin.append(found)
    else:
        number, found = _given(task), found if tasks is None else None
    if tasks is None:
        number, tasks = _count(found, number, environment, shift=bool(origin))
        origin.append(SLURM_COUNT if found == SLURM_ID else WORLD_SIZE)
    if not is_whole_number(tasks, 1):
        raise UsageError(f"{option('tasks', tasks)} is not a positive number")
    if not 0 <= number < tasks:
        where = f" (from {' and '.join(origin)})" if origin else ""
        raise UsageError(
            f"there is no task {number} of {tasks}{where}: tasks are counted from 0, the last one is {tasks - 1}"
        )
    return TaskNumber(task=number, tasks=tasks, origin=" and ".join(origin))


def in_a_cluster(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the variable that says that this process is one of several tasks, if there is one."""
    return next((name for name in _INDICES[:2] if environment.get(name)), None)


def _count(found: str | None, number: int, environment: Mapping[str, str], *, shift: bool) -> tuple[int, int]:
    """Return K and N of the scheduler that has set ``found``; ``shift``: K is its number, not an option."""
    if found == SLURM_ID and environment.get(SLURM_COUNT):
        count = _integer(SLURM_COUNT, environment)
        if shift:
            first = _integer(SLURM_MIN, environment, default=0)
            step = max(_integer(SLURM_STEP, environment, default=1), 1)
            if (number - first) % step or (number - first) // step >= count:
                raise UsageError(
                    f"{SLURM_ID} {number} is of an array with gaps (the first of {count} is {first}), such as "
                    f"--array=3,5: {spelled('give --tasks=N')}, and number the array from 0; then K is its number"
                )
            number = (number - first) // step
        return number, count
    if found == RANK and environment.get(WORLD_SIZE):
        return number, _integer(WORLD_SIZE, environment)
    hint = f"; {KUBERNETES_INDEX} says which one, not of how many: give the job's completions" if found else ""
    question = spelled("of how many tasks is this one? Give --tasks=N")
    raise UsageError(f"{question}{hint if found == KUBERNETES_INDEX else ''}")


def _integer(name: str, environment: Mapping[str, str], *, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise UsageError(
            f"the environment variable {name} is {text!r}, which is no number; give {option('task')} and "
            f"{option('tasks')}"
        ) from None


def _given(task: int | str) -> int:
    if is_whole_number(task):
        return task
    try:
        return int(task if isinstance(task, str) else "")
    except ValueError:
        raise UsageError(f"{option('task', task)} is neither a number nor {AUTO}") from None
