"""Parameters as two vectors, against the same parameters as a tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.learners.transformer.flat import FlatParameters, flat, model_of_the_device
from jaxloop.learners.transformer.model import make_model
from jaxloop.learners.transformer.settings import ModelSettings, TrainSettings
from jaxloop.learners.transformer.train import TrainingKnobs, make_optimiser
from jaxloop.systems.logic.vocabulary import VOCABULARY

SETTINGS = ModelSettings(layers=2, heads=2, width=16, context_tokens=8, activations="float32")
TREE = make_model(SETTINGS, VOCABULARY)
FLAT = flat(TREE, jnp.float32)
INPUTS = np.random.default_rng(0).integers(0, VOCABULARY.size, (3, 8))
DEPTH = np.broadcast_to(np.arange(8), (3, 8))


@pytest.fixture(scope="module")
def parameters():
    """The same as a tree and as vectors; no two numbers that are not zero or one are alike."""
    tree, vectors = (jax.jit(model.init)(jax.random.key(1)) for model in (TREE, FLAT))
    return tree, vectors


def nats_of(model):
    return lambda parameters: -jnp.sum(jax.nn.log_softmax(model.apply(parameters, INPUTS, DEPTH))[..., 2])


def test_vectors_hold_what_the_tree_holds(parameters):
    """Catches arrays that change places, or a number that is lost or doubled."""
    tree, vectors = parameters
    assert isinstance(vectors, FlatParameters)
    assert sum(len(vector) for vector in vectors) == sum(leaf.size for leaf in jax.tree.leaves(tree))
    jax.tree.map(np.testing.assert_array_equal, FLAT.nested(vectors), tree)
    on_the_host = FLAT.nested(jax.device_get(vectors))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(on_the_host))
    jax.tree.map(np.testing.assert_array_equal, on_the_host, tree)


def test_the_model_and_its_gradient_are_those_of_the_tree(parameters):
    """Catches a gradient that lies elsewhere in the vector than its array."""
    tree, vectors = parameters
    np.testing.assert_array_equal(FLAT.apply(vectors, INPUTS, DEPTH), TREE.apply(tree, INPUTS, DEPTH))
    right, found = jax.grad(nats_of(TREE))(tree), jax.grad(nats_of(FLAT))(vectors)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(right))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), FLAT.nested(found), right
    )


def test_steps_of_the_optimiser_are_those_of_the_tree(parameters):
    """Catches norms that decay, matrices that do not, and a clip by another norm than that of all parameters."""
    settings = TrainSettings(warmup_steps=0, clip_norm=0.1)
    knobs = TrainingKnobs(np.float32(0.01), np.float32(5.0))
    found = []
    for model, start in zip((TREE, FLAT), parameters, strict=True):
        optimiser, current = make_optimiser(settings, knobs, model.matrices), start
        state = optimiser.init(current)
        for _ in range(3):
            updates, state = optimiser.update(jax.grad(nats_of(model))(current), state, current)
            current = jax.tree.map(jnp.add, current, updates)
        found.append(model.nested(current))
    moved = jax.tree.map(lambda one, other: np.abs(one - other).max(), found[0], parameters[0])
    assert min(jax.tree.leaves(moved)) > 1e-3
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5), *found)


def test_matrices_are_read_in_the_dtype_of_activations(parameters):
    """Catches vectors that are cast for each array, or gradients that come back in the narrow dtype."""
    narrow = make_model(SETTINGS.model_copy(update={"activations": "bfloat16"}), VOCABULARY)
    model = flat(narrow, jnp.bfloat16)
    gradient = jax.grad(nats_of(model))(parameters[1])
    assert {leaf.dtype for leaf in gradient} == {jnp.dtype("float32")}
    right = jax.grad(nats_of(TREE))(parameters[0])
    for found, one in zip(jax.tree.leaves(model.nested(gradient)), jax.tree.leaves(right), strict=True):
        assert np.linalg.norm(found - one) < 0.03 * np.linalg.norm(one)
    text = jax.jit(model.apply).lower(parameters[1], INPUTS, DEPTH).as_text()
    size = len(parameters[1].matrices_P)
    assert text.count(f"(tensor<{size}xf32>) -> tensor<{size}xbf16>") == 1


def test_only_accelerators_have_vectors(monkeypatch):
    """Catches a CPU whose bits would change, and an accelerator that updates one array after the other."""
    init = model_of_the_device(SETTINGS, VOCABULARY).init
    assert isinstance(jax.eval_shape(init, jax.random.key(0)), dict)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    init = model_of_the_device(SETTINGS, VOCABULARY).init
    assert isinstance(jax.eval_shape(init, jax.random.key(0)), FlatParameters)
