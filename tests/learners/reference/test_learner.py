"""Reference learners in the loop itself, against what is known of a memoriser in closed form."""

import functools
import math

import numpy as np
import pytest
import scipy.stats
from tiny import tasks_of, tiny_config

from jaxloop.config.schema import loops
from jaxloop.learners.reference.learner import ReferenceLearner, Resample
from jaxloop.loop.interfaces import Record
from jaxloop.loop.rows import unique_rows
from jaxloop.loop.run_loops import run_loops

# Genes are points of the plane here: nothing in the loop or the learner knows what a row is.
POINTS_UxD = np.random.default_rng(0).normal(size=(50, 2))
FITS = {"resample": lambda loop, training: Resample(training)}


def silent(*_) -> None:
    """Watches nothing."""


class NothingFresh:
    """A source that is drawn from once."""

    def fresh_rows(self, config, seed: int, generation: int, count: int) -> np.ndarray:
        assert count == 0
        return POINTS_UxD[:0]


class TwoAlleles(NothingFresh):
    """Half of the rows are one point, and half another one: two alleles of a gene at frequency 1/2."""

    def first_rows(self, config, seed: int) -> np.ndarray:
        rows = config.cycle.rows
        return POINTS_UxD[np.arange(rows) % 2]


class AllDifferent(NothingFresh):
    """Every row another one."""

    def first_rows(self, config, seed: int) -> np.ndarray:
        return POINTS_UxD[: config.cycle.rows]


@functools.cache
def drift(source_kind, rows: int, generations: int) -> np.ndarray:
    """Heterozygosity of 200 loops of `resample`, (200, generations), as the loop runs them."""
    settings = [f"cycle.rows={rows}", f"cycle.generations={generations}", f"seeds={list(range(200))}"]
    config = tiny_config("learner.name=resample", "grid={}", *settings)
    heterozygosity = np.full((200, generations), np.nan)

    def keep(record: Record) -> None:
        counts_U = unique_rows(record.state.sampled)[2]
        heterozygosity[record.loop.index, record.state.generation] = 1 - np.sum((counts_U / rows) ** 2)

    diverged = run_loops(
        loops(config), {}, source_kind(), ReferenceLearner(FITS), lambda loop, generation: {}, keep, silent
    )
    assert diverged == [] and np.all(np.isfinite(heterozygosity))
    return heterozygosity


def test_heterozygosity_decays_by_one_in_n_a_generation():
    """Wright (1931): its expectation falls by the factor 1 - 1/n in each generation of n rows. Catches rows that are
    drawn without replacement, from other than the newest rows, or in fewer than all generations.
    """
    rows = 20
    heterozygosity = drift(TwoAlleles, rows, 140)
    for generation in (0, 1, 5, 20, 40, 60):
        values = heterozygosity[:, generation]
        expected = 0.5 * (1 - 1 / rows) ** (generation + 1)
        assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / math.sqrt(len(values))
    different = drift(AllDifferent, rows, 140)
    expected = (1 - 1 / rows) * (1 - 1 / rows) ** 31
    values = different[:, 30]
    assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / math.sqrt(len(values))


def exact_times(rows: int) -> dict[type, float]:
    """Expected generations until one expression is left, of the exact Wright-Fisher process, by solving its chain."""
    inner = np.arange(1, rows)
    alleles = scipy.stats.binom.pmf(inner[None, :], rows, inner[:, None] / rows)
    two = np.linalg.solve(np.eye(rows - 1) - alleles, np.ones(rows - 1))[rows // 2 - 1]
    # Backwards in time: k rows have j different ancestors, until there is one.
    ancestors = np.zeros((rows + 1, rows + 1))
    ancestors[0, 0] = 1
    for k in range(1, rows + 1):
        for j in range(1, k + 1):
            # The k-th row has one of the j ancestors of those before it, or another one.
            new = (rows - j + 1) / rows
            ancestors[k, j] = ancestors[k - 1, j] * j / rows + ancestors[k - 1, j - 1] * new
    inner = ancestors[2:, 2:]
    different = np.linalg.solve(np.eye(rows - 1) - inner, np.ones(rows - 1))[-1]
    return {TwoAlleles: two, AllDifferent: different}


@pytest.mark.parametrize(
    ("source_kind", "diffusion_per_row"),
    # The diffusion approximation for n genes: two alleles at frequency x are down to one after
    # -2 n (x log x + (1 - x) log(1 - x)) generations (Watterson 1962, Ewens 1963; Kimura and Ohta 1969 give its two
    # parts), and n different genes after 2 n (1 - 1/n), the time to the most recent common ancestor (Kingman 1982).
    [(TwoAlleles, 2 * math.log(2)), (AllDifferent, 2 * (1 - 1 / 20))],
)
def test_fixation_takes_as_long_as_population_genetics_says(source_kind, diffusion_per_row):
    """Catches a drift that is faster or slower than that of n rows, though its first step may be right."""
    rows, generations = 20, 140
    heterozygosity = drift(source_kind, rows, generations)
    fixed = heterozygosity < 1e-12
    assert np.mean(fixed[:, -1]) > 0.97, "hardly any loop may be cut off"
    times = np.where(fixed.any(axis=1), fixed.argmax(axis=1) + 1, generations)
    standard_error = times.std(ddof=1) / math.sqrt(len(times))
    exact = exact_times(rows)[source_kind]
    assert abs(times.mean() - exact) < 3.5 * standard_error
    assert exact == pytest.approx(diffusion_per_row * rows, rel=1.3 / rows), "the approximation is off by about 1 in n"
    assert np.all(np.diff(fixed.astype(int), axis=1) >= 0), "what is lost does not come back"


def points_of(shape: tuple[int, ...], dtype) -> np.ndarray:
    """500 rows of this shape, each of some 20 several times."""
    generator = np.random.default_rng(3)
    different = (100 * generator.normal(size=(20, *shape))).astype(dtype)
    return different[generator.integers(20, size=500)]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2,), np.float64), ((16,), np.uint8), ((), np.float32), ((), np.int64), ((4, 4), np.float32)]
)
def test_resample_knows_its_rows_and_nothing_else(shape, dtype):
    """Catches smoothing, and a temperature: an ideal memoriser has neither. And a memoriser of bytes only, to which
    points, numbers or images are unknown, or all the same.
    """
    training = points_of(shape, dtype)
    model, (points_U, _, counts_U) = Resample(training), unique_rows(training)
    assert 10 < len(points_U) <= 20
    for temperature in (1.0, 0.5):
        np.testing.assert_allclose(np.exp(model.log_prob(points_U, temperature)), counts_U / 500)
        written = model.write(np.random.default_rng(0), 300, temperature)
        assert written.shape == (300, *shape) and written.dtype == dtype
        assert np.all(np.isfinite(model.log_prob(written, temperature)))
    assert model.log_prob(points_of(shape, dtype)[::-1][:3], 1.0).max() < 0
    strange = np.full((1, *shape), 251, dtype)
    assert model.log_prob(strange, 1.0).tolist() == [-math.inf]


def test_resample_writes_each_row_as_often_as_it_says():
    """Catches rows that are drawn without replacement, or each different one equally often: chi-square, 20 points."""
    training = points_of((2,), np.float64)
    model = Resample(training)
    points_U, _, counts_U = unique_rows(model.write(np.random.default_rng(1), 20_000, 1.0))
    expected_U = 20_000 * np.exp(model.log_prob(points_U, 1.0))
    assert expected_U.sum() == pytest.approx(20_000)
    assert scipy.stats.chisquare(counts_U, expected_U).pvalue > 1e-4


def test_each_loop_is_fitted_by_what_its_config_names():
    """Catches a fit of another name or of another loop's rows, and an outcome whose log-probabilities are not those of
    the temperature at which it was written, or of rows in another order.
    """

    class Told:
        """Writes its training rows, and says the temperature and its name's length of each."""

        def __init__(self, name: str, training: np.ndarray):
            self.name, self.training = name, training

        def write(self, generator, rows, temperature):
            assert isinstance(generator, np.random.Generator) and rows == 60
            return self.training[::-1]

        def log_prob(self, points, temperature):
            return points[:, 0] + len(self.name) + temperature

    fits = {name: lambda loop, training, name=name: Told(name, training) for name in ("resample", "ngram")}
    grid = 'grid={"learner.name" = ["resample", "ngram"], "sample.temperature" = [0.5, 2.0]}'
    group = loops(tiny_config("cycle.rows=60", grid))
    learner = ReferenceLearner(fits)
    training = [np.random.default_rng(loop.index).normal(size=(60, 2)) for loop in group]
    probe = learner.probe(np.zeros((3, 2)))
    probes = [{"asked": probe} if loop.index % 2 else {} for loop in group]
    shares = []
    outcomes, seconds = learner.finish(learner.start(tasks_of(group, [0] * 4, training, probes)), shares.append)
    assert shares == sorted(shares) and 0 <= shares[0] <= shares[-1] <= 1 and set(seconds.probes) == {"asked"}
    for loop, rows, outcome in zip(group, training, outcomes, strict=True):
        temperature, length = loop.config.sample.temperature, len(loop.config.learner.name)
        np.testing.assert_array_equal(outcome.points, rows[::-1])
        np.testing.assert_array_equal(outcome.log_prob_N, rows[::-1, 0] + length + temperature)
        if loop.index % 2:
            expected_2xP = np.repeat([[length + 1.0], [length + temperature]], 3, axis=1)
            np.testing.assert_array_equal(outcome.probed["asked"], expected_2xP)
        else:
            assert outcome.probed == {}
        assert not outcome.diverged and outcome.parameters == {}


def test_there_is_no_smaller_reference_learner():
    """Catches an endless halving where the host's memory has run out."""
    assert ReferenceLearner(FITS).smaller() is None
