"""``petseg-shard``: building, checking and inspecting shard sets. Reads arguments, calls the package, prints."""

from shards.errors import quiet_interrupt

with quiet_interrupt():
    import click

    from shards.cli.build_command import build
    from shards.cli.publish_commands import copy, join
    from shards.cli.set_commands import info, preview, verify
    from shards.cli.source_commands import download, labels, sample
    from shards.console import FriendlyGroup

__all__ = ["main"]


@click.group(cls=FriendlyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Pack images and masks into verified shards."""


for command in (build, copy, download, info, join, labels, preview, sample, verify):
    main.add_command(command)
