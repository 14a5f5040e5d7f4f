"""What must hold on whatever device there is, be it a GPU, a TPU or this CPU: `pytest -m accelerator`."""

import functools

import jax
import numpy as np
import pytest
from tiny import assert_same, tasks_of, tiny_config

from jaxloop.config.schema import loops
from jaxloop.learners.transformer.learner import choose_shape
from jaxloop.learners.transformer.one_step import (
    MOST_BFLOAT16,
    MOST_FLOAT32,
    MOST_TF32,
    StepResult,
    differences,
    make_step,
)
from jaxloop.learners.transformer.packing import batch_order, plan, sort_rows
from jaxloop.learners.transformer.settings import ModelSettings
from jaxloop.loop.interfaces import Written
from jaxloop.runs.environment import nothing_kept
from jaxloop.systems.logic.language import Language, language_of
from jaxloop.systems.logic.learners import transformer_learner
from jaxloop.systems.logic.source import typical_rows
from jaxloop.systems.logic.vocabulary import VOCABULARY

pytestmark = pytest.mark.accelerator

WIDTH = 32
MODEL = ModelSettings(layers=2, heads=2, width=64, context_tokens=WIDTH, dropout=0.2)


def step_on(device: jax.Device, activations: str, precision: str | None) -> StepResult:
    """A step with dropout on 100 expressions, of a model whose attention looks at something."""
    rows_NxT = Language(min_depth=1, max_depth=3).draw(np.random.default_rng(0), 100, WIDTH)
    step, corpus = make_step(MODEL.model_copy(update={"activations": activations}), VOCABULARY, rows_NxT)
    with jax.default_device(device), jax.default_matmul_precision(precision):
        return jax.device_get(jax.jit(step)(corpus))


@functools.cache
def exact_step() -> StepResult:
    return step_on(jax.local_devices(backend="cpu")[0], "float32", "highest")


def assert_close(found: StepResult, share: float) -> None:
    """Nothing differs from that of float32 on the CPU by more than this share of its norm."""
    apart = differences(found, exact_step())
    assert len(apart) > 10 and all(one < share for one in apart.values()), apart


@pytest.mark.parametrize(("precision", "share"), [("highest", MOST_FLOAT32), (None, MOST_TF32)])
def test_a_step_is_that_of_the_cpu(precision, share):
    """Catches what a device computes otherwise: other random bits for dropout, a mask that is not applied, sums that
    lose digits. Float32 throughout; without a precision, products may have 10 bits of mantissa (TF32).
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        pytest.skip("there is no device to compare with the CPU")
    assert_close(step_on(device, "float32", precision), share)


def test_a_step_in_bfloat16_is_that_of_float32_within_two_percent():
    """Catches sums over many positions, a softmax or a loss in bfloat16, on the device that has such activations."""
    assert_close(step_on(jax.local_devices()[0], "bfloat16", None), MOST_BFLOAT16)


def generation(seeds: list[int], loops_per_device: int = 0, partial_sums: int = 1) -> list[Written]:
    """Train and sample generation 0 of a loop of each of these seeds; all are asked for the same rows."""
    config = tiny_config(
        "grid={}",
        f"seeds={seeds}",
        "model.dropout=0.1",
        f"population.loops_per_device={loops_per_device}",
        f"train.partial_sums={partial_sums}",
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
    """Catches sums whose order is another one each time (scatters, library kernels with atomic additions): a run that
    goes on would not be the same run. What is compiled anew is the same as well, but on a GPU, where XLA times several
    kernels for each product and takes the fastest (notebooks/speed.md).
    """
    first, again = generation([0])[0], generation([0])[0]
    assert_same_written(first, again)
    if jax.local_devices()[0].platform != "gpu":
        with nothing_kept():
            assert_same_written(first, generation([0])[0])


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


def test_a_loop_whose_steps_are_shared_is_that_of_fewer_devices(monkeypatch):
    """Catches sums that depend on how many devices share them, and devices that compute the same chunks."""
    there = jax.local_devices()
    if there[0].platform == "cpu" or len(there) < 4:
        pytest.skip("there are no four accelerators")
    four = generation([0], partial_sums=4)[0]
    monkeypatch.setattr(jax, "local_devices", lambda **_: there[:2])
    assert_same_written(four, generation([0], partial_sums=4)[0])


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
