"""The structure of rows against sympy, a slow parse and counts over lists; diversity numbers against closed forms."""

import functools
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import sympy

from jaxloop.loop.rows import unique_rows
from jaxloop.systems.logic import structure
from jaxloop.systems.logic.judge import judge_jitted
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.vocabulary import EOS, TOKENS, TRUE, encode, rows_from_ids

NOTHING = np.empty((0, 6), np.uint8)


def parse(row):
    """The tree of a valid row by recursive descent: a word, or a tuple of the operator and its operands."""
    words = [TOKENS[token] for token in row if token != EOS]

    def expression(place):
        """The expression that begins at this place, and the place after it."""
        if words[place] != "(":
            return words[place], place + 1
        if words[place + 1] == "not":
            operand, end = expression(place + 2)
            tree = ("not", operand)
        else:
            left, middle = expression(place + 1)
            right, end = expression(middle + 1)
            tree = (words[middle], left, right)
        assert words[end] == ")"
        return tree, end + 1

    tree, end = expression(0)
    assert end == len(words)
    return tree


def text(tree):
    if isinstance(tree, str):
        return tree
    operator, *operands = tree
    if operator == "not":
        return f"( not {text(operands[0])} )"
    return f"( {text(operands[0])} {operator} {text(operands[1])} )"


def rows_of(trees, width):
    return rows_from_ids([encode(text(tree)) for tree in trees], width)


LEAVES = {word: sympy.Symbol(word) for word in ("True", "False")}
FUNCTIONS = {word: sympy.Function(f"{word}_") for word in ("not", "and", "or")}


@functools.cache
def in_sympy(tree):
    """Functions of sums: no operand is itself a sum, so sympy's own form of `a + b` is the unordered pair."""
    if isinstance(tree, str):
        return LEAVES[tree]
    return FUNCTIONS[tree[0]](sympy.Add(*map(in_sympy, tree[1:])))


def assert_same_partition(keys, others):
    """Every key goes with one other, and the other way round."""
    assert len(set(keys)) == len(set(others)) == len(set(zip(keys, others, strict=True)))


def all_of_depth_two():
    return Language(1, 2).enumerate()


def draws(seed, rows=2000, depth=5):
    return Language(1, depth, only_true=False).draw(np.random.default_rng(seed), rows)


ROWS = {
    "every_expression": all_of_depth_two,
    "true": lambda: Language(1, 5).draw(np.random.default_rng(0), 10_000),
    "true_and_false": lambda: draws(1),
    "from_leaves": lambda: Language(0, 3, only_true=False).draw(np.random.default_rng(2), 2000),
}


@pytest.mark.parametrize("name", ROWS)
def test_canonical_rows_are_the_classes_of_sympy(name):
    """Catches an operator whose operands stay as written, an order not kept below the root, classes run together."""
    rows = ROWS[name]()
    canonical = list(map(bytes, structure.canonical_rows(rows)))
    assert_same_partition(canonical, [in_sympy(parse(row)) for row in rows])
    assert len(set(canonical)) < len(unique_rows(rows)[0])


@pytest.mark.parametrize(("min_depth", "max_depth"), [(1, 1), (0, 2), (1, 2), (2, 2), (0, 3), (1, 3)])
def test_number_of_classes_in_closed_form(min_depth, max_depth):
    """Catches classes too many or too few: k classes of operands are k(k+1)/2 unordered pairs for each operator."""
    classes = 2
    for depth in reversed(range(max_depth)):
        classes = classes + classes * (classes + 1) + (0 if depth < min_depth else 2)
    rows = Language(min_depth, max_depth).enumerate()
    assert len(unique_rows(structure.canonical_rows(rows))[0]) == classes


@pytest.mark.parametrize("name", ROWS)
def test_canonical_rows_stay_the_same_expressions(name):
    """Catches tokens lost or made up, rows that go to another's place, and a form that is not its own form."""
    rows = ROWS[name]()
    before = rows.copy()
    canonical = structure.canonical_rows(rows)
    assert (rows == before).all()
    assert canonical.dtype == np.uint8
    assert (structure.canonical_rows(canonical) == canonical).all()
    # Equal multisets of tokens, `<eos>` among them: equal lengths too.
    assert (np.sort(canonical, axis=1) == np.sort(rows, axis=1)).all()
    for found, expected in zip(judge_jitted(canonical), judge_jitted(rows), strict=True):
        assert (np.asarray(found) == np.asarray(expected)).all()


def swapped(tree, generator):
    """The tree with operands exchanged at random."""
    if isinstance(tree, str):
        return tree
    operator, *operands = tree
    operands = [swapped(operand, generator) for operand in operands]
    return (operator, *(operands if generator.integers(2) else reversed(operands)))


@pytest.mark.parametrize("seed", [0, 1])
def test_canonical_rows_forget_the_order_of_operands(seed):
    """Catches a canonical row that depends on which operand was written first, at any depth."""
    rows = draws(seed)
    generator = np.random.default_rng(seed)
    others = rows_of([swapped(parse(row), generator) for row in rows], rows.shape[1])
    assert (others != rows).any(axis=1).mean() > 0.3
    assert (structure.canonical_rows(others) == structure.canonical_rows(rows)).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_canonical_rows_keep_every_leaf(seed):
    """Catches simplification: one leaf the other way round is another expression, even where its truth is the same."""
    rows = draws(seed)
    generator = np.random.default_rng(seed)
    flipped = rows.copy()
    for row in flipped:
        leaves = [place for place, token in enumerate(row) if TOKENS[token] in ("True", "False")]
        place = generator.choice(leaves)
        row[place] = encode("False")[0] if row[place] == TRUE else TRUE
    canonical, of_flipped = structure.canonical_rows(rows), structure.canonical_rows(flipped)
    assert (canonical != of_flipped).any(axis=1).all()
    change = (of_flipped == TRUE).sum(axis=1) - (canonical == TRUE).sum(axis=1)
    assert (abs(change) == 1).all()


def test_canonical_rows_do_not_regroup():
    """Catches associativity: `a and (b and c)` is not `(a and b) and c`, unless exchanges turn one into the other."""
    texts = (
        "( True and ( True and False ) )",
        "( False and ( True and True ) )",
        "( ( True and True ) and False )",
        "( ( False and True ) and True )",
    )
    first, second, third, fourth = map(bytes, structure.canonical_rows(rows_from_ids(map(encode, texts), 12)))
    assert first == fourth != second == third


def shape(tree):
    return "leaf" if isinstance(tree, str) else (len(tree) - 1, *map(shape, tree[1:]))


def operators(tree):
    return 0 if isinstance(tree, str) else 1 + sum(map(operators, tree[1:]))


@pytest.mark.parametrize("name", ROWS)
def test_shapes_against_a_recursive_parse(name):
    """Catches a label that a shape still shows, and `not` mistaken for an operator of two operands."""
    rows = ROWS[name]()
    shapes = structure.shape_rows(rows)
    assert shapes.dtype == np.uint8
    trees = [parse(row) for row in rows]
    assert_same_partition(list(map(bytes, shapes)), list(map(shape, trees)))
    assert [shape(parse(row)) for row in shapes] == list(map(shape, trees))


@pytest.mark.parametrize("name", ROWS)
def test_operators_and_roots_against_a_recursive_parse(name):
    """Catches an operator not counted, and a root taken from an operand."""
    rows = ROWS[name]()
    trees = [parse(row) for row in rows]
    assert structure.operator_counts(rows).tolist() == list(map(operators, trees))
    roots = structure.root_tokens(rows)
    assert roots.dtype == np.uint8
    assert [TOKENS[root] for root in roots] == [tree if isinstance(tree, str) else tree[0] for tree in trees]
    assert {"not", "and", "or"} <= {TOKENS[root] for root in roots}
    assert ("True" in {TOKENS[root] for root in roots}) == (name == "from_leaves")


def test_structure_of_deep_expressions():
    """Catches parentheses counted in a byte, and recursion that ends at Python's limit."""
    depth, width = 2000, 8020
    deep = "( not " * depth + "( True or False )" + " )" * depth
    rows = rows_from_ids([encode(f"( {deep} and True )"), encode(f"( True and {deep} )"), encode(deep)], width)
    canonical = list(map(bytes, structure.canonical_rows(rows)))
    assert canonical[0] == canonical[1]
    assert [TOKENS[root] for root in structure.root_tokens(rows)] == ["and", "and", "not"]
    assert structure.operator_counts(rows).tolist() == [depth + 2, depth + 2, depth + 1]


def test_structure_of_no_rows():
    """Catches an error where no sample is valid."""
    assert structure.canonical_rows(NOTHING).shape == structure.shape_rows(NOTHING).shape == NOTHING.shape
    assert structure.root_tokens(NOTHING).shape == structure.operator_counts(NOTHING).shape == (0,)


COUNTS = {
    "one": [7],
    "two": [1, 99],
    "many": np.random.default_rng(0).geometric(0.01, 500),
    "heavy_tail": np.random.default_rng(1).zipf(1.5, 1000),
    "unseen": [0, 3, 0, 5, 0],
}


@pytest.mark.parametrize("name", COUNTS)
def test_entropy_against_scipy(name):
    """Catches bits for nats, counts not normalised, a minus before zero, and nan from a class that was not seen."""
    entropy = structure.shannon_entropy(np.array(COUNTS[name]))
    assert entropy == pytest.approx(scipy.stats.entropy(COUNTS[name]), rel=1e-12, abs=1e-15)
    assert math.copysign(1, entropy) == 1
    assert type(entropy) is float


@pytest.mark.parametrize("order", [0, 0.5, 1, 1.5, 2, 10])
@pytest.mark.parametrize("classes", [1, 2, 7, 1000])
def test_equal_classes_are_their_number(classes, order):
    """Catches an exponent or a sign exchanged: k equally frequent classes are k effective ones, whatever the order."""
    assert structure.hill_number(np.full(classes, 13), order) == pytest.approx(classes, rel=1e-9)


@pytest.mark.parametrize("name", COUNTS)
def test_hill_numbers_at_their_orders(name):
    """Catches orders in each other's place, and a value at order 1 that is not the limit from both sides."""
    counts = np.array(COUNTS[name])
    shares = [count / sum(map(int, counts)) for count in counts.tolist() if count]
    assert structure.hill_number(counts, 0) == len(shares)
    entropy = -math.fsum(share * math.log(share) for share in shares)
    assert structure.hill_number(counts, 1) == pytest.approx(math.exp(entropy), rel=1e-12)
    assert structure.hill_number(counts, 2) == pytest.approx(1 / math.fsum(share**2 for share in shares), rel=1e-12)
    for step in (-1e-6, 1e-6):
        assert structure.hill_number(counts, 1 + step) == pytest.approx(structure.hill_number(counts, 1), rel=1e-4)
    assert type(structure.hill_number(counts, 2)) is float


@pytest.mark.parametrize("name", ["two", "many", "heavy_tail", "unseen"])
def test_hill_numbers_fall_with_the_order(name):
    """Catches a number that rises with the weight of common classes; between the ends it falls strictly."""
    numbers = [structure.hill_number(np.array(COUNTS[name]), order) for order in (0, 0.3, 0.9, 1, 1.1, 2, 5, 20)]
    assert all(above > below for above, below in itertools.pairwise(numbers))
    assert numbers[-1] >= 1


@pytest.mark.parametrize("counts", [[], [0, 0]])
def test_nothing_counted_has_no_diversity(counts):
    """Catches a number, or a warning, where no class was seen."""
    counts = np.array(counts, np.int64)
    with np.errstate(all="raise"):
        assert math.isnan(structure.shannon_entropy(counts))
        assert all(math.isnan(structure.hill_number(counts, order)) for order in (0, 1, 2))


def ngrams(rows, n):
    """Every n-gram of every row before its first `<eos>`, as tuples."""
    lists = [list(itertools.takewhile(lambda token: token != EOS, row)) for row in rows.tolist()]
    return [tuple(row[start : start + n]) for row in lists for start in range(len(row) - n + 1)]


def broken_rows(seed, count, width, letters=EOS):
    """Rows of any tokens: empty ones, ones cut off by the width, ones with tokens after their `<eos>`."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(0, width + 1, count)
    rows = rows_from_ids([generator.integers(letters, size=size) for size in sizes], width)
    rows[::5, width // 2] = EOS
    return rows


NGRAM_ROWS = {
    "source": lambda: draws(0, 500),
    "broken": lambda: broken_rows(0, 200, 12),
    "two_letters": lambda: broken_rows(1, 200, 50, 2),
    "cut_off": lambda: np.random.default_rng(2).integers(EOS, size=(20, 40), dtype=np.uint8),
    "repeated": lambda: np.repeat(broken_rows(3, 5, 45), 20, axis=0),
    "one": lambda: rows_from_ids([[0, 2, 5, 1]], 4),
    "first_tokens_differ": lambda: rows_from_ids([[start, *[0] * 39] for start in range(EOS)], 40),
    "empty": lambda: rows_from_ids([[], [], []], 6),
    "none": lambda: NOTHING,
}


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 9, 16, 17, 25, 40, 200])
@pytest.mark.parametrize("name", NGRAM_ROWS)
def test_distinct_ngrams_against_lists(name, n):
    """Catches n-grams over `<eos>` or the end of a row, codes that overflow or run together, and 0/0 that is no nan."""
    rows = NGRAM_ROWS[name]()
    counts = Counter(ngrams(rows, n))
    found = structure.distinct_ngrams(rows, n)
    assert type(found) is float
    if counts:
        assert found == len(counts) / counts.total()
    else:
        assert math.isnan(found)


def test_distinct_ngrams_by_hand():
    """Catches a share of rows, of places or of possible n-grams in place of a share of n-grams."""
    rows = rows_from_ids([encode("( not True )"), encode("( not False )"), encode("True")], 6)
    assert structure.distinct_ngrams(rows, 1) == 5 / 9
    assert structure.distinct_ngrams(rows, 2) == 5 / 6
    assert structure.distinct_ngrams(rows, 4) == 1
    assert math.isnan(structure.distinct_ngrams(rows, 5))
