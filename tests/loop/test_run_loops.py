"""The loop itself, with a learner that only counts: who is computed beside whom, and in which order."""

import itertools
import re

import numpy as np
import pytest
from tiny import tiny_config

from jaxloop.config.schema import loops
from jaxloop.errors import RunError
from jaxloop.loop import curation, memories
from jaxloop.loop.interfaces import Seconds, State, Written
from jaxloop.loop.memories import FullSynthetic
from jaxloop.loop.rows import mark
from jaxloop.loop.run_loops import run_loops


class Counting:
    """Writes its generation and loop into every row, and remembers what it was asked for."""

    def __init__(self, places: int, diverging: tuple = ()):
        self.places, self.groups, self._diverging = places, [], diverging

    def smaller(self):
        return None

    def probe(self, tokens_NxT):
        return tokens_NxT

    def start(self, tasks):
        self.groups.append([(task.loop.index, task.generation) for task in tasks])
        return tasks

    def finish(self, started, watch):
        watch(0.5)
        written = []
        for loop, generation, training_NxT, count, probes in started:
            assert count == 60
            expected = 255 if generation == 0 else 10 * loop.index + generation - 1
            assert np.all(training_NxT == expected), "a loop trains on its own newest rows"
            assert probes == {"asked": (loop.index, generation)}
            rows_NxT = np.full((60, 16), 10 * loop.index + generation, np.uint8)
            diverged = (loop.index, generation) in self._diverging
            written.append(Written(rows_NxT, np.zeros(60), {}, {}, {}, diverged))
        return written, Seconds(0, 0, {})


class Real:
    def first_rows(self, config, seed):
        return np.full((config.cycle.rows, 16), 255, np.uint8)

    def fresh_rows(self, config, seed, generation, count):
        assert count == 0
        return np.empty((0, 16), np.uint8)


def probes(loop, generation):
    return {"asked": (loop.index, generation)}


def computed(learner, loop_count, states=None, generations=4):
    config = tiny_config(f"cycle.generations={generations}", f"seeds={list(range(loop_count))}", "grid={}")
    kept = []
    diverged = run_loops(loops(config), states or {}, Real(), learner, probes, kept.append, lambda *_: None)
    return [(record.loop.index, record.state.generation) for record in kept], diverged


@pytest.mark.parametrize("loop_count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("places", [1, 2, 3, 8])
def test_no_place_is_left_empty_while_a_loop_could_use_it(loop_count, places):
    """Three loops on two places take three rounds for two generations: with one generation after the other for all of
    them, it were four, a quarter of the machine idle.
    """
    learner = Counting(places)
    kept, diverged = computed(learner, loop_count)
    assert diverged == []
    assert sorted(kept) == [(loop, generation) for loop in range(loop_count) for generation in range(4)]
    assert list(itertools.chain(*learner.groups)) == kept, "in the order in which they were computed"
    least_rounds = max(4, -(-4 * loop_count // places))
    assert len(learner.groups) == least_rounds
    assert all(len({loop for loop, _ in group}) == len(group) <= places for group in learner.groups)
    for group in learner.groups:
        generations = [generation for _, generation in group]
        assert max(generations) - min(generations) <= 1, "no loop runs ahead"


def test_a_loop_that_diverged_ends_and_the_others_go_on():
    """One bad learning rate must not cost the results of a whole grid."""
    kept, ended = computed(Counting(2, diverging=((1, 2),)), 3)
    assert [(one.loop.index, one.generation, one.why) for one in ended] == [(1, 2, "diverged")]
    assert sorted(kept) == [(0, g) for g in range(4)] + [(1, 0), (1, 1)] + [(2, g) for g in range(4)]


def test_what_is_finished_is_kept_when_a_stop_is_asked_for():
    """A generation that was trained and not yet measured is minutes of somebody's accelerator."""
    config = tiny_config("cycle.generations=4", "seeds=[0,1]", "grid={}")
    kept, learner = [], Counting(2)

    def watch(group, generation, share):
        if len(learner.groups) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_loops(loops(config), {}, Real(), learner, probes, kept.append, watch)
    assert [(record.loop.index, record.state.generation) for record in kept] == [(0, 0), (1, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize("where", ["start", "finish"])
def test_what_is_finished_is_kept_when_the_device_gives_up(where):
    """A run that goes on with fewer loops at once would go on from generations that nobody has measured."""
    config = tiny_config("cycle.generations=4", "seeds=[0,1]", "grid={}")
    kept, states, learner = [], {}, Counting(2)
    give, calls = getattr(learner, where), []

    def give_up(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return give(*arguments)

    setattr(learner, where, give_up)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_loops(loops(config), states, Real(), learner, probes, kept.append, lambda *_: None)
    run_loops(loops(config), states, Real(), learner, probes, kept.append, lambda *_: None)
    assert [(record.loop.index, record.state.generation) for record in kept] == [
        (loop, generation) for generation in range(4) for loop in range(2)
    ]


class Sorting(Counting):
    """Sorts its training rows where they lie, as a learner may that thinks they are its own."""

    def finish(self, started, watch):
        started[0].training.sort(axis=0)


def test_nobody_changes_rows_where_they_lie():
    """Catches a learner, a curator or a measure whose work on an array changes what trains the next generation."""
    with pytest.raises(ValueError, match="read-only"):
        computed(Sorting(1), 1)
    config, kept = tiny_config("cycle.generations=3", "seeds=[0]", "grid={}"), []
    run_loops(loops(config), {}, Real(), Counting(1), probes, kept.append, lambda *_: None)
    for record in kept:
        arrays = [record.written.points, record.written.log_prob_N, record.state.sampled]
        arrays += [field for rows in record.state.carry for field in rows]
        assert not any(array.flags.writeable for array in arrays)


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        (
            "first_rows",
            np.zeros((59, 16), np.uint8),
            "first_rows must give an array of 60 rows, and gave uint8 of shape",
        ),
        ("first_rows", [[0] * 16] * 60, "first_rows must give an array of 60 rows, and gave list"),
        (
            "fresh_rows",
            np.zeros((31, 16), np.uint8),
            "must give an array of 30 rows of uint8 and shape (16,), as the first",
        ),
        ("fresh_rows", np.zeros((30, 16), np.int64), "gave int64 of shape (30, 16)"),
        ("fresh_rows", np.zeros((30, 15), np.uint8), "gave uint8 of shape (30, 15)"),
    ],
)
def test_real_rows_that_are_not_what_was_asked_for_are_refused(method, given, said, monkeypatch):
    """Catches a source whose rows are too few, or of another dtype: joined to the others they would change them all."""
    monkeypatch.setattr(Real, method, lambda *_: given)
    config = tiny_config("cycle.generations=2", "seeds=[0]", "cycle.fresh_share=0.5", "grid={}")
    kept = []
    with pytest.raises(RunError, match=re.escape(said)):
        run_loops(loops(config), {}, Real(), Counting(1), probes, kept.append, lambda *_: None)
    assert len(kept) == (method == "fresh_rows")


class Shuffles(FullSynthetic):
    """Shuffles the rows that it is given where they lie."""

    def next(self, carry, generation, sampled, new, generator):
        generator.shuffle(new(self.rows).points if self.settings.fresh_share else carry.training.points)
        return super().next(carry, generation, sampled, new, generator)


@pytest.mark.parametrize("fresh_share", [0.0, 0.5])
def test_a_restored_loop_is_handed_on_read_only_as_well(fresh_share, monkeypatch):
    """Catches a memory that is refused in an uninterrupted run, and let through after a resume or with fresh data."""
    rows = mark(np.zeros((60, 16), np.uint8), 0, 0)
    config = tiny_config("cycle.generations=3", "seeds=[0]", f"cycle.fresh_share={fresh_share}", "grid={}")
    monkeypatch.setattr(
        Real, "fresh_rows", lambda self, config, seed, generation, count: np.ones((count, 16), np.uint8)
    )
    monkeypatch.setitem(memories.MEMORIES, "full_synthetic", Shuffles)
    restored = {0: State(1, memories.Carry(rows, rows.take(slice(0))), np.zeros((60, 16), np.uint8))}
    with pytest.raises(ValueError, match="read-only"):
        run_loops(loops(config), restored, Real(), Counting(1), probes, lambda record: None, lambda *_: None)


def test_what_a_curator_chose_is_read_only(monkeypatch):
    """Catches a measure that changes what trains: a choice is a copy, and was writable."""
    copied = curation.Curated
    monkeypatch.setattr(curation, "Curated", lambda points, columns: copied(points[np.arange(len(points))], columns))
    config, kept = tiny_config("cycle.generations=2", "seeds=[0]", "grid={}"), []
    run_loops(loops(config), {}, Real(), Counting(1), probes, kept.append, lambda *_: None)
    assert not any(record.state.sampled.flags.writeable for record in kept)
