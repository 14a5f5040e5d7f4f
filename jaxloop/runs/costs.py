"""What a run will hold in memory, from its settings alone, before any of it is made.

Counted is what is held at the same time when most is held. The constants were measured on CPUs.

Legend: N rows, T tokens a row.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxloop.config.schema import Config, LanguageSettings
from jaxloop.errors import InputError
from jaxloop.learners.placement import device_memory_bytes
from jaxloop.learners.reference.learner import ReferenceLearner
from jaxloop.learners.transformer.packing import most_rows
from jaxloop.learners.transformer.sample import batch_count, chunk_prefixes
from jaxloop.loop.memories import memory_of
from jaxloop.runs import resources
from jaxloop.runs.models import MOST_HELD_BYTES
from jaxloop.runs.programs import Program, weight_count
from jaxloop.systems.logic.language import ENUMERATION_LIMIT, language_of
from jaxloop.systems.logic.vocabulary import VOCABULARY

# A run that needs so many times what can ever be had is refused: less may be the prediction's fault.
_CERTAINLY_TOO_MUCH = 1.3
# A run that needs more than this part of what is free is warned of, and no more models are trained at once than it has.
_ROOMY = 0.8

_PROGRAM_BYTES, _COMPILER_BYTES = 330 * 2**20, 200 * 2**20
_TOKEN_BYTES, _ROW_BYTES = 25, 150  # of rows while they are measured, or learnt by a reference learner
_PLANNING_BYTES = 70  # of each expression of each training step, while it is decided where it lies
_NODE_BYTES = 16  # of each node of the full tree as which an expression is drawn
_PAIR_BYTES, _PAIRS_BYTES = 30, 120 * 2**20  # of a distance, and of all that are measured at once
_TAILS_ROW_BYTES, _TABLES_BYTES = 800, 10_000  # of a row of tails.csv, and of all other tables of a generation


class Part(NamedTuple):
    """Some of the memory that a run needs."""

    bytes: float
    what: str
    remedy: str  # which settings make it less


def total(parts: list[Part]) -> float:
    """All of it."""
    return sum(part.bytes for part in parts)


def places_of(program: Program, fewest: bool = False) -> int:
    """How many loops are computed at once, or must be at the least; see `population.Placement`."""
    loops, chosen = len(program.loops), program.config.population.loops_per_device
    if program.config.learner.name != "transformer":
        return min(ReferenceLearner.places, loops)
    on_cpu = jax.default_backend() == "cpu"
    devices = min(len(jax.local_devices()), max(loops, 2 if on_cpu else 1))
    if on_cpu:
        return (2 if fewest else devices) * max(chosen, 1)
    return devices * (chosen or (1 if fewest else -(-loops // devices)))


def fitting_places(program: Program) -> int:
    """How many models the memory that is free now holds at once on a CPU: one a device, two at least."""
    each = total(learner_parts(program, 1))
    room = _ROOMY * resources.memory().free_bytes - _work_part([program]).bytes
    return max(min(int(room / each), places_of(program)), 2)


def learner_parts(program: Program, places: int) -> list[Part]:
    """What so many loops of a program that are computed at once need, beside the rows that they begin with."""
    if program.config.learner.name != "transformer":
        return []
    parts = place_parts(program.config)
    if jax.default_backend() != "cpu":
        # What lies on accelerators is not the machine's; the state of training comes back as a whole.
        parts = [part._replace(bytes=part.bytes * share) for part, share in zip(parts, (0.6, 0, 1), strict=True)]
    parts = [part._replace(bytes=part.bytes * places) for part in parts]
    train = program.config.train
    planning = _PLANNING_BYTES * train.steps * train.batch_expressions
    return [*parts, Part(planning, "planning training steps", "lower train.steps or train.batch_expressions")]


def place_parts(config: Config) -> list[Part]:
    """What one loop of a training program takes of its device, or on a CPU of the memory of all."""
    cycle, model, train = config.cycle, config.model, config.train
    width, rows = model.context_tokens, memory_of(cycle).training_rows(cycle.generations - 1)
    row_tokens, on_cpu = train.row_tokens or width, jax.default_backend() == "cpu"
    weights = 4 * weight_count(model)
    # A model that begins is there twice, each time with two moments and as the best one; and the parameters of its
    # last generation wait to be written.
    models = 9 * weights
    batch = -(-cycle.rows // batch_count(cycle.rows, config.sample.batch_rows))
    chunk = chunk_prefixes(batch)
    cache = 2 * model.layers * model.width * (4 if on_cpu else 2) * (batch * width + chunk)
    sampler = cache + 16 * chunk * width * model.width + 2 * cycle.rows * (width + 4)
    laid_out = max(train.batch_expressions, math.ceil(train.validation_share * rows), min(rows, 1024))
    laid_out = most_rows(laid_out, width, row_tokens) * row_tokens * (4 * VOCABULARY.size + 4)
    plans = 12 * train.steps * train.batch_expressions + rows * (width + 12)
    return [
        Part(models, "models", "lower model.width or model.layers"),
        # Meanwhile the model and its moments are there once.
        Part(max(sampler - 3 * weights, 0), "what sampling has read", "lower sample.batch_rows"),
        Part(
            laid_out + 2 * plans,
            "rows of training steps",
            "lower cycle.rows, train.steps or train.batch_expressions",
        ),
    ]


@functools.cache
def expression_count(language: LanguageSettings) -> int:
    """How many expressions a language has."""
    return language_of(language).expression_count


def _class_count(language: LanguageSettings) -> int:
    """Rows of tails.csv of a generation, at most: tenths, depths, numbers of operators, tokens at the root."""
    return 10 + language.max_depth + 1 + 2**language.max_depth + 3


def _program_part(found: list[Program]) -> Part:
    compiles = any(program.config.learner.name == "transformer" for program in found)
    return Part(_PROGRAM_BYTES + compiles * _COMPILER_BYTES, "the program itself", "it needs a larger machine")


def carried_rows(config: Config) -> int:
    """Rows that a loop hands on at last: those that train, and those that may train again."""
    cycle = config.cycle
    archive = memory_of(cycle).archived_rows(cycle.generations - 1)
    return memory_of(cycle).training_rows(cycle.generations - 1) + archive


def _rows_part(found: list[Program]) -> Part:
    """The rows with which all loops stand, those of the generations under way, and the real ones of each seed."""
    held = under_way = 0
    real = {}
    for program in found:
        at_once = places_of(program)
        for loop in program.loops:
            config, measure = loop.config, loop.config.measure
            width, rows = config.model.context_tokens, config.cycle.rows
            asked, carried = rows + measure.held_out_rows, carried_rows(config) * (width + 5)
            held += carried + rows * width
            under_way = max(under_way, at_once * (carried + rows * (width + 8) + 16 * asked))
            alike = config.language, measure, rows, config.cycle.first_mass_share, width, loop.seed
            copies = 2 if config.learner.name == "transformer" else 1
            different = min(rows, expression_count(config.language))
            real[alike] = asked * (copies * width + 30) + 8 * different * _class_count(config.language)
    return Part(held + under_way + sum(real.values()), "rows", "lower cycle.rows, or run fewer cells or seeds")


def _work_part(found: list[Program]) -> Part:
    """What measuring the rows of a generation takes, learning them, and drawing them."""
    greatest = 0
    for program in found:
        config, language = program.config, program.config.language
        width, rows = config.model.context_tokens, config.cycle.rows
        trained = memory_of(config.cycle).training_rows(config.cycle.generations - 1)
        narrowed = 2 * rows if any(loop.config.cycle.first_mass_share < 1 for loop in program.loops) else 0
        learnt = trained if config.learner.name in ("ngram", "grammar") else trained // 3
        at_work = max(rows + config.measure.held_out_rows, learnt, narrowed)
        drawn = min(max(rows, narrowed), 2**24 >> language.max_depth) * 2 ** (language.max_depth + 1)
        different = min(trained, expression_count(language))
        distances = min(_PAIR_BYTES * different**2, _PAIRS_BYTES)
        worked = at_work * (_TOKEN_BYTES * width + _ROW_BYTES) + distances
        greatest = max(greatest, worked, drawn * _NODE_BYTES)
    return Part(greatest, "measuring rows", "lower cycle.rows or measure.held_out_rows")


def _whole_part(found: list[Program]) -> Part:
    """Every expression of a language, where it is enumerated."""
    wholes = {}
    for program in found:
        width, trains = program.config.model.context_tokens, program.config.learner.name == "transformer"
        language = program.config.language
        copies = 2 + places_of(program) if trains else 1
        each = (_TOKEN_BYTES + copies) * width + 4 * _class_count(language) + 16 * places_of(program) + _ROW_BYTES
        if program.config.measure.enumerate_every_generations and expression_count(language) <= ENUMERATION_LIMIT:
            alike = program.config.language, width
            wholes[alike] = max(wholes.get(alike, 0), expression_count(language) * each)
    return Part(sum(wholes.values()), "the whole language", "set measure.enumerate_every_generations=0")


def _tables_part(found: list[Program]) -> Part:
    """Everything that is measured, of all generations of all loops."""
    rows = sum(
        loop.config.cycle.generations * (_TABLES_BYTES + _TAILS_ROW_BYTES * _class_count(loop.config.language))
        for program in found
        for loop in program.loops
    )
    return Part(rows, "tables", "run fewer cells, seeds or generations")


def _held_part(found: list[Program]) -> Part:
    """The newest models of the loops of a program, which wait until a newer one is there or the run ends."""
    held = max(
        (
            4 * weight_count(program.config.model) * len(program.loops)
            for program in found
            if program.config.learner.name == "transformer"
        ),
        default=0,
    )
    return Part(min(held, MOST_HELD_BYTES), "models that wait to be written", "lower model.width or model.layers")


def require_memory(found: list[Program], warn: Callable[[str], None]) -> list[Part]:
    """Refuse a run that cannot fit into the memory that this process may ever have; warn of one that hardly fits.

    Args:
      found: the programs of all loops that this process runs.
      warn: is told of a run that may break off.

    Returns:
      What it needs.

    Raises:
      InputError: it cannot fit; says what is needed and what is there, and which settings to lower.
    """
    memory, (least, usual) = resources.memory(), _memory_parts(found)
    if total(least) > _CERTAINLY_TOO_MUCH * memory.most_bytes:
        there = f"{memory.limit} {size_text(memory.most_bytes)}"
        raise InputError(f"the run needs about {size_text(total(least))} of memory, and {there}; {_advice(least)}")
    for program in found if device_memory_bytes() else ():
        # What a device cannot hold of a single loop; the machine holds the others.
        of_one = place_parts(program.config) if program.config.learner.name == "transformer" else []
        if total(of_one) > _CERTAINLY_TOO_MUCH * device_memory_bytes():
            there = f"a device has {size_text(device_memory_bytes())}"
            raise InputError(f"a loop needs about {size_text(total(of_one))} of memory, and {there}; {_advice(of_one)}")
    free = memory.held_bytes + memory.free_bytes
    needed = f"the run needs about {size_text(total(usual))} of memory, and {size_text(free)} are free"
    if total(least) > _ROOMY * free:
        warn(f"{needed}; if it is killed, this is why: {_advice(least)}")
    elif total(usual) > _ROOMY * free:
        warn(f"{needed}; fewer models are trained at once than there are cores")
    return usual


def _memory_parts(found: list[Program]) -> tuple[list[Part], list[Part]]:
    """What a run of these programs needs of the machine, with no more models at once than must be, and as it begins."""
    shared = [_program_part(found), _rows_part(found), _work_part(found), _whole_part(found), _tables_part(found)]
    shared.append(_held_part(found))
    least, usual = (
        max((learner_parts(program, places_of(program, fewest)) for program in found), key=total, default=[])
        for fewest in (True, False)
    )
    return [*shared, *least], [*shared, *usual]


def _advice(parts: list[Part]) -> str:
    greatest = max(parts)
    return f"{size_text(greatest.bytes)} are for {greatest.what}: {greatest.remedy}"


def size_text(size: float) -> str:
    """So many bytes for a reader."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:,.3g} {name}" if size < 1000 * unit else f"{size / unit:,.0f} {name}"
    return f"{size / 2**10:,.3g} KiB"
