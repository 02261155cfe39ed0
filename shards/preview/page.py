"""One self-contained HTML page to look through a set: thumbnails with their masks, filters and class statistics.

The page holds thumbnails and class indices as data, and draws what is in view (page.js). It loads nothing, and its
content security policy lets only its own script run. All texts of the set are data, too: none becomes markup.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from shards.audit.findings import REASONS, SampleFinding
from shards.errors import UsageError, counted, option
from shards.format.dataset import ShardSet
from shards.format.geometry import size_text
from shards.format.labels import Labels, colour_text
from shards.format.layout import SPLITS
from shards.format.overlays import DARK, IGNORED_COLOUR
from shards.format.readers.output_places import expect_ending, expect_free
from shards.preview.page_samples import PageSample, choose, page_samples, read_findings
from shards.store.atomic import write_atomically

DEFAULT_COUNT: Final = 2_000
MAX_COUNT: Final = 20_000  # a page of some 200 MB
MAX_REJECTED: Final = 2_000  # rejected samples that are listed
MAX_ATTRIBUTES: Final = 24
MAX_TEXT: Final = 160  # characters of a name or a value


def write_page(
    shards: ShardSet,
    path: Path,
    *,
    split: str | None = None,
    count: int = DEFAULT_COUNT,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a page about a set, or about one split, as HTML; return the number of samples in it.

    Where the set has more than ``count`` (1..:data:`MAX_COUNT`), each split gives its share, and samples with findings
    are preferred; see :func:`shards.preview.page_samples.choose`. The same set and options give the same bytes.

    Raises ``UsageError`` for no such split, a count out of range, a path that does not end in .html, or one that
    :func:`expect_free` refuses, and ``SampleError`` if a sample is damaged.
    """
    expect_ending(path, ".html")
    if not 1 <= count <= MAX_COUNT:
        raise UsageError(f"{option('count', count)}: a page holds 1 to {MAX_COUNT:,} samples")
    expect_free(path, overwrite=overwrite)
    chosen_splits = [shards.split(split)] if split else [shards.split(s) for s in SPLITS if s in shards.manifest.splits]
    findings = read_findings(shards)
    chosen = choose(chosen_splits, findings, count=count)
    samples = list(page_samples(chosen, findings, progress=progress))
    document = _document(shards, samples, findings)
    write_atomically(path, _render(shards.store.name, document), replace=overwrite)
    return len(samples)


def _document(shards: ShardSet, samples: list[PageSample], findings: list[SampleFinding]) -> dict[str, Any]:
    """Return what page.js reads; positions in its lists stand for splits, classes, attributes and findings."""
    manifest = shards.manifest
    splits = [name for name in SPLITS if name in manifest.splits]
    attributes = list(dict.fromkeys(name for sample in samples for name in sample.attributes))[:MAX_ATTRIBUTES]
    used = list(dict.fromkeys(finding for sample in samples for finding in sample.findings))
    places = {finding: number for number, finding in enumerate(used)}
    rejected = [finding for finding in findings if finding.action == "rejected"]
    return {
        "facts": _facts(shards),
        "samplesInSet": manifest.samples,
        "classes": _classes(manifest.labels),
        "ignoredColor": colour_text(IGNORED_COLOUR),
        "darkColor": colour_text(DARK),
        "splits": [
            {
                "name": name,
                "samples": manifest.splits[name].samples,
                "pixels": list(manifest.splits[name].class_pixels),
                "ignored": manifest.splits[name].ignored_pixels,
            }
            for name in splits
        ],
        "attributes": [_text(name) for name in attributes],
        "reasons": {each: REASONS.get(each, "") for each in sorted({f.reason for f in [*used, *rejected]})},
        "findings": [[_text(f.action), _text(f.reason), _text(f.detail)] for f in used],
        "rejected": [[_text(f.name), _text(f.reason), _text(f.detail)] for f in rejected[:MAX_REJECTED]],
        "rejectedInAll": len(rejected),
        "samples": [
            [
                sample.key,
                _text(sample.name),
                splits.index(sample.split),
                [sample.width, sample.height],
                list(sample.shown),
                [_text(sample.attributes[name]) if name in sample.attributes else None for name in attributes],
                [places[finding] for finding in sample.findings],
                sample.pixels,
                base64.b64encode(sample.image).decode(),
                base64.b64encode(sample.mask).decode(),
            ]
            for sample in samples
        ],
    }


def _facts(shards: ShardSet) -> str:
    manifest = shards.manifest
    size = f", {size_text(manifest.size)} pixels, {manifest.fit}" if manifest.size else ""
    ignored = " and ignored pixels" if manifest.labels.ignore or manifest.labels.ignore_colors else ""
    classes = counted(len(manifest.labels), "class", "classes")
    return (
        f"{manifest.storage} storage{size}; {classes}{ignored}; layout {manifest.options.layout}; "
        f"fingerprint {manifest.fingerprint[:12]}"
    )


def _classes(labels: Labels) -> list[dict[str, Any]]:
    """Return the classes and, last, the ignored pixels."""
    return [
        {
            "name": each.name,
            "color": each.color,
            "tinted": bool(tinted),
            "source": ", ".join(map(str, each.values or each.source_colors)),
        }
        for each, tinted in zip(labels.classes, labels.tinted, strict=True)
    ]


def _text(text: str) -> str:
    """Return a text of the set at a length that a page can show."""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


def _render(name: str, document: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("shards", "preview"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    folder = resources.files("shards.preview")
    style, script = ((folder / file).read_text(encoding="utf-8") for file in ("page.css", "page.js"))
    return environment.get_template("page.html.jinja").render(
        name=name,
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=_embedded(document),
    )


def _embedded(document: dict[str, Any]) -> str:
    """Return JSON for a script element: without any letter that could end it, or begin a comment."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    """Return how a content security policy names a script or a style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
