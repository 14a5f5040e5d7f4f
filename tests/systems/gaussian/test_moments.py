"""The learner that fits mean and variance: for many loops at once what it is for one."""

import jax
import numpy as np
import pytest
from tiny import tasks_of

from jaxloop.config.presets import load
from jaxloop.config.schema import loops
from jaxloop.systems.gaussian import moments
from jaxloop.systems.gaussian.moments import MomentsLearner


def config_of(*overrides, seeds=1):
    return load("gaussian", [f"seeds={list(range(seeds))}", "cycle.generations=5", *overrides])


def written_by(config, training, learner=None, generations=None, chosen=None):
    """What each loop's model writes, fitted to these rows of it."""
    group = [loops(config)[place] for place in (chosen or range(len(training)))]
    learner = learner or MomentsLearner(config, len(loops(config)))
    tasks = tasks_of(group, generations or [0] * len(group), training, [{}] * len(group))
    return learner.finish(learner.start(tasks), lambda share: None)[0]


def rows_of(count, rows=100, dtype=np.float32):
    return [np.random.default_rng(place).normal(place, 1 + place, rows).astype(dtype) for place in range(count)]


def same(one, other):
    return one.points.tobytes() == other.points.tobytes() and one.columns == other.columns


@pytest.mark.parametrize("together", [1, 2, 3, 8, 33, 200])
def test_a_loop_is_the_same_alone_and_beside_others(together):
    """A grid that is extended by a cell would change the results of all others in their last bits, and then wholly."""
    training = rows_of(together)
    beside = written_by(config_of(seeds=together), training)
    for place in {0, 1, together // 2, together - 1} & set(range(together)):
        (alone,) = written_by(config_of(seeds=together), [training[place]], chosen=[place])
        assert same(alone, beside[place]), "in the same program, with nobody beside it"
        single = load("gaussian", [f"seeds=[{place}]", "cycle.generations=5"])
        assert same(written_by(single, [training[place]])[0], beside[place]), "in a run of its own"


def test_the_order_of_loops_does_not_matter():
    """A resumed run computes the loops that are behind first, in other places."""
    config, training = config_of(seeds=5), rows_of(5)
    straight = written_by(config, training)
    turned = written_by(config, training[::-1], chosen=[4, 3, 2, 1, 0])
    assert all(same(one, other) for one, other in zip(straight, turned[::-1], strict=True))


def test_loops_of_different_generations_stand_beside_each_other():
    """As they do where a run goes on; each has the random numbers of its own generation."""
    config, training = config_of("cycle.name=expanding", seeds=2), [*rows_of(1), *rows_of(1, 300)]
    first, second = written_by(config, training, generations=[0, 2])
    (alone,) = written_by(config, training[1:], generations=[2], chosen=[1])
    assert same(second, alone)
    (other,) = written_by(config, training[1:], generations=[3], chosen=[1])
    assert other.columns == second.columns
    assert not np.array_equal(other.points, second.points)
    assert not np.array_equal(first.points, second.points)


@pytest.mark.parametrize(("estimator", "lost"), [("ml", 0), ("unbiased", 1)])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1000.0, 1.0), (-3.0, 1e-4), (1e5, 100.0)])
def test_moments_are_those_of_the_rows(estimator, lost, mean, deviation):
    """The mean of squares less the square of the mean, in seven digits, is noise where the mean is large."""
    config = config_of(f"learner.estimator={estimator}", "cycle.name=expanding")
    training = np.random.default_rng(0).normal(mean, deviation, 250).astype(np.float32)
    (written,) = written_by(config, [training], generations=[2])
    exact = training.astype(np.float64)
    assert written.columns["model_standard_deviation"] == pytest.approx(exact.std(ddof=lost), rel=2e-5)
    assert abs(written.columns["model_mean"] - exact.mean()) < 2e-7 * abs(mean) + 1e-5 * deviation


def test_what_is_written_has_the_moments_that_were_fitted():
    """A temperature that multiplies the standard deviation, or rows that are not of the model."""
    config = config_of("cycle.rows=20000", "sample.temperature=0.25")
    (written,) = written_by(config, [np.random.default_rng(0).normal(3, 2, 20000).astype(np.float32)])
    assert written.points.dtype == np.float32
    assert written.points.mean() == pytest.approx(3, abs=0.05)
    assert written.points.std() == pytest.approx(1, rel=0.02)
    assert written.columns["model_standard_deviation"] == pytest.approx(2, rel=0.02)
    assert -written.log_prob_N.mean() == pytest.approx(0.5 * np.log(2 * np.pi * np.e), abs=0.02)


def test_no_generation_is_compiled_anew():
    """Rows that grow with each generation, a loop less at the end: 300 programs of a second each."""
    config, learner = config_of("cycle.name=expanding", seeds=3), None
    learner = MomentsLearner(config, 3)
    written_by(config, rows_of(3), learner)
    with jax.log_compiles(False):
        before = moments._fit_and_write._cache_size()
        for generation in range(1, 5):
            written_by(config, rows_of(3, 100 * (generation + 1)), learner, [generation] * 3)
        written_by(config, rows_of(1, 500), learner, [4], [0])
        assert moments._fit_and_write._cache_size() == before


def test_equal_rows_are_a_point_mass():
    """The end of every loop that is run for long enough: it is measured, and no error."""
    (written,) = written_by(config_of(), [np.full(100, 0.1, np.float32)])
    assert written.columns["model_standard_deviation"] == 0
    assert not written.diverged
    assert np.all(written.points == np.float32(0.1))


def test_rows_beyond_all_numbers_have_diverged():
    """A temperature that widens each generation ends in infinite rows; they are told, and measured no more."""
    (written,) = written_by(config_of(), [np.array([1e38, -1e38] * 50, np.float32)])
    assert written.diverged


def test_half_as_many_loops_take_half_of_the_memory():
    """Where memory has run out, the run goes on with fewer at once, and the same bits."""
    config, training = config_of(seeds=4), rows_of(4)
    learner = MomentsLearner(config, 4)
    smaller = learner.smaller()
    assert (learner.places, smaller.places, smaller.smaller().places, smaller.smaller().smaller()) == (4, 2, 1, None)
    whole, halves = written_by(config, training, learner), written_by(config, training[2:], smaller, chosen=[2, 3])
    assert all(same(one, other) for one, other in zip(whole[2:], halves, strict=True))
    assert MomentsLearner(config_of("population.loops_per_device=3", seeds=4), 4).places == 3


def test_probabilities_that_are_asked_for_are_those_of_the_model():
    """Somebody's own measures ask for them: plain, and with the temperature."""
    config = config_of("sample.temperature=4.0")
    learner, (loop,) = MomentsLearner(config, 1), loops(config)
    asked = learner.probe(np.array([0.0, 1.0], np.float32))
    tasks = tasks_of([loop], [0], rows_of(1), [{"mine": asked}])
    (written,), seconds = learner.finish(learner.start(tasks), lambda share: None)
    plain, tempered = written.probed["mine"]
    deviation = written.columns["model_standard_deviation"]
    assert plain.shape == tempered.shape == (2,)
    at_mean = -0.5 * np.log(2 * np.pi) - np.log(deviation)
    assert plain[0] == pytest.approx(at_mean, abs=0.05)
    assert tempered[0] == pytest.approx(at_mean - np.log(2), abs=0.05)
    assert seconds.probes.keys() == {"mine"}
