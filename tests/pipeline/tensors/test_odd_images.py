"""Images of every kind: each engine gives the pixels of the audit, or names the sample that the audit rejects."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from odd_images import HEIGHT, REJECTED, WIDTH, OddImage, odd_images
from PIL import Image

from petseg.inference.files.image_files import find_images, to_rgb
from pipeline import Loader
from shards.audit.image import ImageAudit
from shards.build.build_set import build
from shards.build.options import options_from
from shards.errors import SampleError
from shards.format.dataset import ShardSet
from shards.format.labels import LabelClass, Labels

ENGINES = ("torch", "processes", "dali")
ODD = odd_images()
BAD = {name: odd for name, odd in ODD.items() if odd.reasons & REJECTED}
GOOD = {name: odd for name, odd in ODD.items() if name not in BAD}
# Damage that a decoder sees; what only the audit's own rules reject is no member that a set can have.
DAMAGED = {name: odd for name, odd in BAD.items() if "image-depth" not in odd.reasons}
LABELS = Labels(classes=tuple(LabelClass(name=f"c{n}", values=(n,), color=f"#00000{n}") for n in (1, 2)), ignore=())


def audited_pixels(odd: OddImage) -> np.ndarray:
    pixels = ImageAudit(mask_size=(WIDTH, HEIGHT), pixels=True).run(odd.data).pixels
    assert pixels is not None
    return pixels


def load(folder: Path, engine: str, **options: Any) -> Loader:
    return Loader(
        folder,
        batch_size=8,
        size=(HEIGHT, WIDTH),
        device="cpu",
        **({"engine": "torch", "processes": 1} if engine == "processes" else {"engine": engine, "threads": 2}),
        shuffle=False,
        **options,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that was built from all kinds."""
    source, out = (tmp_path_factory.mktemp("odd") / name for name in ("source", "set"))
    mask = io.BytesIO()
    Image.fromarray((np.indices((HEIGHT, WIDTH)).sum(0) % 2 + 1).astype(np.uint8)).save(mask, "PNG")
    for side in ("images", "masks"):
        (source / side).mkdir(parents=True)
    for name, odd in ODD.items():
        (source / "images" / f"{name}.{odd.ending}").write_bytes(odd.data)
        (source / "masks" / f"{name}.png").write_bytes(mask.getvalue())
    options = options_from(
        storage="source",
        size=None,
        quality=None,
        split="random",
        fractions=(1, 0, 0),
        val_fraction=None,
        seed=0,
        samples_per_shard=100,
        labels=LABELS,
    )
    build(source, out, options, workers=1)
    return out


def test_the_audit_gives_each_kind_its_verdict(built: Path) -> None:
    found: dict[str, set[str]] = {}
    for line in (built / "audit.jsonl").read_text().splitlines():
        finding = json.loads(line)
        found.setdefault(finding["name"], set()).add(finding["reason"])
    assert {name: found.get(name, set()) for name in ODD} == {name: odd.reasons for name, odd in ODD.items()}
    reader = ShardSet.open(built).split("train")
    assert {reader.meta(index)["name"] for index in range(len(reader))} == set(GOOD)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_pixels_of_the_audit(built: Path, engine: str) -> None:
    reader = ShardSet.open(built).split("train")
    with load(built, engine, split="train") as loader:
        batches = [(batch.index[batch.valid].tolist(), batch.image[batch.valid].numpy()) for batch in loader]
    names = []
    for indices, images in batches:
        for index, image in zip(indices, images, strict=True):
            names.append(reader.meta(index)["name"])
            np.testing.assert_array_equal(image.transpose(1, 2, 0), audited_pixels(ODD[names[-1]]), err_msg=names[-1])
    assert sorted(names) == sorted(GOOD)


def test_webdataset_gives_the_pixels_of_the_audit(built: Path) -> None:
    names = set()
    for image, _, description in ShardSet.open(built).webdataset("train"):
        names.add(description["name"])
        np.testing.assert_array_equal(image, audited_pixels(ODD[description["name"]]), err_msg=description["name"])
    assert names == set(GOOD)


def test_predict_gives_the_verdict_of_the_audit(tmp_path: Path) -> None:
    for name, odd in ODD.items():
        path = tmp_path / name
        path.write_bytes(odd.data)
        if name in GOOD:
            np.testing.assert_array_equal(np.asarray(to_rgb(path)), audited_pixels(odd), err_msg=name)
        else:
            with pytest.raises(SampleError, match=f"^{path}: the image "):
                to_rgb(path)
    (tmp_path / "notes").write_text("BMW and P5 are no images")
    images, ignored, _ = find_images([str(tmp_path)])
    assert {each.path.name for each in images} == set(ODD)
    assert ignored == 1


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory, writer: Callable[..., Path], drawn_pair: Any) -> Path:
    """A set of another program: two good samples, then damaged ones whose checksums are right."""
    pairs = [drawn_pair("source", HEIGHT, WIDTH, seed) for seed in range(2)]
    made = type(pairs[0])
    pairs += [made(odd.data, pairs[0].mask, HEIGHT, WIDTH, odd.ending) for odd in DAMAGED.values()]
    return writer(tmp_path_factory.mktemp("forged"), pairs, samples_per_shard=100)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_names_what_the_audit_would_reject(forged: Path, engine: str) -> None:
    with load(forged, engine, on_error="replace", max_damaged=100) as loader:
        list(loader)
        damaged = dict(loader.damaged)
    missed = [name for index, name in enumerate(DAMAGED, start=2) if index not in damaged]
    assert not missed
    assert len(damaged) == len(DAMAGED)
    assert all(f"pet_{index}." in text for index, text in damaged.items())


def test_webdataset_names_what_the_audit_would_reject(
    writer: Callable[..., Path], drawn_pair: Any, tmp_path: Path
) -> None:
    good = drawn_pair("source", HEIGHT, WIDTH, 0)
    for number, odd in enumerate(DAMAGED.values()):
        pair = type(good)(odd.data, good.mask, HEIGHT, WIDTH, odd.ending)
        folder = writer(tmp_path / str(number), [pair])
        with pytest.raises(SampleError, match=r"^pet_0 in .*train-000000\.tar cannot be decoded: "):
            list(ShardSet.open(folder).webdataset("train"))
