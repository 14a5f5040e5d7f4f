"""What is refused of the settings of the Gaussian system: a line that names the setting and what would be right."""

import pytest

from jaxloop.config.presets import load
from jaxloop.config.schema import describe, dump
from jaxloop.errors import InputError
from jaxloop.systems.gaussian.settings import GaussianConfig

REFUSED = {
    "language.max_depth=2": ["language.max_depth", "'logic'", "'gaussian'"],
    "model.width=16": ["model.width", "'logic'"],
    "learner.name=transformer": ["learner.name", "moments", "resample", "oracle", "'transformer'"],
    "learner.estimator=mle": ["learner.estimator", "'ml'", "'unbiased'"],
    "system.standard_deviation=0": ["system.standard_deviation", "greater than 0"],
    "system.mean=1e5": ["standard_deviation", "0.001"],
    "cycle.rows=3": ["cycle.rows", "10"],
    "sample.temperature=0": ["sample.temperature", "0.01"],
    "system.name=gausian": ["'gausian'", "did you mean 'gaussian'"],
}


def refused(*overrides):
    with pytest.raises(InputError) as caught:
        load("gaussian", overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("override", REFUSED)
def test_what_does_not_fit_is_refused_in_a_line(override):
    """A setting of another system, or a value that is none, would be ignored or end in a traceback hours later."""
    message = refused(override)
    assert all(words in message for words in REFUSED[override]), message


def test_an_estimator_needs_the_learner_that_has_it():
    """It would decide nothing, and somebody would believe that it did."""
    message = refused("learner.estimator=unbiased", "learner.name=oracle")
    assert "estimator" in message
    assert "'moments'" in message
    assert "'oracle'" in message


def test_a_grid_over_learners_and_estimators_is_one_of_pairs():
    """A grid that crosses them is refused; one that names them together is what is meant."""
    load("gaussian", ["grid={learner = [{name = 'moments', estimator = 'unbiased'}, {name = 'oracle'}]}"])
    assert "estimator" in refused("grid={'learner.name' = ['oracle'], 'learner.estimator' = ['ml', 'unbiased']}")


def test_what_is_written_out_is_the_same_config():
    """A folder could not be gone on with if its config.toml did not load as what it was made of."""
    config = load("gaussian", ["learner.estimator=unbiased", "system.mean=2"])
    assert isinstance(config, GaussianConfig)
    assert 'name = "gaussian"' in dump(config)
    of_checks = ["false_accept", "false_reject", "keep_share", "choice_temperature", "choice_error"]
    of_checks += ["detector_error", "detector_exponent"]
    others = ["cycle.fresh_share", "cycle.generated_share", "sample.temperature"]
    assert config.knobs() == [*others, *(f"curation.{name}" for name in of_checks)]
    assert (
        "multiplies the variance" in {name: meaning for name, *_, meaning in describe("gaussian")}["sample.temperature"]
    )
