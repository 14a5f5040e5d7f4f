"""Attention by kernels of a GPU against attention written out, which has the textbook's formula as its oracle."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.learners.transformer.attention import attend, kernels_for
from jaxloop.learners.transformer.attention_kernels import attend_by_kernels
from jaxloop.learners.transformer.dropout import Draw, is_kept
from jaxloop.learners.transformer.model import make_model
from jaxloop.learners.transformer.settings import ModelSettings
from jaxloop.systems.logic.vocabulary import VOCABULARY

ROWS, POSITIONS, HEADS, HEAD_WIDTH = 3, 32, 2, 16


def case(seed: int, dtype=jnp.float32) -> tuple:
    """Queries, keys and values, a bias that leaves each query itself and any earlier keys, and a gradient."""
    generator = np.random.default_rng(seed)
    qkv = generator.normal(size=(ROWS, POSITIONS, 3, HEADS, HEAD_WIDTH)) * 2
    sees = np.tri(POSITIONS, dtype=bool) & (generator.random((ROWS, POSITIONS, POSITIONS)) < 0.5)
    bias = np.where(sees | np.eye(POSITIONS, dtype=bool), 0, -1e30).astype(np.float32)
    gradient = generator.normal(size=(ROWS, POSITIONS, HEADS, HEAD_WIDTH))
    return jnp.asarray(qkv, dtype), bias, jnp.asarray(gradient, dtype)


def draw_of(seed: int, rate: float) -> Draw | None:
    return Draw(jax.random.bits(jax.random.key(seed), (2,)), 3, rate) if rate else None


def written_out(qkv, bias, draw):
    """The same by `attend`, whose weights are dropped at the places that `is_kept` names."""
    kept = None
    if draw:
        shape = (ROWS, HEADS, POSITIONS, POSITIONS)
        places = jnp.arange(np.prod(shape), dtype=jnp.uint32).reshape(shape)
        kept = jnp.where(is_kept(places, draw), 1 / (1 - draw.rate), 0).astype(qkv.dtype)
    return attend(*jnp.moveaxis(qkv, 2, 0), bias, kept)


def value_and_gradient(function, qkv, bias, gradient, *rest):
    value, pull_back = jax.vjp(lambda qkv: function(qkv, bias, *rest), qkv)
    return value, *pull_back(gradient)


@pytest.mark.parametrize(("dtype", "share"), [(jnp.float32, 3e-6), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.6])
def test_kernels_give_what_attention_written_out_gives(rate, dtype, share):
    """Catches a block that belongs to another row or head, a transposed product, a wrong scale, and dropout of other
    places on the way back than on the way there.
    """
    for seed in range(3):
        arguments, draw = case(seed, dtype), draw_of(seed, rate)
        found = value_and_gradient(attend_by_kernels, *arguments, draw, True)
        right = value_and_gradient(written_out, *arguments, draw)
        for one, other in zip(found, right, strict=True):
            assert one.dtype == dtype
            apart = np.asarray(one - other, np.float64)
            assert np.linalg.norm(apart) < share * np.linalg.norm(np.asarray(other, np.float64))


def test_kernels_of_mapped_loops_are_those_of_each_loop():
    """Catches seeds or rows of one loop that another one gets."""
    cases = [case(seed) for seed in range(2)]
    seeds = jnp.stack([jax.random.bits(jax.random.key(seed), (2,)) for seed in range(2)])
    qkv, bias, _ = (jnp.stack(arrays) for arrays in zip(*cases, strict=True))
    together = jax.vmap(lambda *one: attend_by_kernels(one[0], one[1], Draw(one[2], 1, 0.3), True))(qkv, bias, seeds)
    for loop in range(2):
        alone = attend_by_kernels(qkv[loop], bias[loop], Draw(seeds[loop], 1, 0.3), True)
        np.testing.assert_allclose(together[loop], alone, rtol=1e-6, atol=1e-6)


def an_h100() -> contextlib.AbstractContextManager:
    """A GPU to lower for, which is not here; before JAX 0.11 none is asked for."""
    if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_kernels_are_understood_by_the_compiler_of_a_gpu(rate):
    """Catches what only that compiler refuses, as after a change of Pallas: everywhere else kernels are interpreted."""
    qkv, bias, gradient = case(0, jnp.bfloat16)
    seeds = jax.random.bits(jax.random.key(0), (2,))

    def both(qkv, bias, gradient, seeds):
        return value_and_gradient(attend_by_kernels, qkv, bias, gradient, Draw(seeds, 0, rate) if rate else None)

    with an_h100():
        program = jax.jit(both).trace(qkv, bias, gradient, seeds).lower(lowering_platforms=("cuda",))
    assert program.as_text().count("custom_call @__gpu$xla.gpu.triton") == 2


def test_kernels_are_for_gpus_that_have_them(monkeypatch):
    """Catches kernels for a device or a shape that has none, where only a run would fail, and none for an H100."""

    class Device:
        compute_capability = "9.0"

    def wanted(capability: str | None, rows: int = 128, width: int = 64, dtype=jnp.bfloat16) -> bool:
        device = Device()
        device.compute_capability = capability
        monkeypatch.setattr(jax, "local_devices", lambda *_, **__: [device])
        return kernels_for(jax.ShapeDtypeStruct((2, rows, 3, 2, width), dtype)) is not None

    assert wanted("9.0") and wanted("8.0") and wanted("10.0")
    # A processor of an L4 has 99 KiB of fast memory: XLA says that this shape needs 112 there.
    assert not wanted("8.9") and not wanted("12.0")
    assert wanted("8.9", rows=64) and wanted("12.0", width=16)
    assert not any(wanted(other) for other in ("7.5", "gfx942", "", None))
    assert not any([wanted("9.0", rows=256), wanted("9.0", rows=96), wanted("9.0", width=8)])
    assert not wanted("9.0", dtype=jnp.float32)
    with jax.default_device(jax.devices("cpu")[0]):
        assert not wanted("9.0")
    monkeypatch.setattr("jaxloop.learners.transformer.attention_kernels._PARAMETERS", None)
    assert not wanted("9.0")


def test_the_model_computes_the_same_by_kernels(monkeypatch):
    """Catches queries, keys and values that change places on the way to the kernels, and dropout that does not come
    along: the whole model in bfloat16 by kernels and without them, with and without dropout.
    """
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    settings = ModelSettings(layers=2, heads=2, width=32, context_tokens=POSITIONS, dropout=0.3, activations="bfloat16")
    model = make_model(settings, VOCABULARY)
    parameters = jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim > 1 else leaf, model.init(jax.random.key(0)))
    inputs = np.random.default_rng(0).integers(0, 7, (ROWS, POSITIONS))
    depth = np.broadcast_to(np.arange(POSITIONS) % 9, inputs.shape)

    def nats(parameters, key):
        return -jnp.sum(jax.nn.log_softmax(model.apply(parameters, inputs, depth, key))[..., 3])

    for key in (None, jax.random.key(1)):
        found = []
        for by_kernels in (None, functools.partial(attend_by_kernels, interpreted=True)):
            monkeypatch.setattr("jaxloop.learners.transformer.model.kernels_for", lambda _, one=by_kernels: one)
            found.append(jax.value_and_grad(nats)(parameters, key))
        (right, gradient), (value, by_them) = found
        assert abs(value - right) < 0.01 * abs(right)
        for one, other in zip(jax.tree.leaves(by_them), jax.tree.leaves(gradient), strict=True):
            assert np.linalg.norm(one - other) < 0.04 * np.linalg.norm(other)
