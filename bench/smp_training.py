"""Trains a network of segmentation_models_pytorch with that library's own recipe, on the same images as petseg.

``python -m bench.smp_training SHARDS --architecture Unet --weights FILE``. Loader, split, image size and scoring are
petseg's, and so is the file of encoder weights; network, loss, optimiser and schedule are those of the library's
example for several classes (examples/camvid_segmentation_multiclass.ipynb): Adam at 0.0002, a cosine down to 0.00001 in
50 epochs, Dice loss, batches of 32, the encoder's own normalisation. Its augmentation needs albumentations and another
loader; the presets of petseg's loader stand for it. The library writes no weight average, and is scored after its last
epoch.
"""

import time
from pathlib import Path
from typing import Any, Literal, cast

import click
import torch
from torch import nn

from petseg.cli.shared_options import HELP
from petseg.host.device import choose_device, choose_placement, cpu_threads
from petseg.inference.evaluation import evaluate
from pipeline import Loader
from pipeline.io.damage import without_replacement
from shards import ShardSet
from shards.console import PATH, FriendlyCommand, print_json
from shards.errors import UsageError

RATE, LAST_RATE = 2e-4, 1e-5


class SmpNetwork(nn.Module):
    """A network of the library behind its normalisation: images (B, 3, H, W) in 0..255 to logits (B, N, H, W)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, architecture: str, encoder: str, *, classes: int, weights: Path | None) -> None:
        """Build it for a timm encoder; ``weights`` is a safetensors file with timm's names, None for random ones.

        A :class:`UsageError` says that timm has no such network, or that the file lacks tensors.
        """
        super().__init__()
        import segmentation_models_pytorch as smp
        from timm.models import get_pretrained_cfg, is_model

        settings = get_pretrained_cfg(encoder) if is_model(encoder) else None
        if settings is None:
            raise UsageError(f"--encoder {encoder}: timm has no such network")
        self.network = smp.create_model(architecture, f"tu-{encoder}", encoder_weights=None, classes=classes)
        for name, values in (("mean", settings.mean), ("std", settings.std)):
            self.register_buffer(name, 255.0 * torch.tensor(values).view(1, 3, 1, 1))
        if weights is not None:
            from safetensors.torch import load_file

            missing = self.network.encoder.model.load_state_dict(load_file(weights), strict=False).missing_keys
            if missing:
                raise UsageError(f"{weights} lacks {len(missing)} tensors of {encoder}, such as {missing[0]}")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.network((image.float() - self.mean) / self.std))


def train_smp(
    data: ShardSet, *, architecture: str, encoder: str, weights: Path | None, size: int, epochs: int, batch_size: int,
    augment: Literal["none", "train", "strong"], seed: int, splits: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    """Train on a set's train split, then score each of ``splits``; return scores and seconds of wall and processor."""
    import segmentation_models_pytorch as smp

    placement = choose_placement(choose_device("auto"), "fp32")
    common: dict[str, Any] = {"size": size, "device": placement.device, "mask": "index"}
    torch.manual_seed(seed)
    network = SmpNetwork(architecture, encoder, classes=len(data.manifest.labels), weights=weights)
    network.to(placement.device)
    loss = smp.losses.DiceLoss(smp.losses.MULTICLASS_MODE, from_logits=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    preset = None if augment == "none" else augment
    started, processor = time.perf_counter(), time.process_time()
    with Loader(data, split="train", batch_size=batch_size, seed=seed, augment=preset, **common) as loader:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader), eta_min=LAST_RATE)
        network.train()
        for batch in (batch for epoch in range(epochs) for batch in loader):
            optimizer.zero_grad()
            loss(network(batch.image[batch.valid]).contiguous(), batch.mask[batch.valid].long()).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    seconds = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - processor}
    scores = {}
    for split in splits:
        with Loader(data, split=split, batch_size=2 * batch_size, shuffle=False, **common) as loader:
            scores[split] = evaluate(network, loader, placement=placement).scores.mean_iou
    return {"architecture": architecture, "epochs": epochs, "augment": augment, "seed": seed, **scores, **seconds}


@click.command(cls=FriendlyCommand, context_settings={**HELP, "show_default": True})
@click.argument("shards", type=PATH)
@click.option("--architecture", default="Unet", help="The library's name, such as Unet or FPN.")
@click.option("--encoder", default="tf_efficientnet_lite0", help="timm's name.")
@click.option("--weights", type=PATH, help="Encoder weights, safetensors with timm's names.  [default: random]")
@click.option("--size", type=click.IntRange(32), default=128, help="Pixels per side.")
@click.option("--epochs", type=click.IntRange(1), default=50)
@click.option("--batch-size", type=click.IntRange(1), default=32)
@click.option("--augment", type=click.Choice(["none", "train", "strong"]), default="train")
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--threads", type=click.IntRange(1), help="torch's CPU threads.  [default: all cores]")
@click.option("--split", default=("val", "test"), help="To be scored.", multiple=True)
def main(*, shards: Path, threads: int | None, split: tuple[str, ...], **options: Any) -> None:
    """Train a network of segmentation_models_pytorch on SHARDS with that library's recipe; print scores as JSON."""
    with cpu_threads(threads), without_replacement():
        print_json(train_smp(ShardSet.open(shards), splits=split, **options))


if __name__ == "__main__":
    main()
