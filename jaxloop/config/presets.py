"""Reading configs: presets and TOML files, the scale that they are taken at, and overrides of the command line."""

import re
import tomllib
from pathlib import Path
from typing import Any

from jaxloop.config.imports import is_own
from jaxloop.config.schema import Config, StoredConfig, flat, loops, nearest, settings_class, unknown_setting, validated
from jaxloop.errors import InputError


def preset_folder() -> Path:
    """Where the presets lie: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def preset_names() -> list[str]:
    """Every preset, in alphabetical order."""
    return sorted(path.stem for path in preset_folder().glob("*.toml"))


def load(source: str, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a preset or a TOML file and apply `section.key=value` overrides.

    A file may have a `scale`, the preset whose settings (but not its seeds, controls and grid) are its defaults, and
    tables `[scales.PRESET]` of what it sets at one scale only. The override `scale=PRESET` chooses another one.

    An override of a setting that the grid varies replaces that axis.

    Raises:
      InputError: unknown preset, unreadable file, unknown setting, value out of range.
    """
    settings = [_parse_override(override) for override in overrides]
    return _configured(source, settings, f"{source} with {' '.join(overrides)}" if overrides else source)


def configured(source: str, settings: dict[str, Any]) -> Config:
    """The config of a preset or a TOML file with settings by name, as `load` has them by text.

    Raises:
      InputError: unknown preset, unreadable file, unknown setting, value out of range.
    """
    for name in settings:
        if not isinstance(name, str):
            raise InputError(f"settings: {name!r} is no name of a setting; write 'section.key'")
    words = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return _configured(source, list(settings.items()), f"{source} with {words}" if words else source)


def _configured(source: str, settings: list[tuple[str, Any]], where: str) -> Config:
    scale = next((value for name, value in reversed(settings) if name == "scale"), None)
    file = _read_toml(_path_of(source))
    given = [name for name, _ in settings] or list(flat({name: file[name] for name in file if name not in _LAYERS}))
    grids = [value for name, value in settings if name == "grid"] if settings else [file.get("grid")]
    given = [name.removeprefix("grid.").strip('"') for name in given]
    given += [axis for grid in grids if isinstance(grid, dict) for axis in flat(grid)]
    table, asked_at = _at_scale(file, scale, source)
    systems = [{"system": {"name": value}} for name, value in settings if name == "system.name"]
    of = settings_class(systems[-1] if systems else table, where)
    for name, value in settings:
        if name != "scale":
            _apply(table, name, value, of)
    if scale is not None and asked_at and scale not in asked_at and not table.get("grid"):
        raise InputError(f"{source}: has no grid at scale {scale!r}, but at {', '.join(asked_at)}; give it one")
    config = validated(table, where)
    # What a run has written out has every setting in it, wanted or not.
    is_written_out = not settings and file.keys() >= of.sections().keys()
    _require_effect([] if is_written_out else given, [loop.config for loop in loops(config)], where)
    return config


# Of a file: what is not set by it alone, or varied.
_LAYERS = ("scale", "scales", "grid", "seeds", "controls")


def _require_effect(given: list[str], configs: list[Config], where: str) -> None:
    """Refuse settings that somebody gives, and that decide nothing in any cell.

    Raises:
      InputError: there are such.
    """
    different = {(config.system.name, config.learner.name): config for config in configs}.values()
    for name in given:
        reasons = [config.why_without_effect(name) for config in different]
        if reasons and all(reasons):
            raise InputError(f"{where}: {name} decides nothing with {reasons[0]}; leave it out, or choose another")


def purpose(name: str) -> str:
    """What a preset is for: the first line of its file."""
    first_line = (preset_folder() / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    return first_line.removeprefix("#").strip()


def parse(text: str, source: str, stored: type[StoredConfig] = StoredConfig) -> Config:
    """The config of a TOML text that has every setting in it, as a run writes it; nothing that it names is imported.

    Args:
      text: the TOML.
      source: what is named in an error.
      stored: its class where it is about a system of one's own.

    Raises:
      InputError: not TOML, unknown setting, value out of range.
    """
    try:
        table = _parse_toml(text)
    except ValueError as error:
        raise InputError(f"{source}: not valid TOML: {error}") from None
    system = table.get("system")
    name = system.get("name") if isinstance(system, dict) else None
    return validated(table, source, stored if isinstance(name, str) and is_own(name) else None)


def _parse_toml(text: str) -> dict:
    """The tables of a TOML text; everything that tomllib may stumble over is a ValueError."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _read_toml(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
    except ValueError as error:
        raise InputError(f"{path}: no file can have this name: {error}") from None
    try:
        return _parse_toml(text)
    except ValueError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None


def _path_of(source: str) -> Path:
    """Where a preset or file lies."""
    if source.endswith(".toml") or "/" in source:
        return Path(source)
    if source not in preset_names():
        raise InputError(
            f"no preset named {source!r}{nearest(source, preset_names())}; "
            f"presets: {', '.join(preset_names())}; a file's name ends in .toml"
        )
    return preset_folder() / f"{source}.toml"


def _at_scale(table: dict, chosen, source: str) -> tuple[dict, list[str]]:
    """What a file sets, over the settings of its scale or of the one that was chosen in place of it.

    And the scales at which alone it has a grid.
    """
    scales, default = _section(table, "scales"), table.pop("scale", None)
    del table["scales"]
    if default is None and (chosen is not None or scales):
        raise InputError(
            f"{source}: has no scale of its own that another one could replace; set its settings one by one"
        )
    if default is not None:
        scale = default if chosen is None else chosen
        plain = [name for name in preset_names() if "scale" not in _read_toml(_path_of(name))]
        for name in (scale, *scales):
            if name not in plain:
                raise InputError(
                    f"{source}: {name!r} is no scale{nearest(str(name), plain)}; scales are {', '.join(plain)}"
                )
        of_scale = _read_toml(_path_of(scale))
        settings = {name: section for name, section in of_scale.items() if _are_tables(section) and name != "grid"}
        table = _merged(_merged(settings, table), _section(scales, scale))
    if isinstance(table.get("grid"), dict):
        # TOML reads an axis without quotes, cycle.fresh_share = [...], as a table in a table.
        table["grid"] = flat(table["grid"])
    return table, sorted(name for name in scales if "grid" in _section(scales, name))


def _merged(below: dict, above: dict) -> dict:
    """Two tables in one; where both set something, the second wins."""
    both = {name: _merged(below[name], value) for name, value in above.items() if _are_tables(below.get(name), value)}
    return {**below, **above, **both}


def _are_tables(*values) -> bool:
    return all(isinstance(value, dict) for value in values)


def _section(table: dict, name: str) -> dict:
    section = table.setdefault(name, {})
    if not isinstance(section, dict):
        raise InputError(f"{name} is a section and cannot be {section!r}; write {name}.key=value")
    return section


def _parse_override(override: str) -> tuple[str, Any]:
    """(setting, value) of `setting=value`."""
    name, equals, text = override.partition("=")
    name = name.strip()
    if not equals or not name:
        raise InputError(f"{override!r} is no setting; write section.key=value")
    try:
        values = _parse_toml(f"value = {text}")
        if list(values) != ["value"]:
            raise InputError(f"{override!r} is more than one setting")
        value = values["value"]
    except ValueError:
        if not re.fullmatch(r"\s*[A-Za-z_]\w*\s*", text) and not is_own(text.strip()):
            shown = repr(text if len(text) <= 60 else text[:60] + "...")
            raise InputError(
                f"{name}: {shown} is not a value; write a number, true, false, a word or [a, list]"
            ) from None
        value = text.strip()
    return name, value


def _apply(table: dict, name: str, value: Any, of: type[Config]) -> None:
    """Set something, or an axis of the grid, in place of what is set."""
    section, _, key = name.partition(".")
    if section == "grid" and key:
        axis = key.strip('"')
        _drop_axes(table, _set_by(axis, value))
        _section(table, "grid")[axis] = value
        return
    if name not in of.setting_names() and name != "grid":
        raise InputError(unknown_setting(name, of))
    if key:
        _section(table, section)[key] = value
        _drop_axes(table, {name})
    else:
        table[name] = flat(value) if name == "grid" and isinstance(value, dict) else value


def _drop_axes(table: dict, settings: set[str]) -> None:
    """Take the axes out of the grid that set any of these settings."""
    grid = _section(table, "grid")
    for axis, values in list(grid.items()):
        if settings & _set_by(axis, values):
            del grid[axis]


def _set_by(axis: str, values) -> set[str]:
    """What an axis may set, before anybody has looked whether it is right: itself, or settings of its section."""
    tables = [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
    return {axis, *(f"{axis}.{key}" for value in tables for key in value)}
