import json

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from petseg.inference.metrics import class_counts, confusion, predicted_class, score, score_counts
from shards.format.builtin_labels import BINARY, PETS
from shards.format.labels import IGNORE

Maps = npt.NDArray[np.uint8]
COUNTS_OF_CLASSES = [1, 2, 3, 17, 150, 255]


@st.composite
def label_maps(draw: st.DrawFn, classes: int) -> tuple[Maps, Maps]:
    """Truth and prediction of a few images; few or many classes occur, and none to all pixels are ignored."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)))
    occurring = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    choices = occurring if draw(st.booleans()) else range(classes)
    truth, prediction = (generator.choice(np.array(choices, np.uint8), size=shape) for _ in range(2))
    truth[generator.random(shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = IGNORE
    return truth, prediction


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(COUNTS_OF_CLASSES).flatmap(lambda n: st.tuples(st.just(n), label_maps(n))))
def test_agrees_with_scikit_learn_on_the_pixels_that_are_not_ignored(example: tuple[int, tuple[Maps, Maps]]) -> None:
    from sklearn.metrics import accuracy_score, f1_score, jaccard_score, recall_score

    classes, (truth, prediction) = example
    counts = confusion(torch.from_numpy(truth), torch.from_numpy(prediction).long(), classes=classes)
    assert counts.shape == (len(truth), classes, classes)
    assert counts.dtype == torch.int64
    kept = truth != IGNORE
    for one, t, p, k in zip(counts, truth, prediction, kept, strict=True):
        expected = np.zeros((classes, classes), np.int64)
        np.add.at(expected, (t[k], p[k]), 1)
        np.testing.assert_array_equal(one, expected)
    scores = score(counts.sum(0))
    assert scores == score_counts(class_counts(counts).sum(0).numpy())
    t, p = truth[kept], prediction[kept]
    present = [c for c in range(classes) if (t == c).any() or (p == c).any()]
    true = [c for c in range(classes) if (t == c).any()]
    assert [c for c in range(classes) if scores.iou[c] is not None] == present
    assert [c for c in range(classes) if scores.dice[c] is not None] == present
    assert [c for c in range(classes) if scores.recall[c] is not None] == true
    if not len(t):
        assert scores.mean_iou == scores.mean_dice == scores.pixel_accuracy == 0.0
        return
    iou = jaccard_score(t, p, labels=present, average=None)
    dice = f1_score(t, p, labels=present, average=None)
    recall = recall_score(t, p, labels=true, average=None)
    assert [scores.iou[c] for c in present] == pytest.approx(list(iou))
    assert [scores.dice[c] for c in present] == pytest.approx(list(dice))
    assert [scores.recall[c] for c in true] == pytest.approx(list(recall))
    assert scores.mean_iou == pytest.approx(iou.mean())
    assert scores.mean_dice == pytest.approx(dice.mean())
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(t, p))


def jaccard(truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_]) -> float | None:
    """scikit-learn's, but None where neither has any pixel."""
    from sklearn.metrics import jaccard_score

    return float(jaccard_score(truth, prediction)) if truth.any() or prediction.any() else None


@settings(max_examples=60, deadline=None)
@given(label_maps(3))
def test_binary_figures_agree_with_scikit_learn(maps: tuple[Maps, Maps]) -> None:
    truth, prediction = (part[maps[0] != IGNORE] for part in maps)
    matrix = confusion(*(torch.from_numpy(part) for part in maps), classes=3).sum(0)
    binary = score(matrix, PETS).binary
    assert binary is not None
    assert binary.boundary_as_foreground == pytest.approx(jaccard(truth != 1, prediction != 1))
    kept = truth != 2
    assert binary.boundary_ignored == pytest.approx(jaccard(truth[kept] != 1, prediction[kept] != 1))


def test_binary_figures_are_only_of_labels_that_have_them() -> None:
    scores = score([[5, 1], [2, 6]], BINARY)
    assert scores.binary is not None
    assert scores.binary.boundary_as_foreground == scores.iou[1] == pytest.approx(6 / 9)
    assert scores.binary.boundary_ignored is None
    without = msgspec.structs.replace(PETS, foreground=(), boundary=())
    assert score(np.eye(3), without).binary is None
    assert score(np.eye(3)).binary is None


def test_nothing_at_all_is_not_nan() -> None:
    scores = score(np.zeros((3, 3)), PETS)
    assert scores.iou == scores.dice == scores.recall == (None, None, None)
    assert scores.mean_iou == scores.mean_dice == scores.pixel_accuracy == 0.0
    json.dumps(msgspec.to_builtins(scores), allow_nan=False)


def test_large_counts_do_not_overflow() -> None:
    scores = score(np.diag([2**60, 2**59, 2**58]))
    assert scores.iou == (1.0, 1.0, 1.0)
    assert scores.pixel_accuracy == 1.0


def test_a_set_is_not_the_mean_of_its_batches() -> None:
    a, b = np.array([[9, 1, 0], [0, 0, 0], [0, 0, 0]]), np.array([[0, 0, 0], [90, 10, 0], [0, 0, 0]])
    assert score(a + b).mean_iou != pytest.approx((score(a).mean_iou + score(b).mean_iou) / 2)
    assert score(a + b).iou[0] == pytest.approx(9 / 100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("classes", [1, 2, 3, 7, 255])
def test_the_predicted_class_is_argmax(dtype: torch.dtype, memory_format: torch.memory_format, classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randn(4, classes, 19, 23, generator=generator).mul_(2).round_().to(dtype)  # many are equal
    scores = scores.contiguous(memory_format=memory_format)
    found = predicted_class(scores)
    assert found.dtype == torch.int64
    first = (scores == scores.max(dim=1, keepdim=True).values).int().argmax(dim=1)
    assert torch.equal(found, first)
