"""The source with its probabilities fitted to data, the simplest learner that can know the language; and its tempering.

The model has free probabilities of the choices at each depth and, as the source with `only_true`, a condition on truth.
The condition divides by P(true), which depends on the probabilities too, so frequencies in true data do not maximise
the likelihood. Expectation-maximisation (Dempster, Laird and Rubin 1977) takes as missing data the false expressions
that were rejected, (1 - P(true)) / P(true) of them for each true one. Squared extrapolation (Varadhan and Roland 2008)
makes its steps longer. Any weights of choices, normalised or not, give a model of this family, and the likelihood is
concave in their logarithms, so what is climbed has no lesser summits. It never falls when the weight of a choice that
the data lack is lowered, so that gets probability 0.

Legend: N rows, T tokens a row, D depths 0 to max_depth, V vocabulary.
"""

import math

import numpy as np

from jaxloop.errors import RunError
from jaxloop.systems.logic.language import Language, node_depths
from jaxloop.systems.logic.vocabulary import FALSE, NOT, VOCABULARY

_TOLERANCE = 1e-12
# Ten to twenty are enough, unless the likelihood rises for ever towards a probability of 0; there they bound the time.
_ITERATIONS = 300
# What one extrapolation may change in the logarithm of a probability: it cannot reach 0.
_LONGEST_LOG_STEP = 5.0


def choice_counts(language: Language, tokens_NxT: np.ndarray) -> np.ndarray:
    """How often each leaf and operator is chosen at each depth of rows that lie in the language's support.

    Returns:
      counts_DxV: (max_depth + 1, VOCABULARY.size) float64; 0 for tokens that are no choice.
    """
    inside_NxT = np.arange(tokens_NxT.shape[1]) < VOCABULARY.lengths(tokens_NxT)[:, None]
    is_node_NxT = inside_NxT & (tokens_NxT >= NOT) & (tokens_NxT <= FALSE)
    places = node_depths(tokens_NxT)[is_node_NxT] * VOCABULARY.size + tokens_NxT[is_node_NxT]
    shape = (language.max_depth + 1, VOCABULARY.size)
    return np.bincount(places, minlength=math.prod(shape)).reshape(shape).astype(np.float64)


def _normalised(weight_DxV: np.ndarray) -> np.ndarray:
    return weight_DxV / weight_DxV.sum(axis=1, keepdims=True)


def _with_probabilities(language: Language, share_DxV: np.ndarray, only_true: bool) -> Language:
    shares = [share_V[list(language.choices(depth))] for depth, share_V in enumerate(share_DxV)]
    return Language(language.min_depth, language.max_depth, only_true, shares)


def _false_counts(language: Language) -> np.ndarray:
    """Expected number of each choice at each depth of a false expression, times P(false), (D, V)."""
    counts_DxV = np.zeros((language.max_depth + 1, VOCABULARY.size))
    nodes = [language.value_probabilities(0)[0], 0.0]  # expected number at a depth of nodes that are false, and true
    for depth, counts_V in enumerate(counts_DxV):
        below = [0.0, 0.0]
        for number, ways, total in zip(nodes, language.ways(depth), language.value_probabilities(depth), strict=True):
            for way in ways:
                expected = number * way.probability / total
                counts_V[way.choice] += expected
                for value in way.operands:
                    below[value] += expected
        nodes = below
    return counts_DxV


def _maximum(language: Language, counts_DxV: np.ndarray, rows: int, share_DxV: np.ndarray) -> np.ndarray:
    """The probabilities, (D, V), that maximise the likelihood of rows with these counts, given that they are true.

    Depths without counts keep the shares that they start with.
    """
    seen_DxV = counts_DxV > 0
    reached_D = seen_DxV.any(axis=1)

    def step(share_DxV):
        """One of expectation-maximisation; and the log-likelihood where it started."""
        free = _with_probabilities(language, share_DxV, only_true=False)
        expected_DxV = counts_DxV + rows / free.true_probability * _false_counts(free) * seen_DxV
        better_DxV = share_DxV.copy()
        better_DxV[reached_D] = _normalised(expected_DxV[reached_D])
        nats = counts_DxV[seen_DxV] @ np.log(share_DxV[seen_DxV]) - rows * math.log(free.true_probability)
        return better_DxV, nats

    longest = 4.0  # extrapolation, in steps; shorter after one that went down
    for _ in range(_ITERATIONS):
        once_DxV, _ = step(share_DxV)
        if np.abs(once_DxV - share_DxV).max() < _TOLERANCE:
            return once_DxV
        twice_DxV, nats = step(once_DxV)
        start, once, twice = (np.log(share[seen_DxV]) for share in (share_DxV, once_DxV, twice_DxV))
        change, bend = once - start, twice - 2 * once + start
        factor = min(np.linalg.norm(change) / max(np.linalg.norm(bend), np.finfo(float).tiny), longest)
        aim = start + 2 * factor * change + factor**2 * bend
        further_DxV = twice_DxV.copy()
        further_DxV[seen_DxV] = np.exp(np.clip(aim, twice - _LONGEST_LOG_STEP, twice + _LONGEST_LOG_STEP))
        further_DxV, further_nats = step(_normalised(further_DxV))
        if further_nats >= nats:
            share_DxV, longest = further_DxV, max(longest, 4 * factor)
        else:
            share_DxV, longest = twice_DxV, max(factor / 4, 1)
    return share_DxV


def fit_grammar(language: Language, tokens_NxT: np.ndarray, verdict_N: np.ndarray | None = None) -> Language:
    """The language of maximum likelihood with these depths and this condition, any probabilities of the choices.

    Rows outside the support of `language` are left out. Depths that no row reaches keep the probabilities of
    `language`; draws from the result do not reach them either. With few rows the likelihood may have no maximum but
    rise towards a probability of 0: `( True or False )` alone asks for a True that is rare without end. Then the climb
    stops where it has become slow: as a rule within 1e-3 nats a row of the limit, within 0.03 in the worst of 200.

    Args:
      language: depths, condition, and support.
      tokens_NxT: (N, T) uint8 rows.
      verdict_N: what `verify.judge` says of them, where it is known already.

    Raises:
      RunError: no row lies in the support. Data like these determine nothing, and a return to the source would hide it.
    """
    tokens_NxT = np.asarray(tokens_NxT)
    tokens_NxT = tokens_NxT[np.isfinite(language.log_prob(tokens_NxT, verdict_N))]
    if not len(tokens_NxT):
        raise RunError("no row of the training data lies in the language, so no grammar can be fitted to them")
    counts_DxV = choice_counts(language, tokens_NxT)
    share_DxV = np.zeros_like(counts_DxV)
    for depth, (share_V, counts_V) in enumerate(zip(share_DxV, counts_DxV, strict=True)):
        share_V[list(language.choices(depth))] = language.probabilities(depth)
        if counts_V.any():
            share_V[:] = counts_V / counts_V.sum()
    if language.only_true:
        share_DxV = _maximum(language, counts_DxV, len(tokens_NxT), share_DxV)
    return _with_probabilities(language, share_DxV, language.only_true)


def tempered(language: Language, temperature: float) -> Language:
    """The language with the probabilities of the choices at each depth raised to 1 / temperature and normalised.

    A choice of probability 0 keeps it. The condition on truth is put on again.

    Raises:
      ValueError: the temperature is not above 0.
      InputError: no expression of the result is true, and it is conditioned on truth.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature is {temperature}, and must be above 0")
    shares = [np.array(language.probabilities(depth)) for depth in range(language.max_depth + 1)]
    # Relative to the greatest, so that a low temperature leaves at least that.
    powers = [np.where(share > 0, (share / share.max()) ** (1 / temperature), 0) for share in shares]
    probabilities = [power / power.sum() for power in powers]
    return Language(language.min_depth, language.max_depth, language.only_true, probabilities)
