"""The source: random Boolean expressions, and everything about their distribution in closed form.

    draw(d):  if d <  min_depth:   choose one of not, and, or              (uniformly)
              if d >= max_depth:   choose one of True, False
              otherwise:           choose one of not, and, or, True, False
              not -> ( not draw(d+1) )      and/or -> ( draw(d+1) and draw(d+1) )

starting at d = 0; with `only_true`, expressions that evaluate to False are rejected (Briesch et al. 2023;
the exact recursion of their generator is not known, this one is jaxloop's). Worked example, min_depth 1:

    draw(0) chooses `and` (1/3), its left operand draw(1) chooses `True` (1/5), its right one `not` (1/5), whose
    operand draw(2) chooses `False` (1/5): `( True and ( not False ) )` with probability 1/375, and among the
    true expressions 1/375 / P(true) = 2/375.

An expression has one derivation only, so its probability is a product of choices, and every sum below is exact.

Legend: N rows, T tokens a row, K nodes of the full binary tree of depth max_depth, node i with children 2i+1, 2i+2.
"""

import math
from functools import cached_property

import numpy as np

from jaxloop.config import LanguageSettings, longest_expression_tokens
from jaxloop.errors import InputError
from jaxloop.verify import INVALID, TRUE_VERDICT, judge_jitted
from jaxloop.vocabulary import AND, CLOSE, EOS, FALSE, NOT, OPEN, OR, TRUE, lengths

ENUMERATION_LIMIT = 1_000_000

_OPERATORS = (NOT, AND, OR)
_LEAVES = (TRUE, FALSE)
_ARITY = {NOT: 1, AND: 2, OR: 2, TRUE: 0, FALSE: 0}


def _entropy(probabilities: list[float]) -> float:
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)


def language_of(settings: LanguageSettings) -> "Language":
    """The language of these settings."""
    return Language(settings.min_depth, settings.max_depth, settings.only_true)


class Language:
    """The distribution over expressions given by min_depth, max_depth and only_true.

    Args:
      min_depth: no leaf stands above this depth.
      max_depth: no operator stands at this depth or below.
      only_true: condition the distribution on expressions that evaluate to True.
    """

    def __init__(self, min_depth: int = 1, max_depth: int = 5, only_true: bool = True):
        self.min_depth, self.max_depth, self.only_true = min_depth, max_depth, only_true

    def choices(self, depth: int) -> tuple[int, ...]:
        """The tokens that a node at this depth may be, each equally likely."""
        if depth >= self.max_depth:
            return _LEAVES
        return _OPERATORS if depth < self.min_depth else _OPERATORS + _LEAVES

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

    @cached_property
    def _value_recursion(self) -> tuple[tuple[float, float], tuple[float, float], float]:
        """(P(false), P(true)), the entropies given either value, and the unconditional entropy, all at the root."""
        value, entropy, free_entropy = (0.5, 0.5), (0.0, 0.0), math.log(2)
        for depth in reversed(range(self.max_depth)):
            choices = self.choices(depth)
            share = 1 / len(choices)
            # Each way to a value: its probability, and the values of the operands that it fixes.
            ways = ([], [])
            for choice in choices:
                if choice in _LEAVES:
                    ways[choice == TRUE].append((share, ()))
                elif choice == NOT:
                    for operand in (0, 1):
                        ways[1 - operand].append((share * value[operand], (operand,)))
                else:
                    for left in (0, 1):
                        for right in (0, 1):
                            result = left & right if choice == AND else left | right
                            ways[result].append((share * value[left] * value[right], (left, right)))
            free_entropy = math.log(len(choices)) + free_entropy * math.fsum(
                share * _ARITY[choice] for choice in choices
            )
            new_value = tuple(math.fsum(p for p, _ in way) for way in ways)
            entropy = tuple(
                _entropy([p / total for p, _ in way])
                + math.fsum(p / total * sum(entropy[operand] for operand in operands) for p, operands in way)
                for way, total in zip(ways, new_value, strict=True)
            )
            value = new_value
        return value, entropy, free_entropy

    @property
    def expression_count_text(self) -> str:
        """The same for a reader: in full where that can be read."""
        count = self.expression_count
        return f"{count:,}" if count < 10**15 else f"about 10^{math.log10(count):.0f}"

    @property
    def true_probability(self) -> float:
        """Probability that an expression of the unconditioned grammar is true."""
        return self._value_recursion[0][1]

    @property
    def entropy_nats(self) -> float:
        """Exact entropy of the (conditioned) source in nats: no model can need fewer nats per expression."""
        _, entropy, free_entropy = self._value_recursion
        return entropy[1] if self.only_true else free_entropy

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
        kept_share = self.true_probability if self.only_true else 1.0
        blocks, missing = [np.empty((0, width), np.uint8)], rows
        while missing > 0:
            # Blocks of bounded size: a node matrix takes tens of bytes a node.
            count = min(math.ceil(missing / kept_share * 1.05) + 16, max(2**24 >> self.max_depth, 1))
            nodes_NxK = self._draw_nodes(generator, count)
            if self.only_true:
                nodes_NxK = nodes_NxK[self._values(nodes_NxK)]
            blocks.append(self._write(nodes_NxK[:missing], width))
            missing -= len(blocks[-1])
        return np.concatenate(blocks)

    def _draw_nodes(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Trees as node matrices: the token of every node, `<eos>` where the tree has none."""
        nodes_NxK = np.full((count, 2 ** (self.max_depth + 1) - 1), EOS, np.uint8)
        present_NxW = np.ones((count, 1), bool)
        for depth in range(self.max_depth + 1):
            first = 2**depth - 1
            level_NxW = nodes_NxK[:, first : 2 * first + 1]
            choices = np.array(self.choices(depth), np.uint8)
            drawn_NxW = choices[generator.integers(len(choices), size=level_NxW.shape, dtype=np.uint8)]
            level_NxW[present_NxW] = drawn_NxW[present_NxW]
            left_NxW = (level_NxW == NOT) | (level_NxW == AND) | (level_NxW == OR)
            right_NxW = (level_NxW == AND) | (level_NxW == OR)
            present_NxW = np.stack([left_NxW, right_NxW], axis=-1).reshape(count, -1)
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

    def _values(self, nodes_NxK: np.ndarray) -> np.ndarray:
        """Truth of each tree, (N,) bool."""
        value_NxK = nodes_NxK == TRUE
        for level, left, right in list(self._levels_upwards())[1:]:
            nodes, a, b = nodes_NxK[:, level], value_NxK[:, left], value_NxK[:, right]
            value_NxK[:, level] |= ((nodes == NOT) & ~a) | ((nodes == AND) & a & b) | ((nodes == OR) & (a | b))
        return value_NxK[:, 0]

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
          max_depth on, and, with `only_true`, false expressions.
        """
        tokens_NxT = np.asarray(tokens_NxT)
        if verdict_N is None:
            verdict_N = np.asarray(judge_jitted(tokens_NxT).verdict_N)
        inside_NxT = np.arange(tokens_NxT.shape[1]) < lengths(tokens_NxT)[:, None]
        open_NxT = np.cumsum((tokens_NxT == OPEN).astype(np.int32) - (tokens_NxT == CLOSE), axis=1)
        # A leaf within k open parentheses is a node of depth k; an operator stands in its own parentheses.
        by_depth = [self.choices(min(depth, self.max_depth)) for depth in range(self.max_depth + 1)]
        leaf_D = np.array([-math.log(len(choices)) if TRUE in choices else -math.inf for choices in by_depth])
        operator_D = np.array([-math.log(len(choices)) if NOT in choices else -math.inf for choices in by_depth])
        # Valid rows only are looked up: in others the count of open parentheses need not be a depth.
        valid_N = verdict_N != INVALID
        log_prob_N = np.full(len(tokens_NxT), -math.inf)
        tokens_VxT, open_VxT, inside_VxT = tokens_NxT[valid_N], open_NxT[valid_N], inside_NxT[valid_N]
        is_leaf = inside_VxT & ((tokens_VxT == TRUE) | (tokens_VxT == FALSE))
        is_operator = inside_VxT & ((tokens_VxT == NOT) | (tokens_VxT == AND) | (tokens_VxT == OR))
        deepest = self.max_depth
        leaf_nats = np.where(open_VxT > deepest, -math.inf, leaf_D[np.clip(open_VxT, 0, deepest)])
        operator_nats = operator_D[np.clip(open_VxT - 1, 0, deepest)]
        log_prob_N[valid_N] = (np.where(is_leaf, leaf_nats, 0) + np.where(is_operator, operator_nats, 0)).sum(axis=1)
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
