"""The options of petseg-eval and petseg-predict: old spellings work, and sets on servers are read as they say."""

import json
from pathlib import Path

import click
import pytest
from store_servers import range_server

from petseg.cli import evaluate, predict


@pytest.mark.parametrize(
    ("command", "arguments", "old", "new"),
    [
        (evaluate, ["run", "--shards", "set"], "--own-size", "--original-resolution"),
        (evaluate, ["run", "--shards", "set"], "--mirror", "--flip-tta"),
        (predict, ["run", "cat.jpg", "-o", "out"], "--mirror", "--flip-tta"),
    ],
)
def test_old_spellings_work(command: click.Command, arguments: list[str], old: str, new: str) -> None:
    def parse(*option: str) -> dict[str, object]:
        return command.make_context("petseg", [*arguments, *option]).params

    assert parse(old) == parse(new) != parse()


@pytest.mark.parametrize("fetch", ["range", "shard"])
def test_a_set_on_a_server_scores_as_one_on_disk(
    call, tiny_run: Path, synthetic_set: Path, tmp_path: Path, fetch: str
) -> None:
    local = json.loads(call(evaluate, tiny_run, "--shards", synthetic_set, "--json").out)
    cache = tmp_path / "cache"
    options = ["--fetch", fetch, "--cache", cache, "--cache-bytes", "50MB", "--json"]
    with range_server(synthetic_set) as address:
        remote = json.loads(call(evaluate, tiny_run, "--shards", address, *options).out)
        few = call(evaluate, tiny_run, "--shards", address, *options[:-3], "--cache-bytes", "1kB")
    different = {"shards", "seconds", "images_per_second"}
    assert {k: v for k, v in remote.items() if k not in different} == {
        k: v for k, v in local.items() if k not in different
    }
    assert any(path.is_file() for path in cache.rglob("*"))
    assert few.code != 0
    assert "--cache-bytes" in few.err
