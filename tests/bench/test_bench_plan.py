"""Which lines there are, how many workers they get, and how the time is spent: pure parts."""

from __future__ import annotations

from typing import Any

import pytest
from bench_results import environment, line, results

from bench.page import render_page
from bench.parts import Parts
from bench.table import sections, took_text
from bench.trials import climb


@pytest.mark.parametrize(
    ("rates", "tried"),
    [
        ({1: 10, 2: 20, 4: 15}, [2, 4, 1]),  # in the middle: both sides are tried
        ({1: 10, 2: 20, 4: 30}, [2, 4]),  # more is better: fewer are not tried
        ({1: 30, 2: 20, 4: 10}, [2, 4, 1]),
        ({4: 1, 8: 2, 16: 3, 32: 4}, [16, 32]),
        ({1: 9, 2: 8, 4: 7, 8: 6, 16: 5}, [4, 8, 2, 1]),  # 16 is beyond one that lost
        ({1: 1, 2: 2, 4: 3, 8: 4, 16: 5}, [4, 8, 16]),
        ({1: 1, 2: 2}, [2, 1]),
        ({3: 5}, [3]),
        ({2: 7, 4: 7}, [4, 2]),
        ({1: 7, 2: 7, 4: 7, 8: 7, 16: 7}, [4, 8, 2]),  # as fast is not faster
        ({}, []),
    ],
)
def test_the_climb_finds_the_peak_without_trying_all(rates: dict[int, float], tried: list[int]) -> None:
    found = climb(sorted(rates), lambda count: rates[count])
    assert list(found) == tried
    assert found == {count: rates[count] for count in tried}
    assert max(found.values(), default=None) == max(rates.values(), default=None)


def test_parts_add_up_also_where_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 10.0, 11.5, 20.0, 20.126])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    parts = Parts()
    with parts.of("turns"):
        pass
    with pytest.raises(KeyError), parts.of("open"):
        raise KeyError
    with parts.of("turns"):
        pass
    assert parts.rounded() == {"turns": 2.13, "open": 1.5}


def made(title: str, rate: float, **changes: Any) -> Any:
    return line(title, [rate], **{"name": f"{title} {changes}", **changes})


def test_a_tutorial_alone_stands_with_what_it_is_compared_with() -> None:
    lines = [made("tutorial source", 3), made("petseg source torch", 5), made("petseg raw torch", 90),
             made("tutorial source", 4, mask="index"), made("petseg raw torch", 99, mask="index"),
             made("webdataset raw", 2, mask="index")]  # fmt: skip
    found = sections(lines)
    assert [(section.storage, [section.label(one) for one in section.lines]) for section in found] == [
        ("source", ["petseg torch", "tutorial"]),
        ("raw", ["petseg torch"]),
        ("raw", ["petseg torch", "tutorial (source)", "webdataset"]),
    ]
    assert found[2].title == "raw storage, evaluation, class-index masks, page cache warm"
    assert sum(len(section.lines) for section in found) == len(lines)
    assert [section.title for section in sections(lines[:1])] == [
        "source storage, evaluation, one-hot masks, page cache warm"
    ]


def test_what_each_part_took_is_told() -> None:
    found = results(
        [1.0], [1.0], environment=environment(seconds=431.2), parts={"open": 160.4, "turns": 1234.5, "x": 0.4}
    )
    assert took_text(found) == "431 s: open 160, turns 1,234"
    assert "took 431 s: open 160, turns 1,234" in render_page(found)
    assert took_text(results([1.0], [1.0], parts={})) == "1 s"
