import json

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score, recall_score

from petseg.inference.metrics import confusion, predicted_class, score

CLASSES = [0, 1, 2]


def label_maps(classes: list[int] = CLASSES):
    shape = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
    return shape.flatmap(
        lambda s: st.tuples(*[hnp.arrays(np.uint8, s, elements=st.sampled_from(classes)) for _ in range(2)])
    )


@settings(max_examples=60, deadline=None)
@given(st.one_of(label_maps(), label_maps([0, 1]), label_maps([2])))
def test_agrees_with_scikit_learn(maps) -> None:
    truth, prediction = maps
    counts = confusion(torch.from_numpy(truth), torch.from_numpy(prediction))
    for one, t, p in zip(counts, truth, prediction, strict=True):
        np.testing.assert_array_equal(one, confusion_matrix(t.ravel(), p.ravel(), labels=CLASSES))
    scores = score(counts.sum(0))
    t, p = truth.ravel(), prediction.ravel()
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(t, p))
    present = [c for c in CLASSES if (t == c).any() or (p == c).any()]
    assert [c for c in CLASSES if scores.iou[c] is not None] == present
    iou = jaccard_score(t, p, labels=present, average=None)
    dice = f1_score(t, p, labels=present, average=None)
    assert [scores.iou[c] for c in present] == pytest.approx(list(iou))
    assert [scores.dice[c] for c in present] == pytest.approx(list(dice))
    true = [c for c in CLASSES if (t == c).any()]
    assert [c for c in CLASSES if scores.accuracy[c] is not None] == true
    recall = recall_score(t, p, labels=true, average=None)
    assert [scores.accuracy[c] for c in true] == pytest.approx(list(recall))
    assert scores.mean_iou == pytest.approx(iou.mean())
    assert scores.mean_dice == pytest.approx(dice.mean())


@settings(max_examples=40, deadline=None)
@given(label_maps())
def test_binary_figures_agree_with_scikit_learn(maps) -> None:
    truth, prediction = (a.ravel() for a in maps)
    binary = score(confusion_matrix(truth, prediction, labels=CLASSES)).binary
    t, p = truth != 1, prediction != 1
    if t.any() or p.any():
        assert binary.border_as_animal == pytest.approx(jaccard_score(t, p))
    else:
        assert binary.border_as_animal is None
    kept = truth != 2
    t, p = t[kept], p[kept]
    if t.any() or p.any():
        assert binary.border_ignored == pytest.approx(jaccard_score(t, p))
    else:
        assert binary.border_ignored is None


def test_nothing_at_all_is_not_nan() -> None:
    scores = score(np.zeros((3, 3)))
    assert scores.iou == scores.dice == scores.accuracy == (None, None, None)
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
@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_the_predicted_class_is_argmax(dtype: torch.dtype, memory_format: torch.memory_format, classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randn(4, classes, 19, 23, generator=generator).mul_(2).round_().to(dtype)  # many are equal
    scores = scores.contiguous(memory_format=memory_format)
    found = predicted_class(scores)
    assert found.dtype == torch.int64
    first = (scores == scores.max(dim=1, keepdim=True).values).int().argmax(dim=1)
    assert torch.equal(found, first)
