"""``make gpu-proof``: everything that needs a GPU, on one GPU in nine minutes: tests, trainings, benchmarks.

Each part runs in processes of its own and has its own time, correctness before throughput, so that a failure costs only
itself. Results go into a folder, after each part anew: proof.json, proof.md, what each part printed, and the results of
the benchmarks, which ``petseg-bench figures`` puts into documents.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec

from bench.core.machine import RunClock, gpu_names, why_no_gpu
from bench.results.records import Environment
from shards.console import FriendlyCommand, PathArgument
from shards.errors import PetsegError
from shards.store.atomic import write_atomically

MINUTES = 9.0
_SAMPLES, _BATCH = 2048, 128
_TAIL = 15  # lines of a part's output in proof.json


class ProofPart(msgspec.Struct, frozen=True, kw_only=True):
    """Commands that prove one thing, one after the other until one fails, in at most ``seconds`` together."""

    name: str
    proves: str
    seconds: float
    commands: tuple[tuple[str, ...], ...]
    outputs: tuple[str, ...] = ()  # files that they write into the folder


class ProofResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a part."""

    name: str
    proves: str
    outcome: str  # "passed", "failed (exit code N)", "no result after N s" or "not started: no time left"
    seconds: float
    output: tuple[str, ...] = ()  # the last lines
    outputs: tuple[str, ...] = ()  # files that it wrote, in the folder

    @property
    def passed(self) -> bool:
        """Whether all its commands succeeded."""
        return self.outcome == "passed"


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """proof.json."""

    environment: Environment
    parts: tuple[ProofResult, ...]


def plan_parts(folder: Path) -> tuple[ProofPart, ...]:
    """Return the parts in their order, whose times add up to ``MINUTES``; what they write goes into ``folder``."""
    programs = Path(sys.executable).parent
    tests = Path(__file__).resolve().parent.parent / "tests" / "gpu"
    pets, shards = str(folder / "work" / "pets"), str(folder / "work" / "shards")

    def petseg(name: str, *arguments: str) -> tuple[str, ...]:
        return (str(programs / f"petseg-{name}"), *arguments)

    def train(run: str, *options: str) -> tuple[str, ...]:
        where = ("--shards", shards, "--run", str(folder / "work" / run), "--device", "cuda", "--json")
        return petseg("train", *where, "--validate-every", "5", *options)

    def bench(kind: str, *options: str) -> tuple[str, ...]:
        where = ("--shards", shards, "--device", "cuda", "--json", str(folder / f"gpu-{kind}.json"))
        return petseg("bench", kind, *where, "--batch-size", str(_BATCH), "--repeats", "3", *options)

    short = ("--epochs", "10", "--batch-size", str(_BATCH))
    return (
        ProofPart(
            name="tests", proves="tests/gpu passes", seconds=195, outputs=("tests.xml",),
            commands=((sys.executable, "-m", "pytest", str(tests), "-q", "--timeout", "120",
                       f"--junit-xml={folder / 'tests.xml'}"),),
        ),
        ProofPart(
            name="data", proves=f"{_SAMPLES} synthetic images are packed", seconds=45,
            commands=(petseg("shard", "sample", pets, "--count", str(_SAMPLES)),
                      petseg("shard", "build", pets, shards, "--split", "random", "--fractions", "0.8,0.1,0.1")),
        ),
        ProofPart(name="unet", proves="the default network trains", seconds=40, commands=(train("unet", *short),)),
        ProofPart(
            name="graph", proves="... with --cuda-graph", seconds=35, commands=(train("graph", *short, "--cuda-graph"),)
        ),
        ProofPart(
            name="compiled", proves="... with --compile", seconds=50, commands=(train("compiled", *short, "--compile"),)
        ),
        ProofPart(
            name="tutorial", proves="the tutorial's network trains", seconds=25,
            commands=(train("tutorial", "--model", "tutorial"),),
        ),
        ProofPart(
            name="loader", proves="images/s of the loader to CUDA tensors", seconds=65, outputs=("gpu-loader.json",),
            commands=(bench("loader", "--peers", "petseg", "--augment", "train", "--mask", "onehot"),),
        ),
        ProofPart(
            name="train", proves="images/s of training: loader, compute-only, end-to-end", seconds=55,
            outputs=("gpu-train.json",), commands=(bench("train", "--models", "unet", "--seconds", "2"),),
        ),
        ProofPart(
            name="scaling", proves="images/s with more host threads, and with other decoder options", seconds=30,
            outputs=("gpu-scaling.json", "gpu-scaling.md"),
            commands=((sys.executable, "-m", "bench.gpu_scaling", "--shards", shards, "--out", str(folder)),),
        ),
    )  # fmt: skip


def run_parts(
    parts: Sequence[ProofPart], folder: Path, *, seconds: float, report: Callable[[str], None] = lambda text: None
) -> Proof:
    """Run the parts within ``seconds`` together and write the results so far after each; return them."""
    clock, start = RunClock(), time.monotonic()
    results = list[ProofResult]()
    proof = Proof(environment=clock.finish(), parts=())
    for part in parts:
        left = seconds - (time.monotonic() - start)
        result = _run_part(part, folder, seconds=min(part.seconds, left))
        results.append(result)
        report(f"{part.name}: {result.outcome}, {result.seconds:.0f} s")
        proof = Proof(environment=clock.finish(), parts=tuple(results))
        write_atomically(folder / "proof.json", msgspec.json.format(msgspec.json.encode(proof)).decode() + "\n")
        write_atomically(folder / "proof.md", proof_text(proof))
    return proof


def proof_text(proof: Proof) -> str:
    """Return the results as Markdown: the machine, and a table of the parts."""
    of = proof.environment
    versions = ", ".join(f"{name} {version}" for name, version in of.versions.items())
    rows = [f"| {part.name} | {part.proves} | {part.outcome} | {part.seconds:.0f} |" for part in proof.parts]
    return "\n".join([
        f"{'; '.join(of.gpu) or 'no GPU'} (name, driver, memory); {of.cpu}, {of.cores} cores; {of.system}.",
        f"{of.started}, commit {of.commit}; {versions}.",
        "",
        "| part | what it proves | result | seconds |",
        "|---|---|---|---:|",
        *rows,
        "",
    ])  # fmt: skip


def _run_part(part: ProofPart, folder: Path, *, seconds: float) -> ProofResult:
    start, outcome = time.monotonic(), "passed"
    log = folder / f"{part.name}.log"
    if seconds < 1:
        return ProofResult(name=part.name, proves=part.proves, outcome="not started: no time left", seconds=0.0)
    with log.open("w") as stream:
        for command in part.commands:
            code = _run_command(command, stream.fileno(), seconds=seconds - (time.monotonic() - start))
            if code != 0:
                outcome = f"no result after {seconds:.0f} s" if code is None else f"failed (exit code {code})"
                break
    return ProofResult(
        name=part.name, proves=part.proves, outcome=outcome, seconds=round(time.monotonic() - start, 1),
        output=tuple(log.read_text(errors="replace").splitlines()[-_TAIL:]),
        outputs=tuple(name for name in (log.name, *part.outputs) if (folder / name).exists()),
    )  # fmt: skip


def _run_command(command: Sequence[str], output: int, *, seconds: float) -> int | None:
    """Return a command's exit code; None where it took longer, and was ended with all that it started."""
    try:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    except OSError as error:
        os.write(output, f"{command[0]} cannot be started: {error}\n".encode())
        return 127
    try:
        return process.wait(timeout=max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):  # also what a failed command left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@click.command(cls=FriendlyCommand)
@click.option("--out", type=PathArgument(), default=Path("gpu-proof"), show_default=True, help="For the results.")
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
    failed = [part.name for part in proof.parts if not part.passed]
    click.echo(f"results in {out}: proof.md, proof.json")
    if failed:
        raise PetsegError(f"{', '.join(failed)}: not proven; what they printed is in {out}/NAME.log")


if __name__ == "__main__":
    main()
