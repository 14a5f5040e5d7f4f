"""What readers of a run have to know of parts of one's own, kept with the run so that nobody need import them."""

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxloop import layout
from jaxloop.analysis.columns import Column, Columns
from jaxloop.config.imports import is_own
from jaxloop.config.schema import Config, Loop
from jaxloop.errors import DamageError
from jaxloop.files import read_file, seal_json, unseal_json, write_whole
from jaxloop.loop.interfaces import Learner
from jaxloop.systems.interfaces import Measures, RowFormat, System

_MOST_BYTES = 2**26
_MOST_ROW_NUMBERS = 2**24  # in one row, far more than any


def own_parts(config: Config) -> dict[str, str]:
    """The settings of a run that name parts of one's own, and the names."""
    named = {
        "system.name": [config.system.name],
        "cycle.name": [config.cycle.name],
        "learner.name": [config.learner.name],
        "curation.name": [config.curation.name],
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
    from jaxloop.config.imports import get

    sources = []
    for name, setting in own_parts(config).items():
        source = {"setting": setting, "name": name}
        try:
            file = Path(inspect.getfile(get(name)))
            source |= {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        except (OSError, TypeError):
            pass  # Of a notebook there is no file.
        sources.append(source)
    return sources


def needs_description(config: Config) -> bool:
    """Whether readers cannot know by themselves what stands in a run's folder."""
    return is_own(config.system.name) or bool(config.measure.own)


def write_description(run: Path, config: Config, loops: list[Loop], system: System, columns: Columns) -> None:
    """Write what readers have to know."""
    rows = {}
    if is_own(config.system.name):
        for loop in loops:
            row, kept = system.row_format(loop.config), system.kept_of_samples(loop.config)
            dtypes = {name: np.dtype(dtype).str for name, dtype in kept.items()}
            rows[_key(loop.config)] = [row.name, np.dtype(row.dtype).str, list(row.shape), dtypes]
    content = seal_json({"columns": [list(column) for column in columns.declared], "rows": rows})
    path = run / layout.OWN
    if not path.exists() or path.read_bytes() != content:
        write_whole(path, content)


def _key(config: Config) -> str:
    """What tells configs of loops apart, but their seeds."""
    settings = config.model_dump(mode="json", exclude={"seeds", "controls", "grid"}, exclude_none=True)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


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
            plain = [np.dtype(one).kind in "biuf" for one in (dtype, *kept.values())]
            if not isinstance(name, str) or not all([*numbers, *plain]) or np.prod([1, *shape]) > _MOST_ROW_NUMBERS:
                raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DamageError(f"{path}: is damaged") from None
    return StoredSystem(columns, content["rows"])
