"""Configuration files: the options of ``petseg-train`` as TOML, and a run's own config.toml, which repeats it.

shards = "pets-shards"
batch-size = 32             # or batch_size
size = "96x160"             # or 96, or [96, 160]
widths = [24, 48, 96, 192, 256]
progressive = false         # --no-progressive
ema-decay = "auto"
"""

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from petseg.nets.model_config import ModelConfig
from petseg.runs.option_fields import (
    AUTO,
    convert_field,
    expected_text,
    field_of_option,
    field_types,
    option_name,
    shown_value,
    takes_auto,
)
from petseg.runs.recipe import NO_OPTIONS, Recipe, RuntimeOptions, parse_run_size
from petseg.runs.run_folder import CONFIG_TOML
from shards.errors import UsageError, abridged, did_you_mean, option
from shards.store.byte_ranges import read_regular
from shards.store.text_files import TextError, decode_text, is_utf8, parse_toml

_PATHS = ("shards", "run")  # options that are no fields of the structs below, or not only
_COMMAND_LINE = ("resume", "config", "json", "help")
_MOST_BYTES = 1 << 20
_LISTS = (tuple[int, ...], tuple[float, float])  # of numbers


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Return the options of a configuration file, by field, as :func:`petseg.runs.recipe.apply_options` takes them.

    ``path`` is a TOML file, or the folder of a run, whose config.toml is read. ``shards`` and ``run`` may be among the
    options. Relative paths are relative to the current folder, as on the command line.

    Raises ``UsageError``, naming file, line and option, for a name that is no option and for an impossible value.
    """
    path = Path(path)
    path = path / CONFIG_TOML if path.is_dir() else path
    if not path.is_file():
        what = "is not a file" if path.exists() else "leads nowhere" if path.is_symlink() else ""
        raise UsageError(f"{option('config', path)} {what}" if what else f"no such configuration file: {path}")
    if path.suffix == ".json":
        raise UsageError(f"{path} is not TOML; a run's options are in the {CONFIG_TOML} beside its config.json")
    try:
        text = decode_text(read_regular(path, most=_MOST_BYTES)).replace("\r\n", "\n")
        if not is_utf8(text):
            raise UsageError(f"{path} is not UTF-8; save it as UTF-8")
        document = parse_toml(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    except TextError as error:
        raise UsageError(f"{path}:{error.line}: {error}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    options: dict[str, Any] = {}
    for name, value in document.items():
        where = _place(path, text, name)
        field = field_of_option(name)
        if field in options:
            raise UsageError(f"{where}: {name} is given twice, in two spellings")
        try:
            options[field] = _read_option(name, field, value)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    return options


def write_config_text(recipe: Recipe, runtime: RuntimeOptions) -> str:
    """Return config.toml: all options of a run, so that ``petseg-train --config`` trains the same network again.

    The absence of an option means None, where that is not written as ``auto``.
    """
    lines = [
        "# The options of this run; train the same network again with: petseg-train --config THIS_FILE --run NEW_FOLDER"
    ]
    options = {"shards": runtime.shards} | {"model": recipe.model.name}
    structs = {"the network": recipe.model, "the recipe": recipe, "how it is executed": runtime}
    lines += [f"{name} = {_toml(value)}" for name, value in options.items()]
    for title, struct in structs.items():
        lines += ["", f"# {title}"]
        for field in struct.__struct_fields__:
            value = getattr(struct, field)
            if field in NO_OPTIONS or field in ("name", "model", "shards"):
                continue
            if value is None and not takes_auto(type(struct), field):
                continue
            lines.append(f"{option_name(field)[2:]} = {_toml(AUTO if value is None else shown_value(field, value))}")
    return "\n".join(lines) + "\n"


def _read_option(name: str, field: str, value: Any) -> Any:
    """Return the value of an option; ``UsageError`` if it has none of this name, or cannot have this value."""
    if field in _COMMAND_LINE:
        raise UsageError(f"{name} belongs on the command line, not in a file")
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value)):
        raise UsageError(f"[{abridged(name)}] is a table; options are written without tables")
    if field in _PATHS or field == "init_from":
        if not isinstance(value, str) or not value:
            raise UsageError(f"{name} must be a path, in quotes")
        return value
    if field == "size":
        if isinstance(value, list):
            _expect_quotes(name, value, tuple[int, ...], "give [HEIGHT, WIDTH]")
        return parse_run_size(value)
    if field == "join" and value == "sum":
        return "add"
    if field == "pretrained":
        _expect_quotes(name, value, bool, "expected true or false")
        if isinstance(value, bool):
            return value
    structs: dict[str, type[msgspec.Struct]] = {"model": ModelConfig}
    for struct in (Recipe, RuntimeOptions, ModelConfig):
        structs |= {one: struct for one in struct.__struct_fields__ if one not in (*NO_OPTIONS, "name", "model")}
    if field not in structs:
        names = [option_name(one)[2:] for one in [*structs, *_PATHS]]
        raise UsageError(f"there is no option {abridged(name)}{did_you_mean(name[:100].replace('_', '-'), names)}")
    owner, key = structs[field], "name" if field == "model" else field
    if value != AUTO or not takes_auto(owner, key):
        _expect_quotes(name, value, field_types(owner)[key][0], expected_text(owner, key))
    converted = convert_field(owner, key, value)
    return AUTO if converted is None else converted


def _expect_quotes(name: str, value: Any, kind: Any, expected: str) -> None:
    """Raise ``UsageError`` for a number, true or false in quotes and a text without; the value is shown as TOML."""
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str | int | float) for part in parts):
        return
    quoted = any(isinstance(part, str) for part in parts)
    if kind is bool and quoted:
        advice = "true and false are written without quotes"
    elif kind in (int, float, *_LISTS) and quoted:
        advice = f"numbers are written without quotes{', in brackets' if kind in _LISTS else ''}"
    elif kind is str and not quoted:
        advice = "text is written in quotes"
    else:
        return
    raise UsageError(f"{name} = {abridged(_toml(value))}: {expected}; {advice}")


def _place(path: Path, text: str, name: str) -> str:
    """Return where a key of a TOML text stands: ``FILE, line 3``; tomllib does not say."""
    key = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}["']?\s*[=.\]]""")
    numbers = [number for number, line in enumerate(text.splitlines(), start=1) if key.match(line)]
    return f"{path}, line {numbers[0]}" if numbers else str(path)


def _toml(value: Any) -> str:
    """Return a value of an option as TOML, whose text, numbers, booleans and arrays of numbers are written as in JSON.

    But a JSON text may contain DEL, and a float may have no point: TOML forbids one and reads the other as an integer.
    """
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float) and not isinstance(value, bool):
        text = repr(value)
        return text if "." in text or "e" in text else f"{text}.0"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
