"""Fresh rows aimed at what lacks: against the definition of the level, by search, and by their masses."""

import numpy as np
import pytest
from tiny import tiny_config

from jaxloop.config.schema import loops
from jaxloop.loop.enrichment import aimed, filled
from jaxloop.loop.rows import row_count, unique_rows
from jaxloop.loop.run_loops import run_loops
from jaxloop.systems.logic.language import language_of
from jaxloop.systems.registry import learner_of, system_of


@pytest.mark.parametrize("seed", range(40))
def test_classes_are_filled_to_one_level(seed):
    """Every class that gets rows ends at the same share-weighted level, up to the rounding of one row, and none that
    gets nothing lies below it: that is what filling the least covered means.
    """
    generator = np.random.default_rng(seed)
    classes = int(generator.integers(1, 12))
    share_G = generator.dirichlet(np.full(classes, 0.7))
    there_G = generator.integers(0, 200, classes) * generator.integers(0, 2, classes)
    count = int(generator.integers(1, 400))
    got_G = filled(there_G, share_G, count)
    assert got_G.sum() == count and got_G.min() >= 0
    # The level by bisection.
    low, high = 0.0, (there_G.sum() + count) / share_G[share_G > 0].min() + 1
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.maximum(level * share_G - there_G, 0).sum() < count else (low, level)
    assert np.abs(got_G - np.maximum(low * share_G - there_G, 0)).max() <= 1 + 1e-6


def test_a_class_without_mass_gets_nothing():
    """Catches a division by zero, and rows that no source has."""
    assert filled(np.array([5, 0, 0]), np.array([0.5, 0.5, 0.0]), 11).tolist() == [3, 8, 0]
    assert filled(np.array([0, 9]), np.array([0.0, 1.0]), 4).tolist() == [0, 4]


SHARES = np.array([0.6, 0.3, 0.09, 0.01])


def draws(count: int) -> np.ndarray:
    return np.random.default_rng(1).choice(4, count, p=SHARES)


def classes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points, SHARES


def test_masses_meet_the_sources_where_the_budget_suffices():
    """60 rows of two classes, and 140 fresh ones: all four classes have their share of 200, exactly."""
    beside = np.array([0] * 50 + [2] * 10)
    fresh = aimed(draws, classes, beside, 140)
    assert np.bincount(np.concatenate([beside, fresh]), minlength=4).tolist() == [120, 60, 18, 2]


def test_where_the_budget_is_short_the_least_covered_come_first():
    """The rarest class lacks as much of its share as the others: what is filled is coverage, not numbers."""
    fresh = aimed(draws, classes, np.array([0] * 90 + [1] * 10), 20)
    # The level of all but the first is 30 / 0.4 = 75: they lack 12.5, 6.75 and 0.75.
    assert np.bincount(fresh, minlength=4).tolist() == [0, 12, 7, 1]


def test_rows_that_cannot_be_found_are_others():
    """A class so rare that no draw has it: the number of rows stays, and they are the source's."""
    rare = np.array([1 - 1e-9, 1e-9])
    fresh = aimed(lambda count: np.zeros(count, int), lambda points: (points, rare), np.zeros(100, int), 10)
    assert fresh.tolist() == [0] * 10
    assert len(aimed(draws, classes, np.zeros(5, int), 0)) == 0


def test_rows_of_no_class_count_for_nothing():
    """What is no row of the source covers none of it."""
    beside = np.array([-1] * 500)
    fresh = aimed(draws, classes, beside, 100)
    assert np.bincount(fresh, minlength=4).tolist() == [60, 30, 9, 1]


# In the loop.


def carries_of(*overrides: str) -> tuple:
    """The system, a config, and by generation the training rows of every seed."""
    config = tiny_config("learner.name=resample", "grid={}", *overrides)
    system, group, records = system_of(config), loops(config), []
    run_loops(group, {}, system, learner_of(system, config, len(group)), lambda *_: {}, records.append, lambda *_: None)
    by_generation = {}
    for record in records:
        by_generation.setdefault(record.state.generation, []).append(record.state.carry.training)
    return system, config, by_generation


SCHEDULES = [
    "[[0, 0.25]]",
    "[[0, 0.0], [3, 0.5], [4, 0.0]]",
    "[[0, 1.0], [2, 0.5], [3, 0.0]]",
    "[[0, 0.0], [2, 0.1], [4, 0.3]]",
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_a_schedule_keeps_is_what_the_recursion_says(schedule):
    """Of a memoriser J_t = E sum of squared shares of its n training rows is [n + m (m - 1) J + (2 m q + q (q - 1)) G]
    / n^2 for m sampled and q fresh rows and G of the source; 300 seeds of 60 rows, five generations, 4 standard errors.
    Catches a schedule that is a generation late, and fresh rows that come twice.
    """
    _, config, by_generation = carries_of(
        f"seeds={[*range(300)]}", f"cycle.fresh_schedule={schedule}", "cycle.generations=6"
    )
    rows, source = config.cycle.rows, language_of(config.language)
    squared = float(np.sum(np.exp(2 * source.log_prob(source.enumerate()))))
    expected = (rows + rows * (rows - 1) * squared) / rows**2
    for generation, training in by_generation.items():
        if generation:
            fresh = row_count(config.cycle.fresh_part(generation), rows)
            kept = rows - fresh
            pairs = kept * (kept - 1) * expected + (2 * kept * fresh + fresh * (fresh - 1)) * squared
            expected = (rows + pairs) / rows**2
        found = np.array([np.sum((unique_rows(one.points)[2] / rows) ** 2) for one in training])
        assert len(found) == 300
        assert abs(found.mean() - expected) < 4 * found.std(ddof=1) / np.sqrt(300), (generation, found.mean(), expected)


def test_aimed_rows_bring_the_depths_of_a_loop_back_to_the_sources():
    """A memoriser with half fresh rows: where they are aimed, the depths of what trains are the source's up to the
    rounding of a row, in every generation; drawn at random they are not.
    """
    apart = {}
    for target in ("random", "least_covered"):
        system, config, by_generation = carries_of(
            "seeds=[0,1,2]", "cycle.fresh_share=0.5", f"cycle.fresh_target={target}", "language.max_depth=3",
            "model.context_tokens=32", "cycle.generations=5", "cycle.rows=200",
        )  # fmt: skip
        found = []
        for generation in range(1, 5):
            for training in by_generation[generation]:
                class_N, share_G = system.classes(config, training.points)
                counts_G = np.bincount(class_N, minlength=len(share_G))
                found.append(np.abs(counts_G - 200 * share_G).max())
        apart[target] = found
    assert max(apart["least_covered"]) <= 1 + 1e-9
    assert np.mean(apart["random"]) > 4
