"""Real files with a few changes and checksums that match them, so that what comes after the checks gets to see them.

Of an archive or an image one part is changed, of a set's tables one number, of its JSON one value.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np

from shards.format.layout import (
    HEADER_BYTES,
    ROLES,
    SAMPLE_DTYPE,
    SHARD_DTYPE,
    TAR_BLOCK,
    extensions_of,
    member_span,
    row_check,
    shard_name,
    table_name,
)
from shards.format.manifest import FileEntry, Manifest, content_fingerprint, dump_manifest
from shards.format.npy import ShardTable, shard_table_bytes
from shards.format.tar import END, header, index_line, index_text, padded, sample_key
from shards.store.byte_ranges import ByteRanges

Files: TypeAlias = dict[str, bytes]  # by name
Mutate: TypeAlias = Callable[[bytes, random.Random], bytes]

NUMBERS = (0, 1, -1, 2, 255, 256, 4096, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 10**30)
TEXTS = ("", ".", "..", "../x", "/etc/passwd", "a\n\x1b[2J", "\0", "\ud800", "\udcff", "ä" * 3000, "train", "1", "NaN")
VALUES: tuple[Any, ...] = (None, True, 0.5, 1e308, [], {}, [[[[]]]], {"": None}, [0] * 300, [{"name": "x"}] * 300)


def png(data: bytes, generator: random.Random, mutate: Mutate) -> bytes:
    """Change a chunk, or the pixels before they are compressed, or which chunks there are."""
    chunks = chunks_of(data)
    place = generator.randrange(len(chunks))
    kind, body = chunks[place]
    choice = generator.randrange(6)
    if choice < 2:
        pixels = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
        changed = zlib.compress(mutate(pixels, generator), 1)
        first = [kind for kind, _ in chunks].index(b"IDAT")
        chunks = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
        chunks.insert(first, (b"IDAT", changed))
    elif choice == 2:
        place, (kind, body) = 0, chunks[0]
        field, size = generator.choice([(0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1)])
        value = generator.choice([*range(17), *NUMBERS])
        chunks[0] = (kind, body[:field] + (value % 256**size).to_bytes(size, "big") + body[field + size :])
    elif choice == 3:
        chunks[place] = (kind, mutate(body, generator))
    elif choice == 4:
        odd = generator.choice(
            [b"PLTE", b"tRNS", b"acTL", b"gAMA", b"iCCP", b"zTXt", b"eXIf", b"IHDR", b"IEND", b"ABCD"]
        )
        chunks.insert(place, (odd, generator.randbytes(generator.choice((0, 1, 3, 16, 768, 5000)))))
    else:
        chunks[place:place] = chunks[place : place + 1] * generator.choice((0, 1, 3))
        chunks.pop(generator.randrange(len(chunks)))
    return png_of(chunks)


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the kind and the body of each chunk of a PNG file."""
    chunks, place = [], 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += length + 12
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return the PNG file of some chunks."""
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def checkpoint(data: bytes, generator: random.Random, mutate: Mutate) -> bytes:
    """Change an entry of the zip file, mostly the pickle, or its name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    pickled = next(name for name in entries if name.endswith("/data.pkl"))
    name = pickled if generator.random() < 0.7 else generator.choice(list(entries))
    content = entries.pop(name)
    new = name if generator.random() < 0.9 else name + generator.choice(["x", "/", "/../x", "\0"])
    entries[new] = content if new != name else mutate_anywhere(content, generator, mutate)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target.getvalue()


def mutate_anywhere(data: bytes, generator: random.Random, mutate: Mutate) -> bytes:
    """Change a random part of 300 bytes, mostly by a byte or two, so that what precedes it is understood."""
    place = generator.randrange(max(len(data), 1))
    part = bytearray(data[place : place + 300])
    if part and generator.random() < 0.7:
        part[generator.randrange(min(len(part), 30))] = generator.choice((0, 1, 0x7F, 0xFF, generator.randrange(256)))
        return data[:place] + bytes(part) + data[place + 300 :]
    return data[:place] + mutate(bytes(part), generator) + data[place + 300 :]


def value(document: Any, generator: random.Random) -> Any:
    """Return a JSON document with one value in it replaced, removed, or repeated under another name."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for name in node if isinstance(node, dict) else range(len(node)):
            places.append((node, name))
            if isinstance(node[name], dict | list):
                walk(node[name])

    walk(document)
    node, name = generator.choice(places)
    choice = generator.randrange(8)
    if choice == 0:
        del node[name]
    elif choice == 1 and isinstance(node, dict):
        node[generator.choice(TEXTS)] = node[name]
    elif choice == 1:
        node[name:name] = [node[name]] * generator.choice((1, 300))
    else:
        like = NUMBERS if isinstance(node[name], int) else TEXTS if isinstance(node[name], str) else VALUES
        node[name] = generator.choice(like if choice < 6 else (*NUMBERS, *TEXTS, *VALUES))
    return document


class SignedSet:
    """A shard set, of which something is changed, so that its files go together again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
        self.entry = self.manifest.splits["train"]
        table = (folder / table_name("train")).read_bytes()
        self.head, self.rows = table[: HEADER_BYTES[SAMPLE_DTYPE]], table[HEADER_BYTES[SAMPLE_DTYPE] :]
        self.shards = list(ShardTable.open(folder / self.entry.shard_table.file, "train", self.entry))
        self.name = shard_name("train", 0)

    def change(self, what: str, generator: random.Random, mutate: Mutate) -> Files:
        """Change one ``member``, ``record``, ``shard record``, ``tar header``, ``index``, or the ``manifest``."""
        made: Files = getattr(self, f"_{what.replace(' ', '_')}")(generator, mutate)
        return made

    def unchanged(self) -> Files:
        """Return what :meth:`change` would, without a change."""
        tar, index = (self.folder / self.name).read_bytes(), (self.folder / self.shards[0].index.file).read_bytes()
        return self._signed(rows=self._table(), tar=tar, index=index)

    def _table(self) -> Any:
        """Return the records of the samples, to be changed."""
        return np.frombuffer(self.rows, SAMPLE_DTYPE).copy()

    def _record(self, generator: random.Random, _: Mutate) -> Files:
        """Change one number of one sample's record."""
        rows = self._table()
        row, field = generator.randrange(len(rows)), generator.choice(SAMPLE_DTYPE.names[:-1])
        bits = 8 * SAMPLE_DTYPE[field].itemsize
        near = int(rows[row][field]) + generator.choice((-512, -1, 1, 512))
        rows[field][row] = generator.choice((near, *NUMBERS)) % 2**bits
        return self._signed(rows=rows)

    def _shard_record(self, generator: random.Random, _: Mutate) -> Files:
        """Change a number of a shard, in its table."""
        records = ShardTable.open(self.folder / self.entry.shard_table.file, "train", self.entry).records.copy()
        row, field = generator.randrange(len(records)), generator.choice(("samples", "bytes", "index_bytes"))
        before = int(records[field][row])
        records[field][row] = generator.choice((before + generator.choice((-512, -1, 1, 512)), *NUMBERS)) % 2**64
        if generator.random() < 0.7:  # the sum stays what the manifest says
            other = (row + 1) % len(records)
            records[field][other] = (int(records[field][other]) + before - int(records[field][row])) % 2**64
        data = (self.folder / self.entry.shard_table.file).read_bytes()[: HEADER_BYTES[SHARD_DTYPE]] + records.tobytes()
        return self._signed(shard_table=data)

    def _member(self, generator: random.Random, mutate: Mutate) -> Files:
        """Change a member of a sample of the first shard: image, mask or JSON."""
        rows, at = self._table(), generator.randrange(self.shards[0].samples)
        role = generator.choice(ROLES)
        parts, lines, place = [], [], 0
        with ByteRanges(self.folder / self.name) as tar:
            for index in range(self.shards[0].samples):
                row = rows[index]
                key = sample_key(tar, row, path=self.name, index=index)
                members = []
                for each, extension in extensions_of(row).items():
                    start, length = member_span(row, each)
                    content = tar[start : start + length]
                    if (index, each) == (at, role):
                        content = changed_member(content, generator, mutate)
                        row[f"{each}_length"], row[f"{each}_crc32"] = len(content), zlib.crc32(content)
                    parts.append(
                        header(f"{key}.{extension}", len(content)) + content.ljust(padded(len(content)), b"\0")
                    )
                    row[f"{each}_offset"] = place + TAR_BLOCK
                    members.append((extension, place + TAR_BLOCK, len(content)))
                    place += len(parts[-1])
                lines.append(index_line(key, members))
        return self._signed(rows=rows, tar=b"".join([*parts, END]), index=index_text(lines).encode())

    def _tar_header(self, generator: random.Random, mutate: Mutate) -> Files:
        """Change a header of the first tar, and its checksum."""
        row = self._table()[generator.randrange(self.shards[0].samples)]
        place = member_span(row, generator.choice(ROLES))[0] - TAR_BLOCK
        tar = bytearray((self.folder / self.name).read_bytes())
        block = bytearray(mutate(bytes(tar[place : place + TAR_BLOCK]), generator)[:TAR_BLOCK].ljust(TAR_BLOCK, b"\0"))
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        tar[place : place + TAR_BLOCK] = block
        return self._signed(tar=bytes(tar))

    def _index(self, generator: random.Random, mutate: Mutate) -> Files:
        """Change the index of the first tar."""
        return self._signed(index=mutate((self.folder / self.shards[0].index.file).read_bytes(), generator))

    def _manifest(self, generator: random.Random, _: Mutate) -> Files:
        """Change a value of the manifest."""
        document = value(json.loads(dump_manifest(self.manifest)), generator)
        try:
            manifest = msgspec.convert(document, Manifest)
            data = dump_manifest(_with_fingerprint(manifest) if generator.random() < 0.8 else manifest)
        except (msgspec.ValidationError, ValueError, TypeError):
            data = _dumped(document | {"checksum": hashlib.sha256(_dumped(document | {"checksum": ""})).hexdigest()})
        return {"manifest.json": data}

    def _signed(
        self,
        *,
        rows: Any = None,
        tar: bytes | None = None,
        index: bytes | None = None,
        shard_table: bytes | None = None,
    ) -> Files:
        files: Files = {}
        entry, first = self.entry, self.shards[0]
        if rows is not None:
            rows["check"] = row_check(rows)
            files[entry.table.file] = self.head + rows.tobytes()
            entry = msgspec.structs.replace(entry, table=_file(entry.table.file, files[entry.table.file]))
        if index is not None:
            files[first.index.file] = index
            first = msgspec.structs.replace(first, index=_file(first.index.file, index))
        if tar is not None:
            files[self.name] = tar
            new = _file(self.name, tar)
            first = msgspec.structs.replace(first, bytes=new.bytes, sha256=new.sha256)
        shards = [first, *self.shards[1:]]
        files[entry.shard_table.file] = shard_table_bytes(shards) if shard_table is None else shard_table
        entry = msgspec.structs.replace(
            entry,
            shard_table=_file(entry.shard_table.file, files[entry.shard_table.file]),
            bytes=sum(each.bytes + each.index.bytes for each in shards),
        )
        manifest = msgspec.structs.replace(self.manifest, splits=self.manifest.splits | {"train": entry})
        return files | {"manifest.json": dump_manifest(_with_fingerprint(manifest))}


def changed_member(content: bytes, generator: random.Random, mutate: Mutate) -> bytes:
    """Return a member's content changed, by its kind."""
    if content.startswith(b"\x89PNG") and generator.random() < 0.8:
        return png(content, generator, mutate)
    if content.startswith(b"{") and generator.random() < 0.7:
        return json.dumps(value(json.loads(content), generator)).encode()
    return mutate(content, generator)


def _file(name: str, data: bytes) -> FileEntry:
    return FileEntry(file=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _with_fingerprint(manifest: Manifest) -> Manifest:
    fingerprint = content_fingerprint(
        storage=manifest.storage, size=manifest.size, labels=manifest.labels, splits=manifest.splits
    )
    return msgspec.structs.replace(manifest, fingerprint=fingerprint)


def _dumped(document: Any) -> bytes:
    return (json.dumps(document, indent=1) + "\n").encode()


SIGNED_FILES: dict[str, Callable[[bytes, random.Random, Mutate], bytes]] = {"png": png, "checkpoint": checkpoint}
