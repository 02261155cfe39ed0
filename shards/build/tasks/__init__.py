"""A set that is built by several tasks on any machines, and what a set in an object store is built by.

Each task builds a share of the shards (``build_task``), and ``join`` makes a set of them, with the bytes of a build on
one machine.
``copy_set`` copies a finished set from and to stores.
"""

from shards.build.tasks.join_set import IncompleteError, join
from shards.build.tasks.scheduler_variables import TaskNumber, task_number
from shards.build.tasks.set_copy import CopyResult, copy_set
from shards.build.tasks.task_build import TaskResult, build_task

__all__ = ["CopyResult", "IncompleteError", "TaskNumber", "TaskResult", "build_task", "copy_set", "join", "task_number"]
