"""What readers of a run have to know of parts of one's own, kept with the run so that nobody need import them."""

import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from jaxloop import layout
from jaxloop.analysis.columns import Column, Columns
from jaxloop.config.imports import get, is_own
from jaxloop.config.schema import Config, Loop
from jaxloop.errors import DamageError, InputError
from jaxloop.files import digest, read_file, seal_json, unseal_json
from jaxloop.loop.interfaces import Learner
from jaxloop.systems.interfaces import Measures, RowFormat, System

_PLAIN = "biuf"  # kinds of dtypes that are stored
_MOST_BYTES = 2**26
_MOST_ROW_NUMBERS = 2**24  # in one row, far more than any


def own_parts(config: Config) -> dict[str, str]:
    """The settings of a run that name parts of one's own, and the names."""
    named: dict[str, list[Any]] = {
        "system.name": [config.system.name],
        "cycle.name": [config.cycle.name],
        "learner.name": [config.learner.name],
        "curation.name": list(config.curation.names),
        "measure.own": list(config.measure.own),
    }
    for axis, values in config.grid.items():
        section, _, key = axis.partition(".")
        of_axis = [value.get("name") for value in values if isinstance(value, dict)] if not key else values
        named.setdefault(f"{section}.name" if not key else axis, []).extend(of_axis)
    found = {}
    for setting, names in named.items():
        for name in names:
            if isinstance(name, str) and is_own(name):
                found[name] = setting
    return found


def sources_of(config: Config) -> list[dict[str, str]]:
    """Where each part of one's own comes from, for the manifest: its setting, name, file, and the file's digest."""
    sources = []
    for name, setting in own_parts(config).items():
        source = {"setting": setting, "name": name}
        try:
            file = Path(inspect.getfile(get(name)))
            source |= {"file": str(file), "sha256": digest(file.read_bytes())}
        except (OSError, TypeError):
            pass  # Of a notebook there is no file.
        sources.append(source)
    return sources


def needs_description(config: Config) -> bool:
    """Whether readers cannot know by themselves what stands in a run's folder."""
    return is_own(config.system.name) or bool(config.measure.own)


def describe_own_parts(config: Config, loops: list[Loop], system: System, columns: Columns) -> bytes:
    """What readers have to know, sealed.

    Raises:
      InputError: rows or what is kept of them are of a dtype that is not stored.
    """
    rows = {}
    for loop in loops if is_own(config.system.name) else ():
        row, kept = system.row_format(loop.config), system.kept_of_samples(loop.config)
        try:
            rows[_key(loop.config)] = [
                row.name,
                _plain(row.dtype),
                list(map(int, row.shape)),
                {name: _plain(dtype) for name, dtype in kept.items()},
            ]
        except (AttributeError, TypeError, ValueError):
            raise InputError(
                f"system.name = {config.system.name!r}: row_format must give a jaxloop.RowFormat and kept_of_samples a "
                "dictionary of dtypes, and all must be numbers"
            ) from None
    return seal_json({"columns": [list(column) for column in columns.declared], "rows": rows})


def _plain(dtype: DTypeLike) -> str:
    """A dtype in words.

    Raises:
      TypeError: it is none of numbers, or none at all.
    """
    if np.dtype(dtype).kind not in _PLAIN:
        raise TypeError
    return np.dtype(dtype).str


def require_same_description(run: Path, description: bytes) -> None:
    """Refuse to go on with a run whose parts of one's own were others.

    Raises:
      InputError: they were; nothing is written. One that is missing or damaged is written anew.
    """
    path = run / layout.OWN
    try:
        before = unseal_json(read_file(path, _MOST_BYTES), path)
    except DamageError:
        return
    now = unseal_json(description, path)
    same_rows = all(now["rows"].get(key, row) == row for key, row in before.get("rows", {}).items())
    if before.get("columns") != now["columns"] or not same_rows:
        raise InputError(
            f"{run}: was begun with other columns or rows of parts of one's own ({layout.OWN}); put those back, name "
            "another folder with --out, or start anew with --overwrite"
        )


def _key(config: Config) -> str:
    """What tells configs of loops apart, but their seeds and how many generations are wanted."""
    settings = config.model_dump(mode="json", exclude={"seeds", "controls", "grid"}, exclude_none=True)
    del settings["cycle"]["generations"]
    return digest(json.dumps(settings, sort_keys=True).encode())


class StoredSystem(System):
    """A system of one's own, as a run's folder describes it."""

    def __init__(self, columns: Columns, rows: dict[str, Any]):
        self.columns, self._rows = columns, rows

    def row_format(self, config: Config) -> RowFormat:
        """As it was when the run began."""
        name, dtype, shape, _ = self._of(config)
        return RowFormat(name, np.dtype(dtype), tuple(shape))

    def kept_of_samples(self, config: Config) -> dict[str, np.dtype]:
        """As it was when the run began."""
        return {name: np.dtype(dtype) for name, dtype in self._of(config)[3].items()}

    def _of(self, config: Config) -> list:
        if _key(config) not in self._rows:
            raise DamageError(f"{layout.OWN} does not say what the rows are")
        return self._rows[_key(config)]

    def texts(self, points: np.ndarray) -> list[str]:
        """As NumPy writes them."""
        return [np.array2string(point) for point in points]

    def first_rows(self, config: Config, seed: int) -> np.ndarray:
        """Nothing that a reader asks for."""
        raise NotImplementedError

    def fresh_rows(self, config: Config, seed: int, generation: int, count: int) -> np.ndarray:
        """Nothing that a reader asks for."""
        raise NotImplementedError

    def learner(self, config: Config, loop_count: int) -> Learner:
        """Nothing that a reader asks for."""
        raise NotImplementedError

    def measures(self, config: Config) -> Measures:
        """Nothing that a reader asks for."""
        raise NotImplementedError


def read_description(run: Path) -> StoredSystem:
    """What a run's folder says of its columns and rows.

    Raises:
      DamageError: it is missing, or not what the run wrote.
    """
    path = run / layout.OWN
    content = unseal_json(read_file(path, _MOST_BYTES), path)
    try:
        columns = Columns(tuple(Column(*column) for column in content["columns"]))
        for name, dtype, shape, kept in content["rows"].values():
            numbers = [isinstance(size, int) and size >= 0 for size in shape]
            plain = [np.dtype(one).kind in _PLAIN for one in (dtype, *kept.values())]
            if not isinstance(name, str) or not all([*numbers, *plain]) or math.prod(shape) > _MOST_ROW_NUMBERS:
                raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DamageError(f"{path}: is damaged") from None
    return StoredSystem(columns, content["rows"])
