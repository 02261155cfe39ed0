"""One step: accumulation, clipping, padding, weights, precision; and that it learns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from msgspec.structs import replace

from petseg.cli import train
from petseg.host.device import choose_placement
from petseg.inference.metrics import confusion, score
from petseg.nets.model_config import ModelConfig, default_model_config
from petseg.runs.recipe import Recipe, default_recipe
from petseg.training.step import TrainStep

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that share work of microseconds wait for each other, the longer the busier the machine is."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Pictures:
    image: torch.Tensor
    mask: torch.Tensor
    valid: torch.Tensor


def shapes(count: int = 8, size: int = 32) -> Pictures:
    """Bright discs with a rim on a noisy ground."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = torch.randint(size // 3, size - size // 3, (2, count, 1, 1), generator=generator)
    radius = torch.randint(size // 5, size // 3, (count, 1, 1), generator=generator)
    distance = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2).sqrt() - radius
    mask = torch.where(distance < -1.5, 0, torch.where(distance < 1.5, 2, 1)).to(torch.uint8)
    level = torch.tensor([200, 60, 120])[mask.long()].unsqueeze(1)
    noise = torch.randint(-30, 30, (count, 3, size, size), generator=generator)
    return Pictures(
        image=(level + noise).clamp(0, 255).to(torch.uint8), mask=mask, valid=torch.ones(count, dtype=torch.bool)
    )


def recipe(**changes: object) -> Recipe:
    small = ModelConfig(widths=(8, 16), norm="group")  # group: statistics do not depend on how a batch is cut
    return replace(default_recipe("unet"), model=small, size=32, batch_size=8, **changes)


def learner(of: Recipe, steps: int = 50) -> TrainStep:
    return TrainStep(of, total_steps=steps, placement=choose_placement(CPU, of.precision))


def weights(of: TrainStep) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in of.model.parameters()])


@pytest.mark.parametrize("parts_of_a_batch", [2, 3, 8])
def test_accumulation_gives_the_same_step(parts_of_a_batch: int) -> None:
    pictures = shapes()
    pictures.valid[-1] = False
    whole, parts = learner(recipe()), learner(recipe(accumulate=parts_of_a_batch))
    for step in range(3):
        a = whole.step(pictures, global_valid=7, step=step)
        b = parts.step(pictures, global_valid=7, step=step)
        torch.testing.assert_close(a.loss, b.loss)
        assert torch.equal(a.confusion, b.confusion)
    torch.testing.assert_close(weights(whole), weights(parts), rtol=1e-3, atol=1e-5)


def test_padding_teaches_nothing() -> None:
    pictures = shapes()
    pictures.valid[4:] = False
    first, second = learner(recipe()), learner(recipe())
    a = first.step(pictures, global_valid=4, step=0)
    pictures.image[4:], pictures.mask[4:] = 0, 1
    b = second.step(pictures, global_valid=4, step=0)
    assert a.confusion.sum() == 4 * 32 * 32
    assert torch.equal(a.confusion, b.confusion)
    torch.testing.assert_close(weights(first), weights(second))


def test_clipping_shortens_the_step() -> None:
    free, clipped = (learner(recipe(clip_norm=c, optimizer="adam", weight_decay=0.0)) for c in (0.0, 1e-9))
    start = weights(free).clone()
    norms = [one.step(shapes(), global_valid=8, step=0).grad_norm for one in (free, clipped)]
    assert norms[0] == norms[1] > 0  # the norm before clipping
    assert (weights(clipped) - start).norm() < (weights(free) - start).norm() / 2


CHANGES: list[dict[str, object]] = [
    {"class_weights": "balanced"},
    {"label_smoothing": 0.2},
    {"dice_weight": 0.0},
    {"lr": 1e-4},
    {"weight_decay": 0.5},
    {"schedule": "cosine"},
    {"schedule": "constant"},
    {"seed": 1},
    {"optimizer": "adam", "weight_decay": 0.0},
    {"optimizer": "adamw"},
    {"warmup": 0.9},
    {"clip_norm": 0.01},
    {"precision": "bf16"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_knob_moves_the_weights(change: dict[str, object]) -> None:
    results = []
    for of in (recipe(), recipe(**change)):
        one = TrainStep(
            of,
            total_steps=4,
            placement=choose_placement(CPU, of.precision),
            class_weights=torch.tensor([0.5, 0.5, 2.0]) if of.class_weights == "balanced" else None,
        )
        for step in range(2):
            one.step(shapes(), global_valid=8, step=step)
        results.append(weights(one).clone())
    assert not torch.equal(*results)


def test_the_average_is_what_is_kept() -> None:
    with_average, without = learner(recipe(ema_decay=0.5)), learner(recipe(ema_decay=0.0))
    assert without.average is None
    assert without.evaluated_model is without.model
    for step in range(3):
        with_average.step(shapes(), global_valid=8, step=step)
    assert with_average.average is not None
    assert with_average.evaluated_model is with_average.average.model
    assert not torch.equal(next(with_average.evaluated_model.parameters()), next(with_average.model.parameters()))


WIDTHS = (8, 16, 32)
KINDS = itertools.product(["full", "half"], ["concat", "add"], ["batch", "group"], ["bilinear", "transposed"])
SMALL = [ModelConfig(widths=WIDTHS, stem=s, join=j, norm=n, upsample=u) for s, j, n, u in KINDS]
SMALL += [ModelConfig(widths=WIDTHS, blocks=2), ModelConfig(widths=WIDTHS, dropout=0.2)]
LARGE = [ModelConfig(), ModelConfig(encoder="resnet18"), default_model_config("tutorial")]
LARGE += [ModelConfig(encoder="resnet34", join="add"), ModelConfig(encoder="resnet50")]
PRECISIONS = ("fp32", "bf16")
# The deeper encoders take ten seconds each: one precision a network, and the other with --campaign.
LONG = {("resnet34", "fp32"), ("resnet50", "bf16")}


def title(config: ModelConfig) -> str:
    changed = [f"{field}={getattr(config, field)}" for field in config.__struct_fields__ if field != "widths"]
    plain = {f"{field}={getattr(ModelConfig(), field)}" for field in config.__struct_fields__}
    return " ".join(part for part in changed if part not in plain) or ("small" if config.widths == WIDTHS else "unet")


def mean_iou_after(model: ModelConfig, precision: str, *, steps: int, rate: float) -> float:
    """Train on eight pictures and score on the same."""
    of = replace(default_recipe(model.name), model=model, size=32, batch_size=8, lr=rate, ema_decay=0.0)
    one = learner(replace(of, precision=precision), steps)
    pictures = shapes()
    for step in range(steps):
        one.step(pictures, global_valid=8, step=step)
    with torch.inference_mode(), one.placement.autocast():
        predicted = one.evaluated_model(pictures.image).argmax(dim=1)
    return score(confusion(pictures.mask, predicted).sum(0)).mean_iou


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", SMALL, ids=title)
def test_eight_pictures_are_learnt_by_heart(model: ModelConfig, precision: str) -> None:
    steps = 60 if model.stem == "full" else 120
    assert mean_iou_after(model, precision, steps=steps, rate=0.02) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", LARGE, ids=title)
def test_large_networks_learn_eight_pictures_by_heart(
    model: ModelConfig, precision: str, campaign: Callable[[int, int], int]
) -> None:
    if (model.name, precision) == ("tutorial", "bf16") and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bf16: the tutorial's transposed convolutions take seconds a step")
    if (model.encoder, precision) in LONG and not campaign(0, 1):
        pytest.skip("with --campaign")
    rate = {"tutorial": 0.003, "unet": 0.02}[model.name] if model.encoder == "none" else 0.005
    assert mean_iou_after(model, precision, steps=45, rate=rate) > 0.95


def test_the_networks_learnt_by_heart_are_all_there_are() -> None:
    """Every choice of every option that decides the architecture."""
    for option in ("model", "stem", "norm", "upsample", "join", "encoder"):
        (parameter,) = (p for p in train.params if p.name == option)
        field = "name" if option == "model" else option
        assert {getattr(config, field) for config in SMALL + LARGE} == set(parameter.type.choices), option
    (precision,) = (p for p in train.params if p.name == "precision")
    assert {*PRECISIONS, "auto", "fp16"} == set(precision.type.choices)  # fp16: on CUDA only, in tests/gpu


def test_compiled_networks_are_the_same() -> None:
    plain, compiled = learner(recipe()), None
    compiled = TrainStep(recipe(), total_steps=50, placement=choose_placement(CPU, "fp32"), compile_model=True)
    for one in (plain, compiled):
        result = one.step(shapes(), global_valid=8, step=0)
    assert torch.isfinite(result.loss)
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()
    torch.testing.assert_close(weights(plain), weights(compiled), rtol=1e-2, atol=1e-3)
