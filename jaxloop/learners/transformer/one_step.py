"""One training step by itself, as any device computes it: what devices are held against each other by.

Legend: N expressions, T tokens an expression.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import numpy as np

from jaxloop.learners.transformer.flat import model_of_the_device
from jaxloop.learners.transformer.packing import RowShape, most_rows, plan, sort_rows
from jaxloop.learners.transformer.score import make_score
from jaxloop.learners.transformer.settings import ModelSettings
from jaxloop.learners.transformer.train import Corpus, chunk_nats, make_read
from jaxloop.learners.vocabulary import Vocabulary

# How far a step may differ, as a share of what is right: with the products of float32, with those that devices take
# for float32 unless told otherwise (TF32 has 10 bits of mantissa), and in bfloat16.
MOST_FLOAT32, MOST_TF32, MOST_BFLOAT16 = 1e-4, 1e-2, 2e-2

Activations = Literal["float32", "bfloat16"]


class StepResult(NamedTuple):
    """What a step comes to, before the optimiser."""

    nats: np.ndarray  # summed over all targets
    gradient: dict  # of the nats, a tree of the parameters
    log_prob_N: np.ndarray  # nats of each expression, without dropout


def make_step(settings: ModelSettings, vocabulary: Vocabulary, tokens_NxT: np.ndarray) -> tuple[Callable, Corpus]:
    """Build a step of a new model on all of some expressions, (N, T) uint8 with T the model's context.

    Returns:
      A traced function `step(corpus) -> StepResult`, which draws the parameters and the dropout from keys of its own,
      and the corpus for it.
    """
    count, width = tokens_NxT.shape
    row_tokens = 2 * width
    shape = RowShape(row_tokens, most_rows(count, width, row_tokens))
    sorted_NxT = sort_rows(tokens_NxT)
    planned = plan(sorted_NxT, vocabulary, np.arange(count, dtype=np.int32)[None], row_tokens)
    model = model_of_the_device(settings, vocabulary)
    read, score = make_read(vocabulary, width, count, shape), make_score(model, width, shape)

    def step(corpus: Corpus) -> StepResult:
        # A new model's attention looks at nothing: all it reads weighs alike.
        parameters = model.init(jax.random.key(2))
        parameters = jax.tree.map(
            lambda leaf, matrix: 5 * leaf if matrix else leaf, parameters, model.matrices(parameters)
        )
        _, rows, _ = read(corpus, jax.numpy.int32(0))
        nats_and_gradient = jax.value_and_grad(chunk_nats, argnums=2)
        nats, gradient = nats_and_gradient(model, shape.chunk_rows, parameters, rows, 0, jax.random.key(1))
        nats_2xSxE = score(parameters, corpus, jax.numpy.float32(1), jax.numpy.bool_(True))
        return StepResult(nats, model.nested(gradient), nats_2xSxE[0].reshape(-1))

    return step, Corpus(sorted_NxT, planned, np.asarray(count, np.int32))


def make_tiny_step(activations: Activations, tokens_NxT: np.ndarray) -> tuple[Callable, Corpus]:
    """Build a step of a model that is compiled in seconds, see `make_step`; the greatest of all tokens is the end."""
    width = tokens_NxT.shape[1]
    settings = ModelSettings(layers=1, heads=2, width=32, context_tokens=width, dropout=0.2, activations=activations)
    return make_step(settings, Vocabulary(int(tokens_NxT.max()) + 1), tokens_NxT)


def differences(found: StepResult, right: StepResult) -> dict[str, float]:
    """How far each array is from the right one, as a share of the right one's norm; not a number where it has such."""
    return {
        jax.tree_util.keystr(path, simple=True, separator=" "): float(
            np.linalg.norm(one - other) / np.linalg.norm(other)
        )
        for (path, other), one in zip(jax.tree.leaves_with_path(right), jax.tree.leaves(found), strict=True)
    }
