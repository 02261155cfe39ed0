"""Other libraries read our sets unchanged: webdataset, Hugging Face datasets, DALI, wds2idx, tar."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shard_sources import options

from shards.build.build_set import build
from shards.errors import UsageError
from shards.format.dataset import ShardSet, SplitReader
from shards.format.layout import extensions_of

STORAGES = ("source", "jpeg", "raw")


@pytest.fixture(scope="session")
def real_sets(
    real_pets: Path, tmp_path_factory: pytest.TempPathFactory, campaign: Callable[[int, int], int]
) -> dict[str, Path]:
    """A set of each storage with every tenth real image; with all of them in a campaign."""
    source = tmp_path_factory.mktemp("real") / "pets"
    for folder in ("images", "annotations/trimaps"):
        (source / folder).mkdir(parents=True)
    for name in ("test", "trainval"):
        lines = (real_pets / "annotations" / f"{name}.txt").read_text().splitlines(keepends=True)[:: campaign(10, 1)]
        (source / "annotations" / f"{name}.txt").write_text("".join(lines))
        for key in (line.split()[0] for line in lines):
            for path in (f"images/{key}.jpg", f"annotations/trimaps/{key}.png"):
                shutil.copy(real_pets / path, source / path)
    sets = {storage: source.with_name(storage) for storage in STORAGES}
    for storage, out in sets.items():
        build(source, out, options(storage, samples_per_shard=campaign(10, 100)), workers=2)
    return sets


@pytest.fixture(params=["tiny", "real"])
def sets(request: pytest.FixtureRequest) -> dict[str, Path]:
    found: dict[str, Path] = request.getfixturevalue("tiny_sets" if request.param == "tiny" else "real_sets")
    return found


def readers(folder: Path) -> Iterator[SplitReader]:
    opened = ShardSet.open(folder)
    for name in opened.manifest.splits:
        yield opened.split(name)


def tars(reader: SplitReader) -> list[str]:
    return [str(reader.shard_path(number)) for number in range(reader.entry.shards)]


def image_of(reader: SplitReader, index: int) -> np.ndarray:
    data = reader.read(index, "image")
    raw = reader.manifest.storage == "raw"
    return np.load(io.BytesIO(data)) if raw else np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def mask_of(reader: SplitReader, index: int) -> np.ndarray:
    data = reader.read(index, "mask")
    return np.load(io.BytesIO(data)) if reader.manifest.storage == "raw" else np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("storage", STORAGES)
def test_webdataset_with_its_default_decoders(sets: dict[str, Path], storage: str) -> None:
    import webdataset

    for reader in readers(sets[storage]):
        pipeline = webdataset.WebDataset(tars(reader), shardshuffle=False, empty_check=False).decode("pil")
        count = 0
        for index, sample in enumerate(pipeline):
            members = extensions_of(reader.rows([index])[0])
            assert sample["__key__"] == reader.key(index)
            assert sample["json"] == reader.meta(index)
            assert np.array_equal(np.asarray(sample[members["image"]]), image_of(reader, index))
            mask = np.asarray(sample[members["mask"]])
            assert np.array_equal(mask if mask.ndim == 2 else mask[..., 0], mask_of(reader, index))
            count += 1
        assert count == len(reader)


@pytest.mark.parametrize("storage", STORAGES)
def test_our_own_pipeline_of_webdataset(sets: dict[str, Path], storage: str) -> None:
    opened = ShardSet.open(sets[storage])
    for reader in readers(sets[storage]):
        found = list(opened.webdataset(reader.name))
        assert len(found) == len(reader)
        for index, (image, mask, meta) in enumerate(found):
            assert meta == reader.meta(index)
            assert np.array_equal(image, image_of(reader, index))
            assert mask.dtype == np.uint8
            assert np.array_equal(mask, mask_of(reader, index))


def test_our_own_pipeline_shuffles_anew_in_each_pass(tiny_sets: dict[str, Path]) -> None:
    opened = ShardSet.open(tiny_sets["raw"])

    def keys(pipeline: Any) -> list[str]:
        return [meta["key"] for _, _, meta in pipeline]

    stored, shuffled = keys(opened.webdataset("train")), opened.webdataset("train", shuffle=10, seed=5)
    first, second = keys(shuffled), keys(shuffled)
    assert sorted(first) == sorted(second) == sorted(stored)
    assert len({tuple(order) for order in (stored, first, second)}) == 3
    assert keys(opened.webdataset("train", shuffle=10, seed=5)) == first
    with pytest.raises(UsageError, match="no split 'dev'"):
        opened.webdataset("dev")


def test_worker_processes_share_our_own_pipeline(tiny_sets: dict[str, Path]) -> None:
    from torch.utils.data import DataLoader

    pipeline = ShardSet.open(tiny_sets["source"]).webdataset("train")
    loaded = DataLoader(pipeline, batch_size=None, num_workers=2)
    found = sorted(meta["key"] for _, _, meta in loaded)
    reader = ShardSet.open(tiny_sets["source"]).split("train")
    assert found == sorted(reader.key(index) for index in range(len(reader)))


@pytest.mark.parametrize("storage", STORAGES)
def test_hugging_face_datasets(
    tiny_sets: dict[str, Path], storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = offline_datasets(tmp_path, monkeypatch)
    reader = next(readers(tiny_sets[storage]))
    table = datasets.load_dataset("webdataset", data_files=tars(reader), split="train", cache_dir=str(tmp_path / "hf"))
    assert len(table) == len(reader)
    for index in range(len(reader)):
        sample, members = table[index], extensions_of(reader.rows([index])[0])
        assert sample["__key__"] == reader.key(index)
        assert sample["json"] == reader.meta(index)
        assert np.array_equal(np.asarray(sample[members["image"]]), image_of(reader, index))
        assert np.array_equal(np.asarray(sample[members["mask"]]), mask_of(reader, index))


def offline_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    datasets.disable_progress_bars()
    return datasets


@pytest.mark.parametrize("storage", STORAGES)
def test_dalis_own_reader_with_our_index(sets: dict[str, Path], storage: str) -> None:
    dali = pytest.importorskip("nvidia.dali", reason="DALI exists for Linux only")
    from nvidia.dali import fn

    extensions = ["image.npy", "mask.npy", "json"] if storage == "raw" else ["jpg;png", "mask.png", "json"]
    for reader in readers(sets[storage]):
        indices = [path.replace(".tar", ".idx") for path in tars(reader)]

        @dali.pipeline_def(batch_size=16, num_threads=2, device_id=None)
        def graph(paths: list[str], indices: list[str]) -> Any:
            parts = fn.readers.webdataset(
                paths=paths, index_paths=indices, ext=extensions, missing_component_behavior="error"
            )
            if storage != "raw":
                gray = fn.decoders.image(parts[1], output_type=dali.types.ANY_DATA)
                return (*parts, fn.decoders.image(parts[0]), gray)
            return tuple(parts)

        pipeline = graph(paths=tars(reader), indices=indices)
        pipeline.build()
        count = 0
        while count < len(reader):
            outputs = [part.as_cpu() for part in pipeline.run()]
            for at in range(min(16, len(reader) - count)):
                for role, part in zip(("image", "mask", "meta"), outputs, strict=False):
                    assert bytes(np.asarray(part[at])) == reader.read(count, role), (count, role)
                if storage != "raw":
                    assert np.asarray(outputs[3][at]).shape == image_of(reader, count).shape
                    assert np.array_equal(np.asarray(outputs[4][at])[..., 0], mask_of(reader, count))
                count += 1


@pytest.mark.parametrize("utility", ["tar", "tarfile"])
@pytest.mark.parametrize("storage", STORAGES)
def test_our_index_is_wds2idxs(
    sets: dict[str, Path], storage: str, utility: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wds2idx = pytest.importorskip("wds2idx", reason="comes with DALI")
    if utility == "tar" and shutil.which("tar") is None:
        pytest.skip("there is no tar command")
    if utility == "tarfile":
        monkeypatch.setattr(wds2idx, "which", lambda name: None)
    for tar in sets[storage].glob("*.tar"):
        with wds2idx.IndexCreator(str(tar), str(tmp_path / "idx"), verbose=False) as creator:
            creator.create_index()
        assert tar.with_suffix(".idx").read_bytes() == (tmp_path / "idx").read_bytes()


@pytest.mark.parametrize("storage", STORAGES)
def test_python_and_gnu_tar_read_our_tars(tiny_sets: dict[str, Path], storage: str, tmp_path: Path) -> None:
    for tar in tiny_sets[storage].glob("*.tar"):
        with tarfile.open(tar) as archive:
            members = archive.getmembers()
            assert all(m.isreg() and m.mtime == 0 and m.uid == 0 and m.gid == 0 and not m.uname for m in members)
            assert all(m.mode == 0o644 for m in members)
            names = [m.name for m in members]
        listed = subprocess.run(["tar", "--list", "--file", tar], check=True, capture_output=True, text=True)
        assert listed.stdout.split() == names
        assert not listed.stderr


def test_the_table_is_numpys(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    reader = next(readers(tiny_sets["source"]))
    loaded = np.load(tiny_sets["source"] / "train.samples.npy")
    assert np.array_equal(loaded, reader.table[:])
    np.save(tmp_path / "again.npy", loaded)
    assert (tmp_path / "again.npy").read_bytes() == (tiny_sets["source"] / "train.samples.npy").read_bytes()


def test_odd_but_ordinary_images_decode_in_dali(maker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progressive, grey, EXIF, every chroma subsampling, and everything that had to be repaired."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "audit")
    dali = pytest.importorskip("nvidia.dali", reason="DALI exists for Linux only")
    from audit.test_audit_pair import REPAIRED
    from nvidia.dali import fn
    from shard_sources import draw_image, encoded

    ordinary: list[dict[str, Any]] = [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}]
    for number, given in enumerate(ordinary):
        maker.add(f"ordinary_{number}", image=encoded(draw_image(1), "JPEG", **given), seed=1)
    maker.add("grey_1", image=encoded(draw_image(1)[..., 0], "JPEG"), seed=1)
    for number, (image, mask, _) in enumerate(REPAIRED.values()):
        maker.add(f"repaired_{number}", image=image, mask=mask)
    build(maker.folder, tmp_path / "out", options(split="random", fractions=(1, 0, 0)), workers=1)
    reader = ShardSet.open(tmp_path / "out").split("train")
    assert len(reader) == len(ordinary) + 1 + len(REPAIRED)

    @dali.pipeline_def(batch_size=len(reader), num_threads=2, device_id=None)
    def graph() -> Any:
        paths = tars(reader)
        image, mask = fn.readers.webdataset(
            paths=paths, index_paths=[path.replace(".tar", ".idx") for path in paths], ext=["jpg;png", "mask.png"]
        )
        return fn.decoders.image(image), fn.decoders.image(mask, output_type=dali.types.ANY_DATA)

    pipeline = graph()
    pipeline.build()
    images, masks = pipeline.run()
    for index in range(len(reader)):
        assert np.asarray(images[index]).shape == (44, 60, 3)
        expected = np.asarray(Image.open(io.BytesIO(reader.read(index, "mask"))))
        assert np.array_equal(np.asarray(masks[index])[..., 0], expected)


def test_meta_is_one_json_object(tiny_sets: dict[str, Path]) -> None:
    for folder in tiny_sets.values():
        for reader in readers(folder):
            lengths = {len(reader.read(index, "meta")) for index in range(len(reader))}
            assert (len(lengths) == 1) == (reader.manifest.storage == "raw")
            for index in range(len(reader)):
                text = reader.read(index, "meta")
                assert text.isascii()
                assert text.endswith(b"\n")
                assert set(json.loads(text)) == {
                    "key",
                    "name",
                    "breed",
                    "species",
                    "class_id",
                    "split",
                    "width",
                    "height",
                }


def test_nothing_of_torch_or_dali_is_needed_to_read(tiny_sets: dict[str, Path]) -> None:
    code = (
        "import sys; from shards import ShardSet; "
        f"r = ShardSet.open({str(tiny_sets['raw'])!r}).split('train'); r.read(0, 'image'); r.meta(1); "
        "print([m for m in ('torch', 'nvidia', 'PIL', 'simplejpeg') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
