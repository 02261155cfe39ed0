"""The command that ``verify`` advises for a damaged set: it builds the same set."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.audit.findings import MAX_PIXELS
from shards.build.options import PackOptions, options_from, options_of
from shards.cli import main
from shards.cli.build_command import build
from shards.format.builtin_labels import BUILTIN
from shards.format.label_files import find_labels
from shards.format.manifest import BuildOptions, Manifest, load_manifest
from shards.verify import verify

LABELS = """[[class]]
name = "cat"
value = 1
[[class]]
name = "rest"
values = [2, 3]
"""


def advised(report: str) -> list[str]:
    (command,) = re.findall(r"\(petseg-shard (build [^)]*)\)", report)
    return shlex.split(command)


def damage(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)


@pytest.mark.usefixtures("built_in_this_process")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", ""),
        (
            "--storage jpeg --size 64 --split random",
            "--storage jpeg --size 64 --split random",
        ),
        (
            "--storage raw --size 32x48 --fit contain --seed=-3 --val-fraction 0 --samples-per-shard 7 --exif apply",
            "--storage raw --size 32x48 --fit contain --val-fraction 0.0 --seed -3 --samples-per-shard 7 --exif apply",
        ),
        (
            "--storage jpeg --quality 7 --labels LABELS.toml --split random --fractions .5,.5,0 --shard-bytes 9kB",
            "--labels LABELS.toml --storage jpeg --quality 7 --split random --fractions 0.5,0.5,0.0 --shard-bytes 9000",
        ),
        ("--max-pixels 12345678 --labels pets", "--max-pixels 12345678"),
    ],
)
def test_it_builds_the_same_set(
    given: str, said: str, tiny_pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("LABELS.toml").write_text(LABELS)
    folder = tmp_path / "a set"

    def run(*arguments: str) -> None:
        result = CliRunner().invoke(main, [*arguments, "--workers", "1"])
        assert result.exit_code == 0, result.output

    run("build", str(tiny_pets), str(folder), *shlex.split(given))
    built = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder, "train-000000.tar")
    command = advised(verify(folder).text())
    assert command == shlex.split(f"build SOURCE '{folder}' --overwrite --layout pets {said}")
    run(*(str(tiny_pets) if word == "SOURCE" else word for word in command))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == built


def manifest_of(options: PackOptions, layout: str, like: Manifest) -> Manifest:
    """Return the manifest of a set that was built with these options, as ``assemble`` writes it."""
    names = set(BuildOptions.__struct_fields__) - {"layout"}
    kept = BuildOptions(layout=layout, **{name: getattr(options, name) for name in names})
    return msgspec.structs.replace(
        like, storage=options.storage, size=options.size, fit=options.fit, labels=options.labels, options=kept
    )


def one_of(first: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([first, *others])


@settings(max_examples=150, deadline=None)
@given(
    storage=one_of("source", "jpeg", "raw"),
    size=one_of(None, "128", "64", "96x160"),
    fit=one_of(None, "stretch", "cover"),
    quality=one_of(None, 1, 90, 100),
    split=one_of("official", "random"),
    fractions=one_of(None, (0.7, 0.2, 0.1), (1 / 3, 1 / 3, 1 / 3), (1.0, 0.0, 0.0), (1 - 1e-7, 1e-7, 0.0)),
    val_fraction=st.none() | st.floats(0, 1),
    seed=st.integers(-(2**63), 2**63 - 1) | st.just(0),
    shard=one_of((None, None), (None, "1GB"), (None, 256_000_000), (1, None), (256, None)),
    max_pixels=one_of(MAX_PIXELS, 1, 1 << 29),
    exif=one_of("auto", "apply", "ignore"),
    labels=st.sampled_from(list(BUILTIN)),
    layout=st.sampled_from(["pets", "voc", "cityscapes", "ade20k", "csv", "folders"]),
)
def test_its_options_are_those_of_the_set(
    tiny_sets: dict[str, Path], storage: str, split: str, labels: str, layout: str, shard: Any, **given: Any
) -> None:
    for name in ("size", "fit") if storage == "source" else ():
        given[name] = None
    given["quality"] = given["quality"] if storage == "jpeg" else None
    given["fractions" if split == "official" else "val_fraction"] = None
    given |= {"samples_per_shard": shard[0], "shard_bytes": shard[1]}
    options = options_from(storage=storage, split=split, labels=BUILTIN[labels], **given)
    words = options_of(manifest_of(options, layout, load_manifest(tiny_sets["source"])))
    packing = build.make_context("build", ["SOURCE", "OUT", *words]).params
    told = {name: packing[name] for name in (*given, "storage", "split")}
    own = packing["labels"] or layout  # a layout without labels of its own would be refused
    again = options_from(**told, labels=find_labels(own))
    assert again == options
    assert packing["layout"] == layout


def test_a_damaged_manifest_does_not_say(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for path in tiny_sets["source"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    damage(folder, "manifest.json")
    text = verify(folder).text()
    assert f"build it again with the options that it was built with (petseg-shard build SOURCE {folder} --over" in text
    assert advised(text) == ["build", "SOURCE", str(folder), "--overwrite"]
