"""The system that a config names, and the parts of one's own that it names beside it."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxloop.analysis.columns import OF_REMEDIES, Column, Columns
from jaxloop.config.imports import get, import_own, is_own, made
from jaxloop.config.schema import Config, Loop
from jaxloop.errors import InputError, RunError
from jaxloop.loop.interfaces import Learner, Record
from jaxloop.systems.interfaces import System

# Columns of metrics.csv that are the loop's own.
_PLACE = ("loop", "seed", "generation", "control")
_OF_A_LEARNER = ("probe", "start", "finish")


@functools.cache
def _made(path: str) -> System:
    return get(path)()


def system_of(config: Config) -> System:
    """The system that a config names."""
    named = type(config).system_class
    if isinstance(named, System):
        return named
    return _of_class(named, config.system.name) if is_own(config.system.name) else _made(named)


@functools.cache
def _of_class(own: type[System] | str, name: str) -> System:
    """A system of one's own; what goes wrong in it names it."""
    return made(get(own) if isinstance(own, str) else own, "system.name", name)


def learner_of(system: System, config: Config, loop_count: int) -> Learner:
    """The learner that a config names: the system's, or one of one's own.

    Raises:
      InputError: it is one of one's own that cannot be imported, or made.
    """
    name = config.learner.name
    if not is_own(name):
        return system.learner(config, loop_count)
    own = import_own(name, "learner.name", _OF_A_LEARNER)
    learner = made(own, "learner.name", name, config, loop_count)
    if not isinstance(getattr(learner, "places", None), int) or learner.places < 1:
        raise InputError(f"learner.name = {name!r}: must have places, how many tasks it takes at once, 1 at least")
    return learner


class OwnMeasures:
    """The measures of one's own that a config names."""

    def __init__(self, config: Config):
        """Import them.

        Raises:
          InputError: one cannot be imported, or declares no columns.
        """
        self._own = [(path, import_own(path, "measure.own", ("columns", "measure"))) for path in config.measure.own]
        for path, own in self._own:
            are_columns = isinstance(own.columns, tuple) and all(isinstance(column, Column) for column in own.columns)
            if not are_columns or not all(may_be_a_column(column.name) for column in own.columns):
                raise InputError(
                    f"measure.own: {path!r}: columns must be a tuple of jaxloop.Column, and their names words that "
                    f"metrics.csv has not ({', '.join(_PLACE)})"
                )
        self._made: list[tuple[str, tuple[str, ...], Callable]] = [
            (path, tuple(column.name for column in own.columns), made(own, "measure.own", path).measure)
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
                or not all(map(is_column_value, found.values()))
            ):
                raise RunError(
                    f"measure.own: {path!r}: must give numbers by the names of its columns ({', '.join(names)}), and "
                    f"gave {str(found)[:80]}; what was measured before is kept"
                )
            columns |= {name: float(found.get(name, math.nan)) for name in names}
        return columns


def may_be_a_column(name: Any) -> bool:
    """Whether it may be the name of a column of metrics.csv beside the loop's own."""
    return isinstance(name, str) and name.isidentifier() and name not in _PLACE


def is_column_value(value: Any) -> bool:
    """Whether it is a number as a table holds one."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return abs(int(value)) < 10**300
    return isinstance(value, float | np.floating)


def require_columns(config: Config, measured: dict[str, Any], of_learner: dict[str, Any]) -> None:
    """Refuse columns that parts of one's own give, and that no table can have.

    Raises:
      RunError: there are such.
    """
    kinds = (("system.name", config.system.name, measured), ("learner.name", config.learner.name, of_learner))
    for setting, name, columns in kinds:
        if not is_own(name):
            continue
        right = isinstance(columns, dict) and all(map(may_be_a_column, columns))
        taken = sorted(columns.keys() & measured.keys()) if right and columns is not measured else []
        if not right or taken or not all(is_column_value(value) for value in columns.values()):
            raise RunError(
                f"{setting} = {name!r}: columns must be numbers by names that metrics.csv has not otherwise; it gave "
                f"{str(columns)[:100]}; what was measured before is kept"
            )


def with_remedies(loops: list[Loop]) -> bool:
    """Whether metrics.csv of a run has the columns of remedies."""
    return any(loop.config.curation.names or loop.config.cycle.fresh_target != "random" for loop in loops)


@functools.cache
def _with_those_of_remedies(columns: Columns) -> Columns:
    return Columns((*columns.declared, *OF_REMEDIES))


def columns_of(system: System, loops: list[Loop], own: tuple[Column, ...] = ()) -> Columns:
    """The columns of metrics.csv of a run, those of remedies and of measures of one's own among them.

    Raises:
      InputError: a measure of one's own has a column that there is already.
    """
    if not isinstance(system.columns, Columns):
        raise InputError("system.name: the system's columns must be jaxloop.Columns")
    try:
        columns = _with_those_of_remedies(system.columns) if with_remedies(loops) else system.columns
        return Columns((*columns.declared, *own)) if own else columns
    except ValueError as error:
        raise InputError(f"measure.own: {error}") from None
