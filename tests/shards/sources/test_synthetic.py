"""The synthetic dataset: official layout, exact trimaps, same seed same bytes, whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.errors import SourceError, UsageError
from shards.sources.synthetic.breeds import BREEDS
from shards.sources.synthetic.compose import draw_image
from shards.sources.synthetic.drawing import TextureBank
from shards.sources.synthetic.generate import BAND, make_pets, trimap_of

COUNT = 30


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "pets"
    made = make_pets(folder, count=COUNT, seed=3)
    assert (made.images, made.trainval + made.test, made.breeds) == (COUNT, COUNT, len(BREEDS))
    return folder


def lines(folder: Path, name: str) -> list[str]:
    text = (folder / "annotations" / f"{name}.txt").read_text()
    return [line for line in text.splitlines() if not line.startswith("#")]


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_image_has_a_trimap_of_its_size_with_three_values(pets: Path) -> None:
    names = {path.stem for path in (pets / "images").iterdir()}
    assert names == {path.stem for path in (pets / "annotations" / "trimaps").iterdir()}
    assert len(names) == COUNT
    landscape = 0
    for name in names:
        with Image.open(pets / "images" / f"{name}.jpg") as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            size = image.size
        with Image.open(pets / "annotations" / "trimaps" / f"{name}.png") as trimap:
            assert (trimap.format, trimap.mode, trimap.size) == ("PNG", "L", size)
            values = np.asarray(trimap)
        assert 180 <= min(size) <= max(size) <= 500
        assert set(np.unique(values)) == {1, 2, 3}
        landscape += size[0] > size[1]
    assert 5 < landscape < COUNT - 5


def test_lists_are_those_of_the_official_layout(pets: Path) -> None:
    every, trainval, test = (lines(pets, name) for name in ("list", "trainval", "test"))
    assert sorted(trainval + test) == sorted(every)
    assert len(every) == COUNT
    assert abs(len(trainval) - len(test)) <= 1 + len(BREEDS) // 2
    ids: dict[str, tuple[int, ...]] = {}
    for line in every:
        name, *numbers = line.split(" ")
        breed, _ = name.rsplit("_", 1)
        class_id, species, breed_id = map(int, numbers)
        assert ids.setdefault(breed, (class_id, species, breed_id)) == (class_id, species, breed_id)
        assert species == (1 if name[0].isupper() else 2)
        assert (pets / "images" / f"{name}.jpg").exists()
    assert sorted(i[0] for i in ids.values()) == list(range(1, len(BREEDS) + 1))
    for breed in ids:  # stratified
        own = [sum(line.startswith(f"{breed}_") for line in part) for part in (trainval, test)]
        assert abs(own[0] - own[1]) <= 1
    assert (pets / "annotations" / "list.txt").read_text().startswith("#Image CLASS-ID SPECIES BREED ID\n")


def test_breeds_stand_in_the_order_of_their_class_ids() -> None:
    names = [breed.name.lower() for breed in BREEDS]
    assert names == sorted(names)
    assert {breed.is_cat for breed in BREEDS} == {True, False}


def test_same_seed_same_bytes_and_another_seed_other_images(pets: Path, tmp_path: Path) -> None:
    make_pets(tmp_path / "again", count=COUNT, seed=3)
    assert digest(tmp_path / "again") == digest(pets)
    make_pets(tmp_path / "few", count=5, seed=3)
    few, all_ = digest(tmp_path / "few"), digest(pets)
    drawn = [name for name in few if not name.endswith(".txt")]
    assert len(drawn) == 10
    assert all(few[name] == all_[name] for name in drawn)
    make_pets(tmp_path / "other", count=5, seed=4)
    other = digest(tmp_path / "other")
    assert not any(other[name] == all_[name] for name in drawn)


def test_a_trimap_lies_on_its_animal(pets: Path) -> None:
    """Along the outline the colour changes: the inner and the outer side of the band differ more than at random."""
    steps = []
    for path in sorted((pets / "images").iterdir()):
        image = np.asarray(Image.open(path).convert("L"), dtype=float)
        trimap = np.asarray(Image.open(pets / "annotations" / "trimaps" / f"{path.stem}.png"))
        slope = np.hypot(*np.gradient(image))
        steps.append(slope[trimap == 3].mean() / slope[trimap != 3].mean())
    assert np.median(steps) > 1.3


def test_textures_have_the_stated_mean_and_spread() -> None:
    bank = TextureBank(0)
    rng = np.random.default_rng(0)
    for texture in ("grain", "fur", "streak", "cloud", "cells"):
        field = bank.cut(texture, (640, 640), rng)
        assert field.dtype == np.float32
        assert abs(field.mean()) < 0.01
        assert abs(field.std() - 1) < 0.01
        assert bank.cut(texture, (37, 211), rng, zoom=3.3).shape == (37, 211)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(20, 120), width=st.integers(20, 120), seed=st.integers(0, 2**32 - 1), cut=st.booleans()
)  # fmt: skip
def test_the_band_is_where_the_outline_is_near(height: int, width: int, seed: int, cut: bool) -> None:
    """Against SciPy's distances: border pixels lie within the reach of the outline, all others beyond it."""
    from scipy.ndimage import distance_transform_edt

    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    centre = (0, width // 2) if cut else (height // 2, width // 2)
    inside = np.hypot(y - centre[0], x - centre[1]) < rng.uniform(5, 0.45 * min(height, width) + 5)
    trimap = trimap_of(inside)
    reach = max(2, round(BAND * max(height, width)))
    if inside.all():
        assert (trimap == 1).all()
        return
    away = np.where(inside, distance_transform_edt(inside), distance_transform_edt(~inside))
    assert (away[trimap == 3] <= reach + 0.5).all()  # a disc of that reach, to the nearest pixel
    assert (away[trimap != 3] > reach * 0.9).all()
    assert (inside[trimap == 1]).all()
    assert (~inside[trimap == 2]).all()


def test_band_of_a_straight_edge_is_as_wide_inwards_as_outwards() -> None:
    inside = np.zeros((500, 300), dtype=bool)
    inside[200:] = True
    trimap = trimap_of(inside)
    reach = round(BAND * 500)
    assert (trimap[200 - reach : 200 + reach] == 3).all()
    assert (trimap[: 200 - reach] == 2).all()
    assert (trimap[200 + reach :] == 1).all()  # to the image's edge: an animal cut by it has no border there


def test_shares_of_the_classes_are_like_those_of_photographs() -> None:
    bank = TextureBank(0)
    shares = []
    for number in range(len(BREEDS)):
        trimap = trimap_of(draw_image(BREEDS[number], bank, np.random.default_rng([5, number]))[1])
        shares.append([(trimap == value).mean() for value in (1, 2, 3)])
    animal, background, border = np.mean(shares, axis=0)
    assert 0.15 < animal < 0.45
    assert 0.45 < background < 0.75
    assert 0.04 < border < 0.16


def test_refuses_a_folder_with_something_in_it_and_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(SourceError, match="not empty"):
        make_pets(tmp_path / "full", count=1)
    (tmp_path / "file").write_text("keep")
    with pytest.raises(SourceError, match="not a folder"):
        make_pets(tmp_path / "file", count=1)
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"
    (tmp_path / "empty").mkdir()
    assert make_pets(tmp_path / "empty", count=1).images == 1


@pytest.mark.parametrize(("count", "seed", "names"), [(0, 0, "count="), (-3, 0, "count="), (1, -1, "seed=")])
def test_refuses_numbers_out_of_range(tmp_path: Path, count: int, seed: int, names: str) -> None:
    with pytest.raises(UsageError, match=names):
        make_pets(tmp_path / "pets", count=count, seed=seed)
    assert not any(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 5
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_pets(tmp_path / "pets", count=5, progress=stop)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("other", ["folder", "file"])
def test_of_two_processes_the_second_to_end_says_so(tmp_path: Path, other: str) -> None:
    folder = tmp_path / "pets"

    def meanwhile(done: int, total: int) -> None:
        made_by = folder / "images.txt" if other == "folder" else folder
        made_by.parent.mkdir(exist_ok=True)
        made_by.write_text("of the other one")

    with pytest.raises(SourceError, match=r"pets: another process has made it meanwhile.*choose a new folder"):
        make_pets(folder, count=1, progress=meanwhile)
    kept = folder / "images.txt" if other == "folder" else folder
    assert kept.read_text() == "of the other one"
    assert list(tmp_path.iterdir()) == [folder]
