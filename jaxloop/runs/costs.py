"""What a run will hold in memory, from its settings alone, before any of it is made.

Counted is what is held at the same time when most is held. The constants were measured on CPUs."""

from collections.abc import Callable

import jax

from jaxloop.config.schema import Config
from jaxloop.errors import InputError
from jaxloop.learners.placement import device_memory_bytes, on_cpu
from jaxloop.loop.interfaces import Part, Program
from jaxloop.loop.memories import memory_of
from jaxloop.loop.run_loops import rows_to_write
from jaxloop.runs import resources
from jaxloop.runs.models import MOST_HELD_BYTES
from jaxloop.runs.resources import size_text
from jaxloop.systems.interfaces import System
from jaxloop.systems.registry import learner_of

# A run that needs so many times what can ever be had is refused: less may be the prediction's fault.
_CERTAINLY_TOO_MUCH = 1.3
# A run that needs more than this part of what is free is warned of, and no more models are trained at once than it has.
_ROOMY = 0.8

_PROGRAM_BYTES, _COMPILER_BYTES = 330 * 2**20, 200 * 2**20
_PAIR_BYTES, _PAIRS_BYTES = 30, 120 * 2**20  # of a distance, and of all that are measured at once
_TAILS_ROW_BYTES, _TABLES_BYTES = 800, 10_000  # of a row of tails.csv, and of all other tables of a generation


def total(parts: list[Part]) -> float:
    """All of it."""
    return sum(part.bytes for part in parts)


def places_of(program: Program, system: System, fewest: bool = False) -> int:
    """How many loops are computed at once, or must be at the least; see `learners.placement.Placement`."""
    loops, chosen = len(program.loops), program.config.population.loops_per_device
    if not system.trains(program.config):
        return min(learner_of(system, program.config, loops).places, loops)
    devices = min(len(jax.local_devices()), max(loops, 2 if on_cpu() else 1))
    if on_cpu():
        return (2 if fewest else devices) * max(chosen, 1)
    return devices * (chosen or (1 if fewest else -(-loops // devices)))


def fitting_places(program: Program, system: System) -> int:
    """How many models the memory that is free now holds at once on a CPU: one a device, two at least."""
    each = total(learner_parts(program, system, 1))
    room = _ROOMY * resources.memory().free_bytes - _work_part([program], system).bytes
    return max(min(int(room / each), places_of(program, system)), 2)


def learner_parts(program: Program, system: System, places: int) -> list[Part]:
    """What so many loops of a program that are computed at once need, beside the rows that they begin with."""
    if not system.trains(program.config):
        return []
    cost = system.model_cost(program.config)
    return [
        *(part._replace(bytes=part.bytes * part.machine_share * places) for part in cost.parts),
        *cost.shared_parts,
    ]


def _program_part(found: list[Program], system: System) -> Part:
    compiles = any(system.trains(program.config) for program in found)
    return Part(_PROGRAM_BYTES + compiles * _COMPILER_BYTES, "the program itself", "it needs a larger machine")


def carried_rows(config: Config) -> int:
    """Rows that a loop hands on at last: those that train, and those that may train again."""
    cycle = config.cycle
    archive = memory_of(cycle).archived_rows(cycle.generations - 1)
    return memory_of(cycle).training_rows(cycle.generations - 1) + archive


def _rows_part(found: list[Program], system: System) -> Part:
    """The rows with which all loops stand, those of the generations under way, and the real ones of each seed."""
    held = under_way = 0
    real = {}
    for program in found:
        at_once = places_of(program, system)
        for loop in program.loops:
            config = loop.config
            width, rows = system.row_format(config).bytes, rows_to_write(config)
            asked, carried = rows + system.held_out_rows(config), carried_rows(config) * (width + 5)
            held += carried + rows * width
            under_way = max(under_way, at_once * (carried + rows * (width + 8) + 16 * asked))
            copies = 2 if system.trains(config) else 1
            different = min(rows, system.different_rows(config))
            of_real = asked * (copies * width + 30) + 8 * different * system.tail_classes(config)
            real[system.measured_alike(config), loop.seed] = of_real
    return Part(held + under_way + sum(real.values()), "rows", "lower cycle.rows, or run fewer cells or seeds")


def _work_part(found: list[Program], system: System) -> Part:
    """What measuring the rows of a generation takes, learning them, and drawing them."""
    greatest = 0
    for program in found:
        config, rows = program.config, rows_to_write(program.config)
        trained = memory_of(config.cycle).training_rows(config.cycle.generations - 1)
        drawn = max(system.drawn_rows(loop.config) for loop in program.loops)
        at_work = max(rows + system.held_out_rows(config), system.learnt_rows(config, trained), drawn)
        pairs = min(trained, system.different_rows(config)) ** 2 if system.pairwise() else 0
        worked = system.working_bytes(config, at_work) + min(_PAIR_BYTES * pairs, _PAIRS_BYTES)
        greatest = max(greatest, worked, system.drawing_bytes(config, max(rows, drawn)))
    return Part(greatest, "measuring rows", "lower cycle.rows or measure.held_out_rows")


def _whole_part(found: list[Program], system: System) -> Part:
    """Every row that there is, where all are enumerated."""
    wholes = {}
    for program in found:
        config, at_once = program.config, places_of(program, system)
        rows, width = system.whole_rows(config), system.row_format(config).bytes
        copies = 2 + at_once if system.trains(config) else 1
        each = copies * width + 4 * system.tail_classes(config) + 16 * at_once
        alike = system.measured_alike(config)
        wholes[alike] = max(wholes.get(alike, 0), rows * each + system.working_bytes(config, rows))
    return Part(sum(wholes.values()), "the whole language", "set measure.enumerate_every_generations=0")


def _tables_part(found: list[Program], system: System) -> Part:
    """Everything that is measured, of all generations of all loops."""
    rows = sum(
        loop.config.cycle.generations * (_TABLES_BYTES + _TAILS_ROW_BYTES * system.tail_classes(loop.config))
        for program in found
        for loop in program.loops
    )
    return Part(rows, "tables", "run fewer cells, seeds or generations")


def _held_part(found: list[Program], system: System) -> Part:
    """The newest models of the loops of a program, which wait until a newer one is there or the run ends."""
    trained = [program for program in found if system.trains(program.config)]
    held = max((4 * system.model_cost(program.config).weights * len(program.loops) for program in trained), default=0)
    return Part(min(held, MOST_HELD_BYTES), "models that wait to be written", "lower model.width or model.layers")


def require_memory(found: list[Program], system: System, warn: Callable[[str], None]) -> list[Part]:
    """Refuse a run that cannot fit into the memory that this process may ever have; warn of one that hardly fits.

    Args:
      found: the programs of all loops that this process runs.
      system: what the loops are about.
      warn: is told of a run that may break off.

    Returns:
      What it needs.

    Raises:
      InputError: it cannot fit; says what is needed and what is there, and which settings to lower.
    """
    memory, (least, usual) = resources.memory(), _memory_parts(found, system)
    if total(least) > _CERTAINLY_TOO_MUCH * memory.most_bytes:
        there = f"{memory.limit} {size_text(memory.most_bytes)}"
        raise InputError(f"the run needs about {size_text(total(least))} of memory, and {there}; {_advice(least)}")
    device_bytes = device_memory_bytes()
    for program in found if device_bytes else ():
        # What a device cannot hold of a single loop; the machine holds the others.
        of_one = system.model_cost(program.config).parts if system.trains(program.config) else []
        if device_bytes and total(of_one) > _CERTAINLY_TOO_MUCH * device_bytes:
            there = f"a device has {size_text(device_bytes)}"
            raise InputError(f"a loop needs about {size_text(total(of_one))} of memory, and {there}; {_advice(of_one)}")
    free = memory.held_bytes + memory.free_bytes
    needed = f"the run needs about {size_text(total(usual))} of memory, and {size_text(free)} are free"
    if total(least) > _ROOMY * free:
        warn(f"{needed}; if it is killed, this is why: {_advice(least)}")
    elif total(usual) > _ROOMY * free:
        warn(f"{needed}; fewer models are trained at once than there are cores")
    return usual


def _memory_parts(found: list[Program], system: System) -> tuple[list[Part], list[Part]]:
    """What a run of these programs needs of the machine, with no more models at once than must be, and as it begins."""
    parts = _program_part, _rows_part, _work_part, _whole_part, _tables_part, _held_part
    shared = [part(found, system) for part in parts]
    least, usual = (
        max(
            (learner_parts(program, system, places_of(program, system, fewest)) for program in found),
            key=total,
            default=[],
        )
        for fewest in (True, False)
    )
    return [*shared, *least], [*shared, *usual]


def _advice(parts: list[Part]) -> str:
    greatest = max(parts)
    return f"{size_text(greatest.bytes)} are for {greatest.what}: {greatest.remedy}"
