import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.config.presets import load
from jaxloop.learners.transformer.attention import attend
from jaxloop.learners.transformer.model import look_up, make_model, parameter_count
from jaxloop.learners.transformer.settings import ModelSettings
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY

SETTINGS = ModelSettings(layers=2, heads=2, width=16, context_tokens=24)
MODEL = make_model(SETTINGS, VOCABULARY)
ROWS, ROW_TOKENS = 8, 64  # of all batches, so that little is compiled

# Most of the time would go into optimising programs that run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def model():
    return MODEL._replace(init=jit(MODEL.init), apply=jit(MODEL.apply), decode=jit(MODEL.decode))


@pytest.fixture(scope="module")
def parameters(model):
    """With matrices five times as large as at first: attention that looks about evenly would hide mistakes."""
    return jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim > 1 else leaf, model.init(jax.random.key(3)))


def random_expression(seed: int, length: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, EOS, length).tolist())


def tree_of(expressions) -> list[tuple[int, ...]]:
    """Every prefix of any of them once, depth first: in sorted order, each stands before those that go on from it."""
    return sorted({expression[:end] for expression in expressions for end in range(len(expression) + 1)})


def row_of(prefixes, row_tokens=ROW_TOKENS) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and depths of a row that holds these prefixes in this order, and then padding."""
    inputs_L, depth_L = np.full(row_tokens, EOS, np.uint8), np.zeros(row_tokens, np.uint8)
    inputs_L[: len(prefixes)] = [prefix[-1] if prefix else EOS for prefix in prefixes]
    depth_L[: len(prefixes)] = [len(prefix) for prefix in prefixes]
    return inputs_L, depth_L


def random_tree(seed: int) -> list[tuple[int, ...]]:
    """The prefixes of some expressions that branch at many depths, up to the whole context."""
    generator = np.random.default_rng(seed)
    expressions = [random_expression(seed, 23)]
    for start in (1, 4, 4, 11, 20):
        branch = expressions[generator.integers(len(expressions))][:start]
        expressions.append(branch + random_expression(100 * seed + start, min(generator.integers(1, 8), 23 - start)))
    prefixes = tree_of(expressions)
    assert len(prefixes) < ROW_TOKENS
    return prefixes


def logits_of(model, parameters, rows) -> np.ndarray:
    filled = [*rows, *[row_of([])] * (ROWS - len(rows))]
    return np.asarray(model.apply(parameters, *map(np.stack, zip(*filled, strict=True))))[: len(rows)]


def read_alone(model, parameters, expressions) -> list[np.ndarray]:
    """Logits after each prefix of each expression, written token by token, all rows side by side."""
    tokens_BxL = np.full((ROWS, 24), EOS, np.uint8)
    for row_L, expression in zip(tokens_BxL, expressions, strict=False):
        row_L[1 : len(expression) + 1] = expression
    cache, found = model.init_cache(ROWS * 24), []
    node_BxL = np.arange(ROWS)[:, None] + ROWS * np.arange(24)
    for position in range(max(map(len, expressions)) + 1):
        # What is not read yet must not count, whoever's it is.
        known_BxL = np.where(np.arange(24) < position, node_BxL, position)
        step = tokens_BxL[:, position], jnp.int32(position), known_BxL, jnp.int32(ROWS * position)
        logits_BxV, cache = model.decode(parameters, *step, cache)
        found.append(logits_BxV)
    found = np.stack(found, axis=1)
    return [row_LxV[: len(expression) + 1] for row_LxV, expression in zip(found, expressions, strict=False)]


def test_a_tree_gives_each_expression_the_logits_it_has_alone(model, parameters):
    """Attention to a neighbour in the row, a branch cut from its root, or positions that count the row and not the
    depth make an expression's logits depend on what lies beside it. Alone, each is decoded token by token."""
    trees = [random_tree(seed) for seed in range(3)]
    logits_BxLxV = logits_of(model, parameters, [row_of(prefixes) for prefixes in trees])
    for prefixes, logits_LxV in zip(trees, logits_BxLxV, strict=True):
        whole = [prefix for prefix in prefixes if not any(other[:-1] == prefix for other in prefixes if other)]
        assert len(whole) > 3
        for expression, alone_LxV in zip(whole, read_alone(model, parameters, whole), strict=True):
            places = [prefixes.index(expression[:end]) for end in range(len(expression) + 1)]
            np.testing.assert_allclose(logits_LxV[places], alone_LxV, atol=2e-5)


def test_cached_decoding_equals_the_full_forward_pass(model, parameters):
    """A cache written or read one place off, or a mask that hides the newest token, gives other logits."""
    expressions = [random_expression(seed, 23) for seed in range(5)]
    full_BxLxV = logits_of(model, parameters, [row_of(tree_of([expression])) for expression in expressions])
    np.testing.assert_allclose(np.stack(read_alone(model, parameters, expressions)), full_BxLxV[:, :24], atol=2e-5)


def test_decoding_a_tree_equals_the_full_forward_pass(model, parameters):
    """Sampling reads each prefix once, wherever its past lies: a node of another branch, or one position too many or
    too few, gives other logits."""
    prefixes = random_tree(4)
    expected_LxV = logits_of(model, parameters, [row_of(prefixes)])[0]
    order = sorted(prefixes, key=len)
    # Nodes lie in any order, and what is not written yet is large.
    places = np.random.default_rng(0).permutation(len(order)).tolist()
    start = {prefix: ROWS * place for prefix, place in zip(order, places, strict=True)}
    cache = jax.tree.map(lambda array: jnp.full_like(array, 1e9), model.init_cache(ROWS * len(order)))
    for prefix in order:
        past = [start[prefix[:end]] for end in range(len(prefix))]
        node_BxL = np.tile(np.array(past + [0] * (24 - len(past))), (ROWS, 1))
        token_B = np.full(ROWS, prefix[-1] if prefix else EOS, np.uint8)
        step = token_B, jnp.int32(len(prefix)), node_BxL, jnp.int32(start[prefix])
        logits_BxV, cache = model.decode(parameters, *step, cache)
        np.testing.assert_allclose(logits_BxV[0], expected_LxV[prefixes.index(prefix)], atol=2e-5)


def test_a_position_reads_its_ancestors_and_nothing_else(parameters):
    """A mask that lets the future or a sibling in makes training trivial and sampling worthless; one too strict learns
    nothing. Each position's token is changed in turn: exactly what goes on from it may move."""
    prefixes = random_tree(1)
    inputs_L, depth_L = row_of(prefixes)
    changed_PxL = np.tile(inputs_L, (ROW_TOKENS, 1))
    np.fill_diagonal(changed_PxL, (inputs_L + 3) % (EOS + 1))
    apply = jit(jax.vmap(lambda row_L: MODEL.apply(parameters, row_L[None], depth_L[None])[0]))
    moved_PxLxV = np.asarray(apply(np.concatenate([inputs_L[None], changed_PxL])))
    moved_PxL = np.abs(moved_PxLxV[1:] - moved_PxLxV[0]).max(axis=-1) > 1e-6
    for place in range(ROW_TOKENS):
        if place < len(prefixes):
            changed = prefixes[place]
            below = [prefix[: len(changed)] == changed for prefix in prefixes]
            assert moved_PxL[place].tolist() == below + [False] * (ROW_TOKENS - len(prefixes))
        else:  # padding: of itself only
            assert np.flatnonzero(moved_PxL[place]).tolist() == [place]


def test_trees_in_a_row_do_not_see_each_other(model, parameters):
    """Padding is a row of trees of one position each. A subtree that does not end where the next root stands would let
    it see what lies before; and the same for two trees of any size."""
    trees = [
        tree_of([random_expression(seed, 7), random_expression(seed, 4) + random_expression(9, 5)])
        for seed in (1, 2, 3)
    ]
    together_LxV = logits_of(model, parameters, [row_of([prefix for prefixes in trees for prefix in prefixes])])[0]
    alone = logits_of(model, parameters, [row_of(prefixes) for prefixes in trees])
    expected = np.concatenate([logits_LxV[: len(tree)] for logits_LxV, tree in zip(alone, trees, strict=True)])
    np.testing.assert_allclose(together_LxV[: len(expected)], expected, atol=2e-5)
    # What pads is as a tree that holds the empty expression only.
    np.testing.assert_allclose(
        together_LxV[len(expected) :], np.tile(expected[:1], (ROW_TOKENS - len(expected), 1)), atol=2e-5
    )


def test_gradients_reach_exactly_the_own_past(parameters):
    """The same by derivative: the loss at one place reaches the position embeddings of its own past, and no other."""
    prefixes = tree_of([(1, 2, 3, 4, 5), (1, 2, 6), (3, 0)])
    inputs_L, depth_L = row_of(prefixes, 12)

    def logit(positions, place):
        return MODEL.apply({**parameters, "positions": positions}, inputs_L[None], depth_L[None])[0, place, 2]

    gradient = jit(jax.grad(logit))
    for prefix in ((), (1, 2, 3, 4, 5), (1, 2, 6), (3,)):
        gradient_CxD = gradient(parameters["positions"], prefixes.index(prefix))["embedding"]
        touched_C = np.abs(gradient_CxD).max(axis=1) > 0
        assert touched_C.tolist() == [position <= len(prefix) for position in range(24)]


@pytest.mark.parametrize(("preset", "count"), [("paper", 10_624_896), ("paper_large", 49_170_560)])
def test_parameter_counts_of_the_paper(preset, count):
    """A bias, an untied output or another perceptron would give a model of another size than the paper's."""
    settings = load(preset).model
    closed_form = (
        settings.layers * 12 * settings.width**2 + (2 * settings.layers + 1 + VOCABULARY.size) * settings.width
    )
    assert parameter_count(settings, VOCABULARY) == closed_form == count


def test_initial_parameters_have_the_stated_deviations():
    """A shared draw that is cut wrongly repeats numbers between matrices, or gives one of them another scale."""
    settings = ModelSettings(layers=2, heads=2, width=128, context_tokens=64)
    parameters = jit(make_model(settings, VOCABULARY).init)(jax.random.key(0))
    block = parameters["block_001"]
    for matrix, shape, deviation in (
        (parameters["positions"]["embedding"], (64, 128), 0.02),
        (block["queries_keys_values"]["kernel"], (128, 384), 0.02),
        (block["mlp_in"]["kernel"], (128, 512), 0.02),
        (block["attention_out"]["kernel"], (128, 128), 0.01),
        (block["mlp_out"]["kernel"], (128, 512), 0.01),
    ):
        assert matrix.shape == shape
        assert np.std(matrix) == pytest.approx(deviation, rel=0.03)
        assert abs(np.mean(matrix)) < 5 * deviation / np.sqrt(matrix.size)
    assert np.std(parameters["tokens"]["embedding"]) == pytest.approx(0.02, rel=0.1)
    np.testing.assert_array_equal(block["mlp_norm"]["scale"], 1)
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(parameters) if leaf.ndim > 1])
    assert len(np.unique(values)) > 0.95 * len(values)


def test_dropout_acts_in_training_only(model, parameters):
    """Dropout while sampling or measuring would measure another model than the one that was trained."""
    dropping = make_model(SETTINGS.model_copy(update={"dropout": 0.5}), VOCABULARY)
    apply, rows = jit(dropping.apply), [array_L[None] for array_L in row_of(random_tree(1))]
    plain = model.apply(parameters, *rows)
    np.testing.assert_array_equal(plain, model.apply(parameters, *rows, jax.random.key(1)))
    np.testing.assert_allclose(plain, apply(parameters, *rows), atol=1e-6)
    dropped = apply(parameters, *rows, jax.random.key(1))
    assert np.abs(dropped - plain).max() > 0
    assert np.abs(dropped - apply(parameters, *rows, jax.random.key(2))).max() > 0
    np.testing.assert_array_equal(dropped, apply(parameters, *rows, jax.random.key(1)))


def test_dropout_of_attention(monkeypatch, parameters):
    """Factors that do not keep the mean, or that heads, rows or layers share, regularise otherwise than they should."""
    given = []

    def recording(*arguments):
        given.append(arguments[-1])
        return attend(*arguments)

    @jit
    def factors(parameters, key):
        given.clear()
        dropping.apply(parameters, *rows, key)
        return list(given)

    monkeypatch.setattr("jaxloop.learners.transformer.model.attend", recording)
    dropping = make_model(SETTINGS.model_copy(update={"dropout": 0.2}), VOCABULARY)
    rows = [np.stack([array_L, array_L]) for array_L in row_of(random_tree(1))]
    assert factors(parameters, None) == [None] * 2
    kept = np.stack(factors(parameters, jax.random.key(1)))
    assert kept.shape == (2, 2, 2, ROW_TOKENS, ROW_TOKENS)
    np.testing.assert_allclose(np.unique(kept), [0, 1.25])
    # Each of eight has a mean of 1, with a deviation of 0.5 / 64, and none is another's.
    planes = kept.reshape(8, -1)
    np.testing.assert_allclose(planes.mean(axis=1), 1, atol=0.04)
    assert np.abs(np.corrcoef(planes) - np.eye(8)).max() < 0.1


def test_bfloat16_activations_keep_float32_parameters_and_logits(model, parameters):
    """Parameters or a loss in bfloat16 would lose small updates."""
    narrow = make_model(SETTINGS.model_copy(update={"activations": "bfloat16"}), VOCABULARY)
    narrow = narrow._replace(apply=jit(narrow.apply), decode=jit(narrow.decode))
    initial = jax.eval_shape(narrow.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    parameters = jax.tree.map(lambda leaf: leaf / 5 if leaf.ndim > 1 else leaf, parameters)
    assert {array.dtype for array in jax.tree.leaves(narrow.init_cache(16))} == {jnp.dtype("bfloat16")}
    rows = [row_of(random_tree(seed)) for seed in range(2)]
    logits = logits_of(narrow, parameters, rows)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, logits_of(model, parameters, rows), atol=2e-2)
    expression = random_expression(4, 10)
    alone_LxV = read_alone(narrow, parameters, [expression])[0]
    assert alone_LxV.dtype == np.float32
    np.testing.assert_allclose(alone_LxV, read_alone(model, parameters, [expression])[0], atol=2e-2)


@pytest.mark.accelerator
def test_gradients_of_bfloat16_are_those_of_float32_within_two_percent():
    """Catches sums over thousands of positions in bfloat16: the token embedding's gradient was wrong by 15%."""
    settings = SETTINGS.model_copy(update={"layers": 1, "width": 64})
    generator = np.random.default_rng(0)
    inputs_BxL, depth_BxL = generator.integers(0, EOS, (64, 64)), np.broadcast_to(np.arange(64) % 24, (64, 64))
    targets_BxL = generator.integers(0, EOS, (64, 64))

    def gradients(activations):
        model = make_model(settings.model_copy(update={"activations": activations}), VOCABULARY)

        def nats(parameters):
            log_prob_BxLxV = jax.nn.log_softmax(model.apply(parameters, inputs_BxL, depth_BxL))
            return -jnp.sum(jnp.take_along_axis(log_prob_BxLxV, targets_BxL[..., None], axis=-1))

        large = jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim > 1 else leaf, model.init(jax.random.key(3)))
        return jit(jax.grad(nats))(large)

    exact, found = gradients("float32"), gradients("bfloat16")
    for (path, right), wrong in zip(jax.tree.leaves_with_path(exact), jax.tree.leaves(found), strict=True):
        error = jnp.linalg.norm(wrong - right) / jnp.linalg.norm(right)
        assert error < 0.02, (jax.tree_util.keystr(path), float(error))


def test_looking_up_on_accelerators_gives_the_gradient_of_looking_up():
    """Catches a product of matrices that is not the sum of single additions, whatever the order of the indices."""
    generator = np.random.default_rng(0)
    table_VxD = jnp.asarray(generator.normal(size=(8, 16)), jnp.float32)
    index_N, weights_NxD = generator.integers(0, 8, 500), generator.normal(size=(500, 16)).astype(np.float32)
    summed_VxD = np.zeros((8, 16))
    np.add.at(summed_VxD, index_N, weights_NxD)
    gradient_VxD = jit(jax.grad(lambda table: jnp.sum(look_up(table, index_N, jnp.float32) * weights_NxD)))(table_VxD)
    np.testing.assert_allclose(gradient_VxD, summed_VxD, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(look_up(table_VxD, index_N, jnp.float32), table_VxD[index_N])
