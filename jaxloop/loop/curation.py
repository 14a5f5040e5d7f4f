"""Curation: which of the rows that a model wrote may train the next one.

A model writes `oversample` times as many rows as are wanted. They go through the checks that the settings name (see
`curators`), one after the other; of those that pass, the first n train. Where fewer pass, they stand in more than once,
or fresh rows take the place of those that lack, as the settings say.

A curator of one's own is a class like `Curator`.

Legend: N rows that were written, n rows that are wanted.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxloop.config.imports import import_own, made
from jaxloop.config.schema import CurationSettings, CycleSettings
from jaxloop.errors import InputError, RunError
from jaxloop.loop import curators
from jaxloop.loop.curators import CHECKS, Candidates, rows_for_one
from jaxloop.loop.rows import Rows

MOST_OVERSAMPLED = 1000


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


class Curated(NamedTuple):
    """What curation lets pass."""

    points: np.ndarray  # (n, ...), or fewer where fresh rows are to take the place of those that lack
    columns: dict[str, float]  # of metrics.csv


def curator_of(settings: CurationSettings) -> Curator:
    """The curator of one's own that a config names.

    Raises:
      InputError: it cannot be imported.
    """
    (name,) = settings.names
    own = import_own(name, "curation.name", ("oversample", "choose"))
    curator = made(own, "curation.name", name, settings)
    if not isinstance(curator.oversample, int | float) or not 1 <= curator.oversample <= MOST_OVERSAMPLED:
        raise InputError(
            f"curation.name = {name!r}: oversample must be a number from 1 to {MOST_OVERSAMPLED:,}, not "
            f"{str(curator.oversample)[:40]}"
        )
    return curator


def rows_to_write(cycle: CycleSettings, curation: CurationSettings) -> int:
    """How many rows a model writes, so that n can be chosen."""
    if curation.is_own:
        return math.ceil(curator_of(curation).oversample * cycle.rows)
    return math.ceil(curation.oversample * cycle.rows) * rows_for_one(curation)


def curate(
    settings: CurationSettings, candidates: Candidates, count: int, generator: Callable[[], np.random.Generator]
) -> Curated:
    """The rows that may train; the generator is made where a check asks for it.

    Raises:
      RunError: a curator of one's own gives no places.
    """
    written = len(candidates)
    if settings.is_own:
        place_n = _chosen_by_own(settings, candidates.points, count, generator())
        return Curated(candidates.points[place_n], _columns(place_n, written, len(np.unique(place_n)), 0))
    checks = [name for name in settings.names if name in CHECKS]
    if not checks:
        return Curated(
            candidates.points[:count], {"accepted_share": 1.0, "effective_rows": float(count), "human_rows": 0.0}
        )
    place, chance, asked = np.arange(written), generator(), 0
    for name in checks:
        asked += len(place) // settings.choose_from if name == "choice" else 0
        place = place[CHECKS[name](settings, candidates.take(place), chance)]
    passed = len(place)
    if 0 < passed < count and settings.shortfall == "repeat":
        times, rest = divmod(count, passed)
        again = np.sort(chance.choice(passed, rest, replace=False))
        place = np.concatenate([np.tile(place, times), place[again]])
    place = place[:count]
    return Curated(candidates.points[place], _columns(place, written, passed, asked))


def _columns(place: np.ndarray, written: int, passed: int, asked: int) -> dict[str, float]:
    copies = np.unique(place, return_counts=True)[1]
    effective = float(copies.sum() ** 2 / np.sum(copies.astype(float) ** 2)) if len(place) else 0.0
    return {"accepted_share": passed / written, "effective_rows": effective, "human_rows": float(asked)}


def _chosen_by_own(
    settings: CurationSettings, points: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """The places that a curator of one's own chooses, (n,).

    Raises:
      RunError: it gives no such places.
    """
    choice = curator_of(settings).choose(points, count, generator)
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
    return place_n


def detected(settings: CurationSettings, rows: Rows, generator: Callable[[], np.random.Generator]) -> Rows:
    """The new rows of a generation as the detector lets them pass; the generator is made where there is one."""
    return curators.detected(settings, rows, generator()) if "detector" in settings.names else rows
