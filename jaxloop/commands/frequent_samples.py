"""The most frequent samples of a loop: what a collapse looks like, generation beside generation."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxloop.config.schema import Loop
from jaxloop.errors import InputError
from jaxloop.runs.stored import StoredRun
from jaxloop.systems.logic.judge import Judgement
from jaxloop.systems.logic.measures import top_samples


class Frequent(NamedTuple):
    """What a generation wrote most often."""

    generation: int
    samples: int
    different: int
    top: list[tuple[str, int, str]]  # text, count and verdict, the most frequent first


def most_frequent(
    path: Path, loop: int, generations: list[int] | None, top: int, warn: Callable[[str], None]
) -> tuple[Loop, list[Frequent]]:
    """A loop of a run, and what it wrote most often in each of these generations.

    Args:
      path: the run folder, finished or not.
      loop: which loop.
      generations: which of its generations; None for the first, the middle one and the last.
      top: how many different samples of each at most.
      warn: is told of a generation that is not finished.

    Raises:
      InputError: there is no such run, loop or generation.
      DamageError: its samples are not what the run wrote.
    """
    run = StoredRun(path)
    of_loop = run.loop(loop)
    newest = run.newest(of_loop) or 0
    for line in run.left_out(of_loop):
        warn(line)
    found = []
    for generation in dict.fromkeys([0, newest // 2, newest] if generations is None else generations):
        samples = run.samples(loop, generation)
        judgement = Judgement(*(samples[name] for name in ("verdict", "fault", "depth")))
        tokens_NxT = samples["tokens"]
        ranked = top_samples(tokens_NxT, judgement, len(tokens_NxT))
        found.append(Frequent(generation, len(tokens_NxT), len(ranked), ranked[:top]))
    return of_loop, found


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
