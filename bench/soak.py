"""Does our loader's memory stay flat? Many epochs in a row, with a look at the process after each."""

from __future__ import annotations

import msgspec

from bench.check import CheckError
from bench.driver import PeerProcess
from bench.lanes import default_engine
from bench.loader_settings import LoaderSettings, Note, Pass
from bench.plan import planned
from bench.results import Left, SoakLine
from bench.workspace import Workspace

MAX_SECONDS = 20.0  # for one storage; where the epochs asked for take longer, fewer are run, and that is told


def run_soak(settings: LoaderSettings, workspace: Workspace, *, left: list[Left], note: Note) -> list[SoakLine]:
    """Run ``settings.soak`` epochs of each storage with the engine that our loader takes, augmented if that is asked
    for; nothing for 0.
    """
    if not settings.soak:
        return []
    lines = []
    one = Pass(settings.augment != "none", "warm", "onehot")
    for _, spec, job in planned(settings, workspace, one, []):
        if not spec.ours or job.device != settings.device or job.engine != default_engine(job):
            continue
        name = f"{job.storage}, {job.engine} engine{', augmented' if job.augment else ''}"
        note(f"memory over {settings.soak} epochs: {name}")
        try:
            with PeerProcess(msgspec.structs.replace(job, handicap=0.0)) as process:
                process.ask("prepare")
                found = process.ask("soak", epochs=settings.soak, seconds=MAX_SECONDS)
        except CheckError as error:
            left.append(Left(name=f"memory, {name}", reason=str(error)))
            continue
        lines.append(
            SoakLine(
                name=name,
                samples=job.samples,
                epochs=len(found["memory_bytes"]),
                batch_bytes=job.batch_size * 6 * job.size * job.size,
                prefetch=found["prefetch"],
                memory_bytes=tuple(found["memory_bytes"]),
            )
        )
    return lines
