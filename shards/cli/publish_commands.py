"""``petseg-shard join`` and ``copy``: a set of what tasks have built, and a set somewhere else."""

import shlex
from pathlib import Path

import click

from shards.console import JSON_OPTION, PLACE, print_json, progress_bar, say
from shards.errors import TerminatedError


@click.command()
@click.argument("out", type=PLACE)
@click.option("--strict", is_flag=True, help="Publish nothing if the audit found anything, even a warning.")
@click.option("--overwrite", is_flag=True, help="Replace a finished set of another source or other options.")
@JSON_OPTION
def join(*, out: Path | str, strict: bool, overwrite: bool, as_json: bool) -> None:
    """Publish what the tasks of a build have packed.

    Run it once when all tasks (petseg-shard build SOURCE OUT --task K --tasks N) are done. It names what is missing. If
    it was interrupted, run it again.
    """
    from shards.build.outcome.build_result import StrictError
    from shards.build.tasks.join_set import join as join_tasks
    from shards.cli.build_summary import build_json, build_text, finding_lines

    try:
        with progress_bar("joining") as progress:
            joined = join_tasks(out, overwrite=overwrite, strict=strict, progress=progress)
    except StrictError as error:
        say(*finding_lines(error.findings), err=True)
        raise
    except (KeyboardInterrupt, TerminatedError) as error:
        error.add_note(f"run petseg-shard join {shlex.quote(str(out))} again to go on")
        raise
    if as_json:
        print_json(build_json(joined))
    else:
        click.echo(build_text(joined, joined=True))


@click.command()
@click.argument("source", metavar="SET", type=PLACE)
@click.argument("target", metavar="COPY", type=PLACE)
@click.option("--overwrite", is_flag=True, help="Replace the set COPY, or the unfinished work of another command.")
@JSON_OPTION
def copy(*, source: Path | str, target: Path | str, overwrite: bool, as_json: bool) -> None:
    """Copy a set between folders and object stores.

    SET and COPY are folders, or addresses (s3://, gs://, az://; SET also https://). Every file is compared with the
    manifest, which is written last. To go on after an interruption, run the same command again.
    """
    from shards.build.tasks.set_copy import copy_set
    from shards.cli.task_summary import copy_json, copy_text

    try:
        with progress_bar("copying") as progress:
            copied = copy_set(source, target, overwrite=overwrite, progress=progress)
    except (KeyboardInterrupt, TerminatedError) as error:
        error.add_note("files that are complete are kept; run the same command again to go on")
        raise
    if as_json:
        print_json(copy_json(copied))
    else:
        say(copy_text(copied))
