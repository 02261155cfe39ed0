"""Checkpoints made to harm, or damaged in ways that checksums do not show: one clear error each, at once."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_runs import ENTRY, SCORES, sample_checkpoint

from petseg.inference import trained_network
from petseg.runs.checkpoint import CheckpointError, load_checkpoint, load_weights, save_checkpoint
from petseg.runs.run_folder import read_config, read_metrics

Document = dict[str, Any]


def saved(tmp_path: Path, change: Callable[[Document], object]) -> Path:
    """A checkpoint that was changed and saved again, with checksums that are right."""
    path = tmp_path / "a.pt"
    save_checkpoint(path, sample_checkpoint())
    document = torch.load(path, weights_only=True)
    change(document)
    torch.save(document, path)
    return path


def plain(**changes: Any) -> Callable[[Document], object]:
    """Change values of the JSON part; None removes one."""

    def change(document: Document) -> None:
        values = json.loads(document["plain"]) | changes
        document["plain"] = json.dumps({name: value for name, value in values.items() if value is not None})

    return change


def weight(value: Any) -> Callable[[Document], object]:
    return lambda document: document["model"].update(w=value)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def named(*names: str, values: Any = None, color: str = "") -> Any:
    """Labels of these classes, of which the first may have other values, or another colour."""
    classes = [{"name": name, "color": f"#00000{n + 1}", "values": [n]} for n, name in enumerate(names)]
    classes[0] |= {} if values is None else {"values": values}
    classes[0] |= {"color": color} if color else {}
    return {"classes": classes}


def entry(**scores: Any) -> Any:
    return {**ENTRY, "train": {**SCORES, **scores}}


CONFIG = sample_checkpoint().config
NAN = torch.tensor([1.0, float("nan")])
DEEP = "[" * 100_000 + "]" * 100_000
CHANGES: dict[str, tuple[Callable[[Document], object], str]] = {
    "NaN": (weight(NAN), "w has values that are not finite"),
    "infinity": (weight(torch.tensor([1.0, float("-inf")])), "w has values that are not finite"),
    "NaN in the average": (lambda d: d.update(average={"v": NAN}), "v has values that are not finite"),
    "NaN in half precision": (weight(NAN.half()), "w has values that are not finite"),
    "a variance below 0": (
        lambda d: d["model"].update({"norm.running_var": torch.tensor([1.0, -0.5])}),
        "norm.running_var has values below 0, which are no variances",
    ),
    "complex": (weight(torch.ones(2, dtype=torch.complex64)), "w has complex numbers"),
    "sparse": (weight(torch.eye(2).to_sparse()), "Python objects"),
    "larger than its data": (weight(torch.ones(1).expand(10**12)), "larger than its data"),
    "no tensor": (weight("text"), "weights are not tensors"),
    "a part is missing": (lambda d: d.pop("optimizer"), "damaged"),
    "a part is a list": (lambda d: d.update(model=[torch.ones(1)]), "'model' is no dictionary"),
    "a part is nested": (lambda d: d.update(optimizer={"state": nested(50)}), "nested too deeply"),
    "a tensor as version": (lambda d: d.update(version=torch.ones(3)), "has version of no number"),
    "a truth as version": (lambda d: d.update(version=True), "has version of no number"),
    "a tensor as format": (lambda d: d.update(format=torch.ones(3)), "not a checkpoint of petseg"),
    "JSON nested deeply": (lambda d: d.update(plain=DEEP), "damaged"),
    "config nested deeply": (lambda d: d.update(plain=d["plain"].replace('"unet"', DEEP)), "damaged"),
    "no JSON": (lambda d: d.update(plain="{"), "damaged"),
    "JSON is a tensor": (lambda d: d.update(plain=torch.ones(1)), "damaged"),
    "NaN in JSON": (lambda d: d.update(plain=d["plain"].replace("0.5", "NaN")), "damaged"),
    "no config": (plain(config=None), "config"),
    "an empty config": (plain(config={}), "its recipe is impossible"),
    "config is a list": (plain(config=[1]), "config"),
    "a wrong field": (plain(config={**CONFIG, "epochs": "20"}), "its recipe is impossible"),
    "a foreign field": (plain(config={**CONFIG, "colour": 1}), "its recipe is impossible"),
    "an impossible network": (
        plain(
            config={
                **CONFIG,
                "model": {**sample_checkpoint().config["model"], "widths": [10**9, 4]},
            }
        ),
        "its recipe is impossible",
    ),
    "no labels": (plain(labels=None), "no labels"),
    "wrong labels": (plain(labels={"classes": 3}), "damaged"),
    "labels with orders to a terminal": (plain(labels=named("a\x1b[2J", "b")), "give 1 to 80 printable characters"),
    "labels without a value": (plain(labels=named("a", "b", values=[])), "has no value"),
    "labels with a value beyond a byte": (plain(labels=named("a", "b", values=[1, 256])), "value 256 is outside"),
    "labels with a colour that is none": (plain(labels=named("a", "b", color="blue")), "is not written as #rrggbb"),
    "labels of another number of classes": (
        plain(labels=named("a", "b", "c")),
        "names 3 classes, its network predicts 2",
    ),
    "no labels at all": (plain(labels={"classes": []}), "the labels name no class"),
    "scores of another number of classes": (plain(history=[entry(iou=[0.5] * 3)]), "scores of other than 2 classes"),
    "recall of another number of classes": (plain(history=[entry(recall=[0.5])]), "scores of other than 2 classes"),
    "Dice of another number of classes": (plain(history=[entry(dice=[0.5])]), "scores of other than 2 classes"),
    "a Dice that is no number": (plain(history=[entry(dice=["x", 0.5])]), "Expected `float | null`, got `str`"),
    **{
        f"an epoch of the size {size}": (plain(history=[{**ENTRY, "size": size}]), "a.pt is damaged: ")
        for size in (0.5, "x", [], [1], {}, [0, 32], [2**70, 32], -1)
    },
    "an IoU above 1": (plain(history=[entry(mean_iou=1e300)]), "Expected `float` <= 1.0"),
    "an epoch that no run has": (plain(history=[{**entry(), "epoch": 2**64 - 1}]), "Expected `int` <= 1000000000"),
    "an integer of 20,000 bits as version": (
        lambda d: d.update(version=1 << 20_000),
        "an integer of more than 64 bits",
    ),
    "an integer of 20,000 bits": (lambda d: d["optimizer"].update(x=1 << 20_000), "an integer of more than 64 bits"),
    "a history without scores": (plain(history=[{"epoch": 1}]), "damaged"),
    "no position": (plain(position=None), "position"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_what_checksums_do_not_show(tmp_path: Path, change: Callable[[Document], object], message: str) -> None:
    path = saved(tmp_path, change)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    text = str(error.value)
    assert text.startswith(f"{path} ")
    assert message in text
    assert "weights_only" not in text
    assert "\n" not in text
    assert len(text) < 500


def test_a_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that would become large: refused before anything is inflated."""
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"format": "petseg-checkpoint"}, protocol=2))
        archive.writestr("a/data/0", bytes(16 << 20))
    assert path.stat().st_size < 1 << 20
    for owner, name in ((zipfile.ZipFile, "open"), (torch, "load")):
        monkeypatch.setattr(owner, name, lambda *given, **named: pytest.fail("the file was read"))
    with pytest.raises(CheckpointError, match="compressed"):
        load_checkpoint(path)


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """Many names for the same bytes inflate a file, too."""
    path = tmp_path / "shared.pt"
    save_checkpoint(path, sample_checkpoint())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        for number in range(50):
            twin = zipfile.ZipInfo(f"archive/data/{1000 + number}")
            for name in ("header_offset", "file_size", "compress_size", "CRC", "external_attr"):
                setattr(twin, name, getattr(largest, name))
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
        archive._didModify = True
    with pytest.raises(CheckpointError, match="larger than the file"):
        load_checkpoint(path)


class Trap:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit",))


@pytest.mark.parametrize("protocol", [2, 4])
def test_python_objects_are_refused_in_our_own_words(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.pt"
    torch.save({"format": "petseg-checkpoint", "version": 2, "plain": Trap()}, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"Python objects.*can run any code") as error:
        load_checkpoint(path)
    assert "weights_only" not in str(error.value)


def test_a_pickle_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert "weights_only" not in str(error.value)
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint of petseg"):
        load_checkpoint(path)


def test_a_pickle_nested_100_000_deep(tmp_path: Path) -> None:
    depth = 100_000
    pickled = b"\x80\x02}X\x01\x00\x00\x00a" + b"]" * depth + b"a" * (depth - 1) + b"s."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")
    path = tmp_path / "deep.pt"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="nested too deeply"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": torch.ones(2, 3, dtype=torch.int64), "bias": torch.ones(2)}, "weight is int64 2x3, .* float32 2x3"),
        ({"weight": torch.ones(2, 3, dtype=torch.float64), "bias": torch.ones(2)}, "weight is float64"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, "weight is float32 3x2"),
        ({"weight": torch.ones(2, 3)}, "1 tensors are missing or too many, such as bias"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "more": torch.ones(2)}, "such as more"),
    ],
    ids=["whole numbers", "double", "shape", "missing", "too many"],
)
def test_weights_of_another_network(weights: dict[str, torch.Tensor], message: str) -> None:
    model = torch.nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, weights, source=Path("a.pt"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_that_claims_to_be_huge_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are in the file, or they are not: that is known before anything is allocated for them."""
    path = tmp_path / "a.pt"
    checkpoint = sample_checkpoint()
    checkpoint.config["model"] |= {"widths": [4096] * 6, "blocks": 16}
    save_checkpoint(path, checkpoint)
    build = trained_network.build_model

    def on_meta_only(config: Any) -> torch.nn.Module:
        model = build(config)
        assert all(parameter.is_meta for parameter in model.parameters())
        return model

    monkeypatch.setattr(trained_network, "build_model", on_meta_only)
    with pytest.raises(CheckpointError, match="does not belong to its network"):
        trained_network.load(path, device="cpu", precision="fp32")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", DEEP.encode()], ids=range(5))
def test_a_damaged_config(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        read_config(tmp_path)


@pytest.mark.parametrize("content", [b"{", b'{"epoch": 1}\n', b"[1]\n", b"\xff\xfe\n", DEEP.encode()], ids=range(5))
def test_damaged_metrics(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged.*--resume --run"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(CheckpointError, match="contains no metrics"):
        read_metrics(tmp_path)
