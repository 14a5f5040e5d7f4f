"""What must hold on whatever device there is, be it a GPU, a TPU or this CPU: `pytest -m accelerator`."""

import functools

import jax
import numpy as np
import pytest
from tiny import assert_same, tasks_of, tiny_config

from jaxloop.config.schema import loops
from jaxloop.learners.transformer.learner import choose_shape
from jaxloop.learners.transformer.model import make_model
from jaxloop.learners.transformer.packing import RowShape, batch_order, lay_out, plan, sort_rows, step_of
from jaxloop.learners.transformer.settings import ModelSettings
from jaxloop.learners.transformer.train import chunk_nats
from jaxloop.loop.interfaces import Written
from jaxloop.systems.logic.language import Language, language_of
from jaxloop.systems.logic.learners import transformer_learner
from jaxloop.systems.logic.source import typical_rows
from jaxloop.systems.logic.vocabulary import VOCABULARY

pytestmark = pytest.mark.accelerator

WIDTH = 32
SHAPE = RowShape(row_tokens=64, chunk_rows=40)
MODEL = ModelSettings(layers=2, heads=2, width=64, context_tokens=WIDTH, dropout=0.2)


def gradient_of_a_step(activations: str, device: jax.Device, precision: str | None) -> dict:
    """The gradient of the nats of 100 expressions, with dropout, of a model whose attention looks at something."""
    model = make_model(MODEL.model_copy(update={"activations": activations}), VOCABULARY)
    drawn_NxT = sort_rows(Language(min_depth=1, max_depth=3).draw(np.random.default_rng(0), 400, WIDTH))
    order_SxE = batch_order(np.random.default_rng(0), 400, 1, 100)
    planned = plan(drawn_NxT, VOCABULARY, order_SxE, SHAPE.row_tokens)
    assert planned.row_count_S[0] <= SHAPE.chunk_rows

    def gradient(parameters, tokens_NxT, planned):
        step = step_of(tokens_NxT, VOCABULARY, planned, 0, SHAPE.chunk_rows * SHAPE.row_tokens)
        rows = lay_out(step, VOCABULARY, *reversed(SHAPE))
        return jax.grad(chunk_nats, argnums=2)(model, SHAPE.chunk_rows, parameters, rows, 0, jax.random.key(1))

    with jax.default_device(device), jax.default_matmul_precision(precision):
        parameters = jax.jit(model.init)(jax.random.key(2))
        large = jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim > 1 else leaf, parameters)
        return jax.device_get(jax.jit(gradient)(large, drawn_NxT, planned))


@functools.cache
def exact_gradient() -> dict:
    return gradient_of_a_step("float32", jax.local_devices(backend="cpu")[0], "highest")


def assert_close(found: dict, share: float) -> None:
    """Each parameter's gradient differs from that of float32 on the CPU by less than this share of its norm."""
    for (path, right), wrong in zip(jax.tree.leaves_with_path(exact_gradient()), jax.tree.leaves(found), strict=True):
        error = np.linalg.norm(wrong - right) / np.linalg.norm(right)
        assert error < share, (jax.tree_util.keystr(path), float(error))


@pytest.mark.parametrize(("precision", "share"), [("highest", 1e-4), (None, 1e-2)])
def test_the_gradient_of_a_step_is_that_of_the_cpu(precision, share):
    """Catches what a device computes otherwise: other random bits for dropout, a mask that is not applied, sums that
    lose digits. Float32 throughout; without a precision, products may have 10 bits of mantissa (TF32).
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        pytest.skip("there is no device to compare with the CPU")
    assert_close(gradient_of_a_step("float32", device, precision), share)


def test_the_gradient_of_a_step_in_bfloat16_is_that_of_float32_within_two_percent():
    """Catches sums over many positions, a softmax or a loss in bfloat16, on the device that has such activations."""
    assert_close(gradient_of_a_step("bfloat16", jax.local_devices()[0], None), 0.02)


def generation(seeds: list[int], loops_per_device: int = 0) -> list[Written]:
    """Train and sample generation 0 of a loop of each of these seeds; all are asked for the same rows."""
    config = tiny_config(
        "grid={}", f"seeds={seeds}", "model.dropout=0.1", f"population.loops_per_device={loops_per_device}"
    )
    group, language, width = loops(config), language_of(config.language), config.model.context_tokens
    learner = transformer_learner(config, len(group))
    training = [language.draw(np.random.default_rng(loop.seed), config.cycle.rows, width) for loop in group]
    asked_NxT = language.draw(np.random.default_rng(100), 200, width)
    probes = [{"asked": learner.probe(asked_NxT), "trained": learner.probe(rows)} for rows in training]
    written, _ = learner.finish(learner.start(tasks_of(group, [0] * len(group), training, probes)), lambda share: None)
    return written


def assert_same_written(one: Written, other: Written) -> None:
    for field in Written._fields:
        assert_same(getattr(one, field), getattr(other, field))


def test_the_same_training_and_sampling_twice_give_the_same_bits():
    """Catches sums whose order is another one each time (scatters, library kernels with atomic additions), also where
    the programs are compiled anew, which may choose other kernels: a run that goes on would not be the same run.
    """
    first, again = generation([0])[0], generation([0])[0]
    assert_same_written(first, again)
    jax.clear_caches()
    kept = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert_same_written(first, generation([0])[0])
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)


def test_a_loop_mapped_beside_others_is_the_loop_that_it_is_alone():
    """Catches loops that are mixed up where a device maps several: which others there are must change no bit. Alone it
    is another program, with other rounding; but what it says of the same rows must be far nearer to what it says beside
    another loop than what that loop says.
    """
    mapped, neighbour = generation([0, 3], loops_per_device=2)
    assert_same_written(mapped, generation([0, 5], loops_per_device=2)[0])
    alone = generation([0], loops_per_device=1)[0]

    def apart(one: Written, other: Written) -> float:
        return float(np.abs(one.probed["asked"] - other.probed["asked"]).mean())

    assert apart(alone, mapped) < 0.2 * apart(neighbour, mapped)


def test_samples_have_the_probability_that_scoring_gives_them():
    """Catches a cache of keys and values that is read wrong, and scoring and sampling that disagree: two programs."""
    config = tiny_config("grid={}", "seeds=[0]")
    (loop,), learner = loops(config), transformer_learner(config, 1)
    language, width = language_of(config.language), config.model.context_tokens
    training_NxT = language.draw(np.random.default_rng(0), config.cycle.rows, width)
    group = learner.put([learner.inputs(loop, 0, training_NxT)])
    state = learner.begin(group.inputs)
    state, _ = learner.train(state, group.inputs, group.active)
    written = learner.sample_rows(state.best_parameters, group)
    (nats_2xN,) = learner.score_rows(state.best_parameters, group, [learner.probe(written.tokens_GxNxT[0])])
    apart = np.abs(nats_2xN[1] - written.log_prob_GxN[0]).mean()
    assert apart < (1e-3 if jax.default_backend() == "cpu" else 0.1), apart


def test_nearly_every_step_is_one_chunk_on_accelerators(monkeypatch):
    """Catches rows that are divided as a CPU's cache wants them: a GPU would wait for many small kernels."""
    config = tiny_config("language.max_depth=4", "model.context_tokens=64", "train.batch_expressions=200")
    rows_NxT = typical_rows(config)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    shape = choose_shape(config, VOCABULARY, rows_NxT)
    sorted_NxT = sort_rows(rows_NxT)
    order_SxE = batch_order(np.random.default_rng(1), len(sorted_NxT), 50, 200)
    row_count_S = plan(sorted_NxT, VOCABULARY, order_SxE, shape.row_tokens).row_count_S
    assert np.mean(row_count_S <= shape.chunk_rows) > 0.9
