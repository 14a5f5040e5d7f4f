"""What `--plan` promises: the programs that the run then compiles, in a table, and nothing on disk."""

import io
import math

import jax
import pytest
from rich.console import Console
from tiny import run_tiny, tiny_config

from jaxloop.config import loops
from jaxloop.learner import TransformerLearner
from jaxloop.model import make_model
from jaxloop.plan import plan
from jaxloop.printing import show_plan

MIXED = (
    "grid={'model.width' = [16, 32], 'learner.name' = ['transformer', 'resample'], 'cycle.fresh_share' = [0.0, 0.5]}"
)


def planned(*overrides: str):
    """The plan of a tiny run, and what is printed of it."""
    config, said = tiny_config(*overrides), []
    plans = plan(config, said.append)
    printed = io.StringIO()
    show_plan(config, plans, Console(file=printed))
    assert len(said) == len(plans)
    return config, plans, printed.getvalue()


def test_the_plan_names_the_programs_that_the_run_makes(tmp_path, monkeypatch):
    """Catches a plan that counts cells for programs, leaves out loops, or runs something: `--plan` is asked before days
    of somebody's accelerator.
    """
    monkeypatch.chdir(tmp_path)
    config, plans, printed = planned(MIXED, "seeds=[0,1]")
    assert list(tmp_path.iterdir()) == []
    assert sorted(loop.index for one in plans for loop in one.program.loops) == [loop.index for loop in loops(config)]
    trained = [one for one in plans if one.parameters]
    assert [one.program.config.model.width for one in trained] == [32, 16], "the most work first"
    for one in trained:
        shapes = jax.eval_shape(make_model(one.program.config.model).init, jax.random.key(0))
        assert one.parameters == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        assert one.device_bytes > 4 * 4 * one.parameters, "model, two moments and the best one"
        assert one.seconds > 0 < one.generation_seconds
    assert "8 cells, 16 loops" in printed and "2 training programs, 2 of reference learners" in printed
    assert "width 32, transformer" in printed and "expected: about" in printed

    made, make = [], TransformerLearner.__init__
    monkeypatch.setattr(TransformerLearner, "__init__", lambda self, *args: made.append(args) or make(self, *args))
    run_tiny(tmp_path / "run", MIXED, "seeds=[0,1]", "cycle.generations=1")
    assert len(made) == len(trained)


def test_the_expected_time_counts_every_generation_of_every_loop():
    """Catches an estimate that forgets seeds, cells, generations, or that loops run side by side."""
    for seeds, generations in ((1, 4), (3, 4), (4, 7)):
        settings = ["grid={}", f"seeds={list(range(seeds))}", f"cycle.generations={generations}"]
        _, (one,), _ = planned(*settings)
        at_once = min(seeds, max(len(jax.local_devices()), 2))
        assert one.loops_at_once == at_once
        assert one.seconds == pytest.approx(math.ceil(seeds * generations / at_once) * one.generation_seconds)
