"""The most frequent samples of a loop: what a collapse looks like, generation beside generation."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxloop.config.schema import Loop
from jaxloop.errors import InputError
from jaxloop.loop.rows import unique_rows
from jaxloop.runs.stored import StoredRun
from jaxloop.systems.interfaces import System
from jaxloop.systems.registry import system_of


class Frequent(NamedTuple):
    """What a generation wrote most often."""

    generation: int
    samples: int
    different: int
    top: list[tuple[str, int, str]]  # text, count and what the judge says, the most frequent first


def most_frequent(
    path: Path, loop: int, generations: list[int] | None, top: int, warn: Callable[[str], None]
) -> tuple[Loop, list[Frequent]]:
    """A loop of a run, and what it wrote most often in each of these generations.

    Args:
      path: the run folder, finished or not.
      loop: which loop.
      generations: which of its generations; None for the first, the middle one and the last, of those that are kept.
      top: how many different samples of each at most.
      warn: is told of a generation that is not finished.

    Raises:
      InputError: there is no such run, loop or generation.
      DamageError: its samples are not what the run wrote.
    """
    run = StoredRun(path)
    of_loop = run.loop(loop)
    newest = run.newest(of_loop)
    # Where none is finished, it is said of the first that it is not.
    kept = [] if newest is None else [place for place, one in enumerate(run.seal(of_loop).samples) if one]
    chosen = [kept[0], kept[(len(kept) - 1) // 2], kept[-1]] if kept else [newest or 0]
    for line in run.left_out(of_loop):
        warn(line)
    found, system = [], system_of(of_loop.config)
    for generation in dict.fromkeys(chosen if generations is None else generations):
        samples = run.samples(loop, generation)
        points = samples[system.row_format(of_loop.config).name]
        ranked = _ranked(points, samples, system)
        found.append(Frequent(generation, len(points), len(ranked), ranked[:top]))
    return of_loop, found


def _ranked(points: np.ndarray, samples: dict[str, np.ndarray], system: System) -> list[tuple[str, int, str]]:
    """The different samples, and what the system's judge says of each."""
    points_U, inverse_N, counts_U = unique_rows(points)
    said_U = dict(zip(inverse_N.tolist(), system.judged(samples), strict=False))
    order_U = np.argsort(-counts_U, kind="stable").tolist()
    texts = system.texts(points_U[order_U])
    return [(text, int(counts_U[place]), said_U.get(place, "")) for text, place in zip(texts, order_U, strict=True)]


def parse_generations(text: str | None) -> list[int] | None:
    """The numbers in `0,4,8`.

    Raises:
      InputError: it is something else.
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise InputError(f"--generations {text}: is no list of generations; say them with commas, such as 0,4,8")
    return [int(word) for word in words]
