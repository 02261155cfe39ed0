"""Loggers that fail end no training, and catch up."""

from __future__ import annotations

import ast
import contextlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from histories import entry
from hypothesis import given
from hypothesis import strategies as st

import petseg
from petseg.loggers.json_lines import JsonLinesLogger
from petseg.loggers.logged_ids import LoggedId, read_id, write_id
from petseg.loggers.metrics_logger import LoggedRun, epoch_values
from petseg.loggers.run_loggers import RunLoggers
from petseg.loggers.tensorboard_events import FOLDER, TensorBoardLogger
from petseg.runs.config_file import read_config_file
from petseg.runs.recipe import RuntimeOptions
from petseg.runs.run_folder import create_run
from shards.errors import PetsegError, UsageError


class Service:
    """A logger whose service answers or does not; each call takes the next of ``answers``, and True at their end."""

    title = "a service"

    def __init__(self, answers: Sequence[bool] = ()) -> None:
        self.answers, self.epochs, self.calls = list(answers), list[int](), 0

    def _answer(self) -> None:
        self.calls += 1
        if self.answers and not self.answers.pop(0):
            raise ConnectionError("no route to host\nmore")

    def open(self, history: Sequence[Mapping[str, Any]]) -> None:
        for each in history:
            if each["epoch"] not in self.epochs:
                self._answer()
                self.epochs.append(each["epoch"])
        self._answer()

    def log(self, each: Mapping[str, Any]) -> None:
        self._answer()
        self.epochs.append(each["epoch"])

    def add_files(self, files: Sequence[Path]) -> None:
        self._answer()

    def close(self, *, finished: bool) -> None:
        self._answer()


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 8), st.floats(0, 100))
def test_every_epoch_arrives_once_however_often_a_service_fails(answers: list[bool], epochs: int, pace: float) -> None:
    """The other logger gets every epoch at once; of each row of failures one line is shown."""
    notes, now = list[str](), 0.0
    failing, steady = Service([*answers, *[True] * 40]), Service()
    loggers = RunLoggers([failing, steady], note=notes.append, clock=lambda: now)
    loggers.open([])
    for number in range(epochs):
        now += pace
        loggers.log(entry(number + 1, 3))
        assert steady.epochs == list(range(1, number + 2))
    failing.answers = []
    loggers.close(finished=True)
    assert failing.epochs == steady.epochs == list(range(1, epochs + 1))
    kinds = ["failed" in note for note in notes]
    assert kinds == [True, False] * (len(kinds) // 2)  # it never fails twice without having worked in between
    if any(kinds):
        assert notes[0] == "a service failed (no route to host); the training goes on, and it is tried again later"


def test_a_password_in_the_address_of_a_service_is_not_shown() -> None:
    class Refusing(Service):
        def open(self, history: Sequence[Mapping[str, Any]]) -> None:
            raise ConnectionError("API request to https://me:secret@mlflow.example/api?token=secret failed")

    notes: list[str] = []
    RunLoggers([Refusing()], note=notes.append).open([])
    assert "(API request to https://mlflow.example/api failed)" in notes[0]


def test_a_dead_service_is_tried_once_a_minute() -> None:
    now = 0.0
    dead = Service([False] * 1000)
    loggers = RunLoggers([dead], clock=lambda: now)
    loggers.open([])
    for number in range(100):
        now += 6
        loggers.log(entry(number + 1, 3))
    assert dead.calls == 11


def test_a_training_goes_on_when_services_fail(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None, tiny: dict[str, Any]
) -> None:
    """TensorBoard's folder is a file, Weights & Biases cannot start, MLflow's server is not there."""
    for name in ("wandb", "mlflow"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'petseg[{name}]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for name, value in {"TIMEOUT": "2", "MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    monkeypatch.setattr("wandb.init", lambda **settings: (_ for _ in ()).throw(OSError("no space left on device")))
    monkeypatch.setattr("petseg.loggers.tensorboard_events.FOLDER", "config.json/events")
    notes = []

    class Notes(petseg.report.Reporter):
        def note(self, text: str) -> None:
            notes.append(text)

    from petseg.training.start import train

    options = {**tiny, "epochs": 2, "logger": ("wandb", "mlflow"), "tensorboard": True}
    run = train(synthetic_set, run=tmp_path / "run", options=options, make_reporter=Notes)
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    failed = [note for note in notes if "failed" in note]
    assert sorted(note.split(" failed")[0] for note in failed) == ["MLflow", "TensorBoard", "Weights & Biases"]
    assert "no space left on device" in " ".join(failed)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_an_error_at_the_start(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("petseg.loggers.metrics_logger.util.find_spec", lambda package: None)
    with pytest.raises(PetsegError, match=rf"pip install 'petseg\[{name}\]'"):
        petseg.train(synthetic_set, run=tmp_path / "run", options={"logger": (name,)})
    assert not (tmp_path / "run").exists()


def test_services_are_imported_when_a_run_opens_them() -> None:
    """They take seconds to import: no module of the project does so at its top."""
    import petseg.loggers

    for path in Path(petseg.loggers.__path__[0]).glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"wandb", "mlflow", "tensorboard", "torch"}


def test_lines_are_rewritten_to_agree_with_the_history(tmp_path: Path) -> None:
    folder = create_run(tmp_path / "run", model="unet")
    (folder / "metrics.jsonl").write_text("damaged")
    logger = JsonLinesLogger(folder)
    logger.open([entry(1, 3)])
    logger.log(entry(2, 3, validated=False))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    folder.close()
    assert lines == json.loads(json.dumps([entry(1, 3), entry(2, 3, validated=False)]))


def test_events_of_a_killed_run_are_written_once(tmp_path: Path) -> None:
    """It may have logged an epoch that its checkpoint does not have."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = LoggedRun(folder=tmp_path, classes=("cat", "dog", "none"), parameters={"lr": "0.01"})
    killed, resumed = TensorBoardLogger(run), TensorBoardLogger(run)
    killed.open([])
    killed.log(entry(1, 3))
    killed.log(entry(2, 3))
    resumed.open([entry(1, 3)])
    resumed.log(entry(2, 3, validated=False))
    resumed.close(finished=True)
    events = EventAccumulator(str(tmp_path / FOLDER))
    events.Reload()
    assert [event.step for event in events.Scalars("train/iou/dog")] == [1, 2]
    assert [event.step for event in events.Scalars("val/iou/dog")] == [1]
    assert "val/recall/none" not in events.Tags()["scalars"]
    killed.close(finished=False)


@pytest.mark.parametrize("name", ["a|b", "`a` | `b`", "``", "<b>*a* _b_ [c](d)</b>", "a&lt;b\\|"])
def test_an_option_is_one_cell_of_the_table_whatever_it_holds(tmp_path: Path, name: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugin_util import markdown_to_safe_html

    TensorBoardLogger(LoggedRun(folder=tmp_path, classes=("cat",), parameters={"data.name": name, "lr": "1"})).open([])
    events = EventAccumulator(str(tmp_path / FOLDER))
    events.Reload()
    (written,) = events.Tensors("parameters/text_summary")
    page = markdown_to_safe_html(written.tensor_proto.string_val[0].decode())
    cells = [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page, re.DOTALL)]
    assert cells == ["data.name", name, "lr", "1"]


def test_events_of_other_runs_stay_where_the_folder_is_a_link(tmp_path: Path) -> None:
    for name in ("run", "all"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / FOLDER).symlink_to(tmp_path / "all")
    (tmp_path / "all" / "events.out.tfevents.1.other").touch()
    notes: list[str] = []
    logger = TensorBoardLogger(LoggedRun(folder=tmp_path / "run", classes=("cat",), parameters={}))
    RunLoggers([logger], note=notes.append).open([entry(1, 1)])
    assert "events is a link; remove it" in notes[0]
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["events.out.tfevents.1.other"]


def test_events_catch_up_when_a_full_disk_has_room_again(tmp_path: Path, small_disk: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    notes = list[str]()
    with small_disk(tmp_path / "disk", "64k") as disk:
        logger = TensorBoardLogger(LoggedRun(folder=disk, classes=("cat", "dog", "none"), parameters={}))
        loggers = RunLoggers([logger], note=notes.append)
        loggers.open([])
        loggers.log(entry(1, 3))
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(512)):
                pass
        for number in range(2, 12):
            loggers.log(entry(number, 3))
        (disk / "filler").unlink()
        loggers.close(finished=True)
        events = EventAccumulator(str(disk / FOLDER))
        events.Reload()
        assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 12))
    assert [" failed (" in note for note in notes] == [True, False], notes


def test_values_have_the_names_of_their_classes() -> None:
    values = epoch_values(entry(3, 3), ("cat", "dog", "none"))
    scores = entry(3, 3)["val"]
    assert values["val/iou/dog"] == scores["iou"][1]
    assert values["train/dice/cat"] == scores["dice"][0]
    assert "val/iou/none" not in values  # it has no score
    assert not any(name.startswith("val/") for name in epoch_values(entry(3, 3, validated=False), ("a", "b", "c")))


@pytest.mark.parametrize("text", ["", "[]", '{"wandb": 3}', '{"wandb": {}}', "[" * 100_000, "\udcff"])
def test_damaged_ids_are_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "loggers.json").write_bytes(text.encode(errors="surrogateescape"))
    assert read_id(tmp_path, "wandb") is None
    write_id(tmp_path, "wandb", LoggedId(id="x", epoch=2))
    write_id(tmp_path, "mlflow", LoggedId(id="y"))
    assert read_id(tmp_path, "wandb") == LoggedId(id="x", epoch=2)


def test_loggers_are_named_in_several_ways(synthetic_set: Path, tmp_path: Path) -> None:
    from petseg.loggers.metrics_logger import chosen_loggers
    from petseg.runs.recipe import apply_options, default_recipe

    def logger_of(value: object) -> Any:
        runtime = RuntimeOptions(shards="")
        return apply_options(default_recipe("unet"), runtime, {"logger": value})[1].logger

    assert logger_of("wandb, mlflow") == ("wandb", "mlflow")
    assert logger_of("none") == ()
    assert logger_of(["wandb"]) == ("wandb",)
    (tmp_path / "some.toml").write_text('logger = "wandb, mlflow"\n')
    (tmp_path / "list.toml").write_text('logger = ["wandb", "mlflow"]\n')
    for name in ("some.toml", "list.toml"):
        assert read_config_file(tmp_path / name)["logger"] == ("wandb", "mlflow")
    assert chosen_loggers(("mlflow", "wandb", "mlflow"), tensorboard=True) == ("tensorboard", "wandb", "mlflow")
    with pytest.raises(UsageError, match="choose some of tensorboard, wandb, mlflow"):
        petseg.train(synthetic_set, run=tmp_path / "run", options={"logger": ("comet",)})
