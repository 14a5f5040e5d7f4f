"""Reference learners: what a loop loses whose learner is understood, under the same cycles and seeds.

    resample   draws the next rows from the training rows with replacement: an ideal memoriser, and so the Wright-Fisher
               process of population genetics (Wright 1931). What it loses, finite samples alone lose. It has no choices
               that a temperature could be applied to.
    grammar    the maximum-likelihood fit of the grammar's own choice probabilities: a model that is well specified
    ngram      a back-off n-gram over tokens: a model that is not
    oracle     the true source, whatever the training rows: what it loses, the temperature alone loses

The temperature is applied to choices of the grammar in `grammar`, and to tokens in the last two, as in the transformer.

Legend: N rows, T tokens a row.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from jaxloop.config.schema import Loop
from jaxloop.learners.reference import autoregressive
from jaxloop.learners.reference.ngram import NGram
from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.loop.run_loops import Outcome, Seconds
from jaxloop.systems.logic.grammar import fit_grammar, tempered
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.oracle import Oracle
from jaxloop.systems.logic.vocabulary import unique_rows


class Fitted(Protocol):
    """A distribution over rows."""

    def write(self, generator: np.random.Generator, rows: int, width: int, temperature: float) -> np.ndarray:
        """So many rows (N, T) uint8."""

    def log_prob(self, tokens_NxT: np.ndarray, temperature: float) -> np.ndarray:
        """Log-probability of each row as it is written at this temperature, (N,) nats."""


class Resample:
    """The empirical distribution of the training rows."""

    def __init__(self, training_NxT: np.ndarray):
        self._training_NxT = training_NxT
        tokens_UxT, _, counts_U = unique_rows(training_NxT)
        log_share_U = np.log(counts_U / len(training_NxT))
        self._log_share = dict(zip(map(bytes, tokens_UxT), log_share_U.tolist(), strict=True))

    def write(self, generator: np.random.Generator, rows: int, width: int, temperature: float) -> np.ndarray:
        """Rows drawn with replacement; width and temperature have no say."""
        return self._training_NxT[generator.integers(len(self._training_NxT), size=rows)]

    def log_prob(self, tokens_NxT: np.ndarray, temperature: float) -> np.ndarray:
        """Log-share of each row among the training rows, minus infinity for one that is not there."""
        return np.array([self._log_share.get(bytes(row_T), -math.inf) for row_T in tokens_NxT])


class Grammar:
    """The source's grammar with choice probabilities fitted to the training rows."""

    def __init__(self, language: Language, training_NxT: np.ndarray):
        self._fitted = fit_grammar(language, training_NxT)

    def write(self, generator: np.random.Generator, rows: int, width: int, temperature: float) -> np.ndarray:
        """Draws from the fitted grammar, each of whose choices has the temperature applied."""
        return tempered(self._fitted, temperature).draw(generator, rows, width)

    def log_prob(self, tokens_NxT: np.ndarray, temperature: float) -> np.ndarray:
        """The grammar's own log-probabilities."""
        return tempered(self._fitted, temperature).log_prob(tokens_NxT)


class Autoregressive(NamedTuple):
    """A model that gives the distribution of the next token."""

    model: autoregressive.NextToken

    def write(self, generator: np.random.Generator, rows: int, width: int, temperature: float) -> np.ndarray:
        """Rows written token by token."""
        return autoregressive.write(self.model, generator, rows, width, temperature)

    def log_prob(self, tokens_NxT: np.ndarray, temperature: float) -> np.ndarray:
        """Sums of the tokens' log-probabilities."""
        return autoregressive.log_prob(self.model, tokens_NxT, temperature)


def fit(loop: Loop, language: Language, training_NxT: np.ndarray) -> Fitted:
    """The distribution that the loop's reference learner makes of its training rows."""
    learner = loop.config.learner
    if learner.name == "resample":
        return Resample(training_NxT)
    if learner.name == "grammar":
        return Grammar(language, training_NxT)
    if learner.name == "ngram":
        return Autoregressive(NGram(training_NxT, learner.order))
    if learner.name == "oracle":
        return Autoregressive(Oracle(language))
    raise ValueError(f"{learner.name} is no reference learner")


class Started(NamedTuple):
    """Work that `finish` will do: it takes milliseconds."""

    loops: list[Loop]
    generations: list[int]
    training: list[np.ndarray]
    probes: list[dict[str, np.ndarray]]


class ReferenceLearner:
    """Fits reference learners on the host; see `loop.Learner`."""

    # So many generations are computed before they are measured and kept.
    places = 8

    def __init__(self, language: Language):
        self._language = language

    def probe(self, tokens_NxT: np.ndarray) -> np.ndarray:
        """The rows as they are."""
        return tokens_NxT

    def start(
        self, loops: list[Loop], generations: list[int], training: list[np.ndarray], probes: list[dict[str, np.ndarray]]
    ) -> Started:
        """Note what is to be done."""
        return Started(loops, generations, training, probes)

    def finish(self, started: Started, watch: Callable[[float], None]) -> tuple[list[Outcome], Seconds]:
        """Do it."""
        outcomes, seconds = [], []
        for place, work in enumerate(zip(*started, strict=True)):
            watch(place / len(started.loops))
            outcome, spent = self._generation(*work)
            outcomes.append(outcome)
            seconds.append(spent)
        probes = {name: sum(spent.probes.get(name, 0.0) for spent in seconds) for one in seconds for name in one.probes}
        return outcomes, Seconds(sum(one.train for one in seconds), sum(one.sample for one in seconds), probes)

    def _generation(self, loop: Loop, generation: int, training_NxT: np.ndarray, probes: dict[str, np.ndarray]):
        config = loop.config
        width, temperature = config.model.context_tokens, config.sample.temperature
        times = [time.perf_counter()]
        fitted = fit(loop, self._language, training_NxT)
        times.append(time.perf_counter())
        generator = host_generator(loop.seed, Purpose.SAMPLING, generation)
        sampled_NxT = fitted.write(generator, config.cycle.rows, width, temperature)
        sampled_log_prob_N = fitted.log_prob(sampled_NxT, temperature)
        times.append(time.perf_counter())
        probed, probe_seconds = {}, {}
        for name, tokens_PxT in probes.items():
            probed[name] = np.stack([fitted.log_prob(tokens_PxT, 1.0), fitted.log_prob(tokens_PxT, temperature)])
            times.append(time.perf_counter())
            probe_seconds[name] = times[-1] - times[-2]
        columns = {"validation_nats": math.nan, "training_nats_per_token": math.nan, "training_steps": 0}
        seconds = Seconds(times[1] - times[0], times[2] - times[1], probe_seconds)
        return Outcome(sampled_NxT, sampled_log_prob_N, probed, columns, {}, False), seconds
