"""What systems know of rows, by which checks and rewards go."""

import numpy as np
import pytest
from scipy import stats

from jaxloop.config.presets import load
from jaxloop.config.schema import loops
from jaxloop.errors import InputError
from jaxloop.loop.run_loops import run_loops
from jaxloop.systems.interfaces import missing_mass
from jaxloop.systems.logic import census
from jaxloop.systems.logic.language import language_of
from jaxloop.systems.logic.vocabulary import EOS, encode
from jaxloop.systems.registry import learner_of, system_of

TEXTS = ["True", "( not False )", "( True and False )", "( ( True or False ) and True )", "( True", "True False", ""]


@pytest.fixture(scope="module")
def logic():
    config = load("quick", ["language.max_depth=3", "model.context_tokens=40"])
    width = config.model.context_tokens
    rows = [
        np.pad(np.array(encode(text), np.uint8), (0, width - len(text.split())), constant_values=EOS) for text in TEXTS
    ]
    return config, system_of(config), np.stack(rows)


def test_what_is_known_of_expressions(logic):
    """Catches scores of other rows, and what is no expression taken for one."""
    config, system, rows = logic
    assert system.score(config, "truth", rows).tolist() == [1, 1, 0, 1, 0, 0, 0]
    assert system.score(config, "length", rows).tolist() == [len(text.split()) for text in TEXTS]
    assert system.score(config, "depth", rows)[:4].tolist() == [0, 1, 1, 2]
    nats = system.score(config, "source", rows)
    assert np.isfinite(nats).tolist() == [False, True, False, True, False, False, False]
    np.testing.assert_array_equal(nats, language_of(config.language).log_prob(rows))
    with pytest.raises(InputError, match="nobody knows the beauty"):
        system.score(config, "beauty", rows)


def test_what_is_missing_of_a_depth(logic):
    """Catches a reward for what there is too much of: log(source's mass / rows' share), by hand."""
    config, system, rows = logic
    masses = census.depth_masses(language_of(config.language))
    repeated = np.repeat(rows, [1, 6, 1, 2, 1, 1, 1], axis=0)
    missing = system.score(config, "balance", repeated)
    shallow, deep = np.log(masses[1] / (6 / 13)), np.log(masses[2] / (2 / 13))
    outside = -np.inf
    np.testing.assert_allclose(missing, [outside, *[shallow] * 6, outside, *[deep] * 2, *[outside] * 3])


def test_missing_mass_of_rows_that_are_as_the_source_is_none():
    """Catches a class that is its neighbour, and rows without a class."""
    assert np.allclose(missing_mass(np.array([0, 1, 1, 1]), np.array([0.25, 0.75])), 0)
    assert np.array_equal(missing_mass(np.array([-1, -1]), np.array([1.0])), [-np.inf, -np.inf])


def test_what_is_known_of_numbers():
    """The density of the source, and a tenth in which there is nothing but what lies there."""
    config = load("gaussian", ["system.mean=2.0", "system.standard_deviation=3.0"])
    points, system = np.array([2.0, 2.1, 11.0], np.float32), system_of(config)
    np.testing.assert_allclose(system.score(config, "source", points), stats.norm(2, 3).logpdf(points), rtol=1e-6)
    np.testing.assert_allclose(system.score(config, "balance", points), np.log(0.1 / np.array([2 / 3, 2 / 3, 1 / 3])))
    with pytest.raises(InputError, match="nobody knows the truth"):
        system.score(config, "truth", points)


@pytest.mark.parametrize(("keep", "share"), [("likeliest", 0.9), ("likeliest", 0.5), ("least_likely", 0.5)])
def test_a_gaussian_loop_shrinks_or_grows_by_what_a_filter_keeps(keep, share):
    """The variance of generation t is (factor)^t, and the factor 1 - 2 z phi(z) / q for the likeliest q: 200 seeds of
    2,000 rows, three generations; the mean of its logarithm within four standard errors (the fit itself loses a part in
    2,000).
    """
    config = load(
        "gaussian",
        ["seeds=[" + ",".join(map(str, range(200))) + "]", "cycle.rows=2000", "cycle.generations=4", "grid={}",
         "curation.name=likelihood", f"curation.keep={keep}", f"curation.keep_share={share}", "controls=false",
         f"curation.oversample={1 / share}"],
    )  # fmt: skip
    z = stats.norm.ppf((1 + share) / 2)
    factor = 1 - 2 * z * stats.norm.pdf(z) / share
    factor = factor if keep == "likeliest" else (1 - share * factor) / (1 - share)
    system, records, group = system_of(config), [], loops(config)
    learner = learner_of(system, config, len(group))
    run_loops(group, {}, system, learner, lambda *_: {}, records.append, lambda *_: None)
    # Least likely rows of the Gaussian that is fitted to least likely rows are not normal: its first step only.
    for generation in range(1, 4 if keep == "likeliest" else 2):
        logs = np.array([
            np.log(record.written.columns["model_standard_deviation"] ** 2)
            for record in records if record.state.generation == generation
        ])  # fmt: skip
        expected = generation * np.log(factor)
        lost = 2 * (generation + 1) / 2000
        assert len(logs) == 200
        assert abs(logs.mean() - expected) < 4 * logs.std(ddof=1) / np.sqrt(200) + lost, (generation, logs.mean())
