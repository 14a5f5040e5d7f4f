"""What `--plan` promises: programs, time, memory and disk, as the run then has them; and nothing on disk."""

import csv
import io
import math
import tempfile

import jax
import pytest
from rich.console import Console
from tiny import run_tiny, tiny_config

from jaxloop.commands.printing import show_plan
from jaxloop.config.presets import load
from jaxloop.config.schema import loops
from jaxloop.learners.transformer.costs import weight_count
from jaxloop.learners.transformer.learner import TransformerLearner
from jaxloop.learners.transformer.model import make_model
from jaxloop.runs import plan as planning
from jaxloop.runs import trials
from jaxloop.runs.plan import ProgramPlan, plan
from jaxloop.runs.resources import Disk
from jaxloop.runs.trials import HostCost, HostTrial, pair_counts
from jaxloop.systems.logic.system import Logic
from jaxloop.systems.logic.vocabulary import VOCABULARY
from jaxloop.systems.registry import system_of

LOGIC = Logic()
MIXED = (
    "grid={'model.width' = [16, 32], 'learner.name' = ['transformer', 'resample'], 'cycle.fresh_share' = [0.0, 0.5]}"
)


def planned(*overrides: str):
    """The plan of a tiny run, and what is printed of it."""
    config, said = tiny_config(*overrides), []
    found = plan(config, said.append)
    printed = io.StringIO()
    show_plan(config, found, Disk(2**30, None), Console(file=printed))
    assert len(said) == 1 + sum(one.parameters > 0 for one in found.programs)
    return config, found, printed.getvalue()


def test_the_plan_names_the_programs_that_the_run_makes(tmp_path, monkeypatch):
    """Catches a plan that counts cells for programs, leaves out loops, or runs something: `--plan` is asked before days
    of somebody's accelerator.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config, found, printed = planned(MIXED, "seeds=[0,1]")
    assert list(tmp_path.iterdir()) == []
    plans = found.programs
    assert sorted(loop.index for one in plans for loop in one.program.loops) == [loop.index for loop in loops(config)]
    trained = [one for one in plans if one.parameters]
    assert [one.program.config.model.width for one in trained] == [32, 16], "the most work first"
    for one in trained:
        shapes = jax.eval_shape(make_model(one.program.config.model, VOCABULARY).init, jax.random.key(0))
        assert one.parameters == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        assert one.device_bytes > 4 * 4 * one.parameters, "model, two moments and the best one"
        assert one.seconds > 0 < one.generation_seconds
    assert found.seconds > sum(one.seconds + one.measure_seconds for one in plans)
    assert "8 cells, 16 loops" in printed and "2 training programs, 2 of reference learners" in printed
    assert "width 32, transformer" in printed
    assert all(f"\n{name}: about " in printed for name in ("time", "memory", "disk"))

    made, make = [], TransformerLearner.__init__
    monkeypatch.setattr(TransformerLearner, "__init__", lambda self, *args: made.append(args) or make(self, *args))
    run_tiny(tmp_path / "run", MIXED, "seeds=[0,1]", "cycle.generations=1")
    assert len(made) == len(trained)


def test_the_expected_time_counts_every_generation_of_every_loop():
    """Catches an estimate that forgets seeds, cells, generations, or that loops run side by side."""
    for seeds, generations in ((1, 4), (3, 4), (4, 7)):
        settings = ["grid={}", f"seeds={list(range(seeds))}", f"cycle.generations={generations}"]
        _, found, _ = planned(*settings)
        (one,) = found.programs
        at_once = min(seeds, max(len(jax.local_devices()), 2))
        assert one.loops_at_once == at_once
        assert one.seconds == pytest.approx(math.ceil(seeds * generations / at_once) * one.generation_seconds)


@pytest.mark.parametrize(
    "overrides",
    [
        ("cycle.fresh_share=0.3",),
        ("cycle.name=expanding", "cycle.generations=5"),
        ("cycle.name=balanced", "cycle.generations=5"),
        ("cycle.name=incremental", "cycle.generated_share=0.25"),
    ],
)
def test_the_pairs_whose_distances_are_measured_are_counted_beforehand(overrides, tmp_path):
    """Catches rows=100000 that is announced as 5 s and takes 215: distances grow with the square of the *different*
    rows, and those of a memoriser get fewer with every generation. The truth is what a run has measured.
    """
    deep = ("language.max_depth=5", "model.context_tokens=128", "cycle.rows=1500", "learner.name=resample", "grid={}")
    run_tiny(tmp_path / "run", *deep, *overrides)
    with (tmp_path / "run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    samples = sum((1500 * float(row["unique_share"])) ** 2 / 2 for row in rows)
    training = sum((float(row["training_rows"]) * float(row["training_unique_share"])) ** 2 / 2 for row in rows)
    (loop,) = loops(tiny_config(*deep, *overrides))
    assert pair_counts(loop, system_of(loop.config)) == pytest.approx((samples, training), rel=0.1)


def test_pairs_are_as_many_as_there_are_rows_and_expressions(monkeypatch):
    """Catches a count of few rows that is taken for many, and one that exceeds the language."""
    monkeypatch.setattr(trials, "_MOST_ROWS", 60_000)
    deep = ("language.max_depth=5", "model.context_tokens=128", "grid={}", "cycle.fresh_share=1.0")
    counts = {}
    for rows in (10**4, 10**5):  # of so many not all are drawn
        (loop,) = loops(tiny_config(*deep, f"cycle.rows={rows}"))
        counts[rows] = pair_counts(loop, system_of(loop.config))[0] / (3 * rows**2 / 2)
    assert 0.2 < counts[10**5] <= counts[10**4] < 0.5
    (loop,) = loops(tiny_config("grid={}", "cycle.rows=10000", "cycle.fresh_share=1.0"))
    assert pair_counts(loop, system_of(loop.config)) == (3 * 150**2 / 2, 3 * 150**2 / 2)
    (long,) = loops(tiny_config("grid={}", "cycle.rows=100", "cycle.fresh_share=1.0", "cycle.generations=1000"))
    (short,) = loops(tiny_config("grid={}", "cycle.rows=100", "cycle.fresh_share=1.0", "cycle.generations=50"))
    assert pair_counts(long, system_of(long.config))[0] / pair_counts(short, system_of(short.config))[
        0
    ] == pytest.approx(20, rel=0.1)


def test_measuring_is_planned_with_its_square():
    """Catches a plan that times a generation's learner and forgets what is measured of it: 205 of 215 s."""
    rows = "grid={'cycle.rows' = [10000, 100000]}"
    found = plan(load("bench", ["learner.name=resample", rows]), lambda line: None)
    few, many = found.programs
    assert found.seconds > many.measure_seconds > 5 * many.seconds
    assert 25 < many.measure_seconds / few.measure_seconds < 110


def test_disk_and_files_are_those_of_the_run(tmp_path):
    """Catches a disk that fills in the second week, or a quota of files that ends a grid."""
    settings = ["cycle.generations=6", "cycle.rows=400", "seeds=[0, 1, 2, 3, 4]", "cycle.name=balanced", "grid={}"]
    resample = planning._HostPlan(loops(tiny_config(*settings, "learner.name=resample")), LOGIC)
    run_tiny(tmp_path / "run", *settings, "learner.name=resample")
    sizes = [path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert resample.files == pytest.approx(len(sizes), abs=12)
    assert 0.6 < resample.disk_bytes / sum(sizes) < 1.6
    trained = planning._HostPlan(loops(tiny_config(*settings)), LOGIC)
    weights = 4 * weight_count(tiny_config().model, VOCABULARY)
    assert trained.disk_bytes - resample.disk_bytes == pytest.approx(5 * weights, rel=0.5)
    run_tiny(tmp_path / "trained", *settings)
    models = [path.stat().st_size for path in (tmp_path / "trained/models").rglob("*") if path.is_file()]
    assert trained.files - resample.files == pytest.approx(len(models), rel=0.3)
    often = planning._HostPlan(loops(tiny_config(*settings, "store.models_every_generations=2")), LOGIC)
    assert often.files - resample.files == 4 * (trained.files - resample.files), "generations 0, 2, 4, and 5"


def test_a_disk_that_is_too_small_is_said():
    """Catches a number that nobody compares."""
    config = tiny_config("learner.name=resample")
    found = plan(config, lambda line: None)
    for disk, full in ((Disk(2**40, 10**6), False), (Disk(1000, 10**6), True), (Disk(2**40, 10), True)):
        printed = io.StringIO()
        show_plan(config, found, disk, Console(file=printed))
        assert ("the disk will be full" in printed.getvalue()) == full


def test_a_plan_of_many_programs_compiles_a_few(monkeypatch):
    """Catches hours of compiling before a plan of ten thousand cells, and a trial of the measures for each; those that
    are not compiled are judged by the work of those that are.
    """
    compiled, tried = [], []

    def timed(program, system, hosts):
        compiled.append(program)
        steps = program.config.train.steps
        return ProgramPlan(program, 1000, 1, 1.0, steps * 1e-3, 3 * steps * 1e-3, 0.1, 0)

    def trial(loop, system, rows):
        tried.append(rows)
        return HostTrial(rows, HostCost(*[rows * 1e-6] * len(HostCost._fields)), 1.0, 0.0, 5)

    monkeypatch.setattr(planning, "_compiled_plan", timed)
    monkeypatch.setattr(planning, "host_trial", trial)
    monkeypatch.setattr(planning, "_COMPILING_SECONDS", -1)
    steps = list(range(20, 1020))
    config = tiny_config(f"grid={{'train.steps' = {steps}}}", "seeds=[0]")
    found = plan(config, lambda line: None)
    assert [program.config.train.steps for program in compiled] == [1019] and len(tried) == 2
    assert len(found.programs) == 1000 and found.files > 1000
    assert [one.seconds for one in found.programs] == pytest.approx([3e-3 * count for count in reversed(steps)])
    printed = io.StringIO()
    show_plan(config, found, Disk(2**40, None), Console(file=printed))
    assert "1,000 cells, 1,000 loops" in printed.getvalue() and printed.getvalue().count("\n") < 100
