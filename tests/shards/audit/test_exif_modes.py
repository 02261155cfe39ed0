"""``--exif``: what is done about a rotation that EXIF asks for, above all where the mask fits with it and without."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from odd_files import with_exif
from PIL import Image, PngImagePlugin
from shard_sources import Maker, draw_image, draw_mask, encoded, options

from petseg.inference.files.image_files import to_rgb
from shards.audit.findings import RejectedError
from shards.audit.image_mask_pair import AuditedPair, audit_pair
from shards.audit.orientation import EXIF_MODES, ExifMode, apply_orientation
from shards.build.build_set import build
from shards.cli.build_summary import build_json, build_text
from shards.errors import UsageError
from shards.format.builtin_labels import PETS

WIDE, SQUARE = draw_image(1), draw_image(2, width=48, height=48)
FORMATS = {"JPEG": {"quality": 95}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def audited(
    image: np.ndarray, orientation: int, mode: ExifMode, *, format_: str = "PNG", rotated: bool = False
) -> AuditedPair:
    """The audit of an image with this orientation, and of a mask that fits it as stored, or ``rotated``."""
    height, width = image.shape[:2]
    mask = draw_mask(3, width=height if rotated else width, height=width if rotated else height)
    data = with_exif(orientation, image, format_, **FORMATS[format_])
    return audit_pair(data, encoded(mask, "PNG"), labels=PETS, pixels=True, exif=mode)


def reason(pair: AuditedPair) -> str:
    return next(finding.reason for finding in pair.findings if finding.reason.startswith("exif"))


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    ("image", "orientation"),
    [(WIDE, 2), (WIDE, 3), (WIDE, 4), *((SQUARE, orientation) for orientation in range(2, 9))],
    ids=str,
)
def test_where_the_mask_fits_both_ways_the_option_decides(image: np.ndarray, orientation: int, format_: str) -> None:
    turned = apply_orientation(image, orientation)
    expected = {"auto": ("exif-ambiguous", image), "apply": ("exif-rotated", turned), "ignore": ("exif-ignored", image)}
    for mode in EXIF_MODES:
        pair = audited(image, orientation, mode, format_=format_)
        assert pair.image.pixels is not None
        code, pixels = expected[mode]
        assert reason(pair) == code
        difference = np.abs(pair.image.pixels.astype(int) - pixels.astype(int))
        assert difference.mean() < 4 if format_ == "JPEG" else not difference.any()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize(
    ("rotated", "mode", "code"),
    [
        (True, "auto", "exif-rotated"),
        (True, "apply", "exif-rotated"),
        (False, "auto", "exif-ignored"),
        (False, "ignore", "exif-ignored"),
    ],
)
def test_where_it_fits_one_way_only(orientation: int, rotated: bool, mode: ExifMode, code: str) -> None:
    pair = audited(WIDE, orientation, mode, rotated=rotated)
    assert reason(pair) == code
    assert pair.image.pixels is not None
    assert pair.image.pixels.shape[:2] == pair.mask.indices.shape


@pytest.mark.parametrize("orientation", [5, 6, 8])
@pytest.mark.parametrize(("rotated", "mode", "word"), [(True, "ignore", "with"), (False, "apply", "without")])
def test_what_the_option_excludes_is_rejected_and_says_so(
    orientation: int, rotated: bool, mode: ExifMode, word: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        audited(WIDE, orientation, mode, rotated=rotated)
    assert caught.value.reason == "size-mismatch"
    assert caught.value.detail.endswith(
        f"it fits {word} the rotation that EXIF asks for, which the option exif excludes"
    )


@pytest.mark.parametrize("mode", EXIF_MODES)
def test_an_upright_image_needs_no_decision(mode: ExifMode) -> None:
    assert not audited(WIDE, 1, mode).findings


def test_the_report_says_how_many_and_the_set_how(maker: Maker, tmp_path: Path) -> None:
    for number, orientation in enumerate((1, 3, 2, 4, 6)):
        maker.add(f"a_{number}", image=with_exif(orientation, np.ascontiguousarray(draw_image(number))))
    maker.lists(test=["a_0"], trainval=maker.names[1:])
    built = build(maker.folder, tmp_path / "set", options(), workers=1)
    assert build_json(built)["reasons"] == {"exif-ambiguous": 3, "exif-ignored": 1}
    assert "       3  exif-ambiguous: EXIF asks for a rotation, and the mask fits with it and without;" in build_text(
        built
    )
    assert built.manifest.options.exif == "auto"
    applied = build(maker.folder, tmp_path / "applied", options(exif="apply"), workers=1)
    assert applied.manifest.options.exif == "apply"
    assert applied.manifest.plan != built.manifest.plan
    assert build_json(applied)["reasons"] == {"exif-rotated": 3, "size-mismatch": 1}
    findings = [json.loads(line) for line in (tmp_path / "applied" / "audit.jsonl").read_text().splitlines()]
    assert {finding["detail"] for finding in findings if finding["reason"] == "exif-rotated"} == {
        "orientation 2", "orientation 3", "orientation 4",
    }  # fmt: skip
    with pytest.raises(UsageError, match="exif='always': choose from auto, apply, ignore"):
        options(exif="always")


@pytest.mark.parametrize("format_", FORMATS)
def test_the_orientation_in_xmp_is_ignored_in_every_format(format_: str, tmp_path: Path) -> None:
    """Pillow follows it, where EXIF has none; browsers and cameras do not."""
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    if format_ == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp)
        given: dict[str, object] = {"pnginfo": text}
    else:
        given = {"tiffinfo": {700: xmp.encode()}} if format_ == "TIFF" else {"xmp": xmp.encode()}
    data = encoded(WIDE, format_, **FORMATS[format_], **given)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.getexif().get(0x0112) == 6  # it is there
    height, width = WIDE.shape[:2]
    for mode in EXIF_MODES:
        pair = audit_pair(
            data, encoded(draw_mask(3, width=width, height=height), "PNG"), labels=PETS, pixels=True, exif=mode
        )
        assert pair.image.pixels is not None
        assert pair.image.pixels.shape == WIDE.shape
        assert not [finding for finding in pair.findings if finding.reason.startswith("exif")]
    with pytest.raises(RejectedError, match="size-mismatch"):
        audit_pair(
            data, encoded(draw_mask(3, width=height, height=width), "PNG"), labels=PETS, pixels=True, exif="apply"
        )
    file = tmp_path / "image"
    file.write_bytes(data)
    assert to_rgb(file).size == (width, height)
    if format_ != "TIFF":
        with Image.open(file) as opened:
            assert to_rgb(opened).size == (width, height)
