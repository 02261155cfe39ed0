"""The options that say how a source is laid out, shared by the commands that read one."""

from collections.abc import Callable
from typing import Any

import click

_OPTIONS = (
    click.option(
        "--layout", default="auto", show_default=True, metavar="NAME", help="How SOURCE is laid out; see build."
    ),
    click.option("--image-suffix", metavar="TEXT", help="What names of images end with, in folders.  [default: found]"),
    click.option(
        "--mask-suffix",
        metavar="TEXT",
        help="Likewise, of masks, such as _mask.png; both may then be in one folder.",
    ),
)


def layout_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``layout``, ``image_suffix`` and ``mask_suffix``, as :func:`shards.sources.scan` takes them."""
    for option in reversed(_OPTIONS):  # decorators apply from the last to the first
        command = option(command)
    return command
