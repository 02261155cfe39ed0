"""Headers and indices against the standard library's tarfile."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.format.layout import TAR_BLOCK
from shards.format.tar import END, header, index_line, index_text, padded

NAMES = st.text("abcXYZ019_-", min_size=1, max_size=80).flatmap(
    lambda key: st.sampled_from(["jpg", "mask.png", "json"]).map(lambda ending: f"{key}.{ending}")
)


@settings(max_examples=50)
@given(NAMES, st.integers(0, 8**11 - 1))
def test_header_is_what_tarfile_writes(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    assert header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


@settings(max_examples=30)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=6))
def test_tarfile_reads_what_is_written(members: list[tuple[str, bytes]]) -> None:
    data = b"".join(header(name, len(body)) + body.ljust(padded(len(body)), b"\0") for name, body in members) + END
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    assert found == members


@given(st.integers(0, 10**6))
def test_members_fill_whole_blocks(size: int) -> None:
    assert padded(size) % TAR_BLOCK == 0
    assert 0 <= padded(size) - size < TAR_BLOCK


@pytest.mark.parametrize(("name", "size"), [("x" * 101, 1), ("x", 8**11), ("x", -1)])
def test_what_does_not_fit_is_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match="plain tar header"):
        header(name, size)


def test_index() -> None:
    line = index_line("k", [("jpg", 512, 7), ("json", 1536, 9)])
    assert index_text([line]) == "v1.2 1\njpg 512 7 k.jpg json 1536 9 k.json\n"
