import pytest
from hypothesis import given
from hypothesis import strategies as st

from petseg.optim.learning_rate import learning_rate_at


def rates(schedule: str, total: int, warmup: float = 0.25) -> list[float]:
    return [
        learning_rate_at(step, total_steps=total, peak=1.0, schedule=schedule, warmup=warmup)  # type: ignore[arg-type]
        for step in range(total)
    ]


def test_shapes() -> None:
    assert rates("constant", 10) == [1.0] * 10
    cosine = rates("cosine", 100)
    assert cosine[0] == 1.0
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[-1] < 0.001
    onecycle = rates("onecycle", 100)
    assert onecycle[0] == pytest.approx(1 / 25)
    assert max(onecycle) == onecycle[25] == pytest.approx(1.0)
    assert onecycle[:26] == sorted(onecycle[:26])
    assert onecycle[25:] == sorted(onecycle[25:], reverse=True)
    assert onecycle[-1] < 0.001


def test_onecycle_agrees_with_torch() -> None:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    other = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=101, pct_start=26 / 101, div_factor=25, final_div_factor=1e12
    )
    theirs = []
    for _ in range(101):
        theirs.append(other.get_last_lr()[0])
        optimizer.step()
        other.step()
    ours = [learning_rate_at(s, total_steps=100, peak=1.0, schedule="onecycle", warmup=0.25) for s in range(101)]
    assert ours == pytest.approx(theirs, abs=1e-6)


@given(
    step=st.integers(0, 10_000),
    total=st.integers(1, 10_000),
    warmup=st.floats(0, 1),
    schedule=st.sampled_from(["constant", "cosine", "onecycle"]),
)
def test_always_between_zero_and_the_peak(step: int, total: int, warmup: float, schedule: str) -> None:
    rate = learning_rate_at(min(step, total - 1), total_steps=total, peak=0.1, schedule=schedule, warmup=warmup)  # type: ignore[arg-type]
    assert 0 <= rate <= 0.1 + 1e-12
