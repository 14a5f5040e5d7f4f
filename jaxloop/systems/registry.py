"""The systems by what a config names: so far the one of logic expressions."""

from jaxloop.analysis.columns import Columns
from jaxloop.config.schema import Config
from jaxloop.systems.logic.columns import COLUMNS


def columns_of(config: Config) -> Columns:
    """The columns of metrics.csv of a run."""
    return COLUMNS
