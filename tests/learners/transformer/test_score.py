"""The probability of expressions under a model: against plain passes, against enumeration, against the sampler."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tasks_of, tiny_config

from jaxloop.config.schema import loops
from jaxloop.learners.transformer.model import make_model
from jaxloop.learners.transformer.packing import RowShape
from jaxloop.learners.transformer.sample import Batches, make_sample
from jaxloop.learners.transformer.score import in_order, make_probe, make_score
from jaxloop.learners.transformer.settings import ModelSettings
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.learners import transformer_learner
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY

WIDTH = 14
MODEL = make_model(ModelSettings(layers=2, heads=2, width=16, context_tokens=WIDTH, activations="float32"), VOCABULARY)
SHAPE = RowShape(31, 3)


def parameters_of(seed: int) -> dict:
    """Large ones: a model that is far from uniform, and tells orders and places apart."""
    return jax.tree.map(lambda leaf: leaf * 12, MODEL.init(jax.random.key(seed)))


def mixed_rows(rows: int, seed: int = 0) -> np.ndarray:
    """Expressions, garbage, empty rows, rows without `<eos>`, many of them twice, in no order."""
    generator = np.random.default_rng(seed)
    garbage_NxT = generator.integers(0, VOCABULARY.size, (rows, WIDTH), dtype=np.uint8)
    ended_NxT = np.cumsum(garbage_NxT == EOS, axis=1) > 0
    garbage_NxT[ended_NxT] = EOS
    full_NxT = generator.integers(0, EOS, (rows, WIDTH), dtype=np.uint8)
    real_NxT = Language(1, 2).draw(generator, rows, WIDTH)
    empty_NxT = np.full((1, WIDTH), EOS, np.uint8)
    pool_NxT = np.concatenate([garbage_NxT, full_NxT, real_NxT, empty_NxT])
    return pool_NxT[generator.integers(len(pool_NxT), size=rows)]


def alone(parameters: dict, tokens_NxT: np.ndarray, temperature: float) -> np.ndarray:
    """(2, N) by one plain causal pass over each row by itself."""
    inputs_NxT = np.concatenate([np.full((len(tokens_NxT), 1), EOS, np.uint8), tokens_NxT[:, :-1]], axis=1)
    depth_NxT = np.broadcast_to(np.arange(WIDTH, dtype=np.uint8), tokens_NxT.shape)
    logits_NxTxV = np.asarray(jax.jit(MODEL.apply)(parameters, inputs_NxT, depth_NxT), np.float64)
    counted_NxT = np.cumsum(np.cumsum(tokens_NxT == EOS, axis=1), axis=1) <= 1
    nats = []
    for scaled in (logits_NxTxV, logits_NxTxV / temperature):
        log_probs = scaled - np.log(np.sum(np.exp(scaled - scaled.max(-1, keepdims=True)), -1, keepdims=True))
        log_probs -= scaled.max(-1, keepdims=True)
        own_NxT = np.take_along_axis(log_probs, tokens_NxT[..., None].astype(int), axis=-1)[..., 0]
        nats.append(np.sum(own_NxT * counted_NxT, axis=1))
    return np.stack(nats)


@jax.jit
def scored(parameters, corpus, temperature, active):
    return make_score(MODEL, WIDTH, SHAPE)(parameters, corpus, temperature, active)


def score(parameters: dict, tokens_NxT: np.ndarray, temperature: float) -> np.ndarray:
    probe = make_probe(tokens_NxT, VOCABULARY, SHAPE)
    nats = scored(parameters, probe.corpus, jnp.float32(temperature), jnp.bool_(True))
    return in_order(probe, np.asarray(nats))


@pytest.mark.parametrize(("rows", "temperature"), [(1, 0.6), (37, 0.6), (300, 1.7), (2100, 0.6)])
def test_each_row_has_the_probability_of_a_plain_pass(rows, temperature):
    """Catches an expression that is scored in another's place, a token left out or counted twice, an `<eos>` that is
    not there, and a temperature that is applied to the plain probability, or twice, or not at all.
    """
    parameters, tokens_NxT = parameters_of(1), mixed_rows(rows)
    expected_2xN = alone(parameters, tokens_NxT, temperature)
    np.testing.assert_allclose(score(parameters, tokens_NxT, temperature), expected_2xN, rtol=1e-4, atol=1e-4)
    if rows > 100:
        assert expected_2xN.std(axis=1).min() > 3, "the rows must differ for the test to mean anything"


def test_all_that_can_be_written_has_probability_one():
    """Catches a normaliser that lacks a token: the sum over every row of three places, finished or cut off, is 1."""
    width = 3
    settings = ModelSettings(layers=1, heads=1, width=8, context_tokens=width, activations="float32")
    model = make_model(settings, VOCABULARY)
    parameters = jax.tree.map(lambda leaf: leaf * 20, model.init(jax.random.key(0)))
    rows = {(*row[: row.index(EOS)], *[EOS] * (width - row.index(EOS))) if EOS in row else row
            for row in itertools.product(range(VOCABULARY.size), repeat=width)}  # fmt: skip
    probe = make_probe(np.array(sorted(rows), np.uint8), VOCABULARY, RowShape(9, 4))
    nats = jax.jit(make_score(model, width, RowShape(9, 4)))(
        parameters, probe.corpus, jnp.float32(0.6), jnp.bool_(True)
    )
    plain_N, tempered_N = in_order(probe, np.asarray(nats))
    assert np.exp(plain_N).sum() == pytest.approx(1, abs=1e-5)
    assert np.exp(tempered_N).sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(plain_N - tempered_N).max() > 0.1


def test_the_sampler_says_the_same_of_what_it_writes():
    """The distribution that is measured must be the one that writes the next generation."""
    parameters, temperature = jax.tree.map(lambda leaf: leaf / 3, parameters_of(2)), 0.7
    sample = jax.jit(make_sample(MODEL, 400, WIDTH, 150))
    rows_NxT, log_prob_N, _ = sample(
        parameters, jax.random.key(3), jnp.float32(temperature), Batches(jnp.int32(0), jnp.int32(3))
    )
    tempered_N = score(parameters, np.asarray(rows_NxT), temperature)[1]
    np.testing.assert_allclose(log_prob_N, tempered_N, rtol=1e-4, atol=1e-4)
    assert len(np.unique(rows_NxT, axis=0)) > 100


def test_loops_that_are_mapped_together_score_their_own_rows():
    """So accelerators score the probes of several loops; one that is not in use costs nothing and disturbs nobody."""
    members, temperatures = [parameters_of(seed) for seed in (1, 2, 3)], [0.5, 1.0, 2.0]
    rows = [mixed_rows(150, seed) for seed in (4, 5, 6)]
    probes = [make_probe(tokens_NxT, VOCABULARY, SHAPE) for tokens_NxT in rows]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    corpora = jax.tree.map(lambda *leaves: np.stack(leaves), *[probe.corpus for probe in probes])
    active = jnp.array([True, False, True])
    nats = jax.jit(jax.vmap(make_score(MODEL, WIDTH, SHAPE)))(together, corpora, jnp.array(temperatures), active)
    for place in (0, 2):
        found_2xN = in_order(probes[place], np.asarray(nats[place]))
        expected_2xN = alone(members[place], rows[place], temperatures[place])
        np.testing.assert_allclose(found_2xN, expected_2xN, rtol=1e-4, atol=1e-4)


def test_no_generation_compiles_the_programs_again():
    """A probe or training set whose shapes follow its content would compile for seconds in every generation."""
    config = tiny_config("seeds=[0,1]")
    group = loops(config)[:2]
    learner = transformer_learner(config, 2)
    language = Language(1, 2)
    for generation in range(3):
        drawn = [language.draw(np.random.default_rng([generation, place]), 60, 16) for place in range(2)]
        probes = [{"a": learner.probe(rows_NxT), "b": learner.probe(rows_NxT[:7])} for rows_NxT in drawn]
        outcomes, seconds = learner.finish(
            learner.start(tasks_of(group, [generation] * 2, drawn, probes)), lambda share: None
        )
        assert set(seconds.probes) == set(outcomes[0].probed) == {"a", "b"}
    assert learner.score._cache_size() == 2
    assert learner.sample._cache_size() == learner.train._cache_size() == 1


def test_a_probe_that_only_one_of_the_loops_asks_for():
    """Loops at different generations are trained beside each other, and what is measured every k-th is due for some."""
    config = tiny_config("seeds=[0,1]")
    group, learner = loops(config)[:2], transformer_learner(config, 2)
    drawn = [Language(1, 2).draw(np.random.default_rng(place), 60, 16) for place in range(2)]
    probe = learner.probe(drawn[0])
    outcomes, _ = learner.finish(
        learner.start(tasks_of(group, [3, 4], drawn, [{}, {"now": probe}])), lambda share: None
    )
    assert outcomes[0].probed == {}
    assert outcomes[1].probed["now"].shape == (2, 60)
    both, _ = learner.finish(learner.start(tasks_of(group, [3, 4], drawn, [{"now": probe}] * 2)), lambda share: None)
    np.testing.assert_array_equal(both[1].probed["now"], outcomes[1].probed["now"])
