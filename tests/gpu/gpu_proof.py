"""``make gpu-proof``: everything that needs a GPU, on one GPU in nine minutes: tests, trainings, benchmarks.

Each part of gpu_proof.toml runs in processes of its own and has its own time, correctness before throughput, so that a
failure costs only itself. Results go into a folder, after each part anew: proof.json, proof.md, what each part printed,
and the results of the benchmarks, which ``petseg-bench figures`` puts into documents.
"""

import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec

from bench.core.machine import ROOT, RunClock, gpu_names, why_no_gpu
from bench.results.records import Environment
from shards.console import PATH, FriendlyCommand
from shards.cores import usable_cores
from shards.errors import PetsegError
from shards.store.atomic import write_atomically

MINUTES = 9.0
_MOST_JOBS = 10  # tests at a time, each process with memory on the GPU
_TAIL = 15  # lines of a part's output in proof.json
_TRAIN = "--shards {shards} --device cuda --json --validate-every 5"
_BENCH = "--shards {shards} --device cuda --batch-size 128 --repeats 3"


class ProofPart(msgspec.Struct, frozen=True, kw_only=True):
    """Commands that prove one thing, in at most ``seconds`` together, and the files that they write."""

    name: str
    proves: str
    seconds: float
    commands: tuple[tuple[str, ...], ...]
    outputs: tuple[str, ...] = ()


class ProofResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a part."""

    name: str
    proves: str
    outcome: str  # "passed", "failed (exit code N)", "no result after N s" or "not started: no time left"
    seconds: float = 0.0
    output: tuple[str, ...] = ()  # the last lines
    outputs: tuple[str, ...] = ()  # files that it wrote, in the folder


class Proof(msgspec.Struct, frozen=True):
    """proof.json."""

    environment: Environment
    parts: tuple[ProofResult, ...] = ()


def plan_parts(folder: Path) -> tuple[ProofPart, ...]:
    """Return the parts in their order, whose times add up to ``MINUTES``; what they write goes into ``folder``."""
    places = {"folder": folder, "shards": folder / "work" / "shards", "tests": ROOT / "tests" / "gpu",
              "jobs": min(usable_cores(), _MOST_JOBS)}  # fmt: skip

    def words(command: str) -> list[str]:
        program, *rest = shlex.split(command.replace("{train}", _TRAIN).replace("{bench}", _BENCH))
        python = Path(sys.executable)
        return [str(python if program == "python" else python.with_name(program)), *(x.format(**places) for x in rest)]

    parts = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["parts"]
    return msgspec.convert([part | {"commands": [*map(words, part["commands"])]} for part in parts],
                           tuple[ProofPart, ...])  # fmt: skip


def run_parts(
    parts: Sequence[ProofPart], folder: Path, *, seconds: float, report: Callable[[str], None] = lambda text: None
) -> Proof:
    """Run the parts within ``seconds`` together and write the results so far after each; return them."""
    clock, end = RunClock(), time.monotonic() + seconds
    proof = Proof(clock.finish())
    for part in parts:
        result = _run_part(part, folder, seconds=min(part.seconds, end - time.monotonic()))
        report(f"{part.name}: {result.outcome}, {result.seconds:.0f} s")
        proof = Proof(clock.finish(), (*proof.parts, result))
        write_atomically(folder / "proof.json", msgspec.json.format(msgspec.json.encode(proof)).decode() + "\n")
        write_atomically(folder / "proof.md", proof_text(proof))
    return proof


def proof_text(proof: Proof) -> str:
    """Return proof.md: where it was run, and what became of each part."""
    of = proof.environment
    versions = ", ".join(f"{name} {version}" for name, version in of.versions.items())
    rows = (f"| {x.name} | {x.proves} | {x.outcome} | {x.seconds:.0f} |\n" for x in proof.parts)
    return (
        f"{'; '.join(of.gpu) or 'no GPU'} (name, driver, memory); {of.cpu}, {of.cores} cores; {of.system}.\n"
        f"{of.started}, commit {of.commit}; {versions}.\n\n"
        f"| part | what it proves | result | seconds |\n|---|---|---|---:|\n{''.join(rows)}"
    )


def _run_part(part: ProofPart, folder: Path, *, seconds: float) -> ProofResult:
    """Run a part's commands; one that takes too long is ended with all that it started."""
    start, outcome, log = time.monotonic(), "passed", folder / f"{part.name}.log"
    if seconds < 1:
        return ProofResult(name=part.name, proves=part.proves, outcome="not started: no time left")
    with log.open("w") as stream:
        for command in part.commands:
            left = max(seconds - (time.monotonic() - start), 0.1)
            limited = ["timeout", "--signal=KILL", f"{left:.1f}", *command]
            code = subprocess.run(limited, stdout=stream, stderr=stream, check=False).returncode
            if code != 0:
                late = time.monotonic() - start >= seconds
                outcome = f"no result after {seconds:.0f} s" if late else f"failed (exit code {code})"
                break
    return ProofResult(
        name=part.name, proves=part.proves, outcome=outcome, seconds=round(time.monotonic() - start, 1),
        output=tuple(log.read_text(errors="replace").splitlines()[-_TAIL:]),
        outputs=tuple(name for name in (log.name, *part.outputs) if (folder / name).exists()),
    )  # fmt: skip


@click.command(cls=FriendlyCommand)
@click.option("--out", type=PATH, default=Path("gpu-proof"), show_default=True, help="For the results.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=MINUTES, show_default=True, help="In all.")
def main(out: Path, minutes: float) -> None:
    """Prove on one GPU what the documents say of GPUs, each part on its own."""
    parts = plan_parts(out.absolute())
    if reason := why_no_gpu():
        for part in parts:
            click.echo(f"would run: {part.name:9} at most {part.seconds:3.0f} s  {part.proves}")
        raise PetsegError(f"{reason}; nothing was run, and nothing is proven: run make gpu-proof where there is one")
    out.mkdir(parents=True, exist_ok=True)
    click.echo("; ".join(gpu_names()))
    proof = run_parts(parts, out.absolute(), seconds=60 * minutes, report=click.echo)
    click.echo(f"results in {out}: proof.md, proof.json")
    if failed := [part.name for part in proof.parts if part.outcome != "passed"]:
        raise PetsegError(f"{', '.join(failed)}: not proven; what they printed is in {out}/NAME.log")


if __name__ == "__main__":
    main()
