"""Which part of a build a process does: by options, or by what schedulers set."""

from __future__ import annotations

import re

import pytest

from shards.build.tasks.scheduler_variables import in_a_cluster, task_number
from shards.errors import UsageError


def slurm(number: int, *, first: int, count: int, step: int = 1) -> dict[str, str]:
    return {
        "SLURM_ARRAY_TASK_ID": str(number),
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_COUNT": str(count),
        "SLURM_ARRAY_TASK_STEP": str(step),
    }


@pytest.mark.parametrize(
    ("task", "tasks", "environment", "expected"),
    [
        (2, 5, slurm(1, first=0, count=3), (2, 5, "")),
        ("2", 5, {}, (2, 5, "")),
        ("auto", None, slurm(4, first=0, count=8), (4, 8, "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT")),
        ("auto", None, slurm(8, first=1, count=8), (7, 8, "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT")),
        ("auto", None, slurm(12, first=0, count=4, step=4), (3, 4, "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT")),
        (None, 16, slurm(7, first=3, count=2), (7, 16, "SLURM_ARRAY_TASK_ID")),  # --array=3,7 again, of 16
        ("auto", 4, {"JOB_COMPLETION_INDEX": "3", "RANK": "0"}, (3, 4, "JOB_COMPLETION_INDEX")),
        ("auto", None, {"RANK": "1", "WORLD_SIZE": "2"}, (1, 2, "RANK and WORLD_SIZE")),
        (1, None, {"RANK": "0", "WORLD_SIZE": "2"}, (1, 2, "WORLD_SIZE")),
        (5, None, slurm(1, first=1, count=8), (5, 8, "SLURM_ARRAY_TASK_COUNT")),
    ],
)
def test_options_come_before_the_environment(
    task: int | str | None, tasks: int | None, environment: dict[str, str], expected: tuple[int, int, str]
) -> None:
    number = task_number(task, tasks, environment)
    assert number is not None
    assert (number.task, number.tasks, number.origin) == expected
    assert f"task {expected[0]} of {expected[1]}, counted from 0" in str(number)
    assert expected[2] in str(number)


def test_a_plain_build_in_an_array_is_no_task() -> None:
    environment = slurm(1, first=0, count=3)
    assert task_number(None, None, environment) is None
    assert in_a_cluster(environment) == "SLURM_ARRAY_TASK_ID"
    assert in_a_cluster({"RANK": "0"}) is None


@pytest.mark.parametrize(
    ("task", "tasks", "environment", "message"),
    [
        (3, 3, {}, "there is no task 3 of 3: tasks are counted from 0, the last one is 2"),
        (-1, 3, {}, "there is no task -1 of 3"),
        (0, 0, {}, "tasks=0 is not a positive number"),
        ("first", 3, {}, "task='first' is neither a number nor auto"),
        (None, 3, {}, "which task is this? Give task=K"),
        ("auto", None, {}, "which task is this?"),
        (0, None, {}, "of how many tasks is this one? Give tasks=N"),
        ("auto", None, {"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETION_INDEX says which one, not of how many"),
        ("auto", None, {"RANK": "3"}, "of how many tasks is this one?"),
        ("auto", None, slurm(7, first=3, count=2), "is of an array with gaps (the first of 2 is 3)"),
        ("auto", None, slurm(5, first=0, count=4, step=2) | {"SLURM_ARRAY_TASK_ID": "5"}, "an array with gaps"),
        (None, 4, {"SLURM_ARRAY_TASK_ID": "4"}, "there is no task 4 of 4 (from SLURM_ARRAY_TASK_ID)"),
        (None, 4, {"RANK": "one"}, "the environment variable RANK is 'one', which is no number"),
    ],
)
def test_what_cannot_be_a_part(
    task: int | str | None, tasks: int | None, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        task_number(task, tasks, environment)
