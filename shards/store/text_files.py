"""Text that people write: lists of names, tables, labels. In UTF-8, or in UTF-16 or UTF-32 with a byte-order mark.

Bytes that are not UTF-8 become surrogates, as in file names (PEP 383): a list that ``ls`` has written then names the
same files, whatever their names are encoded in. What to do with others is up to who reads the text.
"""

import codecs
import re
import tomllib
from typing import Any, Final

_MARKS: Final = (  # that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_SURROGATES: Final = re.compile("[\udc80-\udcff]")
_DOTTED: Final = re.compile(r"\.[ \t]*[\w\"'-]")
_MOST_PARTS: Final = 64  # of a dotted key
_MOST_LEVELS: Final = 16  # of tables and arrays in each other
_LOOK = 256  # bytes that show whether a text is UTF-16


class TextError(ValueError):
    """The file is not text in an encoding that is read; ``line`` is where that shows, from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def decode_text(data: bytes) -> str:
    """Return a text file's content without byte-order mark; raise ``TextError``, whose message says what to do."""
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    try:
        text = data.decode(encoding, errors)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "ignore").count("\n") + 1
        raise TextError(f"damaged {encoding.upper()}; save it as UTF-8", line) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        start = data[:_LOOK]
        wide = 3 * start.count(0) > len(start)  # every other byte of English text in UTF-16
        what = "not plain text, but UTF-16 without a byte-order mark" if wide else "not plain text"
        raise TextError(f"{what}; save it as UTF-8", line)
    return text


def parse_toml(text: str) -> dict[str, Any]:
    """Return the document of a TOML text; raise ``ValueError`` if it is none, or none that people write.

    TOML's integers have 64 bits; tomllib reads longer ones, which Python refuses to print. Its time and memory grow
    with the square of the parts of a dotted key, and values nest as deeply as those say.
    """
    if any(line.count(".") > _MOST_PARTS < len(_DOTTED.findall(line)) for line in text.split("\n")):
        raise ValueError(f"it has a key of more than {_MOST_PARTS} parts")
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    pending: list[tuple[Any, int]] = [(document, 0)]
    while pending:
        value, level = pending.pop()
        if level > _MOST_LEVELS:
            raise ValueError("it is nested too deeply")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("it holds an integer of more than 64 bits")
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        pending += [(each, level + 1) for each in inner]
    return document


def split_lines(text: str) -> list[str]:
    """Return a text's lines, as editors show them: they end with LF, CR LF, or (old Macs) with CR throughout.

    Unlike ``str.splitlines``, which also splits at form feeds, U+0085, U+2028 and others: those may be in names.
    """
    lines = text.split("\n" if "\n" in text else "\r")
    return [line.removesuffix("\r") for line in lines]


def is_utf8(text: str) -> bool:
    """Return whether a decoded text was UTF-8 throughout."""
    return _SURROGATES.search(text) is None


def as_windows_1252(text: str) -> str:
    """Return a text whose bytes were not UTF-8, read as Windows-1252, which contains Latin-1."""
    data = text.encode("utf-8", "surrogateescape")
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")
