"""One step: accumulation, clipping, padding, weights, precision, compiling; and that every network learns."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from msgspec.structs import replace

from petseg.cli import train
from petseg.host.device import choose_placement
from petseg.inference.metrics import confusion, score
from petseg.nets.model_config import ModelConfig, default_model_config
from petseg.runs.recipe import Recipe, default_recipe
from petseg.training.step import StepResult, TrainStep

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def plain_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates proportional to the gradient; Adam and Muon would hide a gradient that is wrong by a factor."""
    monkeypatch.setattr(
        "petseg.training.step.build_optimizer",
        lambda model, recipe: torch.optim.SGD(model.parameters(), lr=recipe.lr, fused=True),
    )


@dataclass
class Images:
    image: torch.Tensor
    mask: torch.Tensor
    valid: torch.Tensor


def shapes(count: int = 8, size: int = 32) -> Images:
    """Bright discs with a border on a noisy background."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = torch.randint(size // 3, size - size // 3, (2, count, 1, 1), generator=generator)
    radius = torch.randint(size // 5, size // 3, (count, 1, 1), generator=generator)
    distance = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2).sqrt() - radius
    mask = torch.where(distance < -1.5, 0, torch.where(distance < 1.5, 2, 1)).to(torch.uint8)
    level = torch.tensor([200, 60, 120])[mask.long()].unsqueeze(1)
    noise = torch.randint(-30, 30, (count, 3, size, size), generator=generator)
    return Images(
        image=(level + noise).clamp(0, 255).to(torch.uint8), mask=mask, valid=torch.ones(count, dtype=torch.bool)
    )


def small_recipe(**changes: object) -> Recipe:
    small = ModelConfig(widths=(8, 16), norm="group")  # group: statistics do not depend on how a batch is divided
    return replace(default_recipe("unet"), model=small, size=(32, 32), batch_size=8, **changes)


def sgd_recipe(*, dropout: float = 0.0, **changes: object) -> Recipe:
    recipe = small_recipe(lr=0.1, schedule="constant", clip_norm=0.0, ema_decay=0.0, **changes)
    return replace(recipe, model=replace(recipe.model, dropout=dropout))


def make_step(recipe: Recipe, steps: int = 50, **arguments: bool) -> TrainStep:
    placement = choose_placement(CPU, recipe.precision)
    return TrainStep(recipe, total_steps=steps, placement=placement, **arguments)


def weights(of: TrainStep) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in of.model.parameters()])


def assert_same_updates(ours: TrainStep, theirs: TrainStep, *, start: torch.Tensor, rel: float) -> None:
    """The changes of the weights agree, and are much larger than their difference."""
    change = weights(theirs) - start
    assert change.norm() > 0.01
    assert (weights(ours) - weights(theirs)).norm() < rel * change.norm()


@pytest.mark.usefixtures("plain_sgd")
@pytest.mark.parametrize(("micro_batches", "dropout"), [(2, 0.4), (3, 0.4), (8, 0.0)])
def test_accumulation_gives_the_same_step(micro_batches: int, dropout: float) -> None:
    images = shapes()
    images.valid[-1] = False
    whole, parts = (make_step(sgd_recipe(accumulate=n, dropout=dropout)) for n in (1, micro_batches))
    start = weights(whole).clone()
    for step in range(3):
        a = whole.run(images, global_valid=7, step=step)
        b = parts.run(images, global_valid=7, step=step)
        torch.testing.assert_close(a.loss, b.loss)
        torch.testing.assert_close(a.grad_norm, b.grad_norm, rtol=1e-4, atol=0)
        assert torch.equal(a.confusion, b.confusion)
    assert_same_updates(parts, whole, start=start, rel=1e-3)


@pytest.mark.usefixtures("plain_sgd")
def test_padding_has_no_influence() -> None:
    images = shapes()
    images.valid[4:] = False
    first, second = make_step(sgd_recipe()), make_step(sgd_recipe())
    start = weights(first).clone()
    a = first.run(images, global_valid=4, step=0)
    images.image[4:], images.mask[4:] = 0, 1
    b = second.run(images, global_valid=4, step=0)
    assert a.confusion.sum() == 4 * 32 * 32
    assert torch.equal(a.confusion, b.confusion)
    assert_same_updates(second, first, start=start, rel=1e-4)


@pytest.mark.usefixtures("plain_sgd")
def test_dropout_depends_on_seed_and_step_but_not_on_padding_or_what_was_drawn_before() -> None:
    """Weights too large to notice a step: what differs is the dropout."""
    images, losses = shapes(), dict[object, float]()
    for padding, seed in ((0, 0), (3, 0), (0, 1)):
        one = make_step(replace(sgd_recipe(dropout=0.4, seed=seed), lr=1e-30))
        torch.manual_seed(0)
        for parameter in one.model.parameters():
            torch.nn.init.uniform_(parameter, -0.3, 0.3)
        padded = Images(*(torch.cat([each, each[:padding]]) for each in (images.image, images.mask, images.valid)))
        padded.valid[8:] = False
        for step in (0, 1, 0):
            torch.rand(padding + 1)
            losses[padding, seed, step] = float(one.run(padded, global_valid=8, step=step).loss)
    assert losses[3, 0, 0] == pytest.approx(losses[0, 0, 0], rel=1e-5)
    assert len({round(loss, 5) for (padding, *_), loss in losses.items() if not padding}) == 4


@pytest.mark.usefixtures("plain_sgd")
def test_valid_images_are_counted_where_the_host_does_not_know_them() -> None:
    images = shapes()
    images.valid[3] = False  # such as a damaged image, which another one replaces
    counted, told = make_step(sgd_recipe()), make_step(sgd_recipe())
    a, b = counted.run(images, global_valid=None, step=0), told.run(images, global_valid=7, step=0)
    assert torch.equal(a.facts, b.facts)
    images.valid[:] = False
    nothing = counted.run(images, global_valid=None, step=1)
    assert not nothing.skipped
    assert nothing.loss == 0


def test_clipping_shortens_the_step() -> None:
    free, clipped = (make_step(small_recipe(clip_norm=c, optimizer="adam", weight_decay=0.0)) for c in (0.0, 1e-9))
    start = weights(free).clone()
    norms = [one.run(shapes(), global_valid=8, step=0).grad_norm for one in (free, clipped)]
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


def weights_after_two_steps(recipe: Recipe) -> torch.Tensor:
    balanced = torch.tensor([0.5, 0.5, 2.0]) if recipe.class_weights == "balanced" else None
    placement = choose_placement(CPU, recipe.precision)
    one = TrainStep(recipe, total_steps=4, placement=placement, class_weights=balanced)
    for step in range(2):
        one.run(shapes(), global_valid=8, step=step)
    return weights(one)


unchanged_weights = functools.cache(lambda: weights_after_two_steps(small_recipe()))


def test_the_same_recipe_gives_the_same_weights() -> None:
    assert torch.equal(weights_after_two_steps(small_recipe()), unchanged_weights())


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_option_changes_the_weights(change: dict[str, object]) -> None:
    assert not torch.equal(weights_after_two_steps(small_recipe(**change)), unchanged_weights())


def test_the_average_is_what_is_evaluated() -> None:
    with_average, without = make_step(small_recipe(ema_decay=0.5)), make_step(small_recipe(ema_decay=0.0))
    assert without.average is None
    assert without.evaluated_model is without.model
    for step in range(3):
        with_average.run(shapes(), global_valid=8, step=step)
    assert with_average.average is not None
    assert with_average.evaluated_model is with_average.average.model
    assert not torch.equal(next(with_average.evaluated_model.parameters()), next(with_average.model.parameters()))


@pytest.mark.usefixtures("plain_sgd")
def test_a_compiled_network_takes_the_same_steps(
    monkeypatch: pytest.MonkeyPatch, campaign: Callable[[int, int], int]
) -> None:
    """Compiled to C++ with --campaign only: that takes minutes, and is torch's part."""
    if not campaign(0, 1):
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    plain, compiled = (make_step(sgd_recipe(dropout=0.4, accumulate=2), compile_model=it) for it in (False, True))
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()
    start = weights(plain).clone()
    results = list[StepResult]()
    for step in range(2):
        results = [one.run(shapes(), global_valid=8, step=step) for one in (plain, compiled)]
        torch.testing.assert_close(results[1].loss, results[0].loss, rtol=1e-4, atol=0)
        torch.testing.assert_close(results[1].grad_norm, results[0].grad_norm, rtol=1e-3, atol=0)
    assert_same_updates(compiled, plain, start=start, rel=0.01)


PRECISIONS = ("fp32", "bf16")
WIDTHS = (8, 16, 32)
CHOICES = itertools.product(("full", "half"), ("concat", "add"), ("batch", "group"), ("bilinear", "transposed"))
SMALL = [ModelConfig(widths=WIDTHS, stem=s, join=j, norm=n, upsample=u) for s, j, n, u in CHOICES]
# Any two choices meet, and each meets both precisions (the plain ones in the last two).
DEFAULT = {(0b0000, "fp32"), (0b0111, "bf16"), (0b1011, "fp32"), (0b1101, "bf16"), (0b1110, "fp32")}
SMALL += [ModelConfig(widths=WIDTHS, blocks=2), ModelConfig(widths=WIDTHS, dropout=0.2)]
DEFAULT |= {(16, "fp32"), (17, "bf16")}
LARGE = [ModelConfig(), ModelConfig(encoder="test_efficientnet", stem="half"), default_model_config("tutorial")]
LARGE += [ModelConfig(encoder="resnet34", join="add"), ModelConfig(encoder="torchvision/resnet50")]
LARGE_DEFAULT = {(1, "fp32"), (2, "fp32")}  # the others take minutes


def title(config: ModelConfig) -> str:
    changed = [f"{field}={getattr(config, field)}" for field in config.__struct_fields__ if field != "widths"]
    plain = {f"{field}={getattr(ModelConfig(), field)}" for field in config.__struct_fields__}
    return " ".join(part for part in changed if part not in plain) or ("small" if config.widths == WIDTHS else "unet")


def mean_iou_after(
    model: ModelConfig, precision: str, *, steps: int, rate: float, optimizer: str = "", count: int = 4, size: int = 32
) -> float:
    """Train on a few images and score on the same, with the network's own optimiser unless another is named."""
    of = replace(default_recipe(model.name), model=model, size=(size, size), batch_size=count, lr=rate, ema_decay=0.0)
    one = make_step(replace(of, precision=precision, optimizer=optimizer or of.optimizer), steps)
    images = shapes(count, size)
    for step in range(steps):
        one.run(images, global_valid=count, step=step)
    with torch.inference_mode(), one.placement.autocast():
        predicted = one.evaluated_model(images.image).argmax(dim=1)
    return score(confusion(images.mask, predicted, classes=3).sum(0)).mean_iou


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", SMALL, ids=title)
def test_networks_overfit_four_images(model: ModelConfig, precision: str, campaign: Callable[[int, int], int]) -> None:
    if (SMALL.index(model), precision) not in DEFAULT and not campaign(0, 1):
        pytest.skip("with --campaign")
    steps = 60 if model.stem == "full" else 90
    assert mean_iou_after(model, precision, steps=steps, rate=0.02) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", LARGE, ids=title)
def test_large_networks_overfit_a_few_images(
    model: ModelConfig, precision: str, campaign: Callable[[int, int], int]
) -> None:
    if (LARGE.index(model), precision) not in LARGE_DEFAULT and not campaign(0, 1):
        pytest.skip("with --campaign")
    if (model.name, precision) == ("tutorial", "bf16") and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bf16: the tutorial's transposed convolutions take seconds a step")
    if model.encoder != "none":  # Muon would spend most of the time on the encoder's wide kernels
        assert mean_iou_after(model, precision, steps=45, rate=0.003, optimizer="adamw") > 0.95
        return
    if model.name == "tutorial":  # 31 million parameters: images that are as small as its four halvings allow
        assert mean_iou_after(model, precision, steps=20, rate=0.003, count=2, size=16) > 0.95
        return
    assert mean_iou_after(model, precision, steps=45, rate=0.02) > 0.95


def test_the_overfitted_networks_are_all_there_are() -> None:
    """Every choice of every option that decides the architecture; each option also in the default selection."""
    small = [SMALL[number] for number, _ in DEFAULT]
    for option in ("model", "stem", "norm", "upsample", "join"):
        (parameter,) = (p for p in train.params if p.name == option)
        field = "name" if option == "model" else option
        choices = set(parameter.type.choices) - {"sum"}  # another word for add
        assert {getattr(config, field) for config in SMALL + LARGE} == choices, option
        if option != "model":
            assert {getattr(config, field) for config in small} == choices, option
    (precision,) = (p for p in train.params if p.name == "precision")
    assert {*PRECISIONS, "auto", "fp16"} == set(precision.type.choices)  # fp16: on CUDA only, in tests/gpu
