import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from petseg.training.losses import balanced_class_weights, dice_loss, loss_limit, segmentation_loss
from shards.format.labels import IGNORE


def example(
    images: int = 6, size: int = 5, seed: int = 0, classes: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, size, size, generator=generator) * 3
    truth = torch.randint(0, classes, (images, size, size), generator=generator, dtype=torch.uint8)
    return logits, truth, torch.ones(images, dtype=torch.bool)


def test_cross_entropy_is_torchs() -> None:
    logits, truth, valid = example()
    loss = segmentation_loss(logits, truth, valid, global_valid=6, dice_weight=0.0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, truth.long()))


def test_dice_is_the_formula() -> None:
    logits, truth, _ = example(images=1)
    p, t = logits.softmax(1)[0].double(), truth[0]
    expected = 0.0
    for c in range(3):
        one = (t == c).double()
        expected += (2 * (p[c] * one).sum() + 1) / (p[c].sum() + one.sum() + 1)
    assert dice_loss(logits, truth).item() == pytest.approx(1 - float(expected) / 3, abs=1e-6)


def test_dice_is_zero_for_perfection_also_without_a_class() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.uint8)
    logits = F.one_hot(truth.long(), 3).permute(0, 3, 1, 2) * 200.0
    assert dice_loss(logits, truth).item() == pytest.approx(0, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 6), max_size=3), dice=st.sampled_from([0.0, 1.0]), smooth=st.sampled_from([0.0, 0.1])
)
def test_shares_of_a_batch_add_up(cuts: list[int], dice: float, smooth: float) -> None:
    logits, truth, valid = example()
    valid[4] = False
    weights = torch.tensor([0.5, 1.0, 1.5])
    options = {"global_valid": 5, "dice_weight": dice, "class_weights": weights, "label_smoothing": smooth}
    whole = segmentation_loss(logits, truth, valid, **options)
    edges = [0, *sorted(cuts), 6]
    parts = [segmentation_loss(logits[a:b], truth[a:b], valid[a:b], **options) for a, b in itertools.pairwise(edges)]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_padding_counts_nowhere_not_even_as_nan() -> None:
    logits, truth, valid = example()
    valid[5] = False
    expected = segmentation_loss(logits[:5], truth[:5], valid[:5], global_valid=5)
    damaged = logits.clone()
    damaged[5] = float("nan")
    torch.testing.assert_close(segmentation_loss(damaged, truth, valid, global_valid=5), expected)
    leaf = logits.clone().requires_grad_()
    segmentation_loss(leaf, truth, valid, global_valid=5).backward()
    assert leaf.grad is not None
    assert leaf.grad[5].abs().max() == 0
    assert leaf.grad[:5].abs().max() > 0


@pytest.mark.parametrize("dice", [0.0, 1.0, 200.0, 1000.0])
@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 1.0], [0.01, 0.01, 2.98]])
def test_the_limit_of_divergence_follows_the_losss_scale(dice: float, weights: list[float] | None) -> None:
    """Nothing that a fresh network may predict is beyond it, also where it is sure and wrong; numbers that grow are."""
    given = None if weights is None else torch.tensor(weights)
    limit = loss_limit(dice_weight=dice, class_weights=given)
    assert limit == pytest.approx(dice + 100 * max(1, *(weights or [1])))
    for scale, diverged in ((1.0, False), (30.0, False), (1e4, True)):
        truth = torch.full((1, 8, 8), 2, dtype=torch.uint8)
        logits = torch.tensor([scale, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        valid = torch.ones(1, dtype=torch.bool)
        loss = segmentation_loss(logits, truth, valid, global_valid=1, dice_weight=dice, class_weights=given)
        assert (float(loss) > limit) == diverged


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_fp32(dtype: torch.dtype) -> None:
    logits, truth, valid = (
        torch.zeros(1, 3, 400, 400, dtype=dtype),
        torch.zeros(1, 400, 400, dtype=torch.uint8),
        torch.ones(1, dtype=torch.bool),
    )
    loss = segmentation_loss(logits, truth, valid, global_valid=1)  # a sum of 160,000 overflows fp16
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_balanced_weights() -> None:
    weights = balanced_class_weights((400, 500, 100))
    assert weights.mean().item() == pytest.approx(1)
    assert weights[2] > weights[0] > weights[1]
    assert (weights[2] / weights[0]).item() == pytest.approx(2)  # the root of four times as rare


def test_what_the_documentation_says_of_the_weights_of_classes() -> None:
    """docs/training.md: the weights of shares of 90 and 10 %, and that pixels count in the mean, not their weights."""
    weights = balanced_class_weights((900, 100))
    assert weights.tolist() == pytest.approx([0.5, 1.5])
    logits, truth, valid = example(images=2, classes=2)
    truth[0] = IGNORE
    truth[0, 0, 0] = 1  # a single labelled pixel: the image counts as much as the other
    options = {"ignore_index": IGNORE, "reduction": "sum"}
    sums = [F.cross_entropy(logits[i : i + 1], truth[i : i + 1].long(), weights, **options) for i in range(2)]
    expected = (sums[0] / 1 + sums[1] / truth[1].numel()) / 2
    loss = segmentation_loss(logits, truth, valid, global_valid=2, dice_weight=0.0, class_weights=weights)
    torch.testing.assert_close(loss, expected)
    truth[:] = 1
    alone = segmentation_loss(logits, truth, valid, global_valid=2, dice_weight=0.0, class_weights=weights)
    torch.testing.assert_close(alone, 1.5 * F.cross_entropy(logits, truth.long(), weights))  # torch's has none left


def test_a_class_without_pixels_does_not_take_all_the_weight() -> None:
    weights = balanced_class_weights((400, 0, 500, 0, 100))
    torch.testing.assert_close(weights[[0, 2, 4]], balanced_class_weights((400, 500, 100)))
    assert weights[[1, 3]].tolist() == [1, 1]
    assert balanced_class_weights((10, 0, 0)).tolist() == balanced_class_weights((0, 0, 0)).tolist() == [1, 1, 1]


def loss_of_pixels(logits: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor, *, smoothing: float) -> float:
    """The loss of one image, by its definition, of the lists of its labelled pixels: (N, P) and (P,)."""
    classes, pixels = logits.shape
    if not pixels:
        return 0.0
    log_p = logits.double().log_softmax(dim=0)
    target = F.one_hot(truth.long(), classes).T.double()
    smoothed = (1 - smoothing) * target + smoothing / classes
    entropy = -(weights.double().view(-1, 1) * smoothed * log_p).sum() / pixels
    p = log_p.exp()
    dice = (2 * (p * target).sum(1) + 1) / (p.sum(1) + target.sum(1) + 1)
    return float(entropy + 2 * (1 - dice.mean()))


@settings(max_examples=40, deadline=None)
@given(
    classes=st.sampled_from([1, 2, 3, 21, 255]),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    smoothing=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 1000),
)
def test_ignored_pixels_count_nowhere(classes: int, ignored: float, smoothing: float, seed: int) -> None:
    logits, truth, valid = example(4, 7, seed, classes)
    weights = torch.rand(classes, generator=torch.Generator().manual_seed(seed)) + 0.1
    truth[torch.rand(truth.shape, generator=torch.Generator().manual_seed(seed)) < ignored] = IGNORE
    truth[1] = IGNORE
    leaf = logits.clone().requires_grad_()
    loss = segmentation_loss(
        leaf, truth, valid, global_valid=4, dice_weight=2.0, class_weights=weights, label_smoothing=smoothing
    )
    expected = [
        loss_of_pixels(one[:, t != IGNORE], t[t != IGNORE], weights, smoothing=smoothing)
        for one, t in zip(logits, truth, strict=True)
    ]
    assert loss.item() == pytest.approx(sum(expected) / 4, rel=1e-5, abs=1e-6)
    loss.backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()
    assert (leaf.grad.abs().amax(dim=1)[truth == IGNORE] == 0).all()
