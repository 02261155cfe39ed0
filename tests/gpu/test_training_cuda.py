"""Training, scoring and predicting on CUDA, compared with the CPU."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PRECISIONS = ["auto", "fp32", "bf16", "fp16"]
TINY = {"size": 64, "widths": (8, 16, 32), "epochs": 2, "batch_size": 8, "ema_decay": 0.5}


def skip_without(precision: str) -> None:
    import torch

    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bf16")


@pytest.fixture(scope="module")
def trained(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on CUDA in fp32."""
    import petseg

    run = tmp_path_factory.mktemp("cuda") / "run"
    return petseg.train(synthetic_set, run=run, options={**TINY, "device": "cuda", "precision": "fp32"})


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ["unet", "tutorial"])
def test_every_model_trains_in_every_precision(
    synthetic_set: Path, tmp_path: Path, command: Any, model: str, precision: str
) -> None:
    skip_without(precision)
    run = tmp_path / "run"
    options = ["--model", model, "--size", "64", "--epochs", "3", "--device", "cuda", "--precision", precision]
    command("petseg-train", "--shards", synthetic_set, "--run", run, *options)
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(epochs) == 3
    assert epochs[-1]["train"]["loss"] < epochs[0]["train"]["loss"]
    assert all(0 <= epoch["val"]["mean_iou"] <= 1 for epoch in epochs)


@pytest.mark.parametrize("classes", [1, 3, 21, 255])
def test_counting_and_loss_equal_the_cpu_without_waiting_for_the_gpu(classes: int) -> None:
    import torch

    from petseg.inference.metrics import confusion, predicted_class
    from petseg.training.losses import segmentation_loss

    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(8, classes, 48, 64, generator=generator)
    truth = torch.randint(0, classes, (8, 48, 64), generator=generator, dtype=torch.uint8)
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = 255
    truth[3] = 255
    valid = torch.arange(8) < 7

    def compute(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, truth, valid = tensors
        counts = confusion(truth, predicted_class(logits), classes=classes)
        return counts, segmentation_loss(logits, truth, valid, global_valid=7, label_smoothing=0.1)

    expected = compute(logits, truth, valid)
    inputs = [tensor.cuda() for tensor in (logits, truth, valid)]
    compute(*inputs)  # what CUDA starts once may wait
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        counts, loss = compute(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert torch.equal(counts.cpu(), expected[0])
    torch.testing.assert_close(loss.cpu(), expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fit", ["cover", "contain"])
def test_sizes_that_are_no_squares_train_and_score(synthetic_set: Path, tmp_path: Path, command: Any, fit: str) -> None:
    run = tmp_path / "run"
    options = ["--size", "96x160", "--fit", fit, "--epochs", "2", "--widths", "8,16,32", "--device", "cuda"]
    command("petseg-train", "--shards", synthetic_set, "--run", run, *options)
    arguments = ["petseg-eval", run, "--shards", synthetic_set, "--json", "--precision", "fp32"]
    cpu, cuda = (json.loads(command(*arguments, "--device", device).stdout) for device in ("cpu", "cuda"))
    assert cuda["samples"] == cpu["samples"]
    labelled = [sum(map(sum, document["confusion"])) for document in (cpu, cuda)]
    assert labelled[0] == labelled[1] <= cpu["samples"] * 96 * 160
    assert cuda["pixel_accuracy"] == pytest.approx(cpu["pixel_accuracy"], abs=0.02)


@pytest.mark.parametrize("flip", [False, True])
def test_scores_are_those_of_the_cpu(trained: Path, synthetic_set: Path, command: Any, flip: bool) -> None:
    def scores(device: str) -> dict[str, Any]:
        options = ["--device", device, "--precision", "fp32", "--json", *(["--flip-tta"] if flip else [])]
        result: dict[str, Any] = json.loads(command("petseg-eval", trained, "--shards", synthetic_set, *options).stdout)
        return result

    cpu, cuda = scores("cpu"), scores("cuda")
    assert cuda["samples"] == cpu["samples"]
    # The GPU decodes JPEGs by other arithmetic, so a few pixels near a decision may differ.
    assert cuda["mean_iou"] == pytest.approx(cpu["mean_iou"], abs=0.02)
    assert cuda["pixel_accuracy"] == pytest.approx(cpu["pixel_accuracy"], abs=0.01)


def test_the_same_weights_give_the_same_logits(trained: Path) -> None:
    import torch

    from petseg.nets.factory import build_model, place
    from petseg.runs.checkpoint import load_checkpoint
    from petseg.runs.recipe import recipe_from

    checkpoint = load_checkpoint(trained / "best.pt")
    model = build_model(recipe_from(checkpoint.config).model)
    model.load_state_dict(checkpoint.weights)
    model.eval()
    image = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        on_cpu = model(image)
        torch.backends.cudnn.allow_tf32 = False
        try:
            on_cuda = place(model, torch.device("cuda"))(image.cuda())
        finally:
            torch.backends.cudnn.allow_tf32 = True
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-3, atol=1e-3)


def test_an_interrupted_run_continues(synthetic_set: Path, tmp_path: Path, command: Any) -> None:
    """It continues to the end; that the weights are the same bits is promised on the CPU only."""
    run = tmp_path / "run"
    options = ["--size", "64", "--epochs", "40", "--device", "cuda", "--checkpoint-steps", "1"]
    program = Path(sys.executable).parent / "petseg-train"
    with subprocess.Popen(
        [program, "--shards", synthetic_set, "--run", run, *options], stderr=subprocess.PIPE
    ) as process:
        until = time.monotonic() + 120
        while not (run / "last.pt").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error.decode()
    assert b"--resume" in error
    before = len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0
    assert before < 40
    command("petseg-train", "--resume", "--run", run)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 40


def test_predicting_on_cuda_gives_masks_of_the_original_resolution(
    trained: Path, synthetic_pets: Path, tmp_path: Path, command: Any
) -> None:
    import numpy as np
    from PIL import Image

    path = sorted((synthetic_pets / "images").glob("*.jpg"))[0]
    command("petseg-predict", trained, path, "-o", tmp_path / "masks", "--device", "cuda")
    with Image.open(path) as image, Image.open(tmp_path / "masks" / f"{path.stem}.png") as mask:
        assert mask.size == image.size
        assert set(np.unique(np.asarray(mask))) <= {1, 2, 3}
