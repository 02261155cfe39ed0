"""``petseg-shard sample`` and ``download``: where a source comes from."""

from pathlib import Path

import click

from shards.console import PATH, progress_bar


@click.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--count", type=click.IntRange(1), default=240, show_default=True, help="Number of images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same images.")
def sample(folder: Path, count: int, seed: int) -> None:
    """Generate a small synthetic pet dataset.

    It has the official layout; no network is needed.
    """
    from shards.sources.synthetic.generate import make_pets

    with progress_bar("generating") as progress:
        make_pets(folder, count=count, seed=seed, progress=progress)
    click.echo(f"{count} synthetic images in {folder}; pack them with: petseg-shard build {folder} OUT")


@click.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--mirror", metavar="URL", help="Download images.tar.gz and annotations.tar.gz from URL/.")
def download(folder: Path, mirror: str | None) -> None:
    """Download the real dataset (800 MB).

    Uses torchvision's addresses and checksums. Run it again to resume after an interruption.
    """
    from shards.sources import download as downloading

    if not downloading.download(folder, archives=downloading.official_archives(mirror)):
        click.echo(f"{folder} already holds the dataset")
    click.echo(f"pack it with: petseg-shard build {folder} OUT")
