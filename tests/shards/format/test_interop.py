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
from shards.format.dataset import ShardSet, SplitReader
from shards.format.layout import MEMBERS

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
    return [str(reader.shard_path(number)) for number in range(len(reader.entry.shards))]


def pixels(data: bytes, storage: str) -> np.ndarray:
    return np.load(io.BytesIO(data)) if storage == "raw" else np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("storage", STORAGES)
def test_webdataset_with_its_default_decoders(sets: dict[str, Path], storage: str) -> None:
    import webdataset

    (_, image), (_, mask), _ = MEMBERS[storage]  # type: ignore[index]
    for reader in readers(sets[storage]):
        pipeline = webdataset.WebDataset(tars(reader), shardshuffle=False, empty_check=False).decode("pil")
        count = 0
        for index, sample in enumerate(pipeline):
            assert sample["__key__"] == reader.key(index)
            assert sample["json"] == reader.meta(index)
            assert np.array_equal(np.asarray(sample[image]), pixels(reader.read(index, "image"), storage))
            values = np.asarray(sample[mask])
            expected = pixels(reader.read(index, "trimap"), storage)
            assert np.array_equal(values if values.ndim == expected.ndim else np.dstack([values] * 3), expected)
            count += 1
        assert count == len(reader)


@pytest.mark.parametrize("storage", STORAGES)
def test_hugging_face_datasets(
    sets: dict[str, Path], storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    datasets.disable_progress_bars()
    (_, image), (_, mask), _ = MEMBERS[storage]  # type: ignore[index]
    reader = next(readers(sets[storage]))
    table = datasets.load_dataset("webdataset", data_files=tars(reader), split="train", cache_dir=str(tmp_path / "hf"))
    assert len(table) == len(reader)
    for index in range(0, len(reader), max(1, len(reader) // 12)):
        sample = table[index]
        assert sample["__key__"] == reader.key(index)
        assert sample["json"] == reader.meta(index)
        for column, role in ((image, "image"), (mask, "trimap")):
            found = np.asarray(sample[column])
            expected = pixels(reader.read(index, role), storage)
            if found.ndim == 2 and expected.ndim == 3:
                found = np.dstack([found] * 3)
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("storage", STORAGES)
def test_dalis_own_reader_with_our_index(sets: dict[str, Path], storage: str) -> None:
    dali = pytest.importorskip("nvidia.dali", reason="DALI exists for Linux only")
    from nvidia.dali import fn

    extensions = [extension for _, extension in MEMBERS[storage]]  # type: ignore[index]
    for reader in readers(sets[storage]):
        indices = [path.replace(".tar", ".idx") for path in tars(reader)]

        @dali.pipeline_def(batch_size=16, num_threads=2, device_id=None)
        def graph(paths: list[str], indices: list[str]) -> Any:
            parts = fn.readers.webdataset(
                paths=paths, index_paths=indices, ext=extensions, missing_component_behavior="error"
            )
            if storage != "raw":
                gray = fn.decoders.image(parts[1], output_type=dali.types.GRAY)
                return (*parts, fn.decoders.image(parts[0]), gray)
            return tuple(parts)

        pipeline = graph(paths=tars(reader), indices=indices)
        pipeline.build()
        count = 0
        while count < len(reader):
            outputs = [part.as_cpu() for part in pipeline.run()]
            for at in range(min(16, len(reader) - count)):
                for role, part in zip(("image", "trimap", "meta"), outputs, strict=False):
                    assert bytes(np.asarray(part[at])) == reader.read(count, role), (count, role)
                if storage != "raw":
                    height, width = (reader.manifest.size,) * 2 if reader.manifest.size else size_of(reader, count)
                    assert np.asarray(outputs[3][at]).shape == (height, width, 3)
                    values = np.asarray(outputs[4][at])[..., 0]
                    assert np.array_equal(values, np.asarray(Image.open(io.BytesIO(reader.read(count, "trimap")))))
                count += 1


def size_of(reader: SplitReader, index: int) -> tuple[int, int]:
    row = reader.rows([index])[0]
    return int(row["height"]), int(row["width"])


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


def test_a_raw_tar_is_a_strided_tensor(sets: dict[str, Path]) -> None:
    from numpy.lib.stride_tricks import as_strided

    for reader in readers(sets["raw"]):
        layout, size = reader.manifest.raw, reader.manifest.size
        assert layout is not None
        assert size is not None
        for number, path in enumerate(tars(reader)):
            count = reader.entry.shards[number].samples
            data = np.fromfile(path, np.uint8)
            images = as_strided(data[layout.image_offset :], (count, size, size, 3), (layout.stride, size * 3, 3, 1))
            masks = as_strided(data[layout.trimap_offset :], (count, size, size), (layout.stride, size, 1))
            for at in range(count):
                index = int(reader.starts[number]) + at
                assert np.array_equal(images[at], np.load(io.BytesIO(reader.read(index, "image"))))
                assert np.array_equal(masks[at], np.load(io.BytesIO(reader.read(index, "trimap"))))


def test_the_table_is_numpys(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    reader = next(readers(tiny_sets["source"]))
    loaded = np.load(tiny_sets["source"] / "train.samples.npy")
    assert np.array_equal(loaded, reader.table)
    np.save(tmp_path / "again.npy", loaded)
    assert (tmp_path / "again.npy").read_bytes() == (tiny_sets["source"] / "train.samples.npy").read_bytes()


def test_odd_but_ordinary_jpegs_decode_in_dali(maker: Any, tmp_path: Path) -> None:
    """Progressive, grey, EXIF, every chroma subsampling, and everything that had to be repaired."""
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
            paths=paths, index_paths=[path.replace(".tar", ".idx") for path in paths], ext=["jpg", "trimap.png"]
        )
        return fn.decoders.image(image), fn.decoders.image(mask, output_type=dali.types.GRAY)

    pipeline = graph()
    pipeline.build()
    images, masks = pipeline.run()
    for index in range(len(reader)):
        assert np.asarray(images[index]).shape == (44, 60, 3)
        expected = np.asarray(Image.open(io.BytesIO(reader.read(index, "trimap"))))
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
