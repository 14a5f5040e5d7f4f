"""What is kept of each generation of each loop: rows of the run folder's tables, and arrays of its samples."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxloop.analysis.cells import TAIL_COLUMNS, TEXT
from jaxloop.config.imports import guarded, is_own
from jaxloop.config.schema import Loop, shortened
from jaxloop.errors import RunError
from jaxloop.loop.interfaces import Learner, Record
from jaxloop.loop.rows import provenance_counts
from jaxloop.runs.stored import arrays_of_samples
from jaxloop.systems.interfaces import Measured, Measures, System
from jaxloop.systems.registry import OwnMeasures, is_column_value, require_columns


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


def kept_of(
    record: Record,
    measures: Measures[Any],
    system: System[Any],
    own: OwnMeasures | None = None,
    with_remedies: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, list[dict]]]:
    """All that is kept of one generation of one loop: arrays of its samples, and rows of tables.

    Raises:
      RunError: a part of one's own gives what cannot be kept.
    """
    loop, state, written, spent = record.loop, record.state, record.written, record.seconds
    place = {"loop": loop.index, "seed": loop.seed, "generation": state.generation}
    begun = time.perf_counter()
    name, has_density = loop.config.learner.name, "log_prob" in system.kept_of_samples(loop.config)
    if has_density and written.log_prob_N is None:
        raise RunError(
            f"learner.name = {name!r}: the system keeps the log-probability of each sample; give log_prob_N, and NaN "
            "where nobody knows it; what was measured before is kept"
        )
    measured = measures.measure(record)
    if not isinstance(measured, Measured):
        raise RunError(
            f"system.name = {loop.config.system.name!r}: measure must give a jaxloop.Measured, and gave "
            f"{shortened(measured)}; what was measured before is kept"
        )
    log_prob = {} if written.log_prob_N is None else {"log_prob": written.log_prob_N}
    rows = {system.row_format(loop.config).name: written.points}
    if not isinstance(measured.of_samples, dict) or measured.of_samples.keys() & {*rows, "log_prob"}:
        raise RunError(
            f"system.name = {loop.config.system.name!r}: of_samples must be a dictionary of arrays by other names than "
            f"{', '.join(rows)} and log_prob, which are there already; what was measured before is kept"
        )
    arrays = {**rows, **measured.of_samples, **log_prob}
    if is_own(loop.config.system.name):
        _require_tails(loop, measured.tails, measures.tail_rows(state.generation))
        _require_arrays(loop, arrays, len(written.points))
    require_columns(loop.config, measured.columns, written.columns)
    columns = {
        **place,
        **loop.axes,
        "control": int(loop.config.cycle.fresh_only),
        **measured.columns,
        **written.columns,
        **(record.curated if with_remedies else {}),
        **(own.measure(record) if own else {}),
    }
    seconds = {
        "train_seconds": spent.train,
        "sample_seconds": spent.sample,
        "probe_seconds": sum(spent.probes.values()),
        "measure_seconds": time.perf_counter() - begun,
    }
    return arrays, {
        "metrics": [columns],
        "tails": [{**place, **row} for row in measured.tails],
        "timings": [{**place, **{name: round(value, 4) for name, value in seconds.items()}}],
        "provenance": [
            {**place, "kind": kind, "from_generation": origin, "rows": count}
            for kind, origin, count in provenance_counts(state.carry.training)
        ],
        "top_samples": [{**place, **row} for row in system.top_rows(arrays)],
    }


def _require_tails(loop: Loop, tails: Any, count: int) -> None:
    """Refuse rows of tails.csv of a system of one's own, where readers could do nothing with them.

    Raises:
      RunError: there are not as many as it says, or they are other than all are.
    """
    where = f"system.name = {loop.config.system.name!r}: tails"
    if not isinstance(tails, list) or len(tails) != count:
        there = len(tails) if isinstance(tails, list) else type(tails).__name__
        raise RunError(
            f"{where} must be a list of as many rows as tail_rows says, {count}, and is {there}; what was measured "
            "before is kept"
        )
    for place, row in enumerate(tails):
        if fault := _fault_of_a_tail(row):
            raise RunError(f"{where}: row {place}: {fault}; what was measured before is kept")


def _fault_of_a_tail(row: Any) -> str | None:
    """What is wrong with a row of tails.csv; None where nothing is."""
    if not isinstance(row, dict) or not row.keys() >= set(TAIL_COLUMNS):
        return f"must be a dictionary with {', '.join(TAIL_COLUMNS)}, and is {shortened(row)}"
    for name, value in row.items():
        if name in TEXT and not (isinstance(value, str) and value.isprintable()):
            return f"{name} must be a word, and is {shortened(value)}"
        if name not in TEXT and not is_column_value(value):
            return f"{name} must be a number, and is {shortened(value)}"
    return None


def _require_arrays(loop: Loop, arrays: dict[str, Any], count: int) -> None:
    """Refuse what a system of one's own gives of samples, where no reader would take it.

    Raises:
      RunError: they are not of the dtypes and sizes that the system says.
    """
    found = {
        name: (array.dtype, array.shape) if isinstance(array, np.ndarray) else (type(array).__name__, ())
        for name, array in arrays.items()
    }
    expected = {name: (dtype, (count, *shape[1:])) for name, (dtype, shape) in arrays_of_samples(loop).items()}
    if found != expected:
        name = next(name for name in {**expected, **found} if found.get(name) != expected.get(name))
        raise RunError(
            f"system.name = {loop.config.system.name!r}: {name} of the samples is {_in_words(found.get(name))}, and "
            f"row_format and kept_of_samples say {_in_words(expected.get(name))}; what was measured before is kept"
        )


def _in_words(array: tuple | None) -> str:
    return f"{array[0]} of shape {array[1]}" if array else "nothing"
