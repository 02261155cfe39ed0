"""Results: kept whole, compared, shown as table, page, figure and in documents."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.compare import compare_results, comparison_json, comparison_text, machine_drift
from bench.figures import update_document
from bench.page import render_page
from bench.plot import draw_figure
from bench.results import (
    BuildLine,
    Check,
    Data,
    Environment,
    GpuCost,
    Left,
    Limit,
    Line,
    Repeat,
    Results,
    TrainLine,
    read_results,
    write_results,
)
from bench.statistics import spread
from bench.table import print_results
from bench.verdict import bound, share_of_limit, stall
from shards.errors import FormatError, UsageError


def environment(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "command": "petseg-bench loader", "started": "2026-01-01T00:00:00+0000", "seconds": 1.0, "commit": "abc",
        "system": "Linux", "cpu": "A <fast> one", "cores": 2, "last_level_cache_bytes": 8 << 20,
        "memory_bytes": 24 << 30, "gpu": (), "load_before": 0.1, "load_after": 1.0, "versions": {"python": "3.11"},
    }  # fmt: skip
    return Environment(**{**values, **changes})


def line(title: str, rates: list[float], **changes: Any) -> Line:
    peer, storage, *engine = title.split(" ")
    check = Check(delivered=100, missing=0, repeated=0, compared=100, image_difference=0.3, image_worst=0.9,
                  mask_difference=0.0)  # fmt: skip
    repeats = tuple(
        Repeat(pictures=1000, seconds=1000 / rate, cpu_seconds=1.5 * 1000 / rate, batch_ms=(1.0, 2.0, 9.0))
        for rate in rates
    )
    values: dict[str, Any] = {
        "name": title, "peer": peer, "storage": storage, "engine": engine[0] if engine else "", "device": "cpu",
        "augment": False, "cache": "warm", "workers": 2, "tried": {"1": 200.0, "2": 300.0}, "marks": (),
        "check": check,
        "warmup_seconds": 1.0, "steady": True, "prepare_seconds": None, "repeats": repeats,
        "peak_memory_bytes": 1 << 29,
    }  # fmt: skip
    return Line(**{**values, **changes})


def results(ours: list[float], other: list[float], **changes: Any) -> Results:
    gpu = GpuCost(host_wait_seconds=0.1, device_seconds=0.2, moved_bytes=12345)
    on_gpu = line("petseg source dali", [9000.0], name="petseg source dali gpu", device="cuda", repeats=(
        Repeat(pictures=1000, seconds=0.1, cpu_seconds=0.1, batch_ms=(1, 2, 3), gpu=gpu),))  # fmt: skip
    values: dict[str, Any] = {
        "format": "petseg-bench",
        "version": 1,
        "kind": "loader",
        "environment": environment(),
        "data": Data(
            path="set", fingerprint="f", split="train", samples=1000, bytes={"source": 1 << 30, "raw": 1 << 20}
        ),
        "settings": {"size": 128, "batch_size": 32, "seconds": 1.0},
        "lines": (line("petseg source dali", ours), line("tutorial source", other, marks=("does less",)), on_gpu),
        "left": (Left(name="ffcv source", reason="not installed: ffcv"),),
        "limits": (
            Limit(name="copy", storage="", rates=(60_000.0,), how="memcpy"),
            Limit(name="decode", storage="source", rates=(1000.0, 1010.0), how="libjpeg-turbo"),
            Limit(name="decode, scaled", storage="source", rates=(1200.0, 1210.0), how="libjpeg-turbo"),
        ),
    }
    return Results(**{**values, **changes})


OURS, OTHER = [1100.0, 1110, 1120, 1090, 1105], [400.0, 405, 395, 402, 398]


def train_results() -> Results:
    trained = TrainLine(
        name="unet fp32", model="unet", precision="fp32", device="cpu", size=128, batch_size=16,
        loader_rates=(900.0, 910.0), memory_rates=(20.0, 20.4), real_rates=(19.0, 19.5), wait_share=(0.01, 0.02),
        step_ms=(800.0, 900.0), peak_memory_bytes=1 << 30,
    )  # fmt: skip
    return results(OURS, OTHER, kind="train", lines=(), limits=(), train=(trained,))


def build_results() -> Results:
    packed = BuildLine(name="petseg source, 2 workers", seconds=(1.0, 1.1), pictures=480, workers=2, bytes=1 << 20,
                       peak_memory_bytes=1 << 20, limit="make source")  # fmt: skip
    limit = Limit(name="make source", storage="source", rates=(500.0,), how="decoding alone")
    return results(OURS, OTHER, kind="build", lines=(), limits=(limit,), build=(packed,))


def test_results_survive_the_disk(tmp_path: Path) -> None:
    for run in (results(OURS, OTHER), train_results(), build_results()):
        write_results(run, tmp_path / "run.json")
        assert read_results(tmp_path / "run.json") == run


@pytest.mark.parametrize(
    ("text", "told"),
    [("not json", "not JSON"), ("[]", "not a result"), ('{"format": "petseg-bench", "version": 9}', "version 9"),
     ('{"format": "petseg-bench", "version": 1, "kind": "loader"}', "damaged")],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(FormatError, match=told):
        read_results(tmp_path / "x.json")


def test_what_a_line_is_bound_by() -> None:
    run = results(OURS, OTHER)
    ours, other, on_gpu = run.lines
    assert bound(ours, run.limits, 2) == "decode"
    share = share_of_limit(ours, run.limits)
    assert share == pytest.approx(1105 * (1 / 1205 + 1 / 60_000))
    assert bound(other, run.limits, 2) == "waiting, cores 75% busy"
    assert bound(other, run.limits, 1).startswith("processor")
    assert share_of_limit(on_gpu, run.limits) is None
    assert share_of_limit(ours, ()) is None


def test_compare_says_what_changed_and_what_did_not() -> None:
    before, after = results(OURS, OTHER), results([rate * 0.8 for rate in OURS], [rate * 1.01 for rate in OTHER])
    comparison = compare_results(before, after)
    changed = {one.name: one.difference.changed for one in comparison.lines}
    assert changed == {"petseg source dali": True, "tutorial source": False, "petseg source dali gpu": False}
    text = comparison_text(comparison)
    assert "slower" in text.splitlines()[0]
    assert comparison_json(comparison)["changed"] == 1


def test_compare_tells_what_makes_runs_unlike() -> None:
    other = results(OURS, OTHER, environment=environment(cpu="another", versions={"python": "3.12"}, load_before=1.9),
                    settings={"size": 64})  # fmt: skip
    text = comparison_text(compare_results(results(OURS, OTHER), other))
    for told in ("cpu:", "python: 3.11 and 3.12", "option size: 128 and 64", "busy before B"):
        assert told in text
    with pytest.raises(UsageError, match="of petseg-bench loader"):
        compare_results(results(OURS, OTHER), train_results())
    with pytest.raises(UsageError, match="no line in common"):
        compare_results(results(OURS, OTHER), results(OURS, OTHER, lines=(line("spdl source", OURS),)))


def test_drift_is_what_all_limits_share() -> None:
    run = results(OURS, OTHER)

    def scaled(*factors: float) -> Results:
        limits = tuple(
            msgspec.structs.replace(limit, rates=tuple(rate * factor for rate in limit.rates))
            for limit, factor in zip(run.limits, factors, strict=True)
        )
        return msgspec.structs.replace(run, limits=limits)

    assert machine_drift(run, run) == 1
    assert machine_drift(run, scaled(0.8, 0.9, 0.85)) == pytest.approx(0.9)
    assert machine_drift(run, scaled(0.8, 1.1, 0.85)) == 1
    assert machine_drift(run, scaled(1.3, 1.1, 1.2)) == pytest.approx(1.1)


def test_tables_page_and_figure_hold_everything(capsys: pytest.CaptureFixture[str]) -> None:
    run = results(OURS, OTHER)
    print_results(run)
    shown = capsys.readouterr().out
    page = render_page(run)
    for told in ("petseg dali", "tutorial", "1,105", "does less", "ffcv source", "libjpeg-turbo"):
        assert told in shown
        assert told in page
    for told in ("A &lt;fast&gt; one", "on the GPU, a repeat", "<td>0.200", "<svg", "fit into the processor"):
        assert told in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )  # names of XML vocabularies, nothing that is loaded
    assert draw_figure(run) == draw_figure(run)
    for other in (train_results(), build_results()):
        assert draw_figure(other, file_format="png")[:4] == b"\x89PNG"
        assert "<table" in render_page(other)
        print_results(other)
    shown = capsys.readouterr().out
    assert f"{stall(train_results().train[0]):.1%}" in shown
    assert f"{spread(build_results().build[0].rates).median / 500:.0%}" in shown


def test_figures_go_between_markers(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    end = "b\n<!-- figures: build -->\n<!-- end of figures -->\n"
    document.write_text(f"a\n<!-- figures: loader -->\nold\n<!-- end of figures -->\n{end}")
    run = results(OURS, OTHER)
    assert update_document(document, {"loader": run}, plot="docs/x.svg") == ["loader"]
    text = document.read_text()
    assert "old" not in text
    assert "| petseg dali | 1,105 |" in text
    assert "](docs/x.svg)" in text
    assert text.endswith(end)
    update_document(document, {"loader": run}, plot="docs/x.svg")
    assert document.read_text() == text
    assert update_document(document, {"build": build_results(), "train": train_results()}, plot=None) == ["build"]
    document.write_text("no markers")
    with pytest.raises(UsageError, match="no place"):
        update_document(document, {"loader": run}, plot=None)


def test_settings_are_plain_values() -> None:
    from bench.loader_bench import LoaderSettings

    built = msgspec.to_builtins(LoaderSettings(shards=Path("x")), enc_hook=str)
    assert built["shards"] == "x"
    assert set(built) == {field.name for field in dataclasses.fields(LoaderSettings)}
