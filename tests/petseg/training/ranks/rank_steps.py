"""What two ranks do in one launch of torchrun: optimisation steps on fixed batches, then the commands given to it.

Plain SGD without clipping: Adam, Muon and clipping would hide a gradient that is wrong by a factor.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from msgspec.structs import replace

from petseg.host.device import choose_placement
from petseg.host.distributed import World, process_group, world_from_environment
from petseg.nets.encoder_weights import read_encoder_weights
from petseg.nets.model_config import ModelConfig
from petseg.runs.recipe import default_recipe
from petseg.training.step import TrainStep

CPU = torch.device("cpu")
# Normalisation: micro-batches (whose statistics must be those of single images). The encoder has batch normalisation
# with activations inside, and is frozen for the first of three steps; of the held one, levels up to stride 4 always.
CASES = {"batch": 1, "group": 2, "encoder": 1, "held": 1}
STEPS, BATCH = 3, 8


def run_steps(norm: str, world: World, *, accumulate: int) -> dict[str, Any]:
    """Return the steps' losses and gradient norms, and the weights before and after, by name."""
    if norm in ("encoder", "held"):
        model = ModelConfig(encoder="test_efficientnet", stem="half")
    else:
        model = ModelConfig(widths=(8, 16), norm=norm, dropout=0.4)  # type: ignore[arg-type]
    recipe = replace(
        default_recipe("unet"), model=model, size=(32, 32), batch_size=BATCH, accumulate=accumulate, lr=0.1
    )
    recipe = replace(recipe, schedule="constant", clip_norm=0.0, ema_decay=0.0)
    if norm in ("encoder", "held"):
        recipe = replace(recipe, epochs=STEPS, encoder_freeze=1, encoder_freeze_stride=4 if norm == "held" else 0)
    with mock.patch(
        "petseg.training.step.build_optimizer",
        lambda net, recipe: torch.optim.SGD(net.parameters(), lr=recipe.lr, fused=True),
    ):
        train_step = TrainStep(recipe, total_steps=STEPS, placement=choose_placement(CPU, "fp32"), world=world)
    start = weights(train_step)
    losses, norms = [], []
    share = slice(world.rank * BATCH // world.size, (world.rank + 1) * BATCH // world.size)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        batch = SimpleNamespace(
            image=torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8)[share],
            mask=torch.randint(0, 3, (BATCH, 32, 32), generator=generator, dtype=torch.uint8)[share],
            valid=(torch.arange(BATCH) < BATCH - 1)[share],
        )
        result = train_step.run(batch, global_valid=BATCH - 1, step=step)
        losses.append(float(result.loss))
        norms.append(world.gather(float(result.grad_norm)))
    return {"losses": losses, "norms": norms, "start": start, "end": weights(train_step)}


def weights(train_step: TrainStep) -> dict[str, torch.Tensor]:
    """Return copies of all weights and running statistics."""
    return {name: value.clone() for name, value in train_step.model.state_dict().items()}


def run_commands(commands: dict[str, list[str]]) -> None:
    """Run petseg-train and petseg-eval, in the process group that is there; reports, which are slow, are not drawn."""
    from petseg.cli import evaluate, train

    group = lambda *_, **__: contextlib.nullcontext()  # noqa: E731

    def read(*arguments: str) -> Any:
        assert world_from_environment().first, "only rank 0 reads or fetches an encoder's weights"
        return read_encoder_weights(*arguments)

    with (
        mock.patch("petseg.training.start.process_group", group),
        mock.patch("petseg.inference.scoring.process_group", group),
        mock.patch("petseg.training.start.draw_run"),
        mock.patch("petseg.training.encoder_start.read_encoder_weights", read),
    ):
        for name, arguments in commands.items():
            try:
                (evaluate if name == "evaluate" else train).main(args=arguments, prog_name=name)
            except SystemExit as end:  # each command ends so
                if end.code:
                    raise


if __name__ == "__main__":
    torch.set_num_threads(1)
    world = world_from_environment()
    with process_group(world, CPU):
        results = {norm: run_steps(norm, world, accumulate=parts) for norm, parts in CASES.items()}
        if world.first:
            torch.save(results, sys.argv[1])
        with contextlib.redirect_stdout(Path(f"{sys.argv[1]}.{world.rank}.txt").open("w")):  # of each rank by itself
            run_commands(json.loads(sys.argv[2]))
