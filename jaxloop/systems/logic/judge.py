"""The judge: is a row of tokens an expression of the grammar, and is it true?

    expression  ->  True | False | ( not expression ) | ( expression and expression )
                                 | ( expression or expression )

One pass from left to right with a stack of open parentheses, so any length and any depth is judged. The
grammar decides, not Python: `True and False` without its parentheses is invalid.

Legend: N rows, T tokens a row.
"""

from typing import Generic, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import TypeVar

from jaxloop.systems.logic.vocabulary import AND, CLOSE, EOS, FALSE, NOT, OPEN, OR, TRUE, VOCABULARY, encode

VERDICTS = ("invalid", "false", "true")
INVALID, FALSE_VERDICT, TRUE_VERDICT = range(len(VERDICTS))

FAULTS = ("none", "syntax", "unfinished", "empty")
NO_FAULT, SYNTAX, UNFINISHED, EMPTY = range(len(FAULTS))


SomeArray = TypeVar("SomeArray", bound=jax.Array | np.ndarray, default=np.ndarray)


class Judgement(NamedTuple, Generic[SomeArray]):
    """What the judge found in each row."""

    verdict_N: SomeArray  # int8, an index into VERDICTS
    fault_N: SomeArray  # int8, an index into FAULTS; NO_FAULT exactly where the verdict is not INVALID
    depth_N: SomeArray  # int32, parentheses that were open at once: the depth of the expression's tree


# What an open parenthesis has seen so far. Where the left operand decides (`False and`, `True or`), the
# right one cannot change the result; otherwise the result is the right operand.
(
    WANTS_EXPRESSION,  # the whole row, nothing read
    WHOLE_FALSE,
    WHOLE_TRUE,
    OPENED,  # "("
    NEGATES,  # "( not"
    LEFT_FALSE,  # "( False"
    LEFT_TRUE,
    IS_RIGHT,  # "( True and", "( False or"
    IS_FALSE,  # "( False and"
    IS_TRUE,  # "( True or"
    CLOSES_FALSE,  # all but ")"
    CLOSES_TRUE,
    BROKEN,
) = range(13)


def _transition_tables() -> tuple[np.ndarray, np.ndarray]:
    """Where a finished operand (states x False/True), or a token (states x tokens), takes the innermost state."""
    after_operand_Sx2 = np.full((BROKEN + 1, 2), BROKEN, np.uint8)
    after_operand_Sx2[WANTS_EXPRESSION] = WHOLE_FALSE, WHOLE_TRUE
    after_operand_Sx2[OPENED] = LEFT_FALSE, LEFT_TRUE
    after_operand_Sx2[NEGATES] = CLOSES_TRUE, CLOSES_FALSE
    after_operand_Sx2[IS_RIGHT] = CLOSES_FALSE, CLOSES_TRUE
    after_operand_Sx2[IS_FALSE] = CLOSES_FALSE
    after_operand_Sx2[IS_TRUE] = CLOSES_TRUE

    after_token_SxV = np.full((BROKEN + 1, VOCABULARY.size), BROKEN, np.uint8)
    after_token_SxV[:, FALSE] = after_operand_Sx2[:, 0]
    after_token_SxV[:, TRUE] = after_operand_Sx2[:, 1]
    after_token_SxV[OPENED, NOT] = NEGATES
    after_token_SxV[LEFT_FALSE, [AND, OR]] = IS_FALSE, IS_RIGHT
    after_token_SxV[LEFT_TRUE, [AND, OR]] = IS_RIGHT, IS_TRUE
    return after_operand_Sx2, after_token_SxV


AFTER_OPERAND_Sx2, AFTER_TOKEN_SxV = _transition_tables()
WANTS_OPERAND_S = AFTER_OPERAND_Sx2[:, 0] != BROKEN


def _judge_row(row_T: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Verdict, fault and depth of one row."""
    after_operand, after_token = jnp.asarray(AFTER_OPERAND_Sx2), jnp.asarray(AFTER_TOKEN_SxV)
    wants_operand = jnp.asarray(WANTS_OPERAND_S)

    def read(carry, token):
        state, open_count, depth, ended, enclosing_T = carry
        ended = ended | (token == EOS)
        # Writing at every step, kept or not, and before reading, lets XLA update the stack in place.
        enclosing_T = enclosing_T.at[open_count].set(state)
        opens = (token == OPEN) & wants_operand[state]
        closes = (token == CLOSE) & ((state == CLOSES_FALSE) | (state == CLOSES_TRUE))
        operand = (state == CLOSES_TRUE).astype(jnp.int32)
        moved = jnp.where(
            opens,
            jnp.uint8(OPENED),
            jnp.where(
                closes,
                after_operand[enclosing_T[open_count - 1], operand],
                jnp.where(token < VOCABULARY.size, after_token[state, token], jnp.uint8(BROKEN)),
            ),
        )
        state = jnp.where(ended, state, moved)
        open_count = open_count + jnp.where(ended, 0, opens.astype(jnp.int32) - closes.astype(jnp.int32))
        return (state, open_count, jnp.maximum(depth, open_count), ended, enclosing_T), None

    zero = row_T[0].astype(jnp.int32) * 0
    start = (jnp.uint8(WANTS_EXPRESSION) + zero.astype(jnp.uint8), zero, zero, zero > 0, jnp.zeros_like(row_T))
    (state, _, depth, ended, _), _ = jax.lax.scan(read, start, row_T)

    whole = (state == WHOLE_FALSE) | (state == WHOLE_TRUE)
    fault = jnp.select([row_T[0] == EOS, state == BROKEN, ~(whole & ended)], [EMPTY, SYNTAX, UNFINISHED], NO_FAULT)
    verdict = jnp.where(fault != NO_FAULT, INVALID, jnp.where(state == WHOLE_TRUE, TRUE_VERDICT, FALSE_VERDICT))
    return verdict.astype(jnp.int8), fault.astype(jnp.int8), depth


def judge(tokens_NxT: jax.Array) -> Judgement[jax.Array]:
    """Judge every row; traceable, and `judge_jitted` is the same compiled.

    A row is *empty* if it begins with `<eos>`, *unfinished* if every token was allowed but the expression, or
    its `<eos>`, did not come within the row, and breaks the *syntax* otherwise. What follows the first `<eos>` is
    not read; ids outside the vocabulary break the syntax.

    Args:
      tokens_NxT: (N, T) uint8 token ids, T at least 1.

    Returns:
      A Judgement of arrays (N,).
    """
    return Judgement(*jax.vmap(_judge_row)(tokens_NxT))


judge_jitted = jax.jit(judge)


def to_sympy(text: str, leaves: tuple | None = None):
    """The sympy expression of an expression in text.

    Args:
      text: an expression of the grammar, tokens separated by spaces.
      leaves: what stands for `False` and `True`. By default sympy's own constants, with which sympy evaluates the
        expression at once; two `sympy.Symbol`s keep its structure, up to what sympy's `And` and `Or` fold themselves.

    Raises:
      ValueError: the text is not an expression of the grammar.
    """
    import sympy

    ids = encode(text)
    # Widths in powers of two, so that few shapes are compiled.
    row_T = jnp.full(1 << len(ids).bit_length(), EOS, jnp.uint8).at[: len(ids)].set(jnp.asarray(ids, jnp.uint8))
    fault = int(judge_jitted(row_T[None]).fault_N[0])
    if fault != NO_FAULT:
        raise ValueError(f"not an expression of the grammar ({FAULTS[fault]}): {text!r}")
    constants = dict(zip((FALSE, TRUE), leaves or (sympy.false, sympy.true), strict=True))
    operators = {NOT: sympy.Not, AND: sympy.And, OR: sympy.Or}
    frames = [[]]
    for token in ids:
        if token == OPEN:
            frames.append([])
        elif token == CLOSE:
            frame = frames.pop()
            operator = next(item for item in frame if item in operators.values())
            frames[-1].append(operator(*(item for item in frame if item is not operator)))
        else:
            frames[-1].append(operators.get(token, constants.get(token)))
    return frames[0][0]
