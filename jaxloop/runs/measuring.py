"""What is measured of each generation of each loop, as rows of the run folder's tables."""

import time
from collections.abc import Callable
from typing import Any

from jaxloop.config.imports import guarded, is_own
from jaxloop.config.schema import Loop
from jaxloop.errors import RunError
from jaxloop.loop.interfaces import Learner, Record
from jaxloop.loop.rows import provenance_counts
from jaxloop.systems.interfaces import Measured, Measures, System
from jaxloop.systems.registry import OwnMeasures, require_columns


def measures_of(system: System, loops: list[Loop]) -> dict[int, Measures]:
    """By index, the measures of every loop; loops that are measured alike share theirs.

    Raises:
      InputError: what is asked for cannot be measured.
    """
    by_likeness, by_index = {}, {}
    for loop in loops:
        alike = system.measured_alike(loop.config)
        if alike not in by_likeness:
            measures, name = system.measures(loop.config), loop.config.system.name
            by_likeness[alike] = guarded(measures, "system.name", name) if is_own(name) else measures
        by_index[loop.index] = by_likeness[alike]
    return by_index


def probes_of(measures: dict[int, Measures], learner: Learner) -> Callable[[Loop, int], dict[str, Any]]:
    """Build the function that says what a learner is asked for, for a loop and a generation."""
    by_measures = {}

    def probes(loop: Loop, generation: int) -> dict[str, Any]:
        own = measures[loop.index]
        if own not in by_measures:
            by_measures[own] = own.probes(learner)
        return by_measures[own](loop, generation)

    return probes


def tables_of(
    record: Record, measures: Measures[Any], system: System[Any], own: OwnMeasures | None = None
) -> tuple[Measured, dict[str, list[dict]]]:
    """All that is measured of one generation of one loop, and the rows of the tables that it becomes."""
    loop, state, spent = record.loop, record.state, record.seconds
    place = {"loop": loop.index, "seed": loop.seed, "generation": state.generation}
    begun = time.perf_counter()
    name, has_density = loop.config.learner.name, "log_prob" in system.kept_of_samples(loop.config)
    if has_density and record.written.log_prob_N is None:
        raise RunError(
            f"learner.name = {name!r}: the system keeps the log-probability of each sample; give log_prob_N, and NaN "
            "where nobody knows it; what was measured before is kept"
        )
    measured = measures.measure(record)
    require_columns(loop.config, measured.columns, record.written.columns)
    columns = {
        **place,
        **loop.axes,
        "control": int(loop.config.cycle.fresh_only),
        **measured.columns,
        **record.written.columns,
        **(own.measure(record) if own else {}),
    }
    seconds = {
        "train_seconds": spent.train,
        "sample_seconds": spent.sample,
        "probe_seconds": sum(spent.probes.values()),
        "measure_seconds": time.perf_counter() - begun,
    }
    samples = samples_of(record, measured, system)
    return measured, {
        "metrics": [columns],
        "tails": [{**place, **row} for row in measured.tails],
        "timings": [{**place, **{name: round(value, 4) for name, value in seconds.items()}}],
        "provenance": [
            {**place, "kind": kind, "from_generation": origin, "rows": count}
            for kind, origin, count in provenance_counts(state.carry.training)
        ],
        "top_samples": [{**place, **row} for row in system.top_rows(samples)],
    }


def samples_of(record: Record, measured: Measured, system: System) -> dict[str, Any]:
    """The arrays that are stored of a generation's samples."""
    name, log_prob_N = system.row_format(record.loop.config).name, record.written.log_prob_N
    log_prob = {} if log_prob_N is None else {"log_prob": log_prob_N}
    return {name: record.written.points, **measured.of_samples, **log_prob}
