import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.config import ModelSettings, load
from jaxloop.model import make_model, parameter_count
from jaxloop.vocabulary import EOS, VOCABULARY_SIZE

SETTINGS = ModelSettings(layers=3, heads=2, width=16, context_tokens=24)


@pytest.fixture(scope="module")
def model():
    model = make_model(SETTINGS)
    return model._replace(apply=jax.jit(model.apply))


@pytest.fixture(scope="module")
def parameters(model):
    return model.init(jax.random.key(3))


def random_row(seed: int, length: int) -> np.ndarray:
    """An expression's inputs: `<eos>`, then tokens that are not."""
    tokens = np.random.default_rng(seed).integers(0, EOS, length).astype(np.uint8)
    tokens[0] = EOS
    return tokens


def test_cached_decoding_equals_the_full_forward_pass(model, parameters):
    """A cache written or read one place off, or a mask that hides the newest token, gives other logits."""
    rows_BxL = np.stack([random_row(seed, 24) for seed in range(5)])
    full_BxLxV = model.apply(parameters, rows_BxL)
    cache, decode = model.init_cache(5), jax.jit(model.decode)
    for position in range(24):
        logits_BxV, cache = decode(parameters, rows_BxL[:, position], position, cache)
        np.testing.assert_allclose(logits_BxV, full_BxLxV[:, position], atol=1e-5)


def test_packed_expressions_do_not_see_each_other(model, parameters):
    """Attention across `<eos>`, or positions that run on, make an expression's logits depend on its neighbours."""
    parts = [random_row(1, 7), random_row(2, 9), random_row(3, 8)]
    together_LxV = model.apply(parameters, np.concatenate(parts)[None])[0]
    alone = [model.apply(parameters, part[None])[0] for part in parts]
    np.testing.assert_allclose(together_LxV, np.concatenate(alone), atol=1e-5)


def test_logits_do_not_depend_on_later_tokens_but_do_on_earlier_ones(model, parameters):
    """A mask that lets the future in makes training trivial and sampling worthless; one too strict learns nothing."""
    row_L = random_row(5, 24)
    base_LxV = model.apply(parameters, row_L[None])[0]
    for changed in (1, 8, 22):
        other_L = row_L.copy()
        other_L[changed] = (other_L[changed] + 1) % EOS
        moved_L = np.abs(model.apply(parameters, other_L[None])[0] - base_LxV).max(axis=-1)
        assert np.all(moved_L[:changed] == 0)
        assert np.all(moved_L[changed:] > 0)


def test_attention_spreads_gradients_to_exactly_the_own_past(model, parameters):
    """The same by derivative: the loss at one place reaches the position embeddings of its own past, and no other."""

    def logit(positions, place):
        return model.apply({**parameters, "positions": positions}, packed_1xL)[0, place, 2]

    packed_1xL = np.concatenate([random_row(1, 6), random_row(2, 10)])[None]
    gradient = jax.jit(jax.grad(logit))
    for place, reached in ((0, 1), (5, 6), (6, 1), (12, 7)):
        gradient_CxD = gradient(parameters["positions"], place)["embedding"]
        touched_C = np.abs(gradient_CxD).max(axis=1) > 0
        assert touched_C.tolist() == [position < reached for position in range(24)]


@pytest.mark.parametrize(("preset", "count"), [("paper", 10_624_896), ("paper_large", 49_170_560)])
def test_parameter_counts_of_the_paper(preset, count):
    """A bias, an untied output or another perceptron would give a model of another size than the paper's."""
    settings = load(preset).model
    closed_form = (
        settings.layers * 12 * settings.width**2 + (2 * settings.layers + 1 + VOCABULARY_SIZE) * settings.width
    )
    assert parameter_count(settings) == closed_form == count


def test_initial_parameters_have_the_stated_deviations(model):
    """A shared draw that is cut wrongly repeats numbers between matrices, or gives one of them another scale."""
    parameters = make_model(ModelSettings(layers=2, heads=2, width=128, context_tokens=64)).init(jax.random.key(0))
    block = parameters["blocks"][1]
    for matrix, deviation in (
        (parameters["positions"]["embedding"], 0.02),
        (block["queries_keys_values"]["kernel"], 0.02),
        (block["mlp_in"]["kernel"], 0.02),
        (block["attention_out"]["kernel"], 0.01),
        (block["mlp_out"]["kernel"], 0.01),
    ):
        assert np.std(matrix) == pytest.approx(deviation, rel=0.03)
        assert abs(np.mean(matrix)) < 5 * deviation / np.sqrt(matrix.size)
    np.testing.assert_array_equal(block["mlp_norm"]["scale"], 1)
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(parameters) if leaf.ndim > 1])
    assert len(np.unique(values)) > 0.95 * len(values)


def test_dropout_acts_in_training_only():
    """Dropout while sampling or measuring would measure another model than the one that was trained."""
    settings = SETTINGS.model_copy(update={"dropout": 0.5})
    model = make_model(settings)
    parameters, rows = model.init(jax.random.key(0)), random_row(1, 24)[None]
    plain = model.apply(parameters, rows)
    np.testing.assert_array_equal(plain, model.apply(parameters, rows))
    np.testing.assert_array_equal(plain, make_model(SETTINGS).apply(parameters, rows))
    dropped = model.apply(parameters, rows, jax.random.key(1))
    assert np.abs(dropped - plain).max() > 0
    assert np.abs(dropped - model.apply(parameters, rows, jax.random.key(2))).max() > 0
    np.testing.assert_array_equal(dropped, model.apply(parameters, rows, jax.random.key(1)))


def test_bfloat16_activations_keep_float32_parameters_and_logits():
    """Parameters or a loss in bfloat16 would lose small updates."""
    model = make_model(SETTINGS.model_copy(update={"activations": "bfloat16"}))
    parameters = model.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters)} == {jnp.dtype("float32")}
    assert model.init_cache(2).keys_BxLxHxK[0].dtype == jnp.bfloat16
    logits = model.apply(parameters, random_row(1, 24)[None])
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, make_model(SETTINGS).apply(parameters, random_row(1, 24)[None]), atol=2e-2)
