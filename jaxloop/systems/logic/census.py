"""Exact masses of classes of expressions under the (conditioned) source, by recursion over depth, never by enumeration.

Given the value of a node, what stands below it is a mixture over the ways to that value, and the operands of a way are
independent; so the distribution of the depth of a tree, or of its number of operators, follows from the leaves up.

Levels of probability need less, in a uniform language. Exchange `and` with `or` and `True` with `False`: that turns
true expressions into false ones and keeps the numbers of nodes at each depth, on which alone the probability depends.
So half of every level is true, and the condition on truth changes no mass.

Legend: L levels of probability, H depth of a tree or its number of operators, A nodes above min_depth, W nodes at
min_depth, K nodes from there to above max_depth, M nodes at max_depth.
"""

import math
from collections.abc import Callable

import numpy as np

from jaxloop.systems.logic.language import Language

# Far more than rounding, and far less than what two levels of probability differ by.
LEVEL_TOLERANCE_NATS = 1e-6


def _product(a_KxM: np.ndarray, b_KxM: np.ndarray) -> np.ndarray:
    """Product of two polynomials in two variables; a direct sum of non-negative terms, so every term is accurate."""
    rows, columns = (left + right - 1 for left, right in zip(a_KxM.shape, b_KxM.shape, strict=True))
    product_KxM = np.zeros((rows, columns))
    margin = a_KxM.shape[1] - 1
    for first, b_M in enumerate(b_KxM):
        # Row m holds b_M from column m on, so that a product of matrices multiplies all rows of a by it.
        shifted_MxM = np.lib.stride_tricks.sliding_window_view(np.pad(b_M, margin), columns)[::-1]
        product_KxM[first : first + len(a_KxM)] += a_KxM @ np.ascontiguousarray(shifted_MxM)
    return product_KxM


def _node_counts(start_KxM: np.ndarray, choices: int, depths: int) -> np.ndarray:
    """Distribution of two counts of nodes in a tree, some depths further up.

    Args:
      start_KxM: their distribution in the trees below; both counts are independent between trees.
      choices: of a node at these depths, 3 or 5, uniform; two of them are leaves if there are 5.
      depths: how many; their nodes are added to the first count.
    """
    counts_KxM = start_KxM
    for _ in range(depths):
        pair_KxM = 2 * _product(counts_KxM, counts_KxM)
        pair_KxM[: counts_KxM.shape[0], : counts_KxM.shape[1]] += counts_KxM
        pair_KxM[0, 0] += choices - 3
        counts_KxM = np.pad(pair_KxM / choices, ((1, 0), (0, 0)))
    return counts_KxM


def probability_levels(language: Language) -> tuple[np.ndarray, np.ndarray]:
    """The different probabilities that expressions of a uniform language have, and the mass of each.

    With a nodes above min_depth, k from there to above max_depth and m at max_depth an expression has probability
    3^-a 5^-k 2^-m; how a, k and m are distributed together is a product of polynomials at each depth. Up to max_depth 8
    every number stays above 1e-300 and every mass has a relative error below 1e-12.

    Args:
      language: uniform, of max_depth 8 at most.

    Returns:
      (log_prob_L, mass_L): log-probability in nats, from the most to the least probable, and the mass of all
      expressions within 1e-9 nats of it. Of the true expressions under their condition, with `only_true`.

    Raises:
      ValueError: the choices are not uniform, or max_depth is above 8.
    """
    low, high = language.min_depth, language.max_depth
    shares = [language.probabilities(depth) for depth in range(high + 1)]
    if any(min(share) != max(share) for share in shares) or high > 8:
        raise ValueError("levels of probability are known for uniform choices up to max_depth 8 only")
    below_KxM = _node_counts(np.array([[0.0, 1.0]]), 5, high - low)
    above_AxW = _node_counts(np.array([[0.0, 1.0]]), 3, low)
    powers_WxKxM = np.zeros((above_AxW.shape[1], 2**high - 2**low + 1, 2**high + 1))
    power_KxM = np.ones((1, 1))
    for target_KxM in powers_WxKxM[1:]:
        power_KxM = _product(power_KxM, below_KxM)
        target_KxM[: power_KxM.shape[0], : power_KxM.shape[1]] = power_KxM
    mass_AxKxM = np.tensordot(above_AxW, powers_WxKxM, 1)

    counts_Lx3 = np.argwhere(mass_AxKxM > 0)
    log_prob_L = -counts_Lx3 @ np.log([3.0, 5.0, 2.0])
    if language.only_true:
        log_prob_L -= math.log(language.true_probability)
    order_L = np.argsort(-log_prob_L)
    log_prob_L, mass_L = log_prob_L[order_L], mass_AxKxM[tuple(counts_Lx3.T)][order_L]
    first = np.flatnonzero(np.diff(log_prob_L, prepend=math.inf) < -1e-9)
    return log_prob_L[first], np.add.reduceat(mass_L, first)


def _masses(language: Language, size: int, combine: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Distribution of a number that is 0 of a leaf, and of an operator 1 more than that of its operands.

    Args:
      language: the source.
      size: numbers 0 to size - 1, H.
      combine: distribution of the number of two independent operands from their distributions; of this size at least.
    """
    given = [np.zeros(size), np.zeros(size)]  # the distribution below a node, given its value
    totals = (0.0, 0.0)
    for depth in reversed(range(language.max_depth + 1)):
        totals = language.value_probabilities(depth)
        here = [np.zeros(size), np.zeros(size)]
        for mass_H, ways, total in zip(here, language.ways(depth), totals, strict=True):
            for way in ways:
                operands = [given[value] for value in way.operands]
                if operands:
                    both_H = combine(*operands) if len(operands) == 2 else operands[0]
                    mass_H[1:] += way.probability / total * both_H[: size - 1]
                else:
                    mass_H[0] += way.probability / total
        given = here
    return given[1] if language.only_true else totals[0] * given[0] + totals[1] * given[1]


def _larger(a_H: np.ndarray, b_H: np.ndarray) -> np.ndarray:
    """Distribution of the larger of two independent numbers, from theirs."""
    return a_H * np.cumsum(b_H) + (np.cumsum(a_H) - a_H) * b_H


def depth_masses(language: Language) -> np.ndarray:
    """Mass of the expressions of each depth 0 to max_depth, (H,); sums to 1."""
    return _masses(language, language.max_depth + 1, _larger)


def operator_masses(language: Language) -> np.ndarray:
    """Mass of the expressions with each number of operators 0 to 2^max_depth - 1, (H,); sums to 1."""
    return _masses(language, 2**language.max_depth, np.convolve)


def root_masses(language: Language) -> dict[int, float]:
    """Mass of the expressions with each token at the root, of those that have mass; sums to 1."""
    false, true = language.ways(0)
    ways = true if language.only_true else false + true
    total = math.fsum(way.probability for way in ways)
    return {
        choice: math.fsum(way.probability for way in ways if way.choice == choice) / total
        for choice in language.choices(0)
        if any(way.choice == choice for way in ways)
    }
