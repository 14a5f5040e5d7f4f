"""The judge against Python's own parser, and against rewriting of strings."""

import ast
import functools
import itertools
import re

import jax
import numpy as np
import pytest
import sympy

from jaxloop.systems.logic.judge import FAULTS, VERDICTS, judge, judge_jitted, to_sympy
from jaxloop.systems.logic.language import Language

WORDS = ("(", ")", "not", "and", "or", "True", "False")
LETTERS = "()naoTF"  # one for each word, for rewriting
EOS = 7


def render(node):
    """(text in the grammar's form, truth, depth) of a tree of Python's parser."""
    kind = type(node)
    if kind is ast.Constant and (node.value is True or node.value is False):
        return str(node.value), node.value, 0
    if kind is ast.UnaryOp and type(node.op) is ast.Not:
        text, value, depth = render(node.operand)
        return f"( not {text} )", not value, depth + 1
    if kind is ast.BoolOp and len(node.values) == 2:
        (left, a, left_depth), (right, b, right_depth) = map(render, node.values)
        word, value = ("and", a and b) if type(node.op) is ast.And else ("or", a or b)
        return f"( {left} {word} {right} )", value, max(left_depth, right_depth) + 1
    raise ValueError("not of the grammar")


@functools.cache
def parsed(text):
    """(verdict, depth) by Python's parser; the text is an expression if its tree, written out, is the text again."""
    try:
        again, value, depth = render(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "invalid", None
    return (str(value).lower(), depth) if again == text else ("invalid", None)


def begins_expression(letters):
    """Whether more tokens could make an expression: complete subexpressions shrink to a T, the rest is open frames."""
    previous = None
    while letters != previous:
        previous, letters = letters, re.sub(r"\(n[TF]\)|\([TF][ao][TF]\)", "T", letters)
    return re.fullmatch(r"(\((n|[TF][ao])?)*[TF]?", letters) is not None


@functools.cache
def expected(ids, ended):
    """(verdict, fault, depth or None) of the tokens before `<eos>`, as bytes, and whether there was one."""
    if not ids:
        return "invalid", "empty", None
    verdict, depth = parsed(" ".join(WORDS[token] for token in ids))
    if verdict != "invalid" and ended:
        return verdict, "none", depth
    open_still = verdict != "invalid" or begins_expression("".join(LETTERS[token] for token in ids))
    return "invalid", "unfinished" if open_still else "syntax", None


def assert_judged_right(rows):
    """Every row's verdict, fault and, where valid, depth; gives how many rows had each fault."""
    judgement = judge_jitted(rows)
    found = zip(*(np.asarray(part).tolist() for part in judgement), strict=True)
    seen = dict.fromkeys(FAULTS, 0)
    for row, (verdict, fault, depth) in zip(rows, found, strict=True):
        ids, end, _ = row.tobytes().partition(bytes([EOS]))
        right = expected(ids, bool(end))
        valid = right[1] == "none"
        assert (VERDICTS[verdict], FAULTS[fault], depth if valid else None) == right, f"{ids=} {end=}"
        seen[FAULTS[fault]] += 1
    return seen


def as_rows(sequences, width):
    return np.frombuffer(b"".join(ids.ljust(width, bytes([EOS])) for ids in sequences), np.uint8).reshape(-1, width)


@functools.cache
def drawn(max_depth, rows, seed=0):
    return Language(0, max_depth, False).draw(np.random.default_rng([seed, max_depth]), rows)


def mutated(ids, rng):
    """One or two mistakes in a sequence of tokens."""
    for _ in range(rng.integers(1, 3)):
        place, other, token = rng.integers(len(ids) + 1), rng.integers(len(ids) + 1), bytes([rng.integers(7)])
        before, after = ids[:place], ids[place:]
        match rng.integers(6):
            case 0:
                ids = before + token + after[1:]
            case 1:
                ids = before + token + after
            case 2:
                ids = before + after[1:]
            case 3:
                ids = before + ids[other : other + 1] + after[1:]
                ids = ids[:other] + (after[:1] or token) + ids[other + 1 :]
            case 4:
                ids = before
            case 5:
                ids = before + ids[min(place, other) :]
    return ids


def test_every_expression_up_to_depth_3():
    """Catches any expression that is refused, misjudged, or given another depth."""
    rows = Language(0, 3).enumerate()
    assert len(rows) == 182_712
    assert assert_judged_right(rows) == {"none": 182_712, "syntax": 0, "unfinished": 0, "empty": 0}


def test_draws_of_depth_5():
    """Catches a value or a depth that is lost where operators stand deep and operands are long."""
    assert assert_judged_right(drawn(5, 100_000))["none"] == 100_000


def test_mutated_and_random_strings():
    """Catches rows that are accepted though something is missing, doubled or swapped, and faults of the wrong kind."""
    rng = np.random.default_rng(1)
    sources = [row.tobytes().partition(bytes([EOS]))[0] for row in (*drawn(3, 30_000), *drawn(5, 30_000))]
    sequences = [mutated(ids, rng) for ids in sources]
    sequences += [rng.integers(0, 7, length, np.uint8).tobytes() for length in rng.integers(0, 31, 40_000)]
    seen = assert_judged_right(as_rows(sequences, 1 + max(map(len, sequences))))
    assert sum(seen.values()) == 100_000
    assert min(seen.values()) > 1000


def test_every_short_string():
    """Catches what random strings miss: all 19,608 strings of up to five tokens, with and without room for `<eos>`."""
    strings = [bytes(ids) for length in range(6) for ids in itertools.product(range(7), repeat=length)]
    assert len(strings) == 19_608
    for width in (5, 6):
        assert_judged_right(as_rows(strings, width))


@pytest.mark.parametrize("width", [1, 2, 5, 6, 13, 29])
def test_rows_cut_off_by_the_context(width):
    """Catches an expression without `<eos>` in its row that counts as finished, or a cut one that counts as wrong."""
    seen = assert_judged_right(drawn(3, 3000)[:, :width])
    assert seen["unfinished"] > 0
    assert seen["syntax"] == seen["empty"] == 0
    rng = np.random.default_rng(2)
    sources = [row.tobytes().partition(bytes([EOS]))[0] for row in drawn(3, 3000)]
    assert_judged_right(as_rows([mutated(ids, rng) for ids in sources], 128)[:, :width])


def test_nothing_after_the_first_eos_is_read():
    """Catches a verdict or depth that depends on what a model wrote after its `<eos>`."""
    rows = np.concatenate([drawn(3, 2000)] * 3)
    rows[2000:4000, 2] = 5
    rows[4000:, 4] = EOS
    after = np.cumsum(rows == EOS, axis=1) > 1
    noise = np.random.default_rng(3).integers(0, 256, rows.shape, np.uint8)
    for left, right in zip(judge_jitted(rows), judge_jitted(np.where(after, noise, rows)), strict=True):
        assert (np.asarray(left) == np.asarray(right)).all()


@pytest.mark.parametrize("token", [8, 9, 127, 128, 255])
def test_ids_outside_the_vocabulary(token):
    """Catches an id of no token that is read as the last one of a table, which is `<eos>`."""
    rows = np.repeat(as_rows([bytes([0, 5, 3, 5, 1])], 8), 6, axis=0)
    rows[np.arange(6), np.arange(6)] = token
    judgement = judge_jitted(rows)
    assert np.asarray(judgement.verdict_N).tolist() == [0] * 6
    assert [FAULTS[fault] for fault in np.asarray(judgement.fault_N)] == ["syntax"] * 6


def test_judgement_does_not_depend_on_width_or_company():
    """Catches state that leaks between rows, and a stack that is too small for a narrow row."""
    rows = np.concatenate([drawn(3, 200), drawn(3, 200)[:, ::-1]])
    alone = [judge_jitted(row[None]) for row in rows]
    together = judge_jitted(np.pad(rows, ((0, 0), (0, 34)), constant_values=EOS))
    for row, single in enumerate(alone):
        ended = EOS in rows[row]
        assert [int(part[0]) for part in single] == [int(part[row]) for part in together] or not ended


def test_deepest_row_that_fits():
    """Catches a stack of open parentheses shorter than the row."""
    for width in (1, 64):
        judgement = judge_jitted(np.zeros((2, width), np.uint8))
        assert [FAULTS[fault] for fault in np.asarray(judgement.fault_N)] == ["unfinished"] * 2
        assert np.asarray(judgement.depth_N).tolist() == [width] * 2


def test_judge_inside_other_transformations():
    """Catches a judge that works only at the top: the loop traces it, compiled and mapped over loops."""
    rows = drawn(3, 64)
    alone, mapped = judge_jitted(rows), jax.jit(jax.vmap(judge))(rows.reshape(4, 16, -1))
    for left, right in zip(alone, mapped, strict=True):
        assert left.tolist() == right.reshape(-1).tolist()
    assert [part.dtype.name for part in alone] == ["int8", "int8", "int32"]


def test_oracles_on_known_cases():
    """Catches oracles that agree with the judge because they say the same of everything."""
    known = {
        "True": ("true", 0),
        "( not True )": ("false", 1),
        "( False or ( True and ( not False ) ) )": ("true", 3),
        "True and False": ("invalid", None),
        "( True )": ("invalid", None),
        "( True and True and True )": ("invalid", None),
        "( not True": ("invalid", None),
        "": ("invalid", None),
    }
    assert {text: parsed(text) for text in known} == known
    assert all(map(begins_expression, ["(", "(n", "((ToF)", "(Ta(n(", "(n(nT)"]))
    assert not any(map(begins_expression, [")", "n", "TT", "(a", "(Tn", "(T)", "()", "(TaTa", "(nT))"]))


LEAVES = sympy.symbols("falsehood truth")


def texts_and_truth(rows):
    verdict = np.asarray(judge_jitted(rows).verdict_N)
    texts = [" ".join(WORDS[token] for token in row.tobytes().partition(bytes([EOS]))[0]) for row in rows]
    return list(zip(texts, (verdict == 2).tolist(), strict=True))


def test_sympy_evaluates_to_the_verdict():
    """Catches a judge that sympy's own Boolean algebra contradicts, with constants and with symbols for them."""
    falsehood, truth = LEAVES
    for text, is_true in texts_and_truth(drawn(4, 300)):
        assert to_sympy(text) is (sympy.true if is_true else sympy.false)
        symbolic = to_sympy(text, LEAVES)
        assert symbolic.free_symbols <= set(LEAVES)
        assert symbolic.subs({falsehood: False, truth: True}) is (sympy.true if is_true else sympy.false)


def test_sympy_keeps_the_structure():
    """Catches a bridge that evaluates, or swaps operands, where symbols stand for the constants."""
    falsehood, truth = LEAVES
    assert to_sympy("True", LEAVES) == truth
    assert to_sympy("( not False )", LEAVES) == ~falsehood
    assert to_sympy("( True and ( not ( False or True ) ) )", LEAVES) == sympy.And(truth, ~sympy.Or(falsehood, truth))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("True and False", "syntax"),
        ("( not True", "unfinished"),
        ("( True )", "syntax"),
        ("( True and Maybe )", "unknown word 'Maybe' at token 4"),
        ("__import__('os')", "unknown word"),
        ("True <eos>", "unknown word '<eos>' at token 2"),
    ],
)
def test_sympy_refuses_other_text(text, message):
    """Catches text that sympy would complete, guess or even run."""
    with pytest.raises(ValueError, match=re.escape(message)):
        to_sympy(text)
