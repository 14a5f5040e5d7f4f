"""The source: random Boolean expressions, and everything about their distribution in closed form.

    draw(d):  if d <  min_depth:   choose one of not, and, or
              if d >= max_depth:   choose one of True, False
              otherwise:           choose one of not, and, or, True, False
              not -> ( not draw(d+1) )      and/or -> ( draw(d+1) and draw(d+1) )

starting at d = 0, uniformly unless other probabilities are given for the choices of a depth; with `only_true`,
conditioned on expressions that evaluate to True (Briesch et al. 2023; the exact recursion of their generator is not
known, this one is jaxloop's). Worked example, min_depth 1:

    draw(0) chooses `and` (1/3), its left operand draw(1) chooses `True` (1/5), its right one `not` (1/5), whose
    operand draw(2) chooses `False` (1/5): `( True and ( not False ) )` with probability 1/375, and among the
    true expressions 1/375 / P(true) = 2/375.

An expression has one derivation only, so its probability is a product of choices, and every sum below is exact. A node
has its value in a few *ways*, by what is chosen and the values of the operands: entropies follow from the ways upwards,
draws downwards, each node given its value, so that none is rejected.

Legend: N rows, T tokens a row, K nodes of the full binary tree of depth max_depth, node i with children 2i+1, 2i+2,
P nodes that are present at one depth in any row, W ways, D depths, V vocabulary.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from jaxloop.errors import InputError
from jaxloop.systems.logic.judge import INVALID, TRUE_VERDICT, judge_jitted
from jaxloop.systems.logic.settings import LanguageSettings, longest_expression_tokens
from jaxloop.systems.logic.vocabulary import AND, CLOSE, EOS, FALSE, NOT, OPEN, OR, TRUE, VOCABULARY

ENUMERATION_LIMIT = 1_000_000

_OPERATORS = (NOT, AND, OR)
_LEAVES = (TRUE, FALSE)
_ARITY = {NOT: 1, AND: 2, OR: 2, TRUE: 0, FALSE: 0}
_NO_OPERAND = 2


def _value_of(choice: int, operands: tuple[int, ...]) -> int:
    """The value, 0 or 1, of a node with operands of these values."""
    if choice == NOT:
        return 1 - operands[0]
    if choice in _LEAVES:
        return int(choice == TRUE)
    return min(operands) if choice == AND else max(operands)


def _entropy(probabilities: Iterable[float]) -> float:
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)


class Way(NamedTuple):
    """A way in which a node gets its value."""

    choice: int  # its token
    operands: tuple[int, ...]  # the values, 0 or 1, of its operands
    probability: float  # of this choice together with these values, in the unconditioned grammar; above 0


def node_depths(tokens_NxT: np.ndarray) -> np.ndarray:
    """Depth of the node that each leaf or operator of valid rows is, (N, T) int32; without meaning elsewhere."""
    open_NxT = np.cumsum((tokens_NxT == OPEN).astype(np.int32) - (tokens_NxT == CLOSE), axis=1, dtype=np.int32)
    # A leaf within k open parentheses is a node of depth k; an operator stands in its own parentheses.
    return open_NxT - ((tokens_NxT == NOT) | (tokens_NxT == AND) | (tokens_NxT == OR))


def language_of(settings: LanguageSettings) -> "Language":
    """The language of these settings, made once: what has been worked out of it need not be again."""
    return _language(settings.min_depth, settings.max_depth, settings.only_true)


@functools.cache
def _language(min_depth: int, max_depth: int, only_true: bool) -> "Language":
    return Language(min_depth, max_depth, only_true)


class Language:
    """The distribution over expressions given by min_depth, max_depth, only_true and the probabilities of choices.

    Args:
      min_depth: no leaf stands above this depth.
      max_depth: no operator stands at this depth or below.
      only_true: condition the distribution on expressions that evaluate to True.
      probabilities_by_depth: for each depth 0 to max_depth, the probabilities of its `choices`, in their order;
        zeros are allowed. Uniform where None.

    Raises:
      ValueError: the probabilities do not fit the choices, are negative, or do not sum to 1 within 1e-9.
      InputError: `only_true`, and no expression is true with a probability above 0.
    """

    def __init__(
        self,
        min_depth: int = 1,
        max_depth: int = 5,
        only_true: bool = True,
        probabilities_by_depth: Sequence[Sequence[float]] | None = None,
    ):
        self.min_depth, self.max_depth, self.only_true = min_depth, max_depth, only_true
        counts = [len(self.choices(depth)) for depth in range(max_depth + 1)]
        if probabilities_by_depth is None:
            probabilities_by_depth = [[1 / count] * count for count in counts]
        if [len(shares) for shares in probabilities_by_depth] != counts:
            raise ValueError(f"probabilities of {counts} choices are needed for depths 0 to {max_depth}")
        for depth, shares in enumerate(probabilities_by_depth):
            if not (min(shares) >= 0 and abs(math.fsum(shares) - 1) <= 1e-9):
                raise ValueError(f"the probabilities of the choices at depth {depth} are {list(shares)}")
        self._probabilities_by_depth = [
            tuple(float(share) / total for share in shares)
            for shares, total in zip(probabilities_by_depth, map(math.fsum, probabilities_by_depth), strict=True)
        ]
        if only_true and self.true_probability == 0:
            raise InputError("with these probabilities of choices no expression is true")

    def choices(self, depth: int) -> tuple[int, ...]:
        """The tokens that a node at this depth may be."""
        if depth >= self.max_depth:
            return _LEAVES
        return _OPERATORS if depth < self.min_depth else _OPERATORS + _LEAVES

    def probabilities(self, depth: int) -> tuple[float, ...]:
        """The probabilities of `choices(depth)`, in their order, for a depth up to max_depth."""
        return self._probabilities_by_depth[depth]

    @property
    def longest_tokens(self) -> int:
        """Length of the longest expression: a full tree of and/or, `<eos>` not counted."""
        return longest_expression_tokens(self.max_depth)

    def _width(self, width: int | None) -> int:
        """The width of rows that was asked for, if they can hold every expression and its `<eos>`."""
        if width is None:
            return self.longest_tokens + 1
        if width <= self.longest_tokens:
            raise ValueError(f"rows of {width} tokens cannot hold {self.longest_tokens} tokens and <eos>")
        return width

    @cached_property
    def expression_count(self) -> int:
        """Number of different expressions, true and false ones, as an exact integer."""
        count = len(_LEAVES)
        for depth in reversed(range(self.max_depth)):
            count = sum(count ** _ARITY[choice] for choice in self.choices(depth))
        return count

    @property
    def expression_count_text(self) -> str:
        """The same for a reader: in full where that can be read."""
        count = self.expression_count
        return f"{count:,}" if count < 10**15 else f"about 10^{math.log10(count):.0f}"

    @cached_property
    def _ways_by_depth(self) -> list[tuple[list[Way], list[Way]]]:
        found, below = [], (0.0, 0.0)
        for depth in reversed(range(self.max_depth + 1)):
            ways = ([], [])
            for choice, share in zip(self.choices(depth), self.probabilities(depth), strict=True):
                for operands in itertools.product((0, 1), repeat=_ARITY[choice]):
                    probability = share * math.prod(below[value] for value in operands)
                    if probability > 0:
                        ways[_value_of(choice, operands)].append(Way(choice, operands, probability))
            found.append(ways)
            below = tuple(math.fsum(way.probability for way in here) for here in ways)
        return found[::-1]

    def ways(self, depth: int) -> tuple[list[Way], list[Way]]:
        """The ways in which a node at this depth is false, and those in which it is true, up to max_depth."""
        return self._ways_by_depth[depth]

    def value_probabilities(self, depth: int) -> tuple[float, float]:
        """Probabilities that a node at this depth of the unconditioned grammar is false, and true."""
        false, true = (math.fsum(way.probability for way in ways) for ways in self.ways(depth))
        return false, true

    @property
    def true_probability(self) -> float:
        """Probability that an expression of the unconditioned grammar is true."""
        return self.value_probabilities(0)[1]

    @cached_property
    def entropy_nats(self) -> float:
        """Exact entropy of the (conditioned) source in nats: no model can need fewer nats per expression."""
        given = total = (0.0, 0.0)  # entropy of the expressions below a node, given its value
        for depth in reversed(range(self.max_depth + 1)):
            total = self.value_probabilities(depth)
            given = tuple(
                _entropy(way.probability / total[value] for way in ways)
                + math.fsum(way.probability / total[value] * sum(given[x] for x in way.operands) for way in ways)
                for value, ways in enumerate(self.ways(depth))
            )
        return given[1] if self.only_true else _entropy(total) + total[0] * given[0] + total[1] * given[1]

    @cached_property
    def mean_tokens(self) -> float:
        """Mean length of an expression of the source in tokens, `<eos>` not counted, from the leaves upwards."""
        given, total = (0.0, 0.0), (0.0, 0.0)  # below a node, given its value
        for depth in reversed(range(self.max_depth + 1)):
            total = self.value_probabilities(depth)
            given = tuple(
                math.fsum(
                    way.probability / total[value] * (3 + sum(given[x] for x in way.operands) if way.operands else 1)
                    for way in ways
                )
                for value, ways in enumerate(self.ways(depth))
            )
        return given[1] if self.only_true else total[0] * given[0] + total[1] * given[1]

    def draw(self, generator: np.random.Generator, rows: int, width: int | None = None) -> np.ndarray:
        """Independent draws from the source.

        Args:
          generator: where the randomness comes from; the same state gives the same rows.
          rows: how many, N.
          width: tokens a row, T; at least longest_tokens + 1 (the default), so that each row has its `<eos>`.

        Returns:
          tokens_NxT: (N, T) uint8.
        """
        width = self._width(width)
        blocks, missing = [np.empty((0, width), np.uint8)], rows
        while missing > 0:
            # Blocks of bounded size: a node matrix takes tens of bytes a node.
            nodes_NxK = self._draw_nodes(generator, min(missing, max(2**24 >> self.max_depth, 1)))
            blocks.append(self._write(nodes_NxK, width))
            missing -= len(nodes_NxK)
        return np.concatenate(blocks)

    def _draw_nodes(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Trees as node matrices: the token of every node, `<eos>` where the tree has none."""
        nodes_NxK = np.full((count, 2 ** (self.max_depth + 1) - 1), EOS, np.uint8)
        row_P, node_P = np.arange(count), np.zeros(count, int)
        false, true = self.value_probabilities(0)
        value_P = np.ones(count, bool) if self.only_true else generator.random(count) >= false / (false + true)
        for depth in range(self.max_depth + 1):
            ways, way_P = self.ways(depth), np.empty(len(row_P), int)
            for value, total in enumerate(self.value_probabilities(depth)):
                place = np.flatnonzero(value_P == value)
                # The last way is whatever is left, so that no rounding leads past it.
                bounds = np.cumsum([way.probability for way in ways[value]])[:-1]
                drawn = np.searchsorted(bounds, total * generator.random(len(place)), side="right")
                way_P[place] = drawn + value * len(ways[0])
            padding = (_NO_OPERAND, _NO_OPERAND)
            table_Wx3 = np.array(
                [(way.choice, *(way.operands + padding)[:2]) for way in itertools.chain(*ways)], np.uint8
            )
            choice_P, left_P, right_P = table_Wx3.T[:, way_P]
            nodes_NxK[row_P, node_P] = choice_P
            has_left_P, has_right_P = left_P != _NO_OPERAND, right_P != _NO_OPERAND
            value_P = np.concatenate([left_P[has_left_P], right_P[has_right_P]])
            node_P = np.concatenate([2 * node_P[has_left_P] + 1, 2 * node_P[has_right_P] + 2])
            row_P = np.concatenate([row_P[has_left_P], row_P[has_right_P]])
        return nodes_NxK

    def _levels_upwards(self):
        """Slices of each level's nodes and of their left and right children, from the leaves to the root."""
        for depth in reversed(range(self.max_depth + 1)):
            first = 2**depth - 1
            yield (
                slice(first, 2 * first + 1),
                slice(2 * first + 1, 4 * first + 3, 2),
                slice(2 * first + 2, 4 * first + 3, 2),
            )

    def _write(self, nodes_NxK: np.ndarray, width: int) -> np.ndarray:
        """Trees as rows of tokens: sizes from the leaves up, places from the root down."""
        size_NxK = ((nodes_NxK == TRUE) | (nodes_NxK == FALSE)).astype(np.int32)
        binary_NxK = (nodes_NxK == AND) | (nodes_NxK == OR)
        operator_NxK = binary_NxK | (nodes_NxK == NOT)
        levels = list(self._levels_upwards())
        for level, left, right in levels[1:]:
            size_NxK[:, level] += np.where(operator_NxK[:, level], 3 + size_NxK[:, left] + size_NxK[:, right], 0)
        start_NxK = np.zeros_like(size_NxK)
        for level, left, right in reversed(levels[1:]):
            start = start_NxK[:, level]
            start_NxK[:, left] = start + np.where(binary_NxK[:, level], 1, 2)
            start_NxK[:, right] = start + size_NxK[:, left] + 2

        tokens_NxT = np.full((len(nodes_NxK), width), EOS, np.uint8)
        row, node = np.nonzero((size_NxK > 0) & ~operator_NxK)
        tokens_NxT[row, start_NxK[row, node]] = nodes_NxK[row, node]
        row, node = np.nonzero(operator_NxK)
        start = start_NxK[row, node]
        left_size = np.where(binary_NxK[row, node], size_NxK[row, 2 * node + 1], 0)
        tokens_NxT[row, start] = OPEN
        tokens_NxT[row, start + 1 + left_size] = nodes_NxK[row, node]
        tokens_NxT[row, start + size_NxK[row, node] - 1] = CLOSE
        return tokens_NxT

    def log_prob(self, tokens_NxT: np.ndarray, verdict_N: np.ndarray | None = None) -> np.ndarray:
        """Exact log-probability of each row under the (conditioned) source, in nats.

        Args:
          tokens_NxT: (N, T) uint8 rows.
          verdict_N: what `verify.judge` says of them, where it is known already.

        Returns:
          (N,) float64; minus infinity outside the support: invalid rows, leaves above min_depth, operators from
          max_depth on, choices of probability 0, and, with `only_true`, false expressions.
        """
        tokens_NxT = np.asarray(tokens_NxT)
        if verdict_N is None:
            verdict_N = np.asarray(judge_jitted(tokens_NxT).verdict_N)
        # At one depth too many, for what lies deeper still, only what is no choice is free.
        nats_DxV = np.zeros((self.max_depth + 2, VOCABULARY.size))
        nats_DxV[:, _OPERATORS + _LEAVES] = -math.inf
        for depth in range(self.max_depth + 1):
            for choice, share in zip(self.choices(depth), self.probabilities(depth), strict=True):
                nats_DxV[depth, choice] = math.log(share) if share > 0 else -math.inf
        # Valid rows only are looked up: in others the count of open parentheses need not be a depth.
        valid_N = verdict_N != INVALID
        log_prob_N = np.full(len(tokens_NxT), -math.inf)
        tokens_VxT = tokens_NxT[valid_N]
        inside_VxT = np.arange(tokens_NxT.shape[1]) < VOCABULARY.lengths(tokens_VxT)[:, None]
        depth_VxT = np.clip(node_depths(tokens_VxT), 0, self.max_depth + 1)
        log_prob_N[valid_N] = nats_DxV[depth_VxT, np.where(inside_VxT, tokens_VxT, EOS)].sum(axis=1)
        if self.only_true:
            log_prob_N -= math.log(self.true_probability)
            log_prob_N[verdict_N != TRUE_VERDICT] = -math.inf
        return log_prob_N

    def enumerate(self, width: int | None = None) -> np.ndarray:
        """Every expression of the grammar, true and false ones, once each, as rows (N, T) uint8.

        Raises:
          InputError: there are more than ENUMERATION_LIMIT of them; says how many.
        """
        if self.expression_count > ENUMERATION_LIMIT:
            raise InputError(
                f"the language with min_depth {self.min_depth} and max_depth {self.max_depth} has "
                f"{self.expression_count_text} expressions; "
                f"at most {ENUMERATION_LIMIT:,} are enumerated (max_depth 3 has 182,710)"
            )
        width = self._width(width)
        opened, closed = bytes([OPEN]), bytes([CLOSE])
        below = [bytes([leaf]) for leaf in _LEAVES]
        for depth in reversed(range(self.max_depth)):
            here = []
            for choice in self.choices(depth):
                word = bytes([choice])
                if _ARITY[choice] == 0:
                    here.append(word)
                elif _ARITY[choice] == 1:
                    here += [opened + word + operand + closed for operand in below]
                else:
                    here += [opened + left + word + right + closed for left in below for right in below]
            below = here
        padded = b"".join(expression.ljust(width, bytes([EOS])) for expression in below)
        return np.frombuffer(padded, np.uint8).reshape(len(below), width)
