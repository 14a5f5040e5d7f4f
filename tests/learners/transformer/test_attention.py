"""Attention and its own derivative, against the textbook's formula in float64 and the derivative that JAX finds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.learners.transformer.attention import attend

ROWS, POSITIONS, HEADS, HEAD_WIDTH = 3, 13, 2, 4


def textbook(queries_BxLxHxK, keys_BxLxHxK, values_BxLxHxK, bias_BxLxL, kept_BxHxLxL=None):
    """Attention as a paper writes it."""
    scores = jnp.einsum("blhk,bmhk->bhlm", queries_BxLxHxK, keys_BxLxHxK) / np.sqrt(queries_BxLxHxK.shape[-1])
    weights = jax.nn.softmax(scores + bias_BxLxL[:, None], axis=-1)
    if kept_BxHxLxL is not None:
        weights *= kept_BxHxLxL
    return jnp.einsum("bhlm,bmhk->blhk", weights, values_BxLxHxK)


def value_and_gradients(function, gradient, queries, keys, values, *rest):
    """What attention gives, and the gradients of the first three arguments for this one of the result."""
    result, pull_back = jax.vjp(lambda *arguments: function(*arguments, *rest), queries, keys, values)
    return result, *pull_back(gradient)


def exact(*arrays):
    """The same of the textbook's formula in float64."""
    with jax.enable_x64(True):
        arrays = [None if array is None else jnp.asarray(np.asarray(array, np.float64)) for array in arrays]
        result = [np.asarray(array) for array in value_and_gradients(textbook, *arrays)]
    assert {array.dtype for array in result} == {np.dtype(np.float64)}
    return result


compiled = jax.jit(functools.partial(value_and_gradients, attend))


def ancestors(generator, positions):
    """Which positions each sees: itself, and what its parent sees, any earlier position or none at all."""
    sees_LxL = np.eye(positions, dtype=bool)
    for position in range(1, positions):
        parent = generator.integers(-1, position)
        if parent >= 0:
            sees_LxL[position] |= sees_LxL[parent]
    return sees_LxL


def bias_of(sees):
    return np.where(sees, 0, -1e30).astype(np.float32)


def arguments(seed, dropout=0.0):
    """A gradient of the result, queries, keys, values, a bias and dropout's factors."""
    generator = np.random.default_rng(seed)
    shape = (4, ROWS, POSITIONS, HEADS, HEAD_WIDTH)
    gradient, queries, keys, values = generator.normal(size=shape).astype(np.float32)
    sees = [np.tri(POSITIONS, dtype=bool), np.eye(POSITIONS, dtype=bool), ancestors(generator, POSITIONS)]
    kept = None
    if dropout:
        dropped = generator.random((ROWS, HEADS, POSITIONS, POSITIONS)) < dropout
        kept = np.where(dropped, 0, 1 / (1 - dropout)).astype(np.float32)
    return gradient, queries, keys, values, bias_of(np.stack(sees)), kept


def assert_close(found, expected, share):
    """Each of the four arrays is right up to this share of its largest number."""
    for name, array, expected_array in zip(("result", "queries", "keys", "values"), found, expected, strict=True):
        array = np.asarray(array, np.float64)
        assert np.isfinite(array).all(), name
        assert np.abs(array - expected_array).max() <= share * np.abs(expected_array).max(), name


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("seed", range(5))
def test_value_and_gradients_are_the_textbooks(seed, dropout):
    """Catches a wrong scale, a transposed product, a softmax over queries, a total that is not divided by, and dropout
    before the sum or missing in the derivative."""
    case = arguments(seed, dropout=dropout)
    assert_close(compiled(*case), exact(*case), 3e-6)


@pytest.mark.parametrize("score", [200, -200])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_large_scores_do_not_overflow(dropout, score):
    """Catches an exponential of the score itself, infinite above 88 and zero below -104, and a largest score that is
    taken before masking: the last key's is larger still, and nobody but the last query sees it."""
    case = arguments(0, dropout=dropout)
    _, queries, keys, _, _, _ = case
    queries[..., 0], keys[..., 0] = 20, score / 10
    keys[:, -1, :, 0] = 60
    scores = np.einsum("blhk,bmhk->bhlm", queries, keys) / 2
    assert (np.abs(scores[..., :-1] - score) < 20).all()
    assert (scores[..., -1] > 580).all()
    # A score of 200 is rounded to 1e-5, and so is the logarithm of its weight.
    assert_close(compiled(*case), exact(*case), 1e-4)


def test_a_step_along_the_gradient_is_what_it_says():
    """Catches a derivative that is not that of this forward pass, whatever a textbook says: finite differences."""
    gradient, *case = arguments(1, dropout=0.3)
    slopes = compiled(gradient, *case)[1:]
    generator = np.random.default_rng(2)
    for place, slope in enumerate(slopes):
        direction = generator.normal(size=slope.shape).astype(np.float32)
        ends = []
        for sign in (1, -1):
            moved = list(case)
            moved[place] = case[place] + sign * 1e-2 * direction
            ends.append(np.vdot(gradient, attend(*moved)))
        assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(np.vdot(slope, direction), rel=2e-3)


@pytest.mark.parametrize("score", [0, 40])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_bfloat16_is_as_good_as_its_digits(dropout, score):
    """Catches scores or a softmax in bfloat16, where scores near 40 are an eighth apart, and gradients of another
    dtype."""
    gradient, queries, keys, values, bias, kept = arguments(3, dropout=dropout)
    queries[..., 0], keys[..., 0] = score, 2
    narrow = [jnp.asarray(array, jnp.bfloat16) for array in (gradient, queries, keys, values)]
    found = compiled(*narrow, bias, kept)
    assert {array.dtype for array in found} == {jnp.dtype(jnp.bfloat16)}
    assert_close(found, exact(*narrow, bias, kept), 0.02)


def test_sums_over_many_keys_are_float32():
    """Catches a total in bfloat16, which has no 257: of so many equal keys, each must count the same."""
    positions, value = 257, 255 / 256  # the largest below 1 in bfloat16
    nothing = jnp.zeros((1, positions, 1, 2), jnp.bfloat16)
    bias = np.zeros((1, positions, positions), np.float32)
    result = jax.jit(attend)(nothing, nothing, jnp.full_like(nothing, value), bias)
    np.testing.assert_array_equal(np.asarray(result, np.float32), np.full(result.shape, value, np.float32))


def test_mapped_over_loops_is_each_loop_alone():
    """Catches a derivative that mixes an axis that `vmap` adds, with which accelerators train loops side by side."""
    cases = [arguments(seed, dropout=0.2) for seed in range(3)]
    together = jax.jit(jax.vmap(functools.partial(value_and_gradients, attend)))(
        *map(np.stack, zip(*cases, strict=True))
    )
    for loop, case in enumerate(cases):
        assert_close([array[loop] for array in together], exact(*case), 3e-6)


def test_what_is_masked_has_no_influence_and_no_gradient():
    """Catches a mask that lets a trace through: exactly nothing may come from a key that a query does not see."""
    _, queries, keys, values, bias, _ = arguments(4)
    position = 5
    sees_BxL = bias[:, position] == 0
    gradient = np.zeros_like(queries)
    gradient[:, position] = 1
    result, query_gradients, key_gradients, value_gradients = compiled(gradient, queries, keys, values, bias, None)
    assert np.abs(np.delete(query_gradients, position, axis=1)).max() == 0
    for array in (key_gradients, value_gradients):
        assert (np.abs(array).max(axis=(2, 3))[~sees_BxL] == 0).all()
    assert (np.abs(value_gradients).max(axis=(2, 3))[sees_BxL] > 0).all()
    hidden = ~sees_BxL[..., None, None]
    other = compiled(gradient, queries, np.where(hidden, 50.0, keys), np.where(hidden, 1e4, values), bias, None)
    np.testing.assert_array_equal(result[:, position], other[0][:, position])


def test_nothing_else_has_a_gradient():
    """Catches a derivative that hands a key's gradient to the bias or to dropout's factors."""
    gradient, queries, keys, values, bias, kept = arguments(5, dropout=0.2)

    def total(bias, kept):
        return jnp.vdot(gradient, attend(queries, keys, values, bias, kept))

    for array in jax.grad(total, argnums=(0, 1))(bias, kept):
        assert not np.any(array)
