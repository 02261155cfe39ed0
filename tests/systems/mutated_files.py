"""Files made from real ones by a few random changes, and what reads each kind; run in a process of its own.

``python mutated_files.py FOLDER PERCENT [KIND...]``: this percentage of 10,000 inputs, or of those of some kinds. For
each, a line of JSON when it begins and one when it is done: the outcome, the growth of the memory, the processor time.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import random
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from signed_files import SIGNED_FILES, Files, SignedSet

# How many inputs of each kind, of 10,000: those with more code behind them have more. The checksums of "signed" ones
# match their changed content.
KINDS = {
    "jpeg": 1400, "png": 500, "tar": 300, "index": 200, "manifest": 500, "table": 300, "labels": 800, "list": 800,
    "csv": 600, "checkpoint": 400, "config": 500, "run config": 200, "metrics": 300,
    "signed png": 600, "signed checkpoint": 600, "signed manifest": 600, "signed member": 800, "signed record": 300,
    "signed shard record": 100, "signed tar header": 100, "signed index": 100,
}  # fmt: skip
HUNG = 60.0  # seconds after which the process ends itself
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)
TOKENS = (b"9" * 30, b"-1", b"1e999", b"NaN", b"null", b"[]", b"{}", b'"', b"\0", b"\xff\xd8\xff", b"../", b"\n", b"\r")


def mutate(data: bytes, generator: random.Random, *, head: int = 2048) -> bytes:
    """Change some bytes, mostly of the header: flip, insert, remove, repeat, cut, replace numbers."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        length = max(len(changed), 1)
        place = generator.randrange(min(length, head) if generator.random() < 0.8 else length)
        kind = generator.randrange(7)
        if kind == 0 and changed:
            changed[min(place, len(changed) - 1)] ^= 1 << generator.randrange(8)
        elif kind == 1 and changed:
            changed[min(place, len(changed) - 1)] = generator.choice(INTERESTING)
        elif kind == 2:
            changed[place:place] = generator.choice(TOKENS)
        elif kind == 3:
            del changed[place : place + generator.randrange(1, 40)]
        elif kind == 4:
            part = changed[place : place + generator.randrange(1, 200)]
            changed[place:place] = part * generator.choice((1, 2, 50))
        elif kind == 5:
            changed[place : place + 4] = generator.randbytes(4)
        elif generator.random() < 0.3:
            del changed[place:]
    return bytes(changed)


class Subjects:
    """Each kind: the original file, and what reads a changed one; both below ``folder`` (see the tests' fixture)."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.work = folder, folder / f"work-{kind}"
        self.work.mkdir()
        self.refusal = ""
        self._tensors: dict[int, Any] = {}

    def original(self, kind: str) -> Path:
        """Return the file that is changed."""
        places = {
            "jpeg": next(iter(sorted((self.folder / "pets" / "images").iterdir()))),
            "png": next(iter(sorted((self.folder / "pets" / "annotations" / "trimaps").iterdir()))),
            "tar": self.folder / "shards" / "train-000000.tar",
            "index": self.folder / "shards" / "train-000000.idx",
            "manifest": self.folder / "shards" / "manifest.json",
            "table": min(self.folder.glob("shards/train*.npy")),
            "labels": self.folder / "labels.toml",
            "list": self.folder / "pets" / "annotations" / "trainval.txt",
            "csv": self.folder / "table.csv",
            "checkpoint": self.folder / "run" / "best.pt",
            "config": self.folder / "run" / "config.toml",
            "run config": self.folder / "run" / "config.json",
            "metrics": self.folder / "run" / "metrics.jsonl",
        }  # fmt: skip
        return places[kind]

    def change(self, kind: str, generator: random.Random) -> Files:
        """Return the file that is changed, or those of the set that go with it."""
        of = kind.removeprefix("signed ")
        if of == kind or of in SIGNED_FILES:
            path = self.original(of)
            data = path.read_bytes()
            return {path.name: mutate(data, generator) if of == kind else SIGNED_FILES[of](data, generator, mutate)}
        return SignedSet(self.folder / "shards").change(of, generator, mutate)

    def unchanged(self, kind: str) -> Files:
        """Return what :meth:`change` would, without a change."""
        of = kind.removeprefix("signed ")
        if of == kind or of in SIGNED_FILES:
            path = self.original(of)
            return {path.name: path.read_bytes()}
        return SignedSet(self.folder / "shards").unchanged()

    def read(self, kind: str, files: Files) -> str:
        """Read what was changed as the program would; return what came of it."""
        from shards.audit.findings import RejectedError
        from shards.errors import PetsegError

        of, self.refusal = kind.removeprefix("signed "), ""
        try:
            if of == kind or of in SIGNED_FILES:
                getattr(self, f"_{of.replace(' ', '_')}")(*files.values())
            else:
                self._signed_set(files)
        except (PetsegError, RejectedError) as error:
            self.refusal = str(error)
            assert self.refusal
        assert "\n" not in self.refusal, "of several lines"
        return "refused" if self.refusal else "read"

    def _jpeg(self, data: bytes) -> None:
        from petseg.inference.files.image_files import to_rgb
        from shards.errors import SampleError

        with contextlib.suppress(SampleError):
            to_rgb(self._file("image.jpg", data))
        self._pair(data, self.original("png").read_bytes())

    def _png(self, data: bytes) -> None:
        self._pair(self.original("jpeg").read_bytes(), data)

    def _pair(self, image: bytes, mask: bytes) -> None:
        from shards.audit.findings import RejectedError
        from shards.audit.image_mask_pair import audit_pair
        from shards.format.builtin_labels import PETS

        with contextlib.suppress(RejectedError):
            audit_pair(image, mask, labels=PETS, pixels=False, max_pixels=2**24)
        audit_pair(image, mask, labels=PETS, pixels=True, max_pixels=2**24)

    def _tar(self, data: bytes) -> None:
        self._set("train-000000.tar", data)

    def _index(self, data: bytes) -> None:
        self._set("train-000000.idx", data)

    def _manifest(self, data: bytes) -> None:
        self._set("manifest.json", data)

    def _table(self, data: bytes) -> None:
        self._set(self.original("table").name, data)

    def _set(self, name: str, data: bytes) -> None:
        """Deliver every sample of train; one that is delivered is what it was."""
        import torch

        from petseg import Loader
        from shards.verify.check_set import verify

        with self._changed({}) as out:
            self._tensors = self._tensors or dict(self._deliver(Loader, out))
        with self._changed({name: data}) as out:
            self._say(verify(out, mode="quick", workers=1))
            for index, tensors in self._deliver(Loader, out):
                for found, expected in zip(tensors, self._tensors[index], strict=True):
                    assert torch.equal(found, expected), f"sample {index} is another one"

    def _signed_set(self, files: Files) -> None:
        """Ask everything of a set; what is delivered has the shape and the values that it says."""
        from petseg import Loader
        from petseg.inference.stored_samples import read_mask, read_rgb
        from shards.cli.set_summary import describe
        from shards.errors import PetsegError
        from shards.format.dataset import ShardSet
        from shards.preview.small_sample import small_sample
        from shards.verify.check_set import verify

        with self._changed(files) as out:
            for mode in ("quick", "full"):
                self._say(verify(out, mode=mode, workers=1))  # type: ignore[arg-type]
            shards = ShardSet.open(out)
            json.dumps(describe(shards, batch_size=2, world_size=1), allow_nan=False)
            reader = shards.split("train")
            refused: list[PetsegError] = []
            questions: list[Callable[[int], Any]] = [
                reader.key,
                reader.attributes,
                lambda index: reader.read(index, "mask"),
                partial(read_rgb, reader),
                partial(read_mask, reader),
                lambda index: small_sample(reader, index, (16, 16), enlarge=False),
            ]
            for index in range(len(reader)):
                for question in questions:
                    try:
                        question(index)
                    except PetsegError as error:
                        refused.append(error)
            reader.find("A_1")
            for _, (image, mask) in self._deliver(Loader, out):
                assert image.shape == (3, 32, 32)
                assert mask.shape == (len(shards.manifest.labels), 32, 32)
                assert int(mask.sum(0).max()) <= 1
            if refused:
                raise refused[0]

    def _say(self, report: Any) -> None:
        """Note what was found."""
        assert report.text()
        self.refusal = self.refusal or "".join(problem.message for problem in report.problems)

    @contextlib.contextmanager
    def _changed(self, files: Files) -> Iterator[Path]:
        """Yield the set's folder, with some files replaced."""
        out = self.work / "set"
        if not out.exists():
            shutil.copytree(self.folder / "shards", out)
        try:
            for name, data in files.items():
                (out / name).write_bytes(data)
            yield out
        finally:
            for name in files:
                shutil.copyfile(self.folder / "shards" / name, out / name)

    @staticmethod
    def _deliver(loader_class: Callable[..., Any], out: Path) -> Any:
        with loader_class(out, split="train", batch_size=2, size=32, device="cpu", seed=0, prefetch=1) as loader:
            for batch in loader:
                for place, index in enumerate(batch.index.tolist()):
                    if batch.valid[place]:
                        yield index, (batch.image[place].clone(), batch.mask[place].clone())

    def _labels(self, data: bytes) -> None:
        from shards.format.label_files import find_labels

        find_labels(str(self._file("labels.toml", data)))

    def _list(self, data: bytes) -> None:
        source = self.work / "pets"
        if not source.exists():
            shutil.copytree(self.folder / "pets", source)
        (source / "annotations" / "trainval.txt").write_bytes(data)
        self._plan(source)

    def _csv(self, data: bytes) -> None:
        self._plan(self._file("table.csv", data))

    @staticmethod
    def _plan(source: Path) -> None:
        from shards.build.options import PackOptions
        from shards.build.plan import make_plan
        from shards.format.builtin_labels import PETS
        from shards.sources.choose_layout import scan

        make_plan(scan(source), PackOptions(split="random", labels=PETS))

    def _checkpoint(self, data: bytes) -> None:
        from petseg.inference.trained_network import load

        load(self._file("best.pt", data), device="cpu", precision="fp32")

    def _config(self, data: bytes) -> None:
        from petseg.runs.config_file import read_config_file

        read_config_file(self._file("config.toml", data))

    def _run_config(self, data: bytes) -> None:
        from petseg.runs.run_folder import read_config

        read_config(self._file("config.json", data).parent)

    def _metrics(self, data: bytes) -> None:
        from petseg.runs.run_folder import read_metrics

        read_metrics(self._file("metrics.jsonl", data).parent)

    def _file(self, name: str, data: bytes) -> Path:
        path = self.work / name
        path.write_bytes(data)
        return path


def main() -> None:
    folder, percent = Path(sys.argv[1]), int(sys.argv[2])
    for kind in sys.argv[3:] or KINDS:
        subjects = Subjects(folder, kind)
        assert subjects.read(kind, subjects.unchanged(kind)) == "read", f"{kind}: {subjects.refusal}"
        for seed in range(KINDS[kind] * percent // 100):
            run(subjects, kind, seed)


def run(subjects: Subjects, kind: str, seed: int) -> None:
    """Print what came of one input; one that takes too long ends the process, with a traceback of where it was."""
    changed = subjects.change(kind, random.Random(f"{kind} {seed}"))
    line: dict[str, Any] = {"kind": kind, "seed": seed}
    print(json.dumps(line), flush=True)  # noqa: T201
    faulthandler.dump_traceback_later(HUNG, exit=True)
    before, start = peak(), time.process_time()
    try:
        line["outcome"] = subjects.read(kind, changed)
    except BaseException as error:  # noqa: BLE001 - what is not refused is what this looks for
        lines = traceback.format_exception(error)
        line["outcome"] = f"{type(error).__name__}: {error}\n{''.join(lines[-3:])}"
    line |= {"seconds": time.process_time() - start, "grown": peak() - before}
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(line), flush=True)  # noqa: T201


def peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
