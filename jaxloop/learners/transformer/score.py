"""The probability of any expression under a trained model, with the sampling temperature and without it.

What is measured is the distribution that writes the next generation: the logits are divided by the temperature as the
sampler divides them. Expressions are packed as in training, so what they begin alike is computed once.

Legend: N expressions, T tokens an expression, S steps of E expressions, R rows, L positions a row, V vocabulary; the
axis of two has the plain probability first and the tempered one second.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.learners.placement import most_of_mapped
from jaxloop.learners.transformer.model import Model, make_model
from jaxloop.learners.transformer.packing import RowShape, plan, sort_rows
from jaxloop.learners.transformer.settings import ModelSettings
from jaxloop.learners.transformer.train import Corpus, make_read, take_chunk
from jaxloop.learners.vocabulary import Vocabulary
from jaxloop.loop.rows import unique_rows

# As many are read in one step: planning takes time for each of them, but not for each step.
_STEP_EXPRESSIONS = 1024


class Probe(NamedTuple):
    """Expressions whose probability is asked for, again and again: sorted and packed once."""

    corpus: Corpus
    place_N: np.ndarray  # where each stands among the sorted ones


def make_probe(tokens_NxT: np.ndarray, vocabulary: Vocabulary, shape: RowShape) -> Probe:
    """Pack rows (N, T) uint8, any of them, for a program of `make_score`."""
    _, inverse_N, counts_U = unique_rows(tokens_NxT)
    sorted_NxT = sort_rows(tokens_NxT)
    rows, expressions = len(sorted_NxT), min(len(sorted_NxT), _STEP_EXPRESSIONS)
    steps = -(-rows // expressions)
    # The last expression once more where the last step has room: what is alike costs nothing.
    expression_SxE = np.minimum(np.arange(steps * expressions, dtype=np.int32), rows - 1).reshape(steps, expressions)
    planned = plan(sorted_NxT, vocabulary, expression_SxE, shape.row_tokens)
    return Probe(Corpus(sorted_NxT, planned, np.array(rows, np.int32)), (np.cumsum(counts_U) - counts_U)[inverse_N])


def make_score(model: Model, width: int, shape: RowShape) -> Callable:
    """Build `score(parameters, corpus, temperature, active) -> nats_2xSxE` for the corpus of any probe.

    Log-probabilities in nats, `<eos>` included where there is one, in the order of the corpus's plan, without dropout.
    Where `active` is false, nothing is computed.
    """

    def score(parameters: dict, corpus: Corpus, temperature: jax.Array, active: jax.Array) -> jax.Array:
        steps, expressions = corpus.plan.expression_SxE.shape
        vocabulary, size = model.vocabulary, shape.chunk_rows
        read = make_read(vocabulary, width, expressions, shape)

        def score_step(step):
            (tokens_ExT, place_ExT), of_step, chunks = read(corpus, step)

            def add_chunk(chunk, nats_2xRxLxV):
                inputs_RxL, depth_RxL, _ = take_chunk(of_step, chunk, size)
                logits_RxLxV = model.apply(parameters, inputs_RxL, depth_RxL)
                both_2xRxLxV = jax.nn.log_softmax(jnp.stack([logits_RxLxV, logits_RxLxV / temperature]))
                return jax.lax.dynamic_update_slice_in_dim(nats_2xRxLxV, both_2xRxLxV, chunk * size, axis=1)

            nats_2xRxLxV = jnp.zeros((2, *of_step.inputs_RxL.shape, vocabulary.size))
            chunks = most_of_mapped(jnp.where(active, chunks, 0))
            nats_2xP = jax.lax.fori_loop(0, chunks, add_chunk, nats_2xRxLxV).reshape(2, -1)
            # Padding lies past every row, and adds nothing.
            index_ExT = place_ExT * vocabulary.size + tokens_ExT
            return jnp.sum(nats_2xP.at[:, index_ExT].get(mode="fill", fill_value=0), axis=-1)

        return jnp.swapaxes(jax.lax.map(score_step, jnp.arange(steps)), 0, 1)

    return score


def in_order(probe: Probe, nats_2xSxE: np.ndarray) -> np.ndarray:
    """What `score` gave, (2, N) float64 nats, in the order of the rows that the probe was made of."""
    sorted_2xN = np.empty((2, len(probe.place_N)))
    sorted_2xN[:, probe.corpus.plan.expression_SxE.reshape(-1)] = nats_2xSxE.reshape(2, -1)
    return sorted_2xN[:, probe.place_N]


@functools.cache
def _compiled(settings: ModelSettings, vocabulary: Vocabulary, shape: RowShape) -> Callable:
    return jax.jit(make_score(make_model(settings, vocabulary), settings.context_tokens, shape))


def log_prob(
    settings: ModelSettings, vocabulary: Vocabulary, parameters: dict, tokens_NxT: np.ndarray, temperature: float
) -> np.ndarray:
    """Log-probability of any rows under a trained model, outside of a run; see `stored_models.load_parameters`.

    Args:
      settings: the model's.
      vocabulary: the model's.
      parameters: the model's.
      tokens_NxT: (N, context_tokens) uint8, `<eos>` from the end of each row on.
      temperature: divides the logits.

    Returns:
      (2, N) float64 nats: without the temperature, and with it.

    Raises:
      ValueError: the rows are not of the model's context.
    """
    if tokens_NxT.ndim != 2 or tokens_NxT.shape[1] != settings.context_tokens:
        raise ValueError(
            f"rows of {settings.context_tokens} tokens are needed, not an array of shape {tokens_NxT.shape}"
        )
    shape = RowShape(settings.context_tokens, max(1, 256 // settings.context_tokens))
    probe = make_probe(tokens_NxT, vocabulary, shape)
    # Pydantic makes what is frozen hashable, which pyright does not see.
    score = _compiled(settings, vocabulary, shape)  # pyright: ignore[reportArgumentType]
    nats = score(parameters, probe.corpus, np.float32(temperature), np.bool_(True))
    return in_order(probe, np.asarray(nats))
