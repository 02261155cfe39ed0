"""Overlays and probabilities beside masks: those of another prediction are not finished, others' files are kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_sets import write_untrained
from PIL import Image

import petseg
from petseg.cli import predict
from petseg.inference.files import image_files
from petseg.inference.files.image_files import digest_of
from petseg.inference.files.result_files import mark_text, result_of
from shards.errors import UsageError
from shards.format.builtin_labels import PETS

ALL: dict[str, Any] = {"probabilities": True, "precision": "fp32"}


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "cat.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return write_untrained(tmp_path / "other", PETS, size=(32, 32))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def as_earlier_versions_wrote(path: Path) -> None:
    """Save a result without its mark."""
    if path.suffix == ".png":
        Image.open(path).save(path)
    else:
        np.savez_compressed(path, probabilities=np.load(path)["probabilities"])


def test_files_of_another_network_beside_a_mask_are_not_finished(
    call: Callable[..., Any], tiny_run: Path, other: Path, cat: Path, tmp_path: Path
) -> None:
    """The new mask's mark was taken for those of the older overlay and probabilities."""
    out = tmp_path / "out"
    precise = ("--precision", "fp32")
    for wanted, number, first in (
        ([], 1, "cat.overlay.png"),
        (["--probabilities"], 2, "cat.overlay.png"),
        (["--no-overlay", "--probabilities"], 1, "cat.probabilities.npz"),
    ):
        petseg.predict(other, cat, out, overwrite=True, **ALL)
        assert call(predict, tiny_run, cat, "-o", out, "--overwrite", "--no-overlay", *precise).code == 0
        kept = contents(out)
        refused = call(predict, tiny_run, cat, "-o", out, "--skip-existing", *precise, *wanted)
        assert (refused.code, refused.out) == (2, "")
        are = "1 file in {} is not" if number == 1 else "2 files in {} are not"
        assert are.format(out) in refused.err
        assert f"the first {out / first}, but of another network, other options or another image: " in refused.err
        assert refused.err.endswith("choose another output folder, or replace all with --overwrite\n")
        assert contents(out) == kept
        assert call(predict, tiny_run, cat, "-o", out, "--overwrite", *precise, *wanted).code == 0
        again = call(predict, tiny_run, cat, "-o", out, "--skip-existing", *precise, *wanted)
        assert "1 image that had results skipped" in again.out
    assert call(predict, tiny_run, cat, "-o", out, "--skip-existing", "--no-overlay", *precise).code == 0


def test_all_files_of_a_prediction_have_one_mark(tiny_run: Path, cat: Path, tmp_path: Path) -> None:
    petseg.predict(tiny_run, cat, tmp_path / "out", **ALL)
    assert len({result_of(path) for path in (tmp_path / "out").iterdir()} - {None}) == 1
    with np.load(tmp_path / "out" / "cat.probabilities.npz", allow_pickle=False) as file:
        assert list(file) == ["probabilities"]
        np.testing.assert_allclose(file["probabilities"].sum(0), 1, rtol=1e-5)


@pytest.mark.parametrize("ending", [".overlay.png", ".probabilities.npz"])
def test_a_file_that_lost_its_mark_is_not_finished(tiny_run: Path, cat: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / "out"
    petseg.predict(tiny_run, cat, out, **ALL)
    as_earlier_versions_wrote(out / f"cat{ending}")
    what = "is no result of" if ending == ".overlay.png" else "is not of the same prediction"
    with pytest.raises(UsageError, match=what):
        petseg.predict(tiny_run, cat, out, skip_existing=True, **ALL)


@pytest.mark.parametrize("kept", [None, {"digest": ""}, {"origin": "", "digest": ""}])
def test_results_of_earlier_versions_are_skipped_and_replaced(
    tiny_run: Path, cat: Path, tmp_path: Path, kept: dict[str, str] | None
) -> None:
    """None of them had a mark in the probabilities, and the first ones none in pictures."""
    out = tmp_path / "out"
    petseg.predict(tiny_run, cat, out, **ALL)
    mark = result_of(out / "cat.png")
    assert mark is not None
    for path in out.iterdir():
        as_earlier_versions_wrote(path)
        if path.suffix == ".png" and kept is not None:
            Image.open(path).save(path, pnginfo=mark_text(mark._replace(**kept)))
    made = petseg.predict(tiny_run, cat, out, skip_existing=True, **ALL)
    assert (made.skipped, made.unmarked) == (1, 1)
    assert len(petseg.predict(tiny_run, cat, out, overwrite=True, **ALL).images) == 1
    assert {result_of(path) for path in out.iterdir()} == {mark}


def write_text(path: Path) -> None:
    path.write_text("mine")


def write_arrays(path: Path) -> None:
    np.savez(path, probabilities=np.zeros(3), more=np.zeros(3))


@pytest.mark.parametrize("mine", [write_text, write_arrays])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("how", [{"overwrite": True}, {"skip_existing": True}])
def test_probabilities_of_others_are_kept(
    tiny_run: Path, cat: Path, tmp_path: Path, mine: Callable[[Path], None], masks: bool, how: dict[str, bool]
) -> None:
    """The file was replaced without a word, or counted as this image's result."""
    out = tmp_path / "out"
    out.mkdir()
    if masks:
        petseg.predict(tiny_run, cat, out)
    mine(path := out / "cat.probabilities.npz")
    kept = contents(out)
    with pytest.raises(UsageError, match=rf"^1 file in {out} is no result of .*{path}: overwrite=True replaces "):
        petseg.predict(tiny_run, cat, out, **how, **ALL)
    assert contents(out) == kept
    assert len(petseg.predict(tiny_run, cat, out, overwrite=True).images) == 1
    assert path.read_bytes() == kept[path.name]


def test_probabilities_without_a_mask_beside_them_may_be_anybodys(tiny_run: Path, cat: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    petseg.predict(tiny_run, cat, out, **ALL)
    (out / "cat.png").unlink()
    made = petseg.predict(tiny_run, cat, out, skip_existing=True, **ALL)  # as after a stop: they have a mark
    assert len(made.images) == 1
    as_earlier_versions_wrote(out / "cat.probabilities.npz")
    (out / "cat.png").unlink()
    with pytest.raises(UsageError, match=r"^1 file .* is no result of .*cat\.probabilities\.npz: overwrite=True "):
        petseg.predict(tiny_run, cat, out, overwrite=True, **ALL)


@pytest.mark.parametrize("how", [{"overwrite": True}, {"skip_existing": True}])
def test_an_overlay_of_others_beside_a_result_is_kept(
    tiny_run: Path, cat: Path, tmp_path: Path, how: dict[str, bool]
) -> None:
    """Any picture of the overlay's name counted as a result, beside any mask."""
    out = tmp_path / "out"
    petseg.predict(tiny_run, cat, out, overlays=False)
    Image.new("RGB", (40, 30)).save(out / "cat.overlay.png")
    kept = contents(out)
    with pytest.raises(UsageError, match=r"^1 file .* is no result of .*cat\.overlay\.png: overwrite=True replaces "):
        petseg.predict(tiny_run, cat, out, **how)
    assert contents(out) == kept


def test_a_result_says_which_bytes_were_predicted(
    tiny_run: Path, cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is exchanged just before it is decoded: the digest was the former file's."""
    read_regular = image_files.read_regular

    def exchanged(path: Path) -> bytes:
        Image.new("RGB", (40, 30), "red").save(path)
        return read_regular(path)

    before = digest_of(cat)
    monkeypatch.setattr(image_files, "read_regular", exchanged)
    petseg.predict(tiny_run, cat, tmp_path / "out")
    mark = result_of(tmp_path / "out" / "cat.png")
    assert mark is not None
    assert mark.digest == digest_of(cat) != before
