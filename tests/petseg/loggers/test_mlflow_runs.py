"""What MLflow gets, read back by its own client from a store on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from histories import entry
from optional_packages import needs

from petseg.loggers.logged_ids import LoggedId, read_id, write_id
from petseg.loggers.metrics_logger import LoggedRun
from petseg.loggers.mlflow_runs import MlflowLogger, metric_names
from shards.errors import PetsegError

pytestmark = needs("mlflow", extra="mlflow")
CLASSES = ("cat", "$x_1$ & co.", "a/b", "a|b", "..", "never there")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A store of files: a database takes ten seconds to be created."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "1")  # so that what the logger sets does not outlive the test
    return os.environ["MLFLOW_TRACKING_URI"]


def logged_run(folder: Path) -> LoggedRun:
    folder.mkdir()
    return LoggedRun(folder=folder, classes=CLASSES, parameters={"model.widths": "8,16", "lr": "0.01"})


def test_a_resumed_run_continues_without_repeats(store: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run = logged_run(tmp_path / "run")
    first = MlflowLogger(run)
    first.open([])
    first.log(entry(1, 6))
    first.log(entry(2, 6, validated=False))
    first.close(finished=False)
    client = MlflowClient(store)
    kept = read_id(run.folder, "mlflow")
    assert kept is not None
    assert client.get_run(kept.id).info.status == "KILLED"
    second = MlflowLogger(run)  # the third epoch was finished, but not logged any more
    second.open([entry(1, 6), entry(2, 6, validated=False), entry(3, 6)])
    second.log(entry(4, 6))
    (run.folder / "report.html").write_text("seen")
    second.add_files([run.folder / "report.html"])
    second.close(finished=True)
    (found,) = client.search_runs([client.get_experiment_by_name("petseg").experiment_id])
    assert (found.info.run_id, found.info.run_name, found.info.status) == (kept.id, "run", "FINISHED")
    assert found.data.params == {"model.widths": "8,16", "lr": "0.01"}
    steps = [point.step for point in client.get_metric_history(kept.id, "train/mean_iou")]
    assert steps == [1, 2, 3, 4]
    assert [point.step for point in client.get_metric_history(kept.id, "val/iou/cat")] == [1, 3, 4]
    last = entry(4, 6)["val"]["recall"]
    for name, value in zip(metric_names(CLASSES)[:-1], last[:-1], strict=True):
        assert found.data.metrics[f"val/recall/{name}"] == pytest.approx(value)
    assert not any("never there" in name for name in found.data.metrics)
    assert [each.path for each in client.list_artifacts(kept.id)] == ["report.html"]


def test_a_run_that_the_store_does_not_have_is_made_anew_with_all_epochs(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    run = logged_run(tmp_path / "run")
    for name in ("store", "elsewhere"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / name).as_uri())
        logger = MlflowLogger(run)
        logger.open([entry(1, 6), entry(2, 6)])
        logger.close(finished=True)
    kept = read_id(run.folder, "mlflow")
    assert kept is not None
    points = MlflowClient((tmp_path / "elsewhere").as_uri()).get_metric_history(kept.id, "train/loss")
    assert [point.value for point in points] == [1, 0.5]


def test_no_request_is_larger_than_mlflow_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 1000 metrics and 100 parameters: 255 classes have 1540 metrics an epoch."""
    sent = {"metrics": list[int](), "params": list[int]()}

    class Counting:
        tracking_uri = "http://me:secret@mlflow"

        def __init__(self, address: str | None) -> None: ...

        def get_experiment_by_name(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(experiment_id="1")

        def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
            return SimpleNamespace(info=SimpleNamespace(run_id="2"))

        def get_metric_history(self, run: str, name: str) -> list[object]:
            return []

        def log_batch(self, run: str, **items: list[object]) -> None:
            for kind, values in items.items():
                sent[kind].append(len(values))

    monkeypatch.setattr("mlflow.MlflowClient", Counting)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Counting.tracking_uri)
    (tmp_path / "run").mkdir()
    classes = tuple(f"class {number}" for number in range(255))
    parameters = {f"option {number}": "1" for number in range(150)}
    MlflowLogger(LoggedRun(folder=tmp_path / "run", classes=classes, parameters=parameters)).open([entry(1, 255)])
    assert sent["params"] == [100, 50]
    assert max(sent["metrics"]) <= 1000
    assert sum(sent["metrics"]) > 1500
    kept = read_id(tmp_path / "run", "mlflow")
    assert kept is not None
    assert kept.address == "http://mlflow"  # a run's folder may be given to anybody


def test_names_of_classes_are_allowed_and_distinct() -> None:
    from mlflow.utils.validation import _validate_metric_name

    names = metric_names((*CLASSES, "ä b", "日本", ".", "a_b"))
    assert len(set(names)) == len(names) == 10
    assert names[0] == "cat"
    for name in names:
        _validate_metric_name(f"val/iou/{name}")


@pytest.mark.slow
def test_without_a_server_a_database_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the working directory, as by MLflow itself; a run that is resumed elsewhere finds it again."""
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    run = logged_run(tmp_path / "run")
    for place, epochs in (("here", 1), ("there", 2)):
        monkeypatch.chdir(tmp_path / place)
        logger = MlflowLogger(run)
        logger.open([entry(number + 1, 6) for number in range(epochs)])
        logger.close(finished=True)
    kept = read_id(run.folder, "mlflow")
    assert kept is not None
    assert kept.address == f"sqlite:///{tmp_path}/here/mlflow.db"
    points = MlflowClient(kept.address).get_metric_history(kept.id, "train/loss")
    assert [point.step for point in points] == [1, 2]


@pytest.mark.parametrize(
    "address",
    [
        "http://198.51.100.7:5000",
        "https://mlflow.example",
        "postgresql://me:secret@mlflow.example/db",
        "databricks",
        "file:///tmp/store",
        "sqlite:////tmp/other.db",
    ],
)
def test_the_folder_of_a_run_names_no_server(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be anybody's, and the password of MLFLOW_TRACKING_TOKEN would be sent there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("mlflow.MlflowClient", lambda *given: pytest.fail(f"a client of {given} was made"))
    run = logged_run(tmp_path / "run")
    write_id(run.folder, "mlflow", LoggedId(id="1", address=address))
    with pytest.raises(PetsegError, match="to go on there, set MLFLOW_TRACKING_URI") as error:
        MlflowLogger(run).open([entry(1, 6)])
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "classes", [("a?", "a!", "a__0"), ("a__1", "a?", "a!"), (".", "._0", ".."), ("a?", "a!", "a__0", "a__0_0")]
)
def test_no_made_up_name_is_that_of_another_class(classes: tuple[str, ...]) -> None:
    names = metric_names(classes)
    assert len(set(names)) == len(classes)
    assert [name for name in names if name in classes] == [
        name for name in classes if name.isidentifier() or "0" in name
    ]
