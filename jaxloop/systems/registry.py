"""The system that a config names."""

import functools
import importlib

from jaxloop.analysis.columns import Columns
from jaxloop.config.schema import Config
from jaxloop.systems.interfaces import System


@functools.cache
def _made(path: str) -> System:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)()


def system_of(config: Config) -> System:
    """The system that a config names."""
    return _made(type(config).system_class)


def columns_of(config: Config) -> Columns:
    """The columns of metrics.csv of a run."""
    return system_of(config).columns
