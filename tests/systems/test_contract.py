"""What every system and every learner of it owes the loop, the run folder and the tables; one's own owe it, too."""

import itertools

import numpy as np
import pytest
from processes import TESTS
from tiny import run_silently

import jaxloop
from jaxloop.config.imports import SYSTEMS, system_settings
from jaxloop.config.presets import load
from jaxloop.config.schema import loops
from jaxloop.loop.interfaces import Task
from jaxloop.loop.run_loops import rows_to_write
from jaxloop.runs.measuring import kept_of
from jaxloop.systems.registry import learner_of, system_of

SMALL = {
    "logic": (str(TESTS / "tiny.toml"), ["grid={}", "measure.enumerate_every_generations=1"]),
    "gaussian": (
        "gaussian",
        ["seeds=[0]", "cycle.rows=60", "cycle.generations=3", "store.samples_every_generations=1"],
    ),
    "own:DiceConfig": (str(TESTS / "dice.toml"), ["cycle.generations=3"]),
}


def learners(system: str) -> list[str]:
    names = system_settings(system).sections()["learner"].model_json_schema()["properties"]["name"]["enum"]
    return [name for name in names if name != "module:Name"]


PAIRS = [(system, learner) for system in SYSTEMS for learner in learners(system)] + [("own:DiceConfig", "copies")]


def small(system: str, learner: str, *overrides: str):
    source, settings = SMALL[system]
    return load(source, [*settings, *([] if ":" in system else [f"learner.name={learner}"]), *overrides])


def test_every_system_is_small_here():
    """Catches a system that nobody holds to the contract."""
    assert set(SMALL) - {"own:DiceConfig"} == set(SYSTEMS)


@pytest.mark.parametrize("system", SMALL)
def test_a_source_draws_rows_of_its_format_by_seed_and_generation_alone(system):
    """Catches rows of another shape, one draw that decides another, and seeds or generations that are alike."""
    config = small(system, "resample")
    of_system, count = system_of(config), config.cycle.rows
    row = of_system.row_format(config)
    drawn = {("first", seed): of_system.first_rows(config, seed) for seed in (0, 1)}
    drawn |= {
        (seed, generation): of_system.fresh_rows(config, seed, generation, count)
        for seed, generation in itertools.product((0, 1), (1, 2))
    }
    for points in drawn.values():
        assert (points.shape, points.dtype) == ((count, *row.shape), row.dtype)
    contents = [points.tobytes() for points in drawn.values()]
    assert len(set(contents)) == len(contents)
    np.testing.assert_array_equal(of_system.first_rows(config, 0), drawn["first", 0])
    np.testing.assert_array_equal(of_system.fresh_rows(config, 1, 2, count), drawn[1, 2])
    assert of_system.fresh_rows(config, 0, 1, 0).shape == (0, *row.shape)
    assert len(of_system.texts(drawn["first", 0])) == count


@pytest.mark.parametrize(("system", "learner"), PAIRS)
def test_what_is_written_and_measured_is_what_is_declared(system, learner):
    """Catches a learner whose rows or probabilities the loop could not go on with, a column that nobody declares, one
    that is declared and never measured, and rows of tails.csv that a resume would miss.
    """
    config = small(system, learner, "seeds=[0, 1]")
    of_system, group = system_of(config), loops(config)
    row, kept = of_system.row_format(config), of_system.kept_of_samples(config)
    fitted, measures = learner_of(of_system, config, len(group)), of_system.measures(config)
    assert fitted.places >= 1
    probes = measures.probes(fitted)
    tasks = [
        Task(loop, 0, of_system.first_rows(config, loop.seed), rows_to_write(config), probes(loop, 0)) for loop in group
    ][: fitted.places]
    shares: list[float] = []
    written, seconds = fitted.finish(fitted.start(tasks), shares.append)
    assert len(written) == len(tasks) and all(0 <= share <= 1 for share in shares) and seconds.train >= 0
    for task, one in zip(tasks, written, strict=True):
        assert (one.points.shape, one.points.dtype) == ((task.count, *row.shape), row.dtype)
        assert ("log_prob" in kept) == (one.log_prob_N is not None)
        assert one.log_prob_N is None or one.log_prob_N.shape == (task.count,)
        assert one.probed.keys() == task.probes.keys() and not one.diverged
        assert bool(one.parameters) == bool(of_system.parameter_shapes(config))
    declared = [column.name for column in of_system.columns.declared]
    (kept_record, *_) = recorded(config, of_system, tasks, written, seconds)
    arrays, tables = kept_of(kept_record, measures, of_system)
    (columns,) = tables["metrics"]
    assert set(columns) - {"loop", "seed", "generation", "control"} == set(declared)
    assert len(tables["tails"]) == measures.tail_rows(0) <= max(of_system.tail_classes(config), measures.tail_rows(0))
    bounds = {column.name: (column.least, column.most) for column in of_system.columns.declared}
    for name, (least, most) in bounds.items():
        value = columns[name]
        # Estimates of a divergence may fall below what it can be.
        assert np.isnan(value) or name.endswith("_kl_nats") or least <= value <= most, name
    assert {name: array.dtype for name, array in arrays.items()} == {row.name: row.dtype, **kept}


def recorded(config, of_system, tasks, written, seconds):
    """The records of a generation, as the loop makes them."""
    from jaxloop.loop.interfaces import Record, State
    from jaxloop.loop.run_loops import next_carry

    for task, one in zip(tasks, written, strict=True):
        yield Record(task.loop, State(0, next_carry(task.loop, None, of_system)[0], one.points), one, seconds)


@pytest.mark.parametrize(("system", "learner"), PAIRS)
def test_what_is_stored_is_read_as_it_was(system, learner, tmp_path):
    """Catches rows that come back from a folder as other rows, of another dtype, or without a reader's text."""
    config = small(system, learner)
    run_silently(config, tmp_path / "run")
    run, of_system = jaxloop.open_run(tmp_path / "run"), system_of(config)
    row = of_system.row_format(config)
    for generation in range(config.cycle.generations):
        arrays = run.sample_arrays(0, generation)
        assert set(arrays) == {row.name, *of_system.kept_of_samples(config)}
        assert (arrays[row.name].shape, arrays[row.name].dtype) == ((config.cycle.rows, *row.shape), row.dtype)
        assert len(run.samples(0, generation)) == config.cycle.rows
    assert len(run.metrics) == config.cycle.generations and str(run.answer)
