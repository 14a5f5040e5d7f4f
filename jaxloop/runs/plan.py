"""What a run would cost on this machine: its programs are compiled and a few of their steps are timed; nothing is run.

What is compiled here stays in the cache, so the run itself need not compile it again. What the host does with rows is
tried with two small numbers of them and extended to the run's: all of it grows as the rows do, but for the distances of
all pairs, and those are counted. So a plan takes seconds, whatever the rows, the cells and the generations.
"""

import math
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

import numpy as np

from jaxloop.config.schema import Config, Loop, loops
from jaxloop.learners.placement import on_cpu
from jaxloop.loop.interfaces import Part, Program
from jaxloop.loop.memories import memory_of
from jaxloop.runs.capacity import make_model_learner
from jaxloop.runs.checkpoints import CHECKPOINTS_KEPT
from jaxloop.runs.costs import carried_rows, places_of, require_memory
from jaxloop.runs.environment import prepare
from jaxloop.runs.folder import FLUSH_SHARE
from jaxloop.runs.measuring import measures_of
from jaxloop.runs.programs import programs, training_operations
from jaxloop.runs.trials import HostTrial, WholeTrial, host_trial, model_trial, pair_counts, pair_seconds, whole_trial
from jaxloop.systems.interfaces import System
from jaxloop.systems.registry import system_of

_TRIAL_ROWS = (200, 2000)
# So many programs are compiled in any case, and more of them for so many seconds; the others are judged by those.
_COMPILED, _COMPILING_SECONDS = 6, 5.0
# Loops whose pairs of different rows are counted; the others are judged by those.
_COUNTED = 20
# What begins a run: Python and JAX. What ends it: figures, and what is made of each generation of a loop.
_BEGIN_SECONDS, _CLOSE_SECONDS, _CLOSE_GENERATION_SECONDS = 2.5, 3.0, 2e-4
_FILES = 14  # of a run as a whole
_MODEL_FILES, _MODEL_SECONDS = 12, 0.05  # of a model, as Orbax writes it


class ProgramPlan(NamedTuple):
    """What is expected of one program."""

    program: Program
    parameters: int  # of a model; 0 where none is trained
    loops_at_once: int
    compile_seconds: float
    generation_seconds: float  # of as many loops as are computed at once
    seconds: float  # of all generations of all loops
    measure_seconds: float  # of measuring them and keeping them, beside that
    device_bytes: int  # on each device; 0 where no model is trained, or the program was not compiled


class Plan(NamedTuple):
    """What is expected of a run."""

    programs: list[ProgramPlan]  # in the order in which they would be run
    begin_seconds: float
    close_seconds: float
    memory: list[Part]  # of the machine
    warnings: list[str]
    disk_bytes: float
    files: int

    @property
    def seconds(self) -> float:
        """From the command to its answer, where everything is compiled."""
        # On a CPU the host measures on the cores that train.
        both = sum if on_cpu() else max
        of_programs = (
            both((one.seconds, one.measure_seconds)) if one.parameters else one.seconds + one.measure_seconds
            for one in self.programs
        )
        return self.begin_seconds + sum(of_programs) + self.close_seconds


def plan(config: Config, say: Callable[[str], None]) -> Plan:
    """Compile the programs of a run and time them, and try on a few rows what the host does.

    Args:
      config: the run.
      say: is told what is going on.

    Raises:
      InputError: the run cannot fit into memory.
    """
    prepare()
    found, system = programs(loops(config)), system_of(config)
    warnings: list[str] = []
    memory = require_memory(found, system, warnings.append)
    say("trying the measures on a few rows")
    hosts = _HostPlan([loop for program in found for loop in program.loops], system)
    compiled, begun_compiling = {}, time.monotonic()
    trained = [place for place, program in enumerate(found) if system.trains(program.config)]
    for place in _spread(trained):
        if len(trained) > _COMPILED and compiled and time.monotonic() - begun_compiling > _COMPILING_SECONDS:
            break
        say(f"program {place + 1}: compiling, and timing a few steps")
        compiled[place] = _compiled_plan(found[place], system, hosts)
    planned = [
        compiled[place]
        if place in compiled
        else _like(program, system, list(compiled.values()), hosts)
        if system.trains(program.config)
        else _tried_plan(program, system, hosts)
        for place, program in enumerate(found)
    ]
    return Plan(
        programs=planned,
        begin_seconds=_BEGIN_SECONDS + hosts.begin_seconds,
        close_seconds=_CLOSE_SECONDS + _CLOSE_GENERATION_SECONDS * sum(map(_generations, found)),
        memory=memory,
        warnings=warnings,
        disk_bytes=hosts.disk_bytes,
        files=hosts.files,
    )


def _spread(places: list[int]) -> list[int]:
    """All of a few places; of many some that lie apart, those first that tell the most."""
    if len(places) <= _COMPILED:
        return places
    return [places[round(share * (len(places) - 1))] for share in (0, 1, 0.5, 0.25, 0.75)]


def _generations(program: Program) -> int:
    return sum(loop.config.cycle.generations for loop in program.loops)


def _rounds(program: Program, at_once: int) -> int:
    return math.ceil(_generations(program) / at_once)


def _compiled_plan(program: Program, system: System, hosts: "_HostPlan") -> ProgramPlan:
    """The plan of a program whose steps are timed."""
    begun = time.perf_counter()
    measures = measures_of(system, program.loops[: places_of(program, system)])
    learner = make_model_learner(program, system, measures)
    trial = model_trial(program, system, learner, measures)
    at_once = min(learner.places, len(program.loops))
    return ProgramPlan(
        program=program,
        parameters=trial.parameters,
        loops_at_once=at_once,
        compile_seconds=max(time.perf_counter() - begun - trial.timing_seconds, 0.0),
        generation_seconds=trial.generation_seconds,
        seconds=_rounds(program, at_once) * trial.generation_seconds,
        measure_seconds=hosts.measure_seconds(program, _rounds(program, at_once) * trial.generation_seconds),
        device_bytes=trial.device_bytes,
    )


def _like(program: Program, system: System, timed: list[ProgramPlan], hosts: "_HostPlan") -> ProgramPlan:
    """The plan of a program like one that was timed, by the operations of both."""

    def ratio(other: ProgramPlan) -> float:
        return training_operations(program.config) / training_operations(other.program.config)

    other = min(timed, key=lambda one: abs(math.log(ratio(one))))
    at_once = min(other.loops_at_once, len(program.loops))
    seconds = (
        other.generation_seconds
        * ratio(other)
        * other.program.config.cycle.generations
        / program.config.cycle.generations
    )
    return ProgramPlan(
        program,
        system.model_cost(program.config).weights,
        at_once,
        0.0,
        seconds,
        _rounds(program, at_once) * seconds,
        hosts.measure_seconds(program, _rounds(program, at_once) * seconds),
        0,
    )


def _tried_plan(program: Program, system: System, hosts: "_HostPlan") -> ProgramPlan:
    """The plan of a program whose learner takes milliseconds."""
    at_once = places_of(program, system)
    seconds = hosts.learn_seconds(program)
    each, measuring = seconds / _rounds(program, at_once), hosts.measure_seconds(program, seconds)
    return ProgramPlan(program, 0, at_once, 0.0, each, seconds, measuring, 0)


class _HostPlan:
    """What the host has to do in a run: learners of milliseconds, measures, files."""

    def __init__(self, every_loop: list[Loop], system: System):
        """Try it on a few rows."""
        self._system = system
        self._trials: dict[tuple, list[HostTrial]] = {}
        self._wholes: dict[tuple, WholeTrial] = {}
        self._pair_seconds: dict[Hashable, float] = {}
        begun, self.begin_seconds, self.disk_bytes, self.files = set(), 0.0, 0.0, _FILES
        for loop in every_loop:
            config, trials = loop.config, self._trials_of(loop)
            cycle, generations = config.cycle, config.cycle.generations
            width = system.row_format(config).bytes
            asked = cycle.rows + system.held_out_rows(config)
            alike = system.measured_alike(config)
            if alike not in begun:
                self.begin_seconds += self._whole_of(loop).begin_seconds
            if (alike, loop.seed) not in begun:
                self.begin_seconds += _extended(trials, "prepare_seconds", asked / 2)
            begun |= {alike, (alike, loop.seed)}
            checkpoint = carried_rows(config) * (width + 5) + cycle.rows * width
            kept = min(generations, CHECKPOINTS_KEPT)
            written = _extended(trials, "sample_bytes", cycle.rows) + _extended(trials, "table_bytes", cycle.rows)
            self.disk_bytes += generations * written + kept * checkpoint
            models = _model_count(config, system)
            self.disk_bytes += models * 4 * system.model_cost(config).weights if models else 0
            self.files += generations + trials[-1].files + models * _MODEL_FILES
        self._pairs = _pairs_of(every_loop, system)

    def _whole_of(self, loop: Loop) -> WholeTrial:
        config = loop.config
        if not self._system.whole_rows(config):
            return WholeTrial(0.0, 0.0, 0.0)
        alike = self._like(config), config.learner
        if alike not in self._wholes:
            self._wholes[alike] = whole_trial(loop, self._system)
        return self._wholes[alike]

    def _trials_of(self, loop: Loop) -> list[HostTrial]:
        config = loop.config
        often = tuple((every > 0, every == 1) for every in self._system.rare(config))
        alike = self._like(config), config.learner, often
        if alike not in self._trials:
            self._trials[alike] = [host_trial(loop, self._system, rows) for rows in _TRIAL_ROWS]
        if alike[0] not in self._pair_seconds:
            self._pair_seconds[alike[0]] = pair_seconds(config, self._system)
        return self._trials[alike]

    def _like(self, config: Config) -> Hashable:
        """What loops have in common of which one is tried."""
        return self._system.measured_alike(self._system.smaller(config, _TRIAL_ROWS[0], False))

    def learn_seconds(self, program: Program) -> float:
        """Seconds in which learners on the host are fitted, write and are asked, of all loops of a program."""
        seconds = 0.0
        for loop in program.loops:
            config, trials = loop.config, self._trials_of(loop)
            cycle = config.cycle
            asked = (cycle.rows + self._system.held_out_rows(config)) / 2
            of_one = _extended(trials, "learn_seconds", _mean_rows(config))
            of_one += _extended(trials, "write_seconds", cycle.rows)
            of_one += _extended(trials, "probe_seconds", asked) * _due_share(config, self._system.probed_every(config))
            of_one += self._whole_of(loop).probe_seconds * _due_share(config, self._system.whole_every(config))
            seconds += cycle.generations * of_one
        return seconds

    def measure_seconds(self, program: Program, learning_seconds: float) -> float:
        """Seconds in which what the loops of a program have written is measured and kept, beside the learning of it.

        Where generations come quickly, several are written together, so that a part of the time goes into that at most.
        """
        seconds = by_itself = last = 0.0
        for loop in program.loops:
            config, trials = loop.config, self._trials_of(loop)
            rows, generations = config.cycle.rows, config.cycle.generations
            often = self._system.rare(config)
            rare = max((_due_share(config, every) for every in often if every > 1), default=0.0)
            due = trials[-1].often_share + (1 - trials[-1].often_share) * rare
            of_one = due * _extended(trials, "measure_seconds", rows)
            of_one += _extended(trials, "training_seconds", _mean_rows(config))
            more = _extended(trials, "keep_more_seconds", rows)
            of_one += more
            alone = _extended(trials, "keep_seconds", rows) + trials[-1].keep_growth_seconds * (generations - 1) / 2
            by_itself += generations * max(alone - more, 0)
            last += max(alone - more, 0)
            of_one += self._whole_of(loop).measure_seconds * _due_share(config, self._system.whole_every(config))
            seconds += _model_count(config, self._system) * _MODEL_SECONDS
            seconds += generations * of_one + self._pairs(loop) * self._pair_seconds[self._like(config)]
        most = FLUSH_SHARE / (1 - FLUSH_SHARE) * (learning_seconds + seconds)
        return seconds + min(by_itself, most + last)


def _model_count(config: Config, system: System) -> int:
    """Models of a loop that are on the disk when it has come to its end: the newest, and those that stay."""
    if not system.trains(config):
        return 0
    every, last = config.store.models_every_generations, config.cycle.generations - 1
    return len({last, *range(0, last + 1, every)}) if every else 1


def _due_share(config: Config, every: int) -> float:
    """Part of the generations in which something is due every so many of them."""
    generations = config.cycle.generations
    return math.ceil(generations / every) / generations if every else 0.0


def _mean_rows(config: Config) -> float:
    """Rows that train a generation, in the mean."""
    last = config.cycle.generations - 1
    return (memory_of(config.cycle).training_rows(0) + memory_of(config.cycle).training_rows(last)) / 2


def _extended(trials: list[HostTrial], name: str, rows: float) -> float:
    """What it is with so many rows: on the line through two trials, which does not fall."""
    (fewer, less), (more, greater) = ((trial.rows, getattr(trial.cost, name)) for trial in trials)
    slope = max((greater - less) / (more - fewer), 0.0)
    return max(less + slope * (rows - fewer), 0.3 * less)


def _pairs_of(every_loop: list[Loop], system: System) -> Callable[[Loop], float]:
    """Build the function that says of how many pairs the distances are measured in all generations of a loop."""

    def alike(loop: Loop) -> tuple:
        config = loop.config
        like = system.measured_alike(system.smaller(config, _TRIAL_ROWS[0], False))
        return config.cycle, like, config.learner.name == "resample"

    if system.pairwise() is None:
        return lambda loop: 0.0
    first_of = {}
    for loop in every_loop:
        first_of.setdefault(alike(loop), loop)
    chosen = list(first_of)
    if len(chosen) > _COUNTED:
        chosen = [chosen[place] for place in np.linspace(0, len(chosen) - 1, _COUNTED).round().astype(int)]

    def most(loop: Loop) -> float:
        """If all rows of a generation were different."""
        return loop.config.cycle.generations * (2 * loop.config.cycle.rows**2 + _mean_rows(loop.config) ** 2) / 2

    counted = {}
    for key in chosen:
        samples, training = pair_counts(first_of[key], system)
        counted[key] = 2 * samples + training  # of true samples by themselves, too
    share = sum(counted.values()) / sum(most(first_of[key]) for key in chosen)
    return lambda loop: counted.get(alike(loop), share * most(loop))
