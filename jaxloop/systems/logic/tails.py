"""Which part of the source has died: its mass and its first expressions, by classes of expressions.

The classes are the tenths of the source by probability, from its most probable expressions to its least probable
(whose tails disappear, says the work of Shumailov et al. 2023), the depth of the tree, its number of operators, and
what stands at its root.

Tenths have equal mass, exactly. All expressions of one probability are alike, so where a border of tenths falls among
them, each of them belongs to both tenths in the same proportion. No order of equals is invented.

Legend: N rows, G classes, L levels of probability.
"""

import math
from typing import NamedTuple

import numpy as np

from jaxloop.measures.distances import Estimate, mean_of
from jaxloop.systems.logic import census
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.structure import operator_counts, root_tokens
from jaxloop.systems.logic.vocabulary import TOKENS

TENTHS = 10


class Rows(NamedTuple):
    """Expressions of the source's support, and what decides their classes."""

    log_prob_N: np.ndarray  # nats, under the source
    depth_N: np.ndarray
    operators_N: np.ndarray
    root_N: np.ndarray


def describe_rows(tokens_NxT: np.ndarray, log_prob_N: np.ndarray, depth_N: np.ndarray) -> Rows:
    """Rows (N, T) uint8 in the support of the source, with their log-probability (nats) and depth."""
    return Rows(log_prob_N, depth_N, operator_counts(tokens_NxT), root_tokens(tokens_NxT))


class Classes(NamedTuple):
    """One way to divide the expressions of a source."""

    name: str
    labels: list[str]
    source_share_G: np.ndarray  # exact mass of each class under the source


class Tails:
    """The classes of a source's expressions."""

    def __init__(self, language: Language):
        level_log_prob_L, level_mass_L = census.probability_levels(language)
        self._level_log_prob_L = level_log_prob_L
        ends_L = np.cumsum(level_mass_L)
        begins_L = np.concatenate([[0.0], ends_L[:-1]])
        borders = np.arange(TENTHS + 1) / TENTHS
        overlap_LxG = np.minimum(ends_L[:, None], borders[1:]) - np.maximum(begins_L[:, None], borders[:-1])
        overlap_LxG = np.maximum(overlap_LxG, 0)
        # A level may have less mass than the rounding of what lies before it: it belongs where it begins.
        none_L = overlap_LxG.sum(axis=1) == 0
        overlap_LxG[none_L, np.searchsorted(borders[1:-1], begins_L[none_L], side="right")] = 1
        self._tenth_LxG = overlap_LxG / overlap_LxG.sum(axis=1, keepdims=True)
        depth_mass, operator_mass = census.depth_masses(language), census.operator_masses(language)
        root_mass = census.root_masses(language)
        self._depths, self._operators = np.flatnonzero(depth_mass > 0), np.flatnonzero(operator_mass > 0)
        self._roots = np.array(sorted(root_mass))
        self.classes = (
            Classes("tenth", [str(tenth) for tenth in range(1, TENTHS + 1)], np.full(TENTHS, 1 / TENTHS)),
            Classes("depth", [str(depth) for depth in self._depths], depth_mass[self._depths]),
            Classes("operators", [str(count) for count in self._operators], operator_mass[self._operators]),
            Classes(
                "root",
                [TOKENS[token] for token in self._roots],
                np.array([root_mass[token] for token in self._roots.tolist()]),
            ),
        )

    def memberships(self, rows: Rows) -> dict[str, np.ndarray]:
        """By name of the classes, the part of each row that belongs to each class, (N, G); each row sums to 1."""
        level_log_prob_L = self._level_log_prob_L
        # Levels fall, so the first that is not above a row's own is its own.
        level_N = np.searchsorted(-level_log_prob_L, -rows.log_prob_N - census.LEVEL_TOLERANCE_NATS)
        level_N = np.minimum(level_N, len(level_log_prob_L) - 1)
        if np.any(np.abs(level_log_prob_L[level_N] - rows.log_prob_N) > census.LEVEL_TOLERANCE_NATS):
            raise ValueError("rows have probabilities that the source does not have")
        return {
            "tenth": self._tenth_LxG[level_N],
            "depth": (rows.depth_N[:, None] == self._depths).astype(float),
            "operators": (rows.operators_N[:, None] == self._operators).astype(float),
            "root": (rows.root_N[:, None] == self._roots).astype(float),
        }


def estimated_shares(membership_NxG: np.ndarray, samples: int) -> list[Estimate]:
    """The model's mass of each class, from its samples: those in the support (N), of so many in all."""
    outside = np.zeros(samples - len(membership_NxG))
    return [mean_of(np.concatenate([column, outside])) for column in membership_NxG.T]


def exact_shares(membership_NxG: np.ndarray, model_probability_N: np.ndarray) -> list[Estimate]:
    """The model's mass of each class by a sum over the whole support of the source."""
    return [Estimate(float(share), 0.0) for share in model_probability_N @ membership_NxG]


def alive_shares(membership_NxG: np.ndarray, alive_N: np.ndarray) -> np.ndarray:
    """Of the given expressions, which part of each class is alive, (G,); not a number where a class has none."""
    members_G = membership_NxG.sum(axis=0)
    alive_G = alive_N.astype(float) @ membership_NxG
    shares_G = np.divide(alive_G, members_G, out=np.full(len(members_G), math.nan), where=members_G > 0)
    return np.minimum(shares_G, 1)  # Sums of parts may be rounded up.
