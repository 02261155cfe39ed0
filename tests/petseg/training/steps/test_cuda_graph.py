"""Where a step cannot be a CUDA graph; that it can be one, and equals an eager step, is for tests/gpu."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import petseg
from petseg.host.device import Placement
from petseg.host.distributed import World
from petseg.training.cuda_graph import check_graph, chooses_graph
from shards.errors import UsageError

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("placement", "world", "reason"),
    [
        (Placement(torch.device("cpu"), "fp32"), World(), "needs a CUDA device"),
        (Placement(GPU, "bf16"), World(size=2), "in one process, not in 2"),
        (Placement(GPU, "fp16"), World(), "not with fp16"),
    ],
)
def test_impossible_graphs_are_refused(placement: Placement, world: World, reason: str) -> None:
    with pytest.raises(UsageError, match=f"cuda_graph .*{reason}"):
        check_graph(placement, world)


def test_a_step_is_a_graph_where_it_can_be_unless_it_is_said_otherwise() -> None:
    gpu, cpu, several = Placement(GPU, "bf16"), Placement(torch.device("cpu"), "fp32"), World(size=2)
    assert chooses_graph(None, gpu, World(), compiled=False)
    assert not chooses_graph(None, gpu, World(), compiled=True)
    assert not chooses_graph(None, gpu, several, compiled=False)
    assert not chooses_graph(None, Placement(GPU, "fp16"), World(), compiled=False)
    assert not chooses_graph(None, cpu, World(), compiled=False)
    for asked in (True, False):
        assert chooses_graph(asked, gpu, World(), compiled=True) is asked


def test_possible_graphs_are_not() -> None:
    check_graph(Placement(GPU, "bf16"), World())
    check_graph(Placement(GPU, "fp32"), World())


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_on_a_cpu_nothing_is_written(synthetic_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no graphs on a CPU"):
        petseg.train(synthetic_set, run=tmp_path / "run", options={"cuda_graph": True})
    assert not (tmp_path / "run").exists()
