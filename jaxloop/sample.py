"""Sampling from a model: exactly N sequences are started, and all of them are finished.

Taking the first N to finish would favour short ones. A sequence that fills the context without `<eos>` is kept as
it is. The random numbers belong to the sequence and the place in it, not to the batch it is written in.

Legend: N sequences, T tokens a row (the context), B sequences side by side, V vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxloop.model import Model
from jaxloop.vocabulary import EOS


def choose(logits_BxV: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """Inverse-transform sampling: the token in whose slice of the cumulated softmax the uniform number falls."""
    cumulated_BxV = jnp.cumsum(jax.nn.softmax(logits_BxV, axis=-1), axis=-1)
    # Scaling by the last sum, which rounding keeps from being 1, leaves no gap above it.
    token_B = jnp.sum(cumulated_BxV <= uniform_B[:, None] * cumulated_BxV[:, -1:], axis=-1)
    return jnp.minimum(token_B, logits_BxV.shape[-1] - 1).astype(jnp.uint8)


def make_sample(model: Model, rows: int, width: int, batch_rows: int) -> Callable:
    """Build `sample(parameters, key, temperature, active) -> tokens_NxT`, uint8, `<eos>` from the end of each on.

    Batches are written one after the other, each until its longest sequence is finished. Where `active` is false
    nothing is computed, and the rows are empty.
    """
    size = min(batch_rows, rows)
    batches = -(-rows // size)

    def sample(parameters: dict, key: jax.Array, temperature: jax.Array, active: jax.Array) -> jax.Array:
        def write_batch(index):
            sequence_B = index * size + jnp.arange(size)
            uniform_BxT = jax.vmap(lambda sequence: jax.random.uniform(jax.random.fold_in(key, sequence), (width,)))(
                sequence_B
            )

            def unfinished(carry):
                position, _, ended_B, _, _ = carry
                return (position < width) & ~jnp.all(ended_B)

            def write_token(carry):
                position, last_B, ended_B, tokens_BxT, cache = carry
                logits_BxV, cache = model.decode(parameters, last_B, position, cache)
                token_B = choose(logits_BxV / temperature, uniform_BxT[:, position])
                token_B = jnp.where(ended_B, jnp.uint8(EOS), token_B)
                return position + 1, token_B, token_B == EOS, tokens_BxT.at[:, position].set(token_B), cache

            start_B = jnp.full(size, EOS, jnp.uint8)
            tokens_BxT = jnp.full((size, width), EOS, jnp.uint8)
            start = (0, start_B, jnp.full(size, ~active), tokens_BxT, model.init_cache(size))
            return jax.lax.while_loop(unfinished, write_token, start)[3]

        return jax.lax.map(write_batch, jnp.arange(batches)).reshape(-1, width)[:rows]

    return sample
