"""The Gaussian system in whole runs: every memory, resume, plans, the folder, and what is not a number."""

import json
import math

import numpy as np
import pytest
from tiny import Silent, read, results, run_silently

from jaxloop.api import open_run
from jaxloop.config.presets import load
from jaxloop.config.schema import loops
from jaxloop.errors import RunError
from jaxloop.runs.integrity import verify_run
from jaxloop.runs.plan import plan
from jaxloop.systems.gaussian.columns import COLUMNS
from jaxloop.systems.registry import system_of

MEMORIES = ("full_synthetic", "balanced", "incremental", "expanding", "window", "subsampled", "fixed_real")
LEARNERS = ("moments", "resample", "oracle")
NO_VALUE = {"model_mean", "model_variance", "wasserstein_2", "total_variation", "forward_kl_nats", "held_out_nats"}


def config_of(*overrides):
    size = ["seeds=[0,1,2]", "cycle.rows=30", "cycle.generations=6", "store.samples_every_generations=1"]
    return load("gaussian", [*size, *overrides])


def by_learner(path, name):
    """A column's values by the learner."""
    found = {}
    for row in read(path):
        found.setdefault(row["learner.name"], []).append(float(row[name] or "nan"))
    return found


@pytest.mark.parametrize("memory", MEMORIES)
def test_every_memory_runs_with_every_learner(tmp_path, memory):
    """A learner that has no room for the rows of a memory, or measures that need what a learner has not."""
    config = config_of(f"cycle.name={memory}", f"grid={{'learner.name' = {list(LEARNERS)}}}")
    run_silently(config, tmp_path / "run")
    rows = read(tmp_path / "run")
    assert len(rows) == 3 * 3 * 6
    assert set(rows[0]) == {"loop", "seed", "generation", "learner.name", "control"} | {
        column.name for column in COLUMNS.declared
    }
    for name in ("diversity", "sample_variance", "sample_mean", "training_diversity", "training_rows"):
        assert all(np.isfinite(values).all() for values in by_learner(tmp_path / "run", name).values())
    for name in NO_VALUE:
        values = by_learner(tmp_path / "run", name)
        assert np.isfinite(values["moments"]).all()
        assert np.isfinite(values["oracle"]).all()
        assert np.isnan(values["resample"]).all(), "it has no density"
    assert all(value == 0 for value in by_learner(tmp_path / "run", "untempered_forward_kl_nats")["oracle"])
    assert verify_run(tmp_path / "run").damages == []


def test_values_stay_in_the_bounds_that_are_declared(tmp_path):
    """A column whose bounds are wrong has its intervals cut at the wrong place."""
    run_silently(config_of(), tmp_path / "run")
    for column in COLUMNS.declared:
        values = [float(row[column.name] or "nan") for row in read(tmp_path / "run")]
        assert min(values) >= column.least, column.name
        assert max(values) <= column.most, column.name


@pytest.mark.parametrize("memory", ["full_synthetic", "subsampled"])
def test_a_run_that_was_interrupted_comes_to_the_same_bits(tmp_path, memory):
    """A generation that depends on more than rows and seed: a key that is split on, or a model that is handed on."""
    config = config_of(f"cycle.name={memory}", "cycle.fresh_share=0.2")
    run_silently(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_silently(config, tmp_path / "run", Silent(stop_after=8))
    display = run_silently(config, tmp_path / "run")
    assert display.resumed
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_a_run_with_fewer_seeds_is_a_part_of_it(tmp_path):
    """Loops that share a program must not share anything else."""
    run_silently(config_of(), tmp_path / "three")
    run_silently(config_of("seeds=[1]"), tmp_path / "one")
    of_one = [{**row, "loop": "1"} for row in read(tmp_path / "one")]
    assert of_one == [row for row in read(tmp_path / "three") if row["seed"] == "1"]
    samples = open_run(tmp_path / "three").sample_arrays(1, 3), open_run(tmp_path / "one").sample_arrays(0, 3)
    assert samples[0]["points"].tobytes() == samples[1]["points"].tobytes()


def test_tails_are_told_by_density(tmp_path):
    """A memoriser has no density that could be compared, but mass; its rows are not all dead."""
    run_silently(config_of("grid={'learner.name' = ['moments', 'resample', 'oracle']}"), tmp_path / "run")
    tails = read(tmp_path / "run", "tails")
    assert len(tails) == 9 * 6 * 10
    assert {row["classes"] for row in tails} == {"tenth"}
    assert {row["source_share"] for row in tails} == {"0.1"}
    learner = {row["loop"]: row["learner.name"] for row in read(tmp_path / "run")}
    for row in tails:
        if learner[row["loop"]] == "resample":
            assert row["alive_share"] == ""
        elif learner[row["loop"]] == "oracle":
            assert float(row["model_share"]) == pytest.approx(0.1)
            assert row["alive_share"] in ("1.0", "")
    of_generation = [row for row in tails if (row["loop"], row["generation"]) == ("0", "5")]
    assert sum(float(row["model_share"]) for row in of_generation) == pytest.approx(1)
    assert sum(int(row["first_rows"]) for row in of_generation) == 30
    modes = [row for row in read(tmp_path / "run", "collapse") if row["meaning"] == "loss of modes"]
    met = {row["loop"]: row["met_in_generation"] for row in modes}
    assert all(met[loop] == "not measured" for loop in met if learner[loop] == "resample")
    assert all(met[loop] != "not measured" for loop in met if learner[loop] != "resample")


def test_the_two_estimators_differ_as_they_should(tmp_path):
    """Dividing by n - 1 keeps the variance in the mean, and yet the typical loop loses it."""
    grid = "grid={'learner.estimator' = ['ml', 'unbiased']}"
    run_silently(config_of("cycle.rows=10", grid), tmp_path / "run")
    first = [row for row in read(tmp_path / "run") if row["generation"] == "0"]
    ml, unbiased = (
        [float(row["model_variance"]) for row in first if row["learner.estimator"] == name]
        for name in ("ml", "unbiased")
    )
    np.testing.assert_allclose(np.divide(unbiased, ml), 10 / 9, rtol=1e-5)


def test_a_loop_that_grows_beyond_all_numbers_says_what_to_lower(tmp_path):
    """It ended in a line about learning rates, or in a traceback because there are none."""
    with pytest.raises(RunError, match=r"lower sample.temperature \(there 100\)"):
        run_silently(config_of("sample.temperature=100", "cycle.generations=60"), tmp_path / "run")
    assert len(read(tmp_path / "run")) > 3 * 15, "what was measured before is kept"


def test_a_loop_without_variance_is_measured_to_its_end(tmp_path):
    """Division by a standard deviation of 0 is what every loop comes to that is cold for long enough."""
    config = config_of("sample.temperature=0.01", "cycle.generations=12")
    run_silently(config, tmp_path / "run")
    last = [row for row in read(tmp_path / "run") if row["generation"] == "11"]
    assert [row["model_standard_deviation"] for row in last] == ["0.0"] * 3
    assert [row["total_variation"] for row in last] == ["1.0"] * 3
    assert [row["forward_kl_nats"] for row in last] == ["inf"] * 3
    answer = open_run(tmp_path / "run").answer
    assert "kept diversity" in answer


def test_the_plan_is_about_right():
    """A plan that writes each of 60,000 generations by itself said ten times what the run takes, half a minute."""
    planned = plan(load("gaussian"), lambda line: None)
    (program,) = planned.programs
    assert (program.parameters, program.loops_at_once) == (0, 200)
    assert 10 < planned.seconds < 150


def test_samples_are_numbers_that_a_reader_can_read(tmp_path):
    """Texts of numbers with sixteen digits, of which nine are noise."""
    run_silently(config_of("system.mean=20"), tmp_path / "run")
    texts = open_run(tmp_path / "run").samples(0, 5)
    assert len(texts) == 30
    assert all(len(text) <= 9 for text in texts)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert "activations" not in manifest["sessions"][-1]["results_depend_on"]


def test_fresh_rows_are_independent_of_the_first_and_of_each_other():
    """Rows that are drawn twice would be a share of fresh data that teaches nothing."""
    config = config_of()
    system, (loop, other, _) = system_of(config), loops(config)
    drawn = [
        system.first_rows(loop.config, loop.seed),
        system.first_rows(other.config, other.seed),
        *(system.fresh_rows(loop.config, loop.seed, generation, 30) for generation in (1, 2)),
    ]
    assert all(rows.dtype == np.float32 and rows.shape == (30,) for rows in drawn)
    assert len(np.unique(np.concatenate(drawn))) == 120
    assert system.fresh_rows(loop.config, loop.seed, 1, 0).shape == (0,)
    assert math.isclose(np.concatenate(drawn).std(), 1, rel_tol=0.2)
