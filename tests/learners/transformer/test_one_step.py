"""One training step by itself: what devices are held against each other by."""

import jax
import numpy as np
import pytest

from jaxloop.learners.transformer.one_step import differences, make_step
from jaxloop.learners.transformer.settings import ModelSettings
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.vocabulary import VOCABULARY

MODEL = ModelSettings(layers=1, heads=2, width=16, context_tokens=16, activations="float32")


@pytest.fixture(scope="module")
def result():
    rows_NxT = Language(min_depth=1, max_depth=2).draw(np.random.default_rng(0), 50, 16)
    step, corpus = make_step(MODEL, VOCABULARY, rows_NxT)
    return jax.device_get(jax.jit(step)(corpus))


def test_without_dropout_the_loss_is_that_of_the_log_probabilities(result):
    """Catches rows that the step leaves out, or counts twice: the two come from two programs of the house."""
    assert result.log_prob_N.shape == (50,) and result.nats == pytest.approx(-result.log_prob_N.sum(), rel=1e-5)


def test_a_difference_is_found_at_its_place(result):
    """Catches an array that is compared with another one's, or not at all, and one that is not a number."""
    right = differences(result, result)
    assert set(right.values()) == {0.0} and {"nats", "log_prob_N"} < right.keys() and len(right) > 8
    wrong = differences(result._replace(log_prob_N=1.5 * result.log_prob_N, nats=np.float32(np.nan)), result)
    assert wrong["log_prob_N"] == pytest.approx(0.5, rel=1e-5) and np.isnan(wrong["nats"])
    assert sum(share != 0 for share in wrong.values()) == 2
