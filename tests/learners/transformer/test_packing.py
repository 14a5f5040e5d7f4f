"""Packing: the rows of a step, read back with dicts alone, must be the tries of its expressions."""

import functools
import itertools
from collections import Counter, defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.learners.transformer.packing import (
    Plan,
    Rows,
    batch_order,
    lay_out,
    most_rows,
    plan,
    sort_rows,
    step_of,
    whole_plan,
)
from jaxloop.learners.vocabulary import Vocabulary
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY

WIDTH = 8


def rows_of_lengths(length_N, width=WIDTH, tokens=EOS, seed=0):
    """Rows of so many different random tokens with these lengths; a length of `width` is a row without `<eos>`."""
    rows = np.random.default_rng(seed).integers(tokens, size=(len(length_N), width)).astype(np.uint8)
    rows[np.arange(width) >= np.asarray(length_N)[:, None]] = EOS
    return rows


@functools.cache
def corpus(name):
    mixed = np.random.default_rng(3).integers(WIDTH + 1, size=40)
    last = rows_of_lengths([WIDTH] * 40, tokens=1)
    last[:, -1] = np.arange(40) % EOS
    rows = {
        "random": lambda: rows_of_lengths(mixed),
        "two_tokens": lambda: rows_of_lengths(mixed, tokens=2),
        "repeated": lambda: np.repeat(rows_of_lengths(mixed[:5]), 8, axis=0),
        "all_equal": lambda: np.repeat(rows_of_lengths([5]), 40, axis=0),
        "equal_and_cut_off": lambda: np.repeat(rows_of_lengths([WIDTH]), 40, axis=0),
        "empty": lambda: rows_of_lengths([0] * 40),
        "cut_off": lambda: rows_of_lengths([WIDTH] * 40),
        "cut_off_or_empty": lambda: rows_of_lengths([0, WIDTH] * 20, tokens=2),
        "just_ended": lambda: rows_of_lengths([WIDTH - 1] * 40, tokens=3),
        "prefixes_of_one_another": lambda: rows_of_lengths(mixed, tokens=1),
        "last_token_differs": lambda: last,
        "one_expression": lambda: rows_of_lengths([4]),
    }
    if name in rows:
        tokens_NxT = sort_rows(rows[name]())
    else:
        depth = int(name.removeprefix("depth_"))
        tokens_NxT = sort_rows(Language(max_depth=depth).draw(np.random.default_rng(depth), 60))
    tokens_NxT.flags.writeable = False
    return tokens_NxT


NARROW = [
    "random",
    "two_tokens",
    "repeated",
    "all_equal",
    "equal_and_cut_off",
    "empty",
    "cut_off",
    "cut_off_or_empty",
    "just_ended",
    "prefixes_of_one_another",
    "last_token_differs",
    "one_expression",
]
CORPORA = [*NARROW, "depth_2", "depth_3", "depth_5"]
ROW_TOKENS = {
    "width": lambda width: width,
    "width_and_1": lambda width: width + 1,
    "2_widths": lambda width: 2 * width,
    "4_widths_less_1": lambda width: 4 * width - 1,
}


def order_of(tokens_NxT, batch, steps=4, seed=0):
    return batch_order(np.random.default_rng(seed), len(tokens_NxT), steps, batch)


def write(tokens_NxT, planned: Plan, rows, row_tokens):
    """The rows of every step, each array with an axis of steps first."""
    # A table of one size for all corpora, padded as the learner does, so that fewer programs are compiled.
    padded_NxT = np.pad(tokens_NxT, ((0, max(60 - len(tokens_NxT), 0)), (0, 0)), constant_values=EOS)
    of_steps = _write(padded_NxT, planned, rows, row_tokens)
    return Rows(*(np.asarray(array) for array in of_steps))


# Most of the time would go into optimising programs that run once.
@functools.partial(jax.jit, static_argnums=(2, 3), compiler_options={"xla_backend_optimization_level": 0})
def _write(tokens_NxT, planned, rows, row_tokens):
    def written(step):
        return lay_out(step_of(tokens_NxT, VOCABULARY, planned, step, rows * row_tokens), VOCABULARY, rows, row_tokens)

    return jax.vmap(written)(jnp.arange(len(planned.row_count_S)))


def spelled(row_T):
    """The tokens of an expression, `<eos>` included where it has one: what a model is trained to say."""
    row = tuple(int(token) for token in row_T)
    return row[: row.index(EOS) + 1] if EOS in row else row


def trie(expressions):
    """For each prefix of any of them, how often each token comes next."""
    found = defaultdict(Counter)
    for expression in expressions:
        for place, token in enumerate(expression):
            found[expression[:place]][token] += 1
    return dict(found)


def read_row(inputs_L, depth_L, targets_LxV):
    """The trie that a row holds, read depth first; what follows it must be padding."""
    deeper_L = [*(np.flatnonzero(depth_L[1:] == 0) + 1).tolist(), len(depth_L)]
    used = deeper_L[0] if targets_LxV.any() else 0
    assert (inputs_L[used:] == EOS).all()
    assert (depth_L[used:] == 0).all()
    assert not targets_LxV[used:].any()
    found, path = {}, []
    for token, depth, targets_V in zip(inputs_L.tolist(), depth_L.tolist(), targets_LxV[:used].tolist(), strict=False):
        assert depth <= len(path) + 1
        if found:
            path[depth - 1 :] = [token]
        else:
            assert (token, depth) == (EOS, 0)
        assert tuple(path) not in found, "a prefix is computed once in a row"
        found[tuple(path)] = Counter({token: count for token, count in enumerate(targets_V) if count})
    return found


def ends(found, width):
    """The expressions that end in a trie: `<eos>` comes next, or the width is full."""
    return Counter(
        {
            (*prefix, token): int(count)
            for prefix, following in found.items()
            for token, count in following.items()
            if token == EOS or len(prefix) == width - 1
        }
    )


def read_step(rows: Rows, row_count, width):
    """How often each expression lies in the rows of a step, each of them whole in one row."""
    total = Counter()
    for index, (inputs_L, depth_L, targets_LxV) in enumerate(zip(*rows, strict=True)):
        found = read_row(inputs_L, depth_L, targets_LxV)
        assert bool(found) == (index < row_count)
        of_row = ends(found, width)
        assert found == trie(of_row.elements())
        total += of_row
    return total


def check(tokens_NxT, order_SxE, row_tokens):
    """Every step's rows hold its expressions and nothing else."""
    width = tokens_NxT.shape[1]
    planned = plan(tokens_NxT, VOCABULARY, order_SxE, row_tokens)
    capacity = most_rows(order_SxE.shape[1], width, row_tokens)
    assert planned.row_count_S.min() >= 1
    assert planned.row_count_S.max() <= capacity
    rows = write(tokens_NxT, planned, capacity + 1, row_tokens)
    for step, order_E in enumerate(order_SxE):
        of_step = Rows(*(array[step] for array in rows))
        expected = Counter(spelled(row_T) for row_T in tokens_NxT[order_E])
        assert read_step(of_step, planned.row_count_S[step], width) == expected
    return planned, rows


CASES = [
    *itertools.product(NARROW, ROW_TOKENS, [7, 100]),
    ("depth_2", "2_widths", 100),
    ("depth_3", "width", 7),
    ("depth_3", "2_widths", 100),
    ("depth_5", "width", 100),
    ("depth_5", "4_widths_less_1", 100),
]


@pytest.mark.parametrize(("name", "row_tokens", "batch"), CASES)
def test_rows_are_the_tries_of_the_expressions(name, row_tokens, batch):
    """Catches expressions that are lost, doubled, cut, torn over two rows or grown together with another's end,
    targets that are overwritten or invented, prefixes computed twice in a row, padding that is trained on, a row count
    that is wrong or above the capacity, and rows past the count that hold something."""
    tokens_NxT = corpus(name)
    check(tokens_NxT, order_of(tokens_NxT, batch), ROW_TOKENS[row_tokens](tokens_NxT.shape[1]))


@pytest.mark.parametrize(("batch", "row_tokens"), [(1, 3), (2, 3), (3, 3), (3, 4), (4, 6), (4, 11)])
def test_all_small_steps(batch, row_tokens):
    """Catches what chance does not meet: every choice of up to four of all rows of two tokens that are three wide."""
    words = itertools.chain.from_iterable(itertools.product(range(2), repeat=length) for length in range(4))
    tokens_NxT = sort_rows(np.array([(*word, *[EOS] * (3 - len(word))) for word in words], np.uint8))
    assert len(tokens_NxT) == 15
    choices = itertools.combinations_with_replacement(range(15), batch)
    if batch == 4:
        choices = itertools.islice(choices, 0, None, 5)
    check(tokens_NxT, np.array(list(choices), np.int32), row_tokens)


@pytest.mark.parametrize("name", ["random", "cut_off_or_empty", "depth_3"])
def test_a_larger_vocabulary_is_packed_alike(name):
    """Catches an end or a number of targets that is always that of eight tokens: the same rows with other ids in the
    same order, up to the greatest of 256, must lie where they lay, with the same targets.
    """
    tokens_NxT, large = corpus(name), Vocabulary(256)
    id_V = np.array([0, 3, 8, 100, 127, 128, 254, 255], np.uint8)
    row_tokens, count = 2 * tokens_NxT.shape[1], len(tokens_NxT)
    planned = plan(tokens_NxT, VOCABULARY, np.arange(count, dtype=np.int32)[None], row_tokens)
    large_planned = plan(id_V[tokens_NxT], large, np.arange(count, dtype=np.int32)[None], row_tokens)
    for array, large_array in zip(planned, large_planned, strict=True):
        np.testing.assert_array_equal(array, large_array)
    rows = int(planned.row_count_S[0])

    def laid_out(tokens_NxT, vocabulary):
        step = step_of(jnp.asarray(tokens_NxT), vocabulary, planned, 0, rows * row_tokens)
        return lay_out(step, vocabulary, rows, row_tokens)

    small_rows, large_rows = laid_out(tokens_NxT, VOCABULARY), laid_out(id_V[tokens_NxT], large)
    np.testing.assert_array_equal(id_V[small_rows.inputs_RxL], large_rows.inputs_RxL)
    np.testing.assert_array_equal(small_rows.depth_RxL, large_rows.depth_RxL)
    targets_RxLxV = np.zeros((rows, row_tokens, 256))
    targets_RxLxV[..., id_V] = small_rows.targets_RxLxV
    np.testing.assert_array_equal(targets_RxLxV, large_rows.targets_RxLxV)


@pytest.mark.parametrize("width", [256, 257])
def test_rows_wider_than_a_byte_counts(width):
    """Catches depths that wrap around at 256, where the rows are wider than any of the presets."""
    tokens_NxT = sort_rows(rows_of_lengths([width, width, width - 1, width - 2, 0, 128], width, tokens=2))
    _, rows = check(tokens_NxT, np.arange(6, dtype=np.int32)[None], width + 3)
    assert rows.depth_RxL.max() == width - 1


def test_worked_example():
    """Catches a shift by one or an order that is not depth first, in a case that fits on a page."""
    texts = ["( not True )", "True", "( not False )", "True"]
    ids = {"(": 0, ")": 1, "not": 2, "True": 5, "False": 6}
    tokens_NxT = np.full((4, 5), EOS, np.uint8)
    for row_T, text in zip(tokens_NxT, texts, strict=True):
        row_T[: len(text.split())] = [ids[word] for word in text.split()]
    tokens_NxT = sort_rows(tokens_NxT)
    planned = plan(tokens_NxT, VOCABULARY, np.arange(4, dtype=np.int32)[None], 10)
    rows = write(tokens_NxT, planned, 1, 10)
    assert planned.row_count_S.tolist() == [1]
    #                                       (  not True )  False ) True, padding
    assert rows.inputs_RxL[0, 0].tolist() == [EOS, 0, 2, 5, 1, 6, 1, 5, EOS, EOS]
    assert rows.depth_RxL[0, 0].tolist() == [0, 1, 2, 3, 4, 3, 4, 1, 0, 0]
    targets = [{int(token): int(row_V[token]) for token in np.flatnonzero(row_V)} for row_V in rows.targets_RxLxV[0, 0]]
    assert targets == [{0: 2, 5: 2}, {2: 2}, {5: 1, 6: 1}, {1: 1}, {EOS: 1}, {1: 1}, {EOS: 1}, {EOS: 2}, {}, {}]


def test_cut_off_row_has_no_eos_target():
    """Catches an invented `<eos>`: the model would learn to stop where the context happened to end."""
    tokens_NxT = corpus("cut_off")
    planned = whole_plan(tokens_NxT, VOCABULARY, 2 * WIDTH, 40)
    rows = write(tokens_NxT, planned, most_rows(53, WIDTH, 2 * WIDTH), 2 * WIDTH)
    assert not rows.targets_RxLxV[..., EOS].any()
    assert rows.targets_RxLxV.sum() == 40 * WIDTH


@pytest.mark.parametrize("row_tokens", ROW_TOKENS)
@pytest.mark.parametrize("name", CORPORA)
def test_capacity_suffices_for_every_batch(name, row_tokens):
    """Catches a bound on rows that some step exceeds, whose expressions would be dropped without a word; and a plan
    that takes more positions than separate expressions."""
    tokens_NxT = corpus(name)
    row_tokens = ROW_TOKENS[row_tokens](tokens_NxT.shape[1])
    position_N = np.minimum(VOCABULARY.lengths(tokens_NxT) + 1, tokens_NxT.shape[1])
    for batch in (1, 2, 3, 5, 8, 13, 40, 100, 250):
        planned = plan(tokens_NxT, VOCABULARY, order_of(tokens_NxT, batch, seed=batch), row_tokens)
        assert planned.row_count_S.max() <= most_rows(batch, tokens_NxT.shape[1], row_tokens) <= batch
        own_SxE = position_N[planned.expression_SxE] - planned.shared_SxE
        assert own_SxE.min() >= 0
        assert planned.shared_SxE.min() >= 0
        assert (own_SxE.sum(axis=1) <= planned.row_count_S * row_tokens).all()


def filled_by_hand(expressions, row_tokens):
    """Prefixes in each row if each expression, in byte order, lies where it fits most tightly among four open rows; if
    in none, a new row takes the place of the fullest. What is not begun counts as full; among equals the first."""
    open_rows, closed = [None] * 4, []
    for expression in expressions:
        own = {expression[:end] for end in range(len(expression))}
        fitting = [row for row in open_rows if row is not None and len(row | own) <= row_tokens]
        if fitting:
            max(fitting, key=lambda row, own=own: len(row | own)).update(own)
        else:
            fullest = max(range(4), key=lambda place: len(open_rows[place] or range(row_tokens)))
            closed.append(open_rows[fullest])
            open_rows[fullest] = own
    return sorted(len(row) for row in [*open_rows, *closed] if row is not None)


@pytest.mark.parametrize("row_tokens", ROW_TOKENS)
@pytest.mark.parametrize("name", CORPORA)
def test_each_expression_lies_in_the_row_that_it_fits_most_tightly(name, row_tokens):
    """Catches a row that is begun although an expression fits an open one exactly, a loose fit, and a row that is
    closed although another is fuller: each wastes some per cent of the computation and changes nothing else."""
    tokens_NxT = corpus(name)
    row_tokens = ROW_TOKENS[row_tokens](tokens_NxT.shape[1])
    position_N = np.minimum(VOCABULARY.lengths(tokens_NxT) + 1, tokens_NxT.shape[1])
    order_SxE = order_of(tokens_NxT, 30, steps=3)
    planned = plan(tokens_NxT, VOCABULARY, order_SxE, row_tokens)
    for step, order_E in enumerate(order_SxE):
        own_E = position_N[planned.expression_SxE[step]] - planned.shared_SxE[step]
        row_E = planned.place_SxE[step] // row_tokens
        filled = np.bincount(row_E[own_E > 0], own_E[own_E > 0])
        expected = filled_by_hand([spelled(row_T) for row_T in tokens_NxT[np.sort(order_E)]], row_tokens)
        assert sorted(filled.tolist()) == expected


@pytest.mark.parametrize("length", [1, 4, 5, 6, 7])
@pytest.mark.parametrize("row_tokens", [8, 9, 15, 16, 43, 50])
def test_rows_are_filled_before_others_are_begun(length, row_tokens):
    """Catches a row that is left although the next expression fits exactly, or overfilled by one: here the expressions
    share nothing but the start."""
    tokens_NxT = rows_of_lengths([length] * EOS)
    tokens_NxT[:, 0] = np.arange(EOS)
    in_a_row = (row_tokens - 1) // length
    planned = plan(sort_rows(tokens_NxT), VOCABULARY, np.arange(EOS, dtype=np.int32)[None], row_tokens)
    assert planned.row_count_S.tolist() == [-(-EOS // in_a_row)]


@pytest.mark.parametrize(("depth", "row_tokens", "least"), [(2, 32, 2.5), (3, 64, 1.5), (5, 128, 1.2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_useful_share(depth, row_tokens, least, seed):
    """Catches a packing that wastes computation, on padding or on what it has computed already: without shared
    beginnings the share is below 1."""
    tokens_NxT = sort_rows(Language(max_depth=depth).draw(np.random.default_rng(seed), 2000))
    order_SxE = order_of(tokens_NxT, 100, steps=20, seed=seed)
    useful = np.minimum(VOCABULARY.lengths(tokens_NxT) + 1, tokens_NxT.shape[1])[order_SxE].sum()
    assert useful / (plan(tokens_NxT, VOCABULARY, order_SxE, row_tokens).row_count_S.sum() * row_tokens) >= least


@pytest.mark.parametrize("name", [*(name for name in NARROW if name != "one_expression"), "depth_5"])
def test_whole_plan_is_padded_without_a_trace(name):
    """Catches padding that is laid out as an expression or moves one: a capacity is for a shape that never changes."""
    tokens_NxT = corpus(name)
    count, width = tokens_NxT.shape
    capacity = most_rows(count + 13, width, 2 * width)
    plain = whole_plan(tokens_NxT, VOCABULARY, 2 * width, count)
    expected = write(tokens_NxT, plain, capacity, 2 * width)
    of_step = Rows(*(array[0] for array in expected))
    assert read_step(of_step, plain.row_count_S[0], width) == Counter(map(spelled, tokens_NxT))
    padded = whole_plan(tokens_NxT, VOCABULARY, 2 * width, count + 13)
    assert padded.expression_SxE.shape == padded.shared_SxE.shape == padded.place_SxE.shape == (1, count + 13)
    assert padded.row_count_S.tolist() == plain.row_count_S.tolist()
    for array, padded_array in zip(expected, write(tokens_NxT, padded, capacity, 2 * width), strict=True):
        np.testing.assert_array_equal(array, padded_array)


@pytest.mark.parametrize("name", ["random", "two_tokens", "repeated", "cut_off_or_empty", "depth_5"])
def test_a_step_does_not_depend_on_others(name):
    """Catches steps that are planned together: rows that are opened for one step by another, a count carried over, or
    an arrangement that depends on how the step's expressions were shuffled."""
    tokens_NxT = corpus(name)
    row_tokens = 2 * tokens_NxT.shape[1]
    order_SxE = order_of(tokens_NxT, 7, steps=12)
    given_SxE = order_SxE.copy()
    together = plan(tokens_NxT, VOCABULARY, order_SxE, row_tokens)
    np.testing.assert_array_equal(order_SxE, given_SxE)
    np.testing.assert_array_equal(np.sort(together.expression_SxE), np.sort(order_SxE))
    assert {array.dtype for array in together} == {np.dtype(np.int32)}
    for step in range(12):
        for order_1xE in (order_SxE[step : step + 1], order_SxE[step : step + 1, ::-1]):
            for array, alone in zip(together, plan(tokens_NxT, VOCABULARY, order_1xE, row_tokens), strict=True):
                np.testing.assert_array_equal(array[step], alone[0])


def test_many_equal_expressions_are_one_path():
    """Catches counts that wrap around in a small type: a thousand empty expressions are one position."""
    tokens_NxT = sort_rows(rows_of_lengths([0] * 1000))
    rows = write(tokens_NxT, whole_plan(tokens_NxT, VOCABULARY, WIDTH, 1000), 2, WIDTH)
    assert rows.inputs_RxL.shape == rows.depth_RxL.shape == (1, 2, WIDTH)
    assert rows.targets_RxLxV.shape == (1, 2, WIDTH, VOCABULARY.size)
    assert rows.targets_RxLxV[0, 0, 0].tolist() == [0] * EOS + [1000]


@pytest.mark.parametrize("name", CORPORA)
def test_sorting_keeps_every_row(name):
    """Catches duplicates that are lost in sorting, and an order that is not that of bytes: `plan` takes neighbours to
    begin alike."""
    shuffled_NxT = np.random.default_rng(0).permutation(corpus(name))
    found = [bytes(row_T) for row_T in sort_rows(shuffled_NxT)]
    assert found == sorted(bytes(row_T) for row_T in shuffled_NxT)
    assert sort_rows(shuffled_NxT).dtype == np.uint8


ORDERS = [(7, 10, 3), (1, 5, 4), (50, 1, 8), (64, 40, 16), (13, 13, 13), (1000, 3, 1), (5, 3, 17)]


@pytest.mark.parametrize(("expressions", "steps", "batch"), ORDERS)
def test_batch_order_visits_expressions_equally(expressions, steps, batch):
    """Catches draws with replacement, padding in a batch, and an epoch that skips or repeats an expression."""
    order_SxE = batch_order(np.random.default_rng(5), expressions, steps, batch)
    assert order_SxE.shape == (steps, batch)
    assert order_SxE.dtype == np.int32
    visits = np.bincount(order_SxE.reshape(-1), minlength=expressions)
    assert len(visits) == expressions
    assert visits.max() - visits.min() <= 1
    for start in range(0, order_SxE.size, expressions):
        epoch = order_SxE.reshape(-1)[start : start + expressions]
        assert len(set(epoch.tolist())) == len(epoch)


def test_batch_order_shuffles_each_epoch_anew():
    """Catches one order that is repeated each epoch, or none at all, and randomness from anywhere but the generator."""
    epochs = batch_order(np.random.default_rng(1), 40, 10, 40).tolist()
    assert len({tuple(epoch) for epoch in [*epochs, list(range(40))]}) == 11
    assert batch_order(np.random.default_rng(1), 40, 10, 40).tolist() == epochs
    assert batch_order(np.random.default_rng(2), 40, 10, 40).tolist() != epochs


def test_batch_order_has_no_favourite_place():
    """Catches a shuffle that is not uniform: each must stand first equally often (chi-square, 7 degrees)."""
    generator = np.random.default_rng(11)
    firsts = np.bincount([batch_order(generator, 8, 1, 8)[0, 0] for _ in range(1600)], minlength=8)
    assert ((firsts - 200) ** 2 / 200).sum() < 30  # exceeded with probability 1e-4
