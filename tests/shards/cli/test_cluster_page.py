"""docs/cluster.md: its scripts parse, and its commands are ones that there are."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from shards.cli import main

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cluster.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"petseg-shard[^\n#&\"]*")


def test_there_are_scripts() -> None:
    languages = [language for language, _ in BLOCKS]
    assert languages.count("bash") >= 6
    assert "yaml" in languages


@pytest.mark.parametrize("script", [text for language, text in BLOCKS if language == "bash"])
def test_scripts_are_bash(script: str) -> None:
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "yaml"])
def test_manifests_are_jobs_of_kubernetes(text: str) -> None:
    documents = list(yaml.safe_load_all(text))
    assert documents
    for document in documents:
        assert document["metadata"]["name"]
        if document["kind"] == "Job":
            assert document["apiVersion"] == "batch/v1"
            pod = document["spec"]["template"]["spec"]
            assert pod["restartPolicy"] in ("Never", "OnFailure")  # others are refused for jobs
            for container in pod["containers"]:
                assert all(isinstance(word, str) for word in container["command"] + container.get("args", []))
                assert {mount["name"] for mount in container.get("volumeMounts", [])} <= {
                    volume["name"] for volume in pod.get("volumes", [])
                }
        if document["spec"].get("completionMode") == "Indexed" and "petseg-shard" in container["command"]:
            words = container["command"] + container["args"]
            assert words[-2:] == ["--tasks", str(document["spec"]["completions"])]
            options_of(words)


@pytest.mark.parametrize(
    "line", sorted({found for language, text in BLOCKS if language == "bash" for found in COMMAND.findall(text)})
)
def test_commands_take_these_options(line: str) -> None:
    options_of(shlex.split(line.rstrip('\\" ')))


def options_of(words: list[str]) -> None:
    """Parse a command of petseg-shard; raises click's error for an option that there is not."""
    assert words[0] == "petseg-shard"
    command = main.commands[words[1]]
    command.make_context(words[1], [word for word in words[2:] if word != "\\"])
