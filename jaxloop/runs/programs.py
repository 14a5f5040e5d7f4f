"""Which loops of a run go through the same compiled programs, and in which order the programs are run."""

from jaxloop.config.schema import DECIDING_NOTHING, Config, Loop
from jaxloop.loop.interfaces import Program
from jaxloop.loop.memories import memory_of
from jaxloop.loop.run_loops import rows_to_write
from jaxloop.systems.registry import system_of

# Their settings enter by what they come to.
_ELSEWHERE = ("cycle", "curation", "measure", *DECIDING_NOTHING)


def programs(loops: list[Loop]) -> list[Program]:
    """Divide loops among programs; the one with the most work comes first."""
    alike: dict[tuple, list[Loop]] = {}
    for loop in loops:
        alike.setdefault(_what_decides(loop.config), []).append(loop)
    found = [Program(of_program[0].config, of_program) for of_program in alike.values()]
    return sorted(found, key=lambda program: -sum(training_operations(loop.config) for loop in program.loops))


def _what_decides(config: Config) -> tuple:
    """Everything that enters a learner's shapes and programs."""
    knobs, system, cycle = config.knobs(), system_of(config), config.cycle
    settings = tuple(
        (f"{section}.{key}", value)
        for section in config.sections()
        if section not in _ELSEWHERE
        for key, value in getattr(config, section)
        if f"{section}.{key}" not in knobs
    )
    rows = rows_to_write(config), memory_of(cycle).training_rows(cycle.generations - 1), system.held_out_rows(config)
    return settings, rows, system.whole_every(config) > 0


def training_operations(config: Config) -> float:
    """About how many floating-point operations it takes to train all models of a loop; 0 where none are trained."""
    return system_of(config).training_operations(config)
