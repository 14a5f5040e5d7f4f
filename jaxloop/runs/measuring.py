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
    record: Record, measures: Measures[Any], system: System[Any], own: OwnMeasures | None = None
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
    arrays = {system.row_format(loop.config).name: written.points, **measured.of_samples, **log_prob}
    if is_own(loop.config.system.name):
        _require_tails(loop, measured.tails, measures.tail_rows(state.generation))
        _require_arrays(loop, arrays)
    require_columns(loop.config, measured.columns, written.columns)
    columns = {
        **place,
        **loop.axes,
        "control": int(loop.config.cycle.fresh_only),
        **measured.columns,
        **written.columns,
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
    if isinstance(tails, list) and len(tails) == count and all(map(_is_tail_row, tails)):
        return
    gave = f"{len(tails)}: {shortened(tails)}" if isinstance(tails, list) else type(tails).__name__
    raise RunError(
        f"system.name = {loop.config.system.name!r}: measure must give {count} rows of tails.csv, as tail_rows says, "
        f"each with {', '.join(TAIL_COLUMNS)}, the first two in words and all else in numbers, and gave {gave}; what "
        "was measured before is kept"
    )


def _is_tail_row(row: Any) -> bool:
    if not isinstance(row, dict) or not row.keys() >= set(TAIL_COLUMNS):
        return False
    words = [row[name] for name in TEXT if name in row]
    numbers = [value for name, value in row.items() if name not in TEXT]
    return all(isinstance(word, str) and word.isprintable() for word in words) and all(map(is_column_value, numbers))


def _require_arrays(loop: Loop, arrays: dict[str, Any]) -> None:
    """Refuse what a system of one's own gives of samples, where no reader would take it.

    Raises:
      RunError: they are not of the dtypes and sizes that the system says.
    """
    found = {name: (np.asarray(array).dtype, np.shape(array)) for name, array in arrays.items()}
    count = next(iter(found.values()))[1][0]
    stored = arrays_of_samples(loop)
    expected = {name: (np.dtype(dtype), (count, *shape[1:])) for name, (dtype, shape) in stored.items()}
    if found != expected:
        name = next(name for name in {**expected, **found} if found.get(name) != expected.get(name))
        raise RunError(
            f"system.name = {loop.config.system.name!r}: {name} of the samples is {_in_words(found.get(name))}, and "
            f"row_format and kept_of_samples say {_in_words(expected.get(name))}; what was measured before is kept"
        )


def _in_words(array: tuple | None) -> str:
    return f"{array[0]} of shape {array[1]}" if array else "nothing"
