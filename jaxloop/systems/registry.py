"""The system that a config names, and the parts of one's own that it names beside it."""

import functools
import math
from collections.abc import Callable
from typing import Any

from jaxloop.analysis.columns import Column, Columns
from jaxloop.config.imports import get, guarded, import_own, is_own
from jaxloop.config.schema import Config
from jaxloop.errors import InputError, RunError
from jaxloop.loop.interfaces import Learner, Record
from jaxloop.systems.interfaces import System

_OF_A_LEARNER = ("probe", "start", "finish")


@functools.cache
def _made(path: str) -> System:
    return get(path)()


def system_of(config: Config) -> System:
    """The system that a config names."""
    named = type(config).system_class
    return named if isinstance(named, System) else _made(named) if isinstance(named, str) else _of_class(named)


@functools.cache
def _of_class(own: type[System]) -> System:
    return own()


def learner_of(system: System, config: Config, loop_count: int) -> Learner:
    """The learner that a config names: the system's, or one of one's own.

    Raises:
      InputError: it is one of one's own that cannot be imported, or made.
    """
    name = config.learner.name
    if not is_own(name):
        return system.learner(config, loop_count)
    own = import_own(name, "learner.name", _OF_A_LEARNER)
    try:
        learner = own(config, loop_count)
    except Exception as error:
        raise InputError(f"learner.name = {name!r}: cannot be made: {type(error).__name__}: {error}") from None
    if not isinstance(getattr(learner, "places", None), int) or learner.places < 1:
        raise InputError(f"learner.name = {name!r}: must have places, how many tasks it takes at once, 1 at least")
    return guarded(learner, "learner.name", name)


class OwnMeasures:
    """The measures of one's own that a config names."""

    def __init__(self, config: Config):
        """Import them.

        Raises:
          InputError: one cannot be imported, or declares no columns.
        """
        self._own = [(path, import_own(path, "measure.own", ("columns", "measure"))) for path in config.measure.own]
        for path, own in self._own:
            if not all(isinstance(column, Column) for column in own.columns):
                raise InputError(f"measure.own: {path!r}: columns must be Columns of jaxloop")
        self._made: list[tuple[str, tuple[str, ...], Callable]] = [
            (path, tuple(column.name for column in own.columns), guarded(own(), "measure.own", path).measure)
            for path, own in self._own
        ]
        self.columns = tuple(column for _, own in self._own for column in own.columns)

    def measure(self, record: Record) -> dict[str, float]:
        """The columns of one generation of one loop; not a number where one says nothing.

        Raises:
          RunError: a measure fails, or gives what it does not declare.
        """
        columns: dict[str, float] = {}
        for path, names, measure in self._made:
            found = measure(record)
            if (
                not isinstance(found, dict)
                or not found.keys() <= set(names)
                or not all(map(_is_number, found.values()))
            ):
                raise RunError(
                    f"measure.own: {path!r}: must give numbers by the names of its columns ({', '.join(names)}), and "
                    f"gave {str(found)[:80]}; what was measured before is kept"
                )
            columns |= {name: float(found.get(name, math.nan)) for name in names}
        return columns


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def columns_of(system: System, own: OwnMeasures) -> Columns:
    """The columns of metrics.csv of a run, those of measures of one's own among them.

    Raises:
      InputError: a measure of one's own has a column that there is already.
    """
    try:
        return Columns((*system.columns.declared, *own.columns))
    except ValueError as error:
        raise InputError(f"measure.own: {error}") from None
