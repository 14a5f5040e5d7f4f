"""Which loops go through the same compiled programs, and that a grid compiles no more of them than it says."""

import json

import numpy as np
import pytest
from tiny import run_tiny, tiny_config

from jaxloop.config.schema import loops
from jaxloop.learners.transformer.costs import operations_per_position
from jaxloop.runs.programs import programs, training_operations
from jaxloop.systems.logic import system
from jaxloop.systems.logic.language import language_of
from jaxloop.systems.logic.learners import transformer_learner
from jaxloop.systems.logic.vocabulary import VOCABULARY


def grouped(*overrides):
    """The programs of tiny loops."""
    return programs(loops(tiny_config("grid={}", *overrides)))


SHARED = [
    ("cycle.fresh_share", [0.0, 0.5, 1.0]),
    ("cycle.generated_share", [0.5, 0.9]),
    ("sample.temperature", [0.5, 2.0]),
    ("train.learning_rate", [1e-3, 1e-2]),
    ("train.weight_decay", [0.0, 0.1]),
    ("cycle.name", ["full_synthetic", "balanced", "incremental"]),
    ("cycle.first_mass_share", [0.5, 1.0]),
    ("measure.alive_share", [0.1, 0.5]),
    ("measure.structure_every_generations", [0, 1]),
    ("cycle.generations", [2, 3]),
]
APART = [
    ("model.width", [16, 32]),
    ("model.layers", [1, 2]),
    ("model.heads", [1, 2]),
    ("model.context_tokens", [16, 24]),
    ("model.dropout", [0.0, 0.1]),
    ("model.activations", ["float32", "bfloat16"]),
    ("train.steps", [30, 40]),
    ("train.batch_expressions", [10, 15]),
    ("train.clip_norm", [1.0, 2.0]),
    ("train.beta2", [0.9, 0.99]),
    ("train.warmup_steps", [5, 6]),
    ("train.final_learning_rate_share", [0.1, 0.2]),
    ("train.validation_share", [0.1, 0.2]),
    ("train.evaluate_every_steps", [10, 15]),
    ("train.patience_evaluations", [0, 2]),
    ("train.row_tokens", [16, 32]),
    ("sample.batch_rows", [20, 40]),
    ("language.max_depth", [1, 2]),
    ("language.min_depth", [0, 1]),
    ("language.only_true", [True, False]),
    ("cycle.rows", [50, 60]),
    ("cycle.name", ["full_synthetic", "expanding"]),
    ("measure.held_out_rows", [40, 50]),
    ("measure.enumerate_every_generations", [0, 1]),
    ("learner.name", ["transformer", "resample"]),
]


def with_axis(name, values, *overrides):
    """The programs of tiny loops that differ in one setting."""
    return grouped(f"grid.{name}={json.dumps(values)}", *overrides)


@pytest.mark.parametrize(("name", "values"), SHARED)
def test_loops_that_differ_in_numbers_only_share_a_program(name, values):
    """Catches a compilation for each value of something that a program never sees, or reads as a number."""
    found = with_axis(name, values, "seeds=[3, 1]")
    assert len(found) == 1
    assert sorted(loop.index for loop in found[0].loops) == list(range(2 * len(values)))


@pytest.mark.parametrize(("name", "values"), APART)
def test_loops_whose_programs_differ_are_apart(name, values):
    """Catches loops that are trained with the sizes, the optimiser or the language of another cell."""
    found = with_axis(name, values, "seeds=[3, 1]")
    assert len(found) == len(values)
    section, _, key = name.partition(".")
    for program in found:
        assert {getattr(getattr(loop.config, section), key) for loop in program.loops} == {
            getattr(getattr(program.config, section), key)
        }
        assert [loop.seed for loop in program.loops] == [3, 1]


def test_expanding_data_sets_of_other_lengths_are_apart():
    """Catches a capacity of the shortest loop for all: later rows of the others would not fit."""
    assert len(with_axis("cycle.generations", [2, 3], "cycle.name=expanding")) == 2
    assert len(with_axis("cycle.fresh_share", [0.0, 0.5], "cycle.name=expanding")) == 1


def test_every_loop_is_in_one_program_and_the_most_work_comes_first():
    """Catches a loop that is lost or trained twice, and a long program that is left to the end, on one core."""
    overrides = ["seeds=[0, 1]", "grid.model.width=[16, 64, 32]", "grid.learner.name=['oracle', 'transformer']"]
    config = tiny_config(*overrides, "grid.cycle=[{name='balanced'}, {name='expanding', generations=5}]")
    every_loop = loops(config)
    found = programs(every_loop)
    assert sorted((loop for program in found for loop in program.loops), key=lambda loop: loop.index) == every_loop
    assert len(found) == 12
    widths = [program.config.model.width for program in found if program.config.learner.name == "transformer"]
    assert widths == [64, 64, 32, 32, 16, 16]
    assert [program.config.cycle.generations for program in found[:6]] == [5, 3] * 3
    assert all(program.config.learner.name == "oracle" for program in found[6:])


def test_many_small_loops_are_more_work_than_a_large_one():
    """Catches an order by the work of a single loop."""
    narrow = loops(tiny_config("grid={}", "seeds=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"))
    wide = loops(tiny_config("grid={}", "model.width=32"))
    assert [program.config.model.width for program in programs(wide + narrow)] == [16, 32]
    assert [program.config.model.width for program in programs(wide + narrow[:1])] == [32, 16]


def test_operations_per_position_by_hand():
    """Catches a matrix that is left out: an estimate of minutes on a machine that has never run it."""
    config = tiny_config("model.width=8", "model.layers=3", "model.heads=1")
    # Of each layer query, key, value and output (4), and a perceptron four times as wide (2 x 4); the embedding; and
    # attention: every position with the whole row, scores and sums. Multiply and add; once forward, twice back.
    matrices, embedding, attention = 3 * (4 + 8) * 8 * 8, 8 * 8, 3 * 2 * 24 * 8
    assert operations_per_position(config, VOCABULARY, 24) == 6 * (matrices + embedding + attention)


@pytest.mark.parametrize(
    ("setting", "factor"),
    [("cycle.generations=6", 2), ("train.steps=90", 3), ("train.batch_expressions=30", 2), ("cycle.rows=600", 1)],
)
def test_work_grows_with_steps_and_generations(setting, factor):
    """Catches work that is counted for one generation, or by rows instead of steps."""
    assert training_operations(tiny_config(setting)) == pytest.approx(factor * training_operations(tiny_config()))


def test_training_positions_are_those_of_mean_expressions():
    """Catches a count of positions that leaves the end of each expression out, or counts padding."""
    config = tiny_config()
    rows = language_of(config.language).enumerate(16)
    probability = np.exp(language_of(config.language).log_prob(rows))
    tokens = float(probability @ ((rows != 7).sum(axis=1) + 1))
    positions = training_operations(config) / operations_per_position(config, VOCABULARY, 16)
    assert positions == pytest.approx(3 * 30 * 15 * tokens, rel=1e-12)
    assert training_operations(tiny_config("learner.name=oracle")) == 0


def test_a_mixed_grid_compiles_one_training_program_per_width(tmp_path, monkeypatch):
    """Catches a compilation for each cell, seed or generation: hours of a large grid, and nothing else shows it."""
    made = []

    def counted(config, loop_count):
        made.append(transformer_learner(config, loop_count))
        return made[-1]

    monkeypatch.setattr(system, "transformer_learner", counted)
    grid = "grid={'model.width' = [16, 32], 'cycle.fresh_share' = [0.0, 0.5, 1.0]}"
    run_tiny(tmp_path / "run", grid, "seeds=[0, 1]", "cycle.generations=2")
    assert len(made) == 2
    for learner in made:
        assert learner.train._cache_size() == learner.sample._cache_size() == learner.begin._cache_size() == 1
