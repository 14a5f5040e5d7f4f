"""Curation: which of the rows that a model wrote may train the next one.

    all    every row

A curator of one's own is a class like `Curator`.

Legend: N rows that were written, n rows that are wanted.
"""

import math
from collections.abc import Callable

import numpy as np

from jaxloop.config.imports import import_own, is_own, made
from jaxloop.config.schema import CurationSettings, CycleSettings
from jaxloop.errors import InputError, RunError


class Curator:
    """Every row that was written, in order."""

    oversample: float = 1.0  # rows that are written for each one that is wanted, at least 1

    def __init__(self, settings: CurationSettings):
        self.settings = settings

    def choose(self, points: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
        """Which rows train.

        Args:
          points: (N, ...), what was written; read-only.
          count: n, how many rows are wanted.
          generator: decides what is left to chance.

        Returns:
          (n,) places of the chosen rows among those that were written; a place may stand there several times.
        """
        return np.arange(count)


CURATORS = {"all": Curator}
MOST_OVERSAMPLED = 1000


def curator_of(settings: CurationSettings) -> Curator:
    """The curator that a config names.

    Raises:
      InputError: it is one of one's own that cannot be imported.
    """
    if not is_own(settings.name):
        return CURATORS[settings.name](settings)
    own = import_own(settings.name, "curation.name", ("oversample", "choose"))
    curator = made(own, "curation.name", settings.name, settings)
    if not isinstance(curator.oversample, int | float) or not 1 <= curator.oversample <= MOST_OVERSAMPLED:
        raise InputError(
            f"curation.name = {settings.name!r}: oversample must be a number from 1 to {MOST_OVERSAMPLED:,}, not "
            f"{str(curator.oversample)[:40]}"
        )
    return curator


def rows_to_write(cycle: CycleSettings, curation: CurationSettings) -> int:
    """How many rows a model writes, so that n can be chosen."""
    return math.ceil(curator_of(curation).oversample * cycle.rows)


def chosen(
    settings: CurationSettings, points: np.ndarray, count: int, generator: Callable[[], np.random.Generator]
) -> np.ndarray:
    """The rows that may train, (n, ...); the generator is made where a curator asks for it.

    Raises:
      RunError: a curator of one's own gives no such places.
    """
    if settings.name == "all":
        return points[:count]
    choice = curator_of(settings).choose(points, count, generator())
    try:
        place_n = np.asarray(choice)
    except ValueError:  # Lists of different lengths.
        place_n = np.empty(0, object)
    is_whole = place_n.dtype.kind in "iu" and place_n.shape == (count,)
    if not is_whole or (count and not 0 <= place_n.min() <= place_n.max() < len(points)):
        raise RunError(
            f"curation.name = {settings.name!r}: choose must give {count} places of {len(points)} rows, as whole "
            f"numbers, and gave {place_n.dtype} of shape {place_n.shape}; what was measured before is kept"
        )
    return points[place_n]
