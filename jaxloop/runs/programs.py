"""Which loops of a run go through the same compiled programs, and in which order the programs are run."""

import functools
from typing import NamedTuple

from jaxloop.config.schema import KNOBS, Config, LanguageSettings, Loop, ModelSettings
from jaxloop.loop.memories import memory_of
from jaxloop.systems.logic.language import language_of
from jaxloop.systems.logic.vocabulary import VOCABULARY

_SECTIONS = ("language", "learner", "model", "train", "sample")


class Program(NamedTuple):
    """What a learner compiles once, for all loops that share it."""

    config: Config  # of the first of them: what decides the program is the same in all
    loops: list[Loop]


def programs(loops: list[Loop]) -> list[Program]:
    """Divide loops among programs; the one with the most work comes first."""
    alike: dict[tuple, list[Loop]] = {}
    for loop in loops:
        alike.setdefault(_what_decides(loop.config), []).append(loop)
    found = [Program(of_program[0].config, of_program) for of_program in alike.values()]
    return sorted(found, key=lambda program: -sum(training_operations(loop.config) for loop in program.loops))


def _what_decides(config: Config) -> tuple:
    """Everything that enters a learner's shapes and programs."""
    settings = tuple(
        (name, value)
        for section in _SECTIONS
        for name, value in ((f"{section}.{key}", value) for key, value in getattr(config, section))
        if name not in KNOBS
    )
    cycle, measure = config.cycle, config.measure
    rows = cycle.rows, memory_of(cycle).training_rows(cycle.generations - 1), measure.held_out_rows
    return settings, rows, measure.enumerate_every_generations > 0


def training_operations(config: Config) -> float:
    """About how many floating-point operations it takes to train all models of a loop, padding not counted."""
    if config.learner.name != "transformer":
        return 0.0
    tokens = config.train.steps * config.train.batch_expressions * (_mean_tokens(config.language) + 1)
    return config.cycle.generations * tokens * operations_per_position(config, config.model.context_tokens)


@functools.cache
def _mean_tokens(language: LanguageSettings) -> float:
    return language_of(language).mean_tokens


def weight_count(model: ModelSettings) -> int:
    """Numbers in a model, all of them."""
    width, layers = model.width, model.layers
    return 12 * width**2 * layers + (2 * layers + 1) * width + (VOCABULARY.size + model.context_tokens) * width


def operations_per_position(config: Config, row_tokens: int) -> float:
    """Operations of a training step for each position: forward, and twice as many backward; products of matrices."""
    model = config.model
    matrices = 12 * model.width**2 * model.layers + VOCABULARY.size * model.width
    attention = 2 * row_tokens * model.width * model.layers
    return 3 * 2 * (matrices + attention)
