"""The judge: is a row of tokens an expression of the grammar, and is it true?

    expression  ->  True | False | ( not expression ) | ( expression and expression )
                                 | ( expression or expression )

One pass from left to right with a stack of open parentheses, so any length and any depth is judged. The
grammar decides, not Python: `True and False` without its parentheses is invalid.

Legend: N rows, T tokens a row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.vocabulary import AND, CLOSE, EOS, FALSE, NOT, OPEN, OR, TRUE, VOCABULARY_SIZE, encode

VERDICTS = ("invalid", "false", "true")
INVALID, FALSE_VERDICT, TRUE_VERDICT = range(len(VERDICTS))

FAULTS = ("none", "syntax", "unfinished", "empty")
NO_FAULT, SYNTAX, UNFINISHED, EMPTY = range(len(FAULTS))


class Judgement(NamedTuple):
    """What the judge found in each row."""

    verdict_N: jax.Array  # int8, an index into VERDICTS
    fault_N: jax.Array  # int8, an index into FAULTS; NO_FAULT exactly where the verdict is not INVALID
    depth_N: jax.Array  # int32, parentheses that were open at once: the depth of the expression's tree


# What an open parenthesis has seen so far. Where the left operand decides (`False and`, `True or`), the
# right one cannot change the result; otherwise the result is the right operand.
(
    _WANTS_EXPRESSION,  # the whole row, nothing read
    _WHOLE_FALSE,
    _WHOLE_TRUE,
    _OPENED,  # "("
    _NEGATES,  # "( not"
    _LEFT_FALSE,  # "( False"
    _LEFT_TRUE,
    _IS_RIGHT,  # "( True and", "( False or"
    _IS_FALSE,  # "( False and"
    _IS_TRUE,  # "( True or"
    _CLOSES_FALSE,  # all but ")"
    _CLOSES_TRUE,
    _BROKEN,
) = range(13)


def _transition_tables() -> tuple[np.ndarray, np.ndarray]:
    """Where a finished operand (states x False/True), or a token (states x tokens), takes the innermost state."""
    after_operand_Sx2 = np.full((_BROKEN + 1, 2), _BROKEN, np.uint8)
    after_operand_Sx2[_WANTS_EXPRESSION] = _WHOLE_FALSE, _WHOLE_TRUE
    after_operand_Sx2[_OPENED] = _LEFT_FALSE, _LEFT_TRUE
    after_operand_Sx2[_NEGATES] = _CLOSES_TRUE, _CLOSES_FALSE
    after_operand_Sx2[_IS_RIGHT] = _CLOSES_FALSE, _CLOSES_TRUE
    after_operand_Sx2[_IS_FALSE] = _CLOSES_FALSE
    after_operand_Sx2[_IS_TRUE] = _CLOSES_TRUE

    after_token_SxV = np.full((_BROKEN + 1, VOCABULARY_SIZE), _BROKEN, np.uint8)
    after_token_SxV[:, FALSE] = after_operand_Sx2[:, 0]
    after_token_SxV[:, TRUE] = after_operand_Sx2[:, 1]
    after_token_SxV[_OPENED, NOT] = _NEGATES
    after_token_SxV[_LEFT_FALSE, [AND, OR]] = _IS_FALSE, _IS_RIGHT
    after_token_SxV[_LEFT_TRUE, [AND, OR]] = _IS_RIGHT, _IS_TRUE
    return after_operand_Sx2, after_token_SxV


_AFTER_OPERAND_Sx2, _AFTER_TOKEN_SxV = _transition_tables()
_WANTS_OPERAND_S = _AFTER_OPERAND_Sx2[:, 0] != _BROKEN


def _judge_row(row_T: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Verdict, fault and depth of one row."""
    after_operand, after_token = jnp.asarray(_AFTER_OPERAND_Sx2), jnp.asarray(_AFTER_TOKEN_SxV)
    wants_operand = jnp.asarray(_WANTS_OPERAND_S)

    def read(carry, token):
        state, open_count, depth, ended, enclosing_T = carry
        ended = ended | (token == EOS)
        # Writing at every step, kept or not, and before reading, lets XLA update the stack in place.
        enclosing_T = enclosing_T.at[open_count].set(state)
        opens = (token == OPEN) & wants_operand[state]
        closes = (token == CLOSE) & ((state == _CLOSES_FALSE) | (state == _CLOSES_TRUE))
        operand = (state == _CLOSES_TRUE).astype(jnp.int32)
        moved = jnp.where(
            opens,
            jnp.uint8(_OPENED),
            jnp.where(
                closes,
                after_operand[enclosing_T[open_count - 1], operand],
                jnp.where(token < VOCABULARY_SIZE, after_token[state, token], jnp.uint8(_BROKEN)),
            ),
        )
        state = jnp.where(ended, state, moved)
        open_count = open_count + jnp.where(ended, 0, opens.astype(jnp.int32) - closes.astype(jnp.int32))
        return (state, open_count, jnp.maximum(depth, open_count), ended, enclosing_T), None

    zero = row_T[0].astype(jnp.int32) * 0
    start = (jnp.uint8(_WANTS_EXPRESSION) + zero.astype(jnp.uint8), zero, zero, zero > 0, jnp.zeros_like(row_T))
    (state, _, depth, ended, _), _ = jax.lax.scan(read, start, row_T)

    whole = (state == _WHOLE_FALSE) | (state == _WHOLE_TRUE)
    fault = jnp.select([row_T[0] == EOS, state == _BROKEN, ~(whole & ended)], [EMPTY, SYNTAX, UNFINISHED], NO_FAULT)
    verdict = jnp.where(fault != NO_FAULT, INVALID, jnp.where(state == _WHOLE_TRUE, TRUE_VERDICT, FALSE_VERDICT))
    return verdict.astype(jnp.int8), fault.astype(jnp.int8), depth


def judge(tokens_NxT: jax.Array) -> Judgement:
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
