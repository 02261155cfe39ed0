"""Every installed peer delivers what petseg's loader does: any number of classes, sizes, fits, forms of masks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from class_sets import SIZES, make_class_set
from msgspec.structs import replace

from bench.core.output_check import MAX_COMPARED, CheckError, check_epoch, collect_reference, judge
from bench.core.workspace import Workspace, open_workspace
from bench.loader_benchmark import plan_loaders
from bench.peers import PEERS
from bench.peers.peer import Job
from bench.results.records import SCALED_DECODING, OutputCheck, Skipped
from bench.settings import LoaderSettings
from shards.errors import UsageError
from shards.format.labels import IGNORE


def planned(workspace: Workspace, settings: LoaderSettings) -> tuple[list[Job], list[Skipped]]:
    skipped: list[Skipped] = []
    jobs = [replace(job, workers=1) for job in plan_loaders(settings, workspace, skipped) if job.engine != "processes"]
    return jobs, skipped


def checked(job: Job) -> OutputCheck:
    """Open a peer in this process, with one worker, and compare epochs with petseg's as the benchmark does."""
    ours = PEERS["petseg"](replace(job, peer="petseg", engine="", workers=0))
    peer = PEERS[job.peer](job)
    ours.open()
    peer.prepare()
    peer.open()
    try:
        check = check_epoch(peer.epoch(0), job, collect_reference(ours.epoch(0), job))
        judge(check, image_differs=any(caveat.image for caveat in peer.caveats_on(job)))
    finally:
        ours.close()
        peer.close()
    return check


@pytest.mark.parametrize(
    ("classes", "rgb", "size", "fit"),
    [(21, False, "32x48", "stretch"), (3, True, "40x24", "cover"), (150, False, "24x40", "contain")],
)
def test_peers_deliver_what_petseg_does(
    tmp_path: Path, classes: int, rgb: bool, size: str, fit: str, campaign: Callable[[int, int], int]
) -> None:
    if classes == 150 and not campaign(0, 1):
        pytest.skip("with --campaign")
    source, shards = make_class_set(tmp_path, classes=classes, rgb=rgb)
    height, width = map(int, size.split("x"))
    settings = LoaderSettings(shards=shards, source=source, size=(height, width), fit=fit, batch_size=3)
    with open_workspace(settings) as workspace:
        jobs, skipped = planned(workspace, settings)
        names = {f"{job.peer} {job.storage} {job.mask} {job.augment} {job.engine}".strip(): job for job in jobs}
        assert len(names) == len(jobs)
        assert {"tutorial", "tuned", "webdataset"} <= {job.peer for job in jobs}
        assert f"petseg source onehot False {SCALED_DECODING}" in names
        assert ("dali-reader source onehot False" in names) == (fit == "stretch")
        reasons = {one.name: one.reason for one in skipped}
        if fit != "stretch" and importlib.util.find_spec("nvidia.dali"):
            assert "--fit" in reasons["dali-reader source"]
        for name, job in names.items():
            if (job.peer == "petseg" and job.engine != SCALED_DECODING) or (
                job.peer == "dali-reader" and job.storage == "source"
            ):
                continue  # DALI rounds some nearest pixels otherwise unless sides are powers of two, and is refused
            check = checked(job)
            assert (check.delivered, check.compared) == (len(SIZES), len(SIZES)), name
            assert check.mask_difference == 0


def test_what_is_ignored_is_in_no_plane(tmp_path: Path) -> None:
    """The tutorial reads the source's own values; a tenth of the pixels belong to no class."""
    source, shards = make_class_set(tmp_path, classes=5)
    for form in ("onehot", "index"):
        settings = LoaderSettings(
            shards=shards, source=source, size=(32, 32), batch_size=3, mask=form, augment="none", storages=("source",)
        )
        with open_workspace(settings) as workspace:
            jobs, _ = planned(workspace, settings)
            for job in jobs:
                if job.peer not in ("petseg", "tutorial", "dali-reader"):
                    continue
                peer = PEERS[job.peer](replace(job, workers=int(job.peer == "dali-reader")))
                peer.open()
                masks = np.concatenate([batch.mask.numpy()[batch.index >= 0] for batch in peer.epoch(0)])
                peer.close()
                ignored = masks.sum(axis=1) == 0 if form == "onehot" else masks == IGNORE
                assert 0.02 < ignored.mean() < 0.5
                if form == "onehot":
                    assert masks.shape[1] == 5
                    assert set(masks.sum(axis=1).ravel().tolist()) == {0, 1}


@pytest.mark.parametrize("storage", ["jpeg", "raw"])
def test_a_set_of_another_storage_needs_no_options(tmp_path: Path, storage: str) -> None:
    source, shards = make_class_set(tmp_path, classes=4)
    with open_workspace(LoaderSettings(shards=shards, size=(16, 24), storages=(storage,))) as made:
        stored = Path(made.jobs[storage].shards)
        settings = LoaderSettings(shards=stored, size=(16, 24), batch_size=3, augment="none")
        with open_workspace(settings) as workspace:
            jobs, skipped = planned(workspace, settings)
            assert {job.storage for job in jobs} == {storage}
            assert {"petseg", "webdataset"} <= {job.peer for job in jobs}
            reasons = {one.name: one.reason for one in skipped}
            assert reasons["tutorial source"] == (
                f"it decodes original images, and the set holds {storage} storage; measure a set of source storage, "
                f"with --storages {storage}"
            )
            checked(next(job for job in jobs if job.peer == "webdataset"))
        for changes, message in (
            ({"storages": ("source",)}, "source can only be made from a set of source storage"),
            ({"source": source}, "--source is only for a set of source storage"),
        ):
            wrong = LoaderSettings(shards=stored, **changes)
            with pytest.raises(UsageError, match=message), open_workspace(wrong):
                pass


def test_a_source_without_an_image_is_refused(tmp_path: Path) -> None:
    source, shards = make_class_set(tmp_path, classes=2)
    (source / "images" / "s_3.jpg").unlink()
    settings = LoaderSettings(shards=shards, source=source)
    with pytest.raises(UsageError, match=r"has no image 's_3'"), open_workspace(settings):
        pass


def test_wrong_labels_are_found(tmp_path: Path) -> None:
    """A tutorial that takes the values of masks for class indices does other work."""
    _, shards = make_class_set(tmp_path, classes=5)
    settings = LoaderSettings(shards=shards, size=(32, 32), mask="index", augment="none", storages=("source",))
    with open_workspace(settings) as workspace:
        job = next(job for job in planned(workspace, settings)[0] if job.peer == "tutorial")
        labels = job.files.labels
        shuffled = replace(labels, classes=tuple(reversed(labels.classes)))
        with pytest.raises(CheckError, match="of its mask pixels have another class"):
            checked(replace(job, files=replace(job.files, labels=shuffled)))


def test_every_peer_is_listed_by_its_name() -> None:
    assert {name for name, peer in PEERS.items() if peer.name != name} == set()
    assert [name for name, peer in PEERS.items() if peer.ours] == ["petseg"]
    assert len(SIZES) <= MAX_COMPARED
