"""Results: written and read, compared, shown as tables, figure and in documents."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bench_results import (
    OTHER,
    OURS,
    build_results,
    environment,
    limit,
    line,
    repeats,
    results,
    train_results,
    write_results,
)
from click.testing import CliRunner
from markdown_it import MarkdownIt

from bench.cli import main
from bench.results.comparison import compare_results, comparison_text, machine_drift
from bench.results.goals import STATED_FOR, bound, share_of_limit
from bench.results.outputs import Outputs
from bench.results.plot import draw_figure
from bench.results.records import DataInfo, Results, Skipped, read_results
from bench.results.result_page import markdown, sections, update_document
from bench.settings import LoaderSettings, plain
from shards.errors import FormatError, UsageError


def test_results_survive_the_disk(tmp_path: Path) -> None:
    for run in (results(OURS, OTHER), train_results(), build_results()):
        write_results(run, tmp_path / "run.json")
        assert read_results(tmp_path / "run.json") == run


@pytest.mark.parametrize(
    ("text", "message"),
    [("not json", "malformed"), ("[]", "Expected `object`"), ('{"format": "else"}', r"else.*format`"),
     ('{"format": "petseg-bench", "version": 2}', r"in format 3: .* 2 .*version`; run the benchmark again"),
     ('{"format": "petseg-bench", "version": 3, "kind": "loader"}', "missing required field `environment`")],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_results(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("before", "after"),
    [('"seconds": 1.1', '"seconds": 0.0'), ('"images": 480', '"images": 0'),
     ('"seconds": 1.1', '"seconds": NaN'), ('"seconds": 1.1', '"seconds": -Infinity'),
     ('"seconds": 1.1', '"seconds": 5e-324'), ('"seconds": 1.1', '"seconds": 1e308'),
     ('"images": 480', f'"images": {10**400}'), ('"memory_bytes": ', '"memory_bytes": 9999999999'),
     ('"cores": 2', '"cores": 0'), ('"cpu_seconds": ', '"cpu_seconds": -1'),
     ('"peak_memory_bytes": ', '"peak_memory_bytes": -1')],
)  # fmt: skip
def test_numbers_that_nobody_has_measured_are_refused(tmp_path: Path, before: str, after: str) -> None:
    write_results(build_results(), tmp_path / "run.json")
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace(before, after, 1))
    assert (tmp_path / "run.json").read_text() != text
    with pytest.raises(FormatError, match="is not what petseg-bench --json writes"):
        read_results(tmp_path / "run.json")


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    run = results(OURS, OTHER)
    twice = msgspec.structs.replace(run, lines=(*run.lines, run.lines[0]))
    nothing = msgspec.structs.replace(run, data=msgspec.structs.replace(run.data, bytes={}))
    for wrong, message in ((twice, "two lines of the name 'petseg source torch'"), (nothing, r"data\.bytes")):
        write_results(wrong, tmp_path / "run.json")
        with pytest.raises(FormatError, match=message):
            read_results(tmp_path / "run.json")


def test_settings_of_other_kinds_and_a_repeat_without_the_gpu_s_side_are_shown() -> None:
    for size in ([1, 2], {}):
        assert "[1, 2]" not in markdown(results(OURS, OTHER, settings={"size": size}), full=True, headline=True)
    run = results(OURS, OTHER)
    mixed = msgspec.structs.replace(run.lines[2], repeats=(*run.lines[2].repeats, *run.lines[0].repeats))
    text = markdown(msgspec.structs.replace(run, lines=(*run.lines[:2], mixed)), full=True)
    assert "the GPU's side" in markdown(run, full=True)
    assert "the GPU's side" not in text


def test_a_document_keeps_its_ends_of_lines_and_has_to_be_utf_8(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_bytes("é\r\n<!-- figures: loader -->\r\nold\r\n<!-- end of figures -->\r\n".encode())
    run = results(OURS, OTHER, environment=environment(cpu="<script>"))
    assert update_document(document, {"loader": run}, plot=None) == ["loader"]
    assert document.read_bytes().count(b"\n") == document.read_bytes().count(b"\r\n")
    assert rb"; \<script\>, 2 cores" in document.read_bytes()
    mixed = b"a\r\nb\n<!-- figures: loader -->%s\nold\r\n<!-- end of figures -->\nc\r\n"
    for end in (b"", b"\r"):  # the figures have the ends of lines of their marker, all others those that they had
        document.write_bytes(mixed % end)
        update_document(document, {"loader": run}, plot=None)
        before, _, rest = document.read_bytes().partition(b"<!-- figures: loader -->")
        made, _, after = rest.partition(b"<!-- end of figures -->")
        assert (before, after) == (b"a\r\nb\n", b"\nc\r\n")
        assert (made.count(b"\r\n"), made.count(b"\n") > 5) == (made.count(b"\n") if end else 0, True)
    document.write_bytes(b"\xe9\n<!-- figures: loader -->\n<!-- end of figures -->\n")
    with pytest.raises(UsageError, match="is not UTF-8"):
        update_document(document, {"loader": run}, plot=None)


def test_a_line_without_repeats_is_refused(tmp_path: Path) -> None:
    write_results(results([], OTHER), tmp_path / "run.json")
    with pytest.raises(FormatError, match=r"lines\[0\]\.repeats"):
        read_results(tmp_path / "run.json")


def test_texts_of_a_file_give_no_orders_to_a_terminal_and_are_no_formulas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = msgspec.structs.replace(results(OURS, OTHER), environment=environment(cpu="\x1b[2J $x$ $"))
    run = msgspec.structs.replace(run, lines=(line("petseg so\x1b[2Jur$ torch", OURS),))
    write_results(run, tmp_path / "a.json")
    assert (
        CliRunner().invoke(main, ["show", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.svg")]).exit_code == 0
    )
    Outputs().finish(run)
    text = capsys.readouterr().out + comparison_text(compare_results(run, run))
    assert r"\x1b[2J" in text
    assert "\x1b" not in text + markdown(run, full=True, headline=True)


FORGED = (
    "![i](http://e/x)", "[a](javascript:b)", "*a* _b_ __c__", "`a` \\`b`", "<b>c</b> &lt; |", "- a", "1. a", "# a",
    "<!-- end of figures -->",
)  # fmt: skip


@pytest.mark.parametrize("forged", FORGED)
def test_texts_of_a_file_are_no_markdown(tmp_path: Path, forged: str) -> None:
    run = results(OURS, OTHER, settings={"size": [forged], "batch_size": forged, "fit": [forged]})
    lines = [line(f"petseg {name} torch", OURS, caveats=(forged,), peer=forged) for name in ("source", "raw")]
    data = msgspec.structs.replace(run.data, bytes={forged: 1})
    where = environment(cpu=forged, commit=forged, gpu=(forged,), started=forged[:10])
    limits, skipped = (limit(forged, "", 1200.0, how=forged),), (Skipped(name=forged, reason=forged),)
    run = msgspec.structs.replace(
        run, lines=tuple(lines), environment=where, limits=limits, data=data, skipped=skipped, parts={forged: 1.0}
    )
    trained = train_results()
    trained = msgspec.structs.replace(trained, train=(msgspec.structs.replace(trained.train[0], name=forged),))
    packed = build_results()
    renamed = msgspec.structs.replace(packed.build[0], name=forged, limit=forged)
    packed = msgspec.structs.replace(packed, build=(renamed,), environment=where, limits=limits)
    for each, least in ((run, 12), (trained, 1), (packed, 5)):
        text = markdown(each, full=True, headline=True, took=True)
        blocks = MarkdownIt().enable("table").parse(text)
        inner = [part for block in blocks for part in block.children or ()]
        wrong = {"link_open", "image", "em_open", "code_inline", "fence", "html_inline", "html_block", "heading_open"}
        assert not wrong & {token.type for token in blocks + inner}
        assert sum(token.content.count(forged) for token in inner if token.type == "text") >= least, text
    document = tmp_path / "doc.md"
    document.write_text("<!-- figures: run-full -->\n<!-- end of figures -->\n")
    update_document(document, {"run": run}, plot=None)
    once = document.read_text()
    update_document(document, {"run": run}, plot=None)
    assert document.read_text() == once


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
    changed = {one.name: one.changed for one in comparison.lines}
    assert changed == {"petseg source torch": True, "tutorial source": False, "petseg source dali gpu": False}
    text = comparison_text(comparison)
    assert "slower" in text.splitlines()[0]
    assert comparison.changed == 1


def test_compare_tells_what_makes_runs_unlike() -> None:
    other = results(OURS, OTHER, environment=environment(cpu="another", versions={"python": "3.12"}, load_before=1.9),
                    settings={"size": "64"})  # fmt: skip
    text = comparison_text(compare_results(results(OURS, OTHER), other))
    for part in ("cpu:", "python: 3.11 and 3.12", "option size: 128 and 64", "busy before B"):
        assert part in text
    with pytest.raises(UsageError, match="of petseg-bench loader"):
        compare_results(results(OURS, OTHER), train_results())
    with pytest.raises(UsageError, match="no line in common"):
        compare_results(results(OURS, OTHER), results(OURS, OTHER, lines=(line("spdl source", OURS),)))


def test_repeats_of_one_process_count_once() -> None:
    """Five repeats that differ less than the runs do, but of one process each: that may be the process."""
    slow = [rate * 0.8 for rate in OURS]

    def compared(processes: int) -> Any:
        lines = [(line("petseg source torch", rates * 2, processes=processes),) for rates in (OURS, slow)]
        return compare_results(*(results(OURS, OTHER, lines=one) for one in lines))

    for processes, changed in ((1, False), (3, False), (4, True), (5, True)):
        comparison = compared(processes)
        assert [one.changed for one in comparison.lines] == [changed]
        assert comparison.lines[0].undecidable != changed
        text = comparison_text(comparison)
        assert (f"{processes} and {processes} processes can never reach p <= 0.02" in text) != changed
        assert ("use --repeats 5 for both runs" in text) != changed
        assert not comparison.passes


def test_drift_is_what_all_limits_share() -> None:
    run = results(OURS, OTHER)

    def scaled(*factors: float) -> Results:
        limits = tuple(
            msgspec.structs.replace(limit, repeats=repeats([rate * factor for rate in limit.rates]))
            for limit, factor in zip(run.limits, factors, strict=True)
        )
        return msgspec.structs.replace(run, limits=limits)

    assert machine_drift(run, run) == 1
    assert machine_drift(run, scaled(0.8, 0.9, 0.85)) == pytest.approx(0.9)
    assert machine_drift(run, scaled(0.8, 1.1, 0.85)) == 1
    assert machine_drift(run, scaled(1.3, 1.1, 1.2)) == pytest.approx(1.1)


def test_tables_and_figure_hold_everything(capsys: pytest.CaptureFixture[str]) -> None:
    run = results(OURS, OTHER)
    Outputs().finish(run)
    shown = capsys.readouterr().out
    for text in ("petseg torch", "tutorial", "1,105", "does less", "ffcv source", "libjpeg-turbo", "0.200",
                 "on the GPU, a repeat", "fit into the processor"):  # fmt: skip
        assert text in shown
    assert draw_figure(run) == draw_figure(run)
    for other in (train_results(), build_results()):
        assert draw_figure(other, kind="png")[:4] == b"\x89PNG"
        Outputs().finish(other)
    shown = capsys.readouterr().out
    assert f"{train_results().train[0].stall:.1%}" in shown
    assert f"{build_results().build[0].rate / 500:.0%}" in shown


def test_figures_go_between_markers(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    end = "b\n<!-- figures: build -->\n<!-- end of figures -->\n"
    document.write_text(f"a\n<!-- figures: loader -->\nold\n<!-- end of figures -->\n{end}")
    run = results(OURS, OTHER, settings={"size": "64"})  # for which no goal is stated: the table
    assert update_document(document, {"loader": run}, plot="docs/x.svg") == ["loader"]
    text = document.read_text()
    assert "old" not in text
    assert "| petseg torch | 1,105 |" in text
    assert "](docs/x.svg)" in text
    assert text.endswith(end)
    update_document(document, {"loader": run}, plot="docs/x.svg")
    assert document.read_text() == text
    assert update_document(document, {"build": build_results(), "train": train_results()}, plot=None) == ["build"]
    document.write_text("no markers")
    with pytest.raises(UsageError, match="no place"):
        update_document(document, {"loader": run}, plot=None)


def header(run: Results) -> str:
    return markdown(run, headline=True).split("\n")[0]


def test_the_head_of_figures_says_what_is_known() -> None:
    asked = {"size": "128", "batch_size": 32}
    start = "1000 images of 3 classes, 128 pixels, batch 32"
    assert header(results(OURS, OTHER)).startswith(rf"{start}; A \<fast\> one, 2 cores, no GPU;")
    other = {**STATED_FOR, "fit": "contain", "size": "96x160"}
    assert header(results(OURS, OTHER, settings=other)).startswith(
        "1000 images of 3 classes, 96x160 pixels, batch 32, --fit contain; "
    )
    assert "commit abc." in header(results(OURS, OTHER))
    run = results(OURS, OTHER, environment=environment(commit=None, last_level_cache_bytes=None), settings={})
    ran = r"A \<fast\> one, 2 cores, no GPU; 2026-01-01, commit unknown"
    assert header(run) == f"1000 images of 3 classes; {ran}. The data fit into memory."
    assert header(build_results()) == r"A \<fast\> one, 2 cores; 2026-01-01, commit abc."
    (line,) = train_results().train
    for settings in ({"size": None, "batch_size": None}, asked):  # None: as the recipe says
        found = msgspec.structs.replace(train_results(), settings=settings)
        assert header(found).startswith("1000 images of 3 classes, 128 pixels, batch 16; ")
    two = msgspec.structs.replace(
        train_results(), train=(line, msgspec.structs.replace(line, size="128x96", batch_size=8))
    )
    assert header(two).startswith("1000 images of 3 classes, 128 pixels, batch 16 and 128x96 pixels, batch 8; ")


def test_settings_are_plain_values() -> None:
    built = plain(LoaderSettings(shards=Path("x"), size=(96, 160), peers=("tuned", "spdl")))
    assert (built["shards"], built["size"], built["peers"], built["storages"]) == ("x", "96x160", "tuned,spdl", "")
    assert set(built) == {field.name for field in dataclasses.fields(LoaderSettings)}


def test_storages_are_listed_in_words() -> None:
    sizes = {"source": 3, "jpeg": 2, "raw": 1}
    data = DataInfo(path="set", fingerprint="<f>", split="train", samples=1000, classes=3, bytes=sizes)
    assert "The source, jpeg and raw data fit" in header(results(OURS, OTHER, data=data))


def test_a_tutorial_alone_stands_with_what_it_is_compared_with() -> None:
    lines = [line("tutorial source", [3.0]), line("petseg source torch", [5.0]), line("petseg raw torch", [90.0]),
             line("tutorial source", [4.0], mask="index"), line("petseg raw torch", [99.0], mask="index"),
             line("webdataset raw", [2.0], mask="index")]  # fmt: skip
    found = sections(lines)
    assert [(section.storage, [section.label(one) for one in section.lines]) for section in found] == [
        ("source", ["petseg torch", "tutorial"]),
        ("raw", ["petseg torch"]),
        ("raw", ["petseg torch", "tutorial (source)", "webdataset"]),
    ]
    assert found[2].title == "raw storage, evaluation, class-index masks, page cache warm"
    assert [section.title for section in sections(lines[:1])] == [
        "source storage, evaluation, one-hot masks, page cache warm"
    ]


def test_what_each_part_took_is_said() -> None:
    spent = {"open": 160.4, "turns": 1234.5, "x": 0.4}
    found = results([1.0], [1.0], environment=environment(seconds=431.2), parts=spent)
    assert markdown(found, took=True).endswith("took 431 s: open 160, turns 1,234")
    assert markdown(results([1.0], [1.0], parts={}), took=True).endswith("took 1 s")


@pytest.mark.parametrize("factor", [0.8, 1.0, 0.99, 1.3], ids=["slower", "same", "noise", "faster"])
def test_compare_fails_only_where_something_became_slower(tmp_path: Path, factor: float) -> None:
    lines = [(line("petseg source torch", [rate * x for rate in OURS]),) for x in (1, factor)]
    for name, one in zip("ab", lines, strict=True):
        write_results(results(OURS, OTHER, lines=one), tmp_path / f"{name}.json")
    files = [str(tmp_path / f"{name}.json") for name in "ab"]
    assert CliRunner().invoke(main, ["compare", *files, "--fail"]).exit_code == int(factor == 0.8)
    assert CliRunner().invoke(main, ["compare", *files]).exit_code == 0
    write_results(results(OURS, OTHER, lines=(line("petseg source torch", OURS, processes=3),)), tmp_path / "b.json")
    assert CliRunner().invoke(main, ["compare", *files, "--fail"]).exit_code == 1


def test_comparing_without_scipy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(UsageError, match=r"pip install 'petseg\[bench\]'"):
        compare_results(results(OURS, OTHER), results(OURS, OTHER))
