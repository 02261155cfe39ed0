"""Weights that an encoder starts from: files with timm's names, and what is wrong with others."""

import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from optional_packages import needs
from safetensors.torch import save_file

from petseg.nets.encoder_weights import file_digest, read_encoder_weights
from petseg.nets.factory import build_model
from petseg.nets.model_config import ModelConfig
from shards.errors import PetsegError, UsageError

pytestmark = needs("timm", extra="encoders")

NAME = "mobilenetv3_small_050"
FLAT = "convnext_atto"  # its features have other names than the whole network's: stages_0, not stages.0


def whole(name: str = NAME, seed: int = 1) -> dict[str, torch.Tensor]:
    import timm

    torch.manual_seed(seed)
    return timm.create_model(name, pretrained=False).state_dict()


def write(path: Path, state: dict[str, Any]) -> str:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("name", [NAME, FLAT])
def test_a_file_of_the_whole_network(name: str, file: str, tmp_path: Path) -> None:
    import timm

    state = whole(name)
    found = read_encoder_weights(name, write(tmp_path / file, state))
    model = build_model(ModelConfig(encoder=name, stem="half"))
    found.copy_to(model)
    ours = model.encoder.state_dict()
    assert len(ours) > 100
    for key, tensor in ours.items():  # convnext's stages_0.blocks.0 is stages.0.blocks.0
        assert torch.equal(tensor, state[re.sub(r"^(stages|stem)_", r"\1.", key)]), key
    with torch.no_grad():  # and it computes what timm's own network of features does
        timms = timm.create_model(name, pretrained=False, features_only=True).eval()
        timms.load_state_dict(ours)
        image = torch.randn(1, 3, 64, 64)
        for one, other in zip(model.eval().encoder(image), timms(image), strict=True):
            assert torch.equal(one, other)


def test_other_forms_of_the_same_file(tmp_path: Path) -> None:
    import timm

    state = whole()
    expected = read_encoder_weights(NAME, write(tmp_path / "plain.pth", state)).tensors
    features = timm.create_model(NAME, pretrained=False, features_only=True).state_dict()
    forms = {
        "nested": {"state_dict": state, "epoch": 7},
        "parallel": {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        "without counters": {name: tensor for name, tensor in state.items() if "num_batches" not in name},
        "without a head": {name: tensor for name, tensor in state.items() if not name.startswith("classifier")},
        "another head": state | {"classifier.weight": torch.zeros(5, 7), "classifier.bias": torch.zeros(5)},
        "of the encoder": {name: state[name] for name in features},
    }
    for title, form in forms.items():
        found = read_encoder_weights(NAME, write(tmp_path / f"{title}.pth", form)).tensors
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found), title
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    found = read_encoder_weights(NAME, write(tmp_path / "half.safetensors", half)).tensors
    assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.int64}


def test_the_constants_are_those_of_the_weights(tmp_path: Path) -> None:
    for name, mean, std in (
        ("tf_efficientnet_lite0", [127.5] * 3, [127.5] * 3),
        ("resnet18", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ("resnet18.a1_in1k", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    ):
        found = read_encoder_weights(name, write(tmp_path / "w.safetensors", whole(name)))
        model = build_model(ModelConfig(encoder=name, stem="half"))
        found.copy_to(model)
        assert model.state_dict()["normalise.mean"].flatten().tolist() == pytest.approx(mean)
        assert model.state_dict()["normalise.std"].flatten().tolist() == pytest.approx(std)


def changed(name: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = whole()
    if tensor is None:
        del state[name]
        return state
    return state | {name: tensor}


@pytest.mark.parametrize(
    ("state", "part"),
    [
        (lambda: changed("conv_stem.weight", None), r"does not fit encoder='.*': conv_stem.weight is missing$"),
        (lambda: changed("extra.weight", torch.zeros(2)), "extra.weight is unexpected$"),
        (lambda: changed("conv_stem.weight", torch.zeros(16, 1, 3, 3)), r"\(16x1x3x3, not 16x3x3x3\) is of another"),
        (lambda: changed("bn1.bias", torch.ones(16, dtype=torch.int8)), r"bn1.bias \(int8\) is of integers$"),
        (lambda: changed("bn1.bias", torch.ones(16, dtype=torch.bool)), r"bn1.bias \(bool\) is of integers$"),
        (lambda: changed("bn1.bias", torch.tensor([float("nan")] * 16)), "bn1.bias has values that are not finite"),
        (lambda: changed("bn1.running_var", -torch.ones(16)), "bn1.running_var has values below 0"),
        (lambda: changed("bn1.bias", torch.tensor([1e300] * 16, dtype=torch.float64)), "values that are not finite"),
        (lambda: whole("resnet18"), r"\d+ more are missing; .* are unexpected"),
        (lambda: changed("bn1.bias", torch.ones(1).expand(10**12)), "larger than its data"),
        (lambda: changed("bn1.bias", torch.eye(16).to_sparse()), "Python objects"),
        (lambda: {"state_dict": whole(), "more": nested(50)}, "nested too deeply"),
        (lambda: {"a": 1}, "no tensors by name"),
        (lambda: {}, "no tensors by name"),
    ],
)
def test_files_that_do_not_fit(state: Any, part: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=part):
        read_encoder_weights(NAME, write(tmp_path / "w.pth", state()))


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file; give imagenet, none, or a file"):
        read_encoder_weights(NAME, str(tmp_path / "nothing.pth"))
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(b"not a file of weights")
        with pytest.raises(UsageError, match="neither safetensors nor a state_dict"):
            read_encoder_weights(NAME, str(tmp_path / name))
    with pytest.raises(UsageError, match="cannot be read"):
        file_digest(tmp_path / "nothing.pth")


def test_a_file_that_would_inflate(tmp_path: Path) -> None:
    plain = Path(write(tmp_path / "plain.pth", changed("bn1.bias", torch.zeros(16))))
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(UsageError, match="entries are compressed"):
        read_encoder_weights(NAME, str(tmp_path / "w.pth"))


def test_a_file_of_an_old_torch(tmp_path: Path) -> None:
    state = whole()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    found = read_encoder_weights(NAME, str(tmp_path / "old.pth")).tensors
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())


def test_code_in_a_file_is_not_executed(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"w": Harmful()}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="neither"):
        read_encoder_weights(NAME, str(tmp_path / "w.pth"))
    assert not (tmp_path / "executed").exists()


def test_without_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    with pytest.raises(PetsegError, match=r"no route to host.*huggingface.co/timm/.*encoder_weights=FILE"):
        read_encoder_weights("resnet18", "imagenet")


def test_imagenet_is_what_timm_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a download: the state_dict that timm's loader would return."""
    state, asked = whole(), list[str]()

    def fetch(model_id: str, *arguments: object, **options: object) -> dict[str, torch.Tensor]:
        asked.append(model_id)
        return state

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fetch)
    found = read_encoder_weights(NAME, "imagenet")
    assert asked == [f"timm/{NAME}.lamb_in1k"]
    assert torch.equal(found.tensors["conv_stem.weight"], state["conv_stem.weight"])
    with pytest.raises(UsageError, match="timm has no weights of"):
        read_encoder_weights("cs3darknet_s", "imagenet")


class Harmless:
    pass


@pytest.mark.parametrize("content", [Harmless(), {"w": Harmless()}, {"w": torch.zeros(1), "more": [Harmless()]}])
def test_python_objects_are_refused_in_our_own_words(content: Any, tmp_path: Path) -> None:
    """torch's message advises to load the file without protection, and colours that."""
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"holds Python objects.*which petseg never loads") as caught:
        read_encoder_weights(NAME, str(tmp_path / "w.pth"))
    assert "trust" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_hubs_client_says_nothing_of_its_attempts(tmp_path: Path) -> None:
    """They would come before the message that says what is wrong and what helps."""
    import timm  # which imports the client, and that sets its logger's level

    assert timm
    logging.getLogger("huggingface_hub").setLevel(logging.WARNING)
    with pytest.raises(UsageError):
        read_encoder_weights(NAME, str(tmp_path / "none.safetensors"))
    assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)
