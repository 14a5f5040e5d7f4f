"""The systems by what a config names: so far the one of logic expressions."""

import functools

from jaxloop.analysis.columns import Columns
from jaxloop.config.schema import Config
from jaxloop.systems.interfaces import System


@functools.cache
def _logic() -> System:
    from jaxloop.systems.logic.system import Logic

    return Logic()


def system_of(config: Config) -> System:
    """The system that a config names."""
    return _logic()


def columns_of(config: Config) -> Columns:
    """The columns of metrics.csv of a run."""
    return system_of(config).columns
