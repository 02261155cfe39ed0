"""Labels: those built in, the labels file and every mistake in one, tables against a slow computation."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import UsageError
from shards.format.builtin_labels import ADE20K, BUILTIN, CITYSCAPES, CITYSCAPES_TRAIN_IDS, VOC
from shards.format.label_files import find_labels, labels_text, parse_labels
from shards.format.labels import IGNORE, UNTINTED, LabelClass, Labels, chosen_colour


def one(value: str, name: str = "a") -> str:
    return f'[[class]]\nname = "{name}"\n{value}\n'


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_labels_are_sound(name: str) -> None:
    labels = find_labels(name)
    labels.check()
    assert parse_labels(labels_text(labels)) == labels


def test_the_palette_of_voc_follows_its_rule() -> None:
    """Bits 0, 1, 2 of a value are the highest of red, green, blue, bits 3, 4, 5 the next, and so on."""
    for value, each in enumerate(VOC.classes):
        parts = [sum((value >> (3 * step + channel) & 1) << (7 - step) for step in range(3)) for channel in range(3)]
        assert (each.values, each.color) == ((value,), "#{:02x}{:02x}{:02x}".format(*parts))
    assert (VOC.names[0], VOC.names[15], VOC.names[20], VOC.ignore) == ("background", "person", "tvmonitor", (255,))


def test_the_ids_of_cityscapes() -> None:
    by_name = {each.name: each.values[0] for each in CITYSCAPES.classes}
    assert (by_name["road"], by_name["pole"], by_name["train"], by_name["bicycle"]) == (7, 17, 31, 33)
    assert {*by_name.values(), *CITYSCAPES.ignore} == {*range(34), 255}
    assert [each.values for each in CITYSCAPES_TRAIN_IDS.classes] == [(number,) for number in range(19)]
    assert CITYSCAPES_TRAIN_IDS.names == CITYSCAPES.names
    assert np.array_equal(CITYSCAPES_TRAIN_IDS.palette, CITYSCAPES.palette)


def test_the_classes_of_ade20k() -> None:
    assert (len(ADE20K), ADE20K.ignore) == (150, (0,))
    assert [each.values for each in ADE20K.classes] == [(value,) for value in range(1, 151)]
    places = {1: "wall", 7: "road", 13: "person", 21: "car", 59: "screen door", 131: "screen", 150: "flag"}
    assert {value: ADE20K.names[value - 1] for value in places} == places


names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20)
colours = st.integers(1, 2**24 - 1).map(lambda packed: f"#{packed:06x}")


@st.composite
def any_labels(draw: st.DrawFn) -> Labels:
    """Labels with values or colours, several for a class, some ignored, some foreground."""
    chosen = draw(st.lists(names, min_size=1, max_size=12, unique_by=lambda name: unicodedata.normalize("NFC", name)))
    count = len(chosen)
    palette = draw(st.lists(colours, min_size=2 * count + 2, max_size=2 * count + 2, unique=True))
    if draw(st.booleans()):
        classes = tuple(
            LabelClass(name=name, color=palette[2 * k], source_colors=tuple(palette[2 * k : 2 * k + 1 + k % 2]))
            for k, name in enumerate(chosen)
        )
        ignored = {"ignore_colors": tuple(palette[2 * count :][: draw(st.integers(0, 2))])}
    else:
        values = draw(st.permutations(range(256)))
        classes = tuple(
            LabelClass(
                name=name, color=palette[k] if k % 5 else UNTINTED, values=tuple(values[3 * k : 3 * k + 1 + k % 3])
            )
            for k, name in enumerate(chosen)
        )
        ignored = {"ignore": tuple(values[200 : 200 + draw(st.integers(0, 3))])}
    kinds = draw(st.lists(st.sampled_from(["", "foreground", "boundary"]), min_size=count, max_size=count))
    foreground = tuple(name for name, kind in zip(chosen, kinds, strict=True) if kind == "foreground")
    boundary = tuple(name for name, kind in zip(chosen, kinds, strict=True) if kind == "boundary" and foreground)
    return Labels(classes=classes, foreground=foreground, boundary=boundary, **ignored)


@pytest.mark.parametrize("name", ["caf\u00e9", "\u00c5ngstr\u00f6m", "\uac00"])
def test_class_names_that_differ_in_unicode_form_alone_are_one_name(name: str) -> None:
    other = unicodedata.normalize("NFD", name)
    with pytest.raises(UsageError, match="two classes are named"):
        parse_labels(one("value = 0", name) + one("value = 1", other))
    with pytest.raises(UsageError, match="two classes are named"):
        Labels(
            classes=tuple(LabelClass(name=n, color=f"#00000{i}", values=(i,)) for i, n in enumerate((other, name)))
        ).check()
    for written, listed in ((name, other), (other, name)):
        labels = parse_labels(f'foreground = "{listed}"\n{one("value = 0", written)}{one("value = 1", "rest")}')
        assert labels.foreground == labels.names[:1] == (written,)


@given(any_labels(), st.text(st.characters(exclude_categories=("C",)), max_size=40))
def test_a_labels_file_is_read_back_as_it_was_written(labels: Labels, comment: str) -> None:
    labels.check()
    assert parse_labels(labels_text(labels, comment=comment)) == labels


@given(any_labels())
def test_tables_say_what_the_classes_say(labels: Labels) -> None:
    if labels.rgb:
        return
    table, claimed = labels.index_table()
    for value in range(256):
        owners = [index for index, each in enumerate(labels.classes) if value in each.values]
        assert table[value] == (owners[0] if owners else IGNORE)
        assert claimed[value] == (bool(owners) or value in labels.ignore)
    assert [each.values[0] for each in labels.classes] == labels.source_values.tolist()


def test_a_table_of_colours() -> None:
    text = (
        'ignore = "#010203"\n' + one('color = "#FF0000"') + '[[class]]\nname = "b"\ncolors = ["#00ff00", "#0000ff"]\n'
    )
    labels = parse_labels(text)
    table = labels.colour_table()
    found = {f"#{packed:06x}": int(table[packed]) for packed in np.flatnonzero(table != -1)}
    assert found == {"#ff0000": 0, "#00ff00": 1, "#0000ff": 1, "#010203": IGNORE}
    assert labels.source_palette.tolist() == [[255, 0, 0], [0, 255, 0]]


def test_chosen_colours_differ() -> None:
    chosen = [chosen_colour(number) for number in range(255)]
    assert len(set(chosen)) == 255
    assert UNTINTED not in chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the labels name no class; add one \[\[class\]\]"),
        ("class = []", r"the labels name no class"),
        ("[class]\nname = 'a'", r"write each class as its own \[\[class\]\]"),
        ("[[class]]\nvalue = 1", r"class number 1 has no name; write name = "),
        (one(""), r"class 'a' has no value; give value = N, or color for RGB masks"),
        (one("value = 1\nvalues = [2]"), r"both value and values"),
        (one("value = 256"), r"class 'a': value 256 is outside 0..255"),
        (one("value = -1"), r"class 'a': value -1 is outside 0..255"),
        (one("value = 1.5"), r"class 'a': 1.5 is not a whole number"),
        (one("value = true"), r"class 'a': True is not a whole number"),
        (one("value = 1\ncolor = 'red'"), r"color 'red' is not written as #rrggbb"),
        (one("value = 1\ncolor = 7"), r'colours are written as "#rrggbb"'),
        (one("value = 1\nignore = 255"), r"ignore stands below the \[\[class\]\] of class 'a'; move it above"),
        (one("value = 1\ncolors = ['#000001']"), r"has values and colors"),
        (one("valeu = 1"), r"class 'a' has an unknown key 'valeu'; known are name"),
        ("classes = 3\n" + one("value = 1"), r"the labels file has an unknown key 'classes'"),
        (one("value = 1") + one("value = 2"), r"two classes are named 'a'; give each its own"),
        (one("value = 1") + one("value = 1", "b"), r"both have value 1; each value stands for one class"),
        (one("values = [1, 1]"), r"class 'a' has twice value 1"),
        ("ignore = 1\n" + one("value = 1"), r"class 'a' and ignore both have value 1"),
        (one("color = '#00ff00'") + one("color = '#00FF00'", "b"), r"both have color #00ff00; give each its own"),
        (one("value = 1\ncolor = '#00ff00'") + one("value = 2\ncolor = '#00ff00'", "b"), r"both have color #00ff00"),
        (one("value = 1") + one("color = '#00ff00'", "b"), r"class 'a' has a value, and others have only colours"),
        ("ignore = 255\n" + one("color = '#00ff00'"), r"ignore colours, such as"),
        ("ignore = '#000000'\n" + one("value = 1"), r"ignore values, such as 255"),
        ("foreground = 'b'\n" + one("value = 1"), r"foreground names 'b', which is no class; the classes: a"),
        ("boundary = 'a'\n" + one("value = 1"), r"boundary is given without foreground"),
        ("foreground = 'a'\nboundary = 'a'\n" + one("value = 1"), r"both foreground and boundary"),
        (one("value = 1").replace('"a"', '" "'), r"give 1 to 80 printable characters"),
        ("ignore = \n", r"not valid TOML: .*line 1"),
        (one(f"value = {'9' * 5000}"), r"not valid TOML: Exceeds the limit"),
        (one(f"value = 0x{'f' * 5000}"), r"not valid TOML: it holds an integer of more than 64 bits"),
        (one("value = 18446744073709551616"), r"more than 64 bits"),
        (one(f"value = {'[' * 40}{']' * 40}"), r"nested too deeply"),
        (one(f"value.{'.'.join('a' * 30)} = 1"), r"nested too deeply"),
        (f"{'.'.join('a' * 100_000)} = 1", r"not valid TOML: it has a key of more than 64 parts"),
        (f"[{' . '.join('a' * 100_000)}]", r"a key of more than 64 parts"),
        ("x = {" + '."a"' * 100_000 + " = 1}", r"a key of more than 64 parts"),
        (one(f"value = [{[1] * 10_000}]"), r"class 'a': \[1, 1, 1, 1, 1, 1, ...\] is not a whole number"),
        ("[class]\nname = 'a'\n[class]\nname = 'b'", r"not valid TOML: .*\(write \[\[class\]\] with two brackets\)"),
    ],
)  # fmt: skip
def test_mistakes_say_how_to_put_them_right(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as raised:
        find_labels(str(path))
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"neither a labels file nor one of the built-in labels .*cityscapes-train-ids"
    ):
        find_labels("coco")
    (tmp_path / "latin.toml").write_bytes(b"# gr\xfcn")
    with pytest.raises(UsageError, match="line 1 is not UTF-8; save"):
        find_labels(str(tmp_path / "latin.toml"))


def test_256_classes_are_too_many() -> None:
    text = "".join(f'[[class]]\nname = "c{number}"\nvalue = {number}\n' for number in range(256))
    with pytest.raises(UsageError, match="256 classes; at most 255"):
        parse_labels(text)


def test_a_labels_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nosuch\.toml': there is no such file; petseg-shard labels SOURCE -o "):
        find_labels(str(tmp_path / "nosuch.toml"))
