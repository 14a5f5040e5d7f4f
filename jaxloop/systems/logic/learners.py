"""The learners of the logic language: the transformer, and those whose losses are known.

    resample   an ideal memoriser: what it loses, finite samples alone lose
    grammar    the maximum-likelihood fit of the grammar's own choice probabilities: a model that is well specified
    ngram      a back-off n-gram over tokens: a model that is not
    oracle     the true source, whatever the training rows: what it loses, the temperature alone loses

The temperature is applied to choices of the grammar in `grammar`, and to tokens in the last two, as in the transformer.

Legend: N rows, T tokens a row.
"""

import math

import numpy as np

from jaxloop.config.schema import Loop
from jaxloop.learners.reference.autoregressive import Autoregressive
from jaxloop.learners.reference.learner import Fit, ReferenceLearner, Resample
from jaxloop.learners.reference.ngram import NGram
from jaxloop.learners.transformer.learner import TransformerLearner
from jaxloop.loop.run_loops import rows_to_write
from jaxloop.systems.logic.grammar import fit_grammar, tempered
from jaxloop.systems.logic.language import Language, language_of
from jaxloop.systems.logic.oracle import Oracle
from jaxloop.systems.logic.settings import LogicConfig
from jaxloop.systems.logic.source import typical_rows
from jaxloop.systems.logic.vocabulary import VOCABULARY


class Grammar:
    """The source's grammar with choice probabilities fitted to the training rows."""

    def __init__(self, language: Language, training_NxT: np.ndarray):
        self._fitted, self._width = fit_grammar(language, training_NxT), training_NxT.shape[1]

    def write(self, generator: np.random.Generator, rows: int, temperature: float) -> np.ndarray:
        """Draws from the fitted grammar, each of whose choices has the temperature applied."""
        return tempered(self._fitted, temperature).draw(generator, rows, self._width)

    def log_prob(self, tokens_NxT: np.ndarray, temperature: float) -> np.ndarray:
        """The grammar's own log-probabilities."""
        return tempered(self._fitted, temperature).log_prob(tokens_NxT)


def _resample(loop: Loop[LogicConfig], training_NxT: np.ndarray) -> Resample:
    return Resample(training_NxT)


def _grammar(loop: Loop[LogicConfig], training_NxT: np.ndarray) -> Grammar:
    return Grammar(language_of(loop.config.language), training_NxT)


def _ngram(loop: Loop[LogicConfig], training_NxT: np.ndarray) -> Autoregressive:
    return Autoregressive(NGram(training_NxT, loop.config.learner.order, VOCABULARY), training_NxT.shape[1])


def _oracle(loop: Loop[LogicConfig], training_NxT: np.ndarray) -> Autoregressive:
    return Autoregressive(Oracle(language_of(loop.config.language)), training_NxT.shape[1])


_NOT_TRAINED = {"validation_nats": math.nan, "training_nats_per_token": math.nan, "training_steps": 0}

FITS: dict[str, Fit[LogicConfig]] = {"resample": _resample, "grammar": _grammar, "ngram": _ngram, "oracle": _oracle}


def reference_learner() -> ReferenceLearner[LogicConfig]:
    """What fits each of the reference learners."""
    return ReferenceLearner(FITS, _NOT_TRAINED)


def transformer_learner(config: LogicConfig, loop_count: int) -> TransformerLearner:
    """The transformer for so many loops that are alike in all but their knobs and seeds."""
    return TransformerLearner(config, loop_count, rows_to_write(config), VOCABULARY, typical_rows(config))
