"""A training step on CUDA: never waits for the device, skips what overflows, the same compiled or as a graph."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from petseg.host.device import Placement, choose_placement, fast_kernels
from petseg.host.distributed import World
from petseg.nets.model_config import ModelConfig
from petseg.runs.checkpoint import Checkpoint
from petseg.runs.recipe import Recipe, default_recipe
from petseg.training.guard import MIN_SCALE
from petseg.training.step import TrainStep
from petseg.training.step_log import LaunchedStep, StepLog
from pipeline import Batch
from shards.format.builtin_labels import PETS

OPTIMIZERS = ["muon", "adamw", "adam"]
WARM_UP = 5  # steps, more than a CUDA graph needs before it is captured


def cuda() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def make_recipe(optimizer: str = "muon", **changes: Any) -> Recipe:
    small = {"size": (64, 64), "batch_size": 8, "model": ModelConfig(widths=(16, 32)), "optimizer": optimizer}
    small["weight_decay"] = 0.0 if optimizer == "adam" else 0.02
    return replace(default_recipe("unet"), **(small | {"precision": "fp32"} | changes))


def make_batches(count: int, *, size: int = 64) -> list[Batch]:
    """On the device before anything is measured."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for number in range(count):
        image = torch.randint(0, 256, (8, 3, size, size), dtype=torch.uint8, generator=generator)
        mask = torch.randint(0, 3, (8, size, size), dtype=torch.uint8, generator=generator)
        batches.append(
            Batch(
                image=image.contiguous(memory_format=torch.channels_last).to(cuda()),
                mask=mask.to(cuda()),
                index=torch.arange(8),
                valid=torch.ones(8, dtype=torch.bool).to(cuda()),
                epoch=0,
                number=number,
            )
        )
    torch.cuda.synchronize()
    return batches


def make_step(recipe: Recipe, **how: Any) -> TrainStep:
    return TrainStep(recipe, total_steps=50, placement=choose_placement(cuda(), recipe.precision), **how)


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def resumed(step: TrainStep, **how: Any) -> TrainStep:
    again = make_step(step.recipe, **how)
    parts: dict[str, Any] = {"config": {}, "labels": PETS, "position": {}, "history": [], "loader": None}
    again.load(Checkpoint(**parts, **step.state()))
    return again


def run_logged(step: TrainStep, batches: list[Batch], log: StepLog, first: int) -> None:
    """As the training loop does."""
    total = torch.zeros(3, 3, dtype=torch.int64, device=cuda())
    for number, batch in enumerate(batches, start=first):
        result = step.run(batch, global_valid=8, step=number)
        total += result.confusion
        if log.add(result, LaunchedStep(index=batch.index, batch=number, valid=8, step=number + 1, epoch=0)):
            log.finish_block(total, stop=False, save=False)


def test_waiting_is_noticed() -> None:
    """The tests below would notice: reading a value in a step raises."""
    value = torch.ones((), device=cuda())
    with no_waiting(), pytest.raises(RuntimeError, match="synchronizing"):
        value.item()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("resume", [False, True], ids=["warm", "resumed"])
def test_a_step_never_waits(optimizer: str, precision: str, resume: bool) -> None:
    step, batches = make_step(make_recipe(optimizer, precision=precision)), make_batches(WARM_UP)
    log = StepLog(device=cuda(), world=World(), every=WARM_UP)
    run_logged(step, batches, log, first=0)
    if resume:
        step = resumed(step)
        run_logged(step, batches, log, first=WARM_UP)  # cudnn's search and the allocator's first requests
    list(log.read_blocks(all_of_them=True))
    with no_waiting():
        run_logged(step, batches, log, first=2 * WARM_UP)
    (block,) = log.read_blocks(all_of_them=True)
    assert [facts.launched.step for facts in block.steps] == [*range(2 * WARM_UP + 1, 3 * WARM_UP + 1)]
    assert all(0 < facts.loss < 10 for facts in block.steps)
    assert not block.stop
    assert block.confusion.sum() == WARM_UP * 8 * 64 * 64


def test_only_the_log_is_copied_to_the_host(tmp_path: Path) -> None:
    """By the profiler, whose trace lists every copy: three for each block, none for a step."""
    from torch.profiler import ProfilerActivity, profile

    step, batches = make_step(make_recipe()), make_batches(8)
    log = StepLog(device=cuda(), world=World(), every=4)
    run_logged(step, batches, log, first=0)
    list(log.read_blocks(all_of_them=True))
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run_logged(step, batches, log, first=8)
        torch.cuda.synchronize()
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any(event.get("cat") == "kernel" for event in events)
    copies = [event["name"] for event in events if event.get("cat") == "gpu_memcpy"]
    assert sum("DtoH" in name for name in copies) == 2 * 2  # facts and confusion, for each of two blocks
    assert len(list(log.read_blocks(all_of_them=True))) == 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_bad_step_changes_nothing(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step, (batch,) = make_step(make_recipe(optimizer, ema_decay=0.0)), make_batches(1)
    step.run(batch, global_valid=8, step=0)
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    with monkeypatch.context() as patch:
        patch.setattr(step, "_network", lambda image, net=step._network: net(image.float() * float("nan")))
        assert step.run(batch, global_valid=8, step=1).skipped
    for name, value in step.model.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, before[name]), name
    assert not step.run(batch, global_valid=8, step=2).skipped


def test_fp16_overflows_are_skipped_and_the_scale_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    step, (batch,) = make_step(make_recipe(precision="fp16", ema_decay=0.0)), make_batches(1)
    step.run(batch, global_valid=8, step=0)
    step.scaler.update(2.0**40)  # the next gradient overflows
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    result = step.run(batch, global_valid=8, step=1)
    assert result.skipped
    assert result.facts[3] == 2.0**39
    assert all(torch.equal(a, b) for a, b in zip(step.model.parameters(), before, strict=True))
    for number in range(2, 40):
        result = step.run(batch, global_valid=8, step=number)
    assert not result.skipped
    assert MIN_SCALE < result.facts[3] < 2.0**39
    assert any(not torch.equal(a, b) for a, b in zip(step.model.parameters(), before, strict=True))


def test_fp16_that_overflows_for_ever_ends_the_run(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import petseg
    from petseg.host.stop_signals import DivergedError

    unscale = torch.amp.GradScaler.unscale_

    def overflowing(self: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["params"][0].grad.fill_(float("inf"))
        unscale(self, optimizer)

    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", overflowing)
    options = {"size": 64, "widths": (8, 16), "epochs": 30, "batch_size": 8, "device": "cuda", "precision": "fp16"}
    with pytest.raises(DivergedError, match="overflow in fp16 in every step"):
        petseg.train(synthetic_set, run=tmp_path / "run", options={**options, "log_every": 1})


def change_of(step: TrainStep, start: torch.Tensor) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in step.model.parameters()]) - start


@pytest.mark.parametrize("how", [{"cuda_graph": True}, {"compile_model": True}], ids=["graph", "compiled"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_graphs_and_compiled_networks_take_the_same_steps(optimizer: str, how: dict[str, bool]) -> None:
    """Also after the image size changes, with dropout, and with a batch that has padding."""
    model = ModelConfig(widths=(16, 32), dropout=0.2 if "cuda_graph" in how else 0.0)
    recipe, notes = make_recipe(optimizer, model=model, ema_decay=0.5, lr=1e-3), list[str]()
    torch.backends.cudnn.allow_tf32, before = False, torch.backends.cudnn.allow_tf32
    try:
        plain, other = make_step(recipe), make_step(recipe, note=notes.append, **how)
        start = change_of(plain, torch.zeros((), device=cuda()))
        batches = make_batches(WARM_UP + 3) + make_batches(WARM_UP + 3, size=96)
        batches[-1].valid[5:] = False
        for number, batch in enumerate(batches):
            valid = 5 if number == len(batches) - 1 else 8
            losses = [one.run(batch, global_valid=valid, step=number).loss.clone() for one in (plain, other)]
            torch.testing.assert_close(losses[1], losses[0], rtol=5e-3, atol=0)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert not notes
    changes = [change_of(one, start) for one in (plain, other)]
    assert changes[0].norm() > 0.01
    assert (changes[0] - changes[1]).norm() < 0.05 * changes[0].norm()


@pytest.mark.parametrize("how", [{"cuda_graph": True}, {"compile_model": True}], ids=["graph", "compiled"])
def test_an_encoder_takes_the_same_steps(how: dict[str, bool]) -> None:
    """A network with an encoder of timm: as a graph, compiled, and plain; its weights and outputs are channels_last."""
    pytest.importorskip("timm")
    model = ModelConfig(encoder="resnet18")
    recipe, notes = make_recipe("adamw", model=model, lr=1e-3), list[str]()
    plain, other = make_step(recipe), make_step(recipe, note=notes.append, **how)
    for number, batch in enumerate(make_batches(WARM_UP + 2)):
        losses = [one.run(batch, global_valid=8, step=number).loss.clone() for one in (plain, other)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-2, atol=0)
    assert not notes
    kernels = [weight for weight in plain.model.parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)


def test_a_step_that_cannot_be_captured_runs_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = list[str]()
    step, batches = make_step(make_recipe(), cuda_graph=True, note=notes.append), make_batches(WARM_UP + 2)
    network = step._network

    def reading(image: torch.Tensor) -> torch.Tensor:
        image.sum().item()  # which no graph can hold
        return network(image)

    monkeypatch.setattr(step, "_network", reading)
    losses = [float(step.run(batch, global_valid=8, step=n).loss) for n, batch in enumerate(batches)]
    assert len(notes) == 1
    assert "cannot be captured" in notes[0]
    assert all(0 < loss < 10 for loss in losses)


def test_nccl_with_one_rank(synthetic_set: Path, tmp_path: Path) -> None:
    """A group of one process over NCCL: the collectives of a step run, and change nothing."""
    program = """
import os, torch
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511", RANK="0", WORLD_SIZE="1")
torch.cuda.set_device(0)
torch.distributed.init_process_group("nccl", device_id=torch.device("cuda", 0))
value = torch.arange(4.0, device="cuda")
torch.distributed.all_reduce(value)
assert value.tolist() == [0.0, 1.0, 2.0, 3.0]
torch.distributed.destroy_process_group()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "--"]
    options = ["--size", "64", "--widths", "8,16", "--epochs", "1", "--device", "cuda"]
    command = [*torchrun, "petseg", "--shards", str(synthetic_set), "--run", str(tmp_path / "run"), *options]
    subprocess.run(command, check=True, timeout=300)
    assert (tmp_path / "run" / "best.pt").is_file()


def test_one_gpu_for_two_ranks_is_an_error_that_says_why(synthetic_set: Path, tmp_path: Path) -> None:
    ranks = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    command = [str(Path(sys.executable).parent / "petseg-train"), "--shards", str(synthetic_set), "--device", "cuda:0"]
    result = subprocess.run(
        [*command, "--run", str(tmp_path / "run")],
        env=os.environ | ranks,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode != 0
    assert "2 processes on this machine would share one GPU; use --device cuda" in result.stderr


def test_the_fastest_kernels_are_chosen_and_the_settings_given_back() -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    with fast_kernels(Placement(device=cuda(), precision="fp32")):
        assert cudnn.benchmark
        assert cudnn.allow_tf32
        assert matmul.allow_tf32
    assert (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32) == before
