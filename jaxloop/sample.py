"""Sampling from a model: exactly N sequences are started, and all of them are finished.

Taking the first N to finish would favour short ones. A sequence that fills the context without `<eos>` is kept as
it is. The random numbers belong to the sequence and the place in it, not to the slot it is written in.

All sequences of a batch are at the same position. They are written a segment of a few positions at a time, one chunk
of slots after the other; then those that are finished leave their slots, the others close ranks (the batch is
compacted), and only chunks that hold somebody are written further. The cache is short while the sequences are. So the
work follows the tokens that are written, not N times the context.

Legend: N sequences, T tokens a row (the context), B slots, C slots of a chunk, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloop.model import Cache, Model
from jaxloop.vocabulary import EOS

# The cache has this many positions first, and is then doubled.
_SHORTEST_CACHE = 32
_SEGMENT_POSITIONS = 8


class Batch(NamedTuple):
    """A batch that is being written; slots from `slots` on are not in use."""

    position: jax.Array
    slots: jax.Array
    sequence_B: jax.Array  # who is in each slot
    last_B: jax.Array  # the last token of each, uint8
    tokens_BxT: jax.Array  # by sequence
    decoded: jax.Array  # tokens that were computed, those of slots that nobody needed any more included


def choose(logits_BxV: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """Inverse-transform sampling: the token in whose slice of the cumulated softmax the uniform number falls."""
    cumulated_BxV = jnp.cumsum(jax.nn.softmax(logits_BxV, axis=-1), axis=-1)
    # Scaling by the last sum, which rounding keeps from being 1, leaves no gap above it.
    token_B = jnp.sum(cumulated_BxV <= uniform_B[:, None] * cumulated_BxV[:, -1:], axis=-1)
    return jnp.minimum(token_B, logits_BxV.shape[-1] - 1).astype(jnp.uint8)


def chunk_slots(batch_rows: int) -> int:
    """Slots that are computed at once: what a CPU core does well, or all of them on an accelerator."""
    return min(32, batch_rows) if jax.default_backend() == "cpu" else batch_rows


def make_sample(model: Model, rows: int, width: int, batch_rows: int) -> Callable:
    """Build `sample(parameters, key, temperature, active) -> tokens_NxT, decoded`.

    The rows are uint8, `<eos>` from the end of each on; `decoded` counts the tokens that were computed for them, those
    of slots without a sequence included. Batches are written one after the other. Where `active` is false nothing is
    computed, and the rows are empty.
    """
    batches = -(-rows // batch_rows)
    chunk = chunk_slots(-(-rows // batches))
    size = -(-rows // (batches * chunk)) * chunk

    def sample(parameters: dict, key: jax.Array, temperature: jax.Array, active: jax.Array):
        def write_batch(index):
            keys_B = jax.vmap(lambda sequence: jax.random.fold_in(key, sequence))(index * size + jnp.arange(size))
            uniform_BxT = jax.vmap(lambda sequence_key: jax.random.uniform(sequence_key, (width,)))(keys_B)

            def write_segment(carry):
                batch, cache = carry
                until = batch.position + _SEGMENT_POSITIONS

                def write_chunk(place, carry):
                    batch, cache = carry
                    first = place * chunk
                    sequence_C, last_C = (
                        jax.lax.dynamic_slice_in_dim(array, first, chunk) for array in (batch.sequence_B, batch.last_B)
                    )
                    unused_C = first + jnp.arange(chunk) >= batch.slots

                    def write_token(carry):
                        position, last_C, ended_C, tokens_BxT, cache = carry
                        logits_CxV, cache = model.decode(parameters, last_C, position, cache)
                        token_C = choose(logits_CxV / temperature, uniform_BxT[sequence_C, position])
                        token_C = jnp.where(ended_C, jnp.uint8(EOS), token_C)
                        # Unused slots hold somebody's number too.
                        sequence_written_C = jnp.where(unused_C, size, sequence_C)
                        tokens_BxT = tokens_BxT.at[sequence_written_C, position].set(token_C, mode="drop")
                        return position + 1, token_C, token_C == EOS, tokens_BxT, cache

                    position, last_C, _, tokens_BxT, chunk_cache = jax.lax.while_loop(
                        lambda carry: (carry[0] < until) & ~jnp.all(carry[2]),
                        write_token,
                        (batch.position, last_C, unused_C, batch.tokens_BxT, _slots_of(cache, first, chunk)),
                    )
                    batch = batch._replace(
                        last_B=jax.lax.dynamic_update_slice_in_dim(batch.last_B, last_C, first, 0),
                        tokens_BxT=tokens_BxT,
                        decoded=batch.decoded + chunk * (position - batch.position),
                    )
                    return batch, _with_slots(cache, chunk_cache, first)

                chunks = (batch.slots + chunk - 1) // chunk
                batch, cache = jax.lax.fori_loop(0, chunks, write_chunk, (batch, cache))
                return close_ranks(batch._replace(position=until), cache, cache)

            def close_ranks(batch: Batch, cache: Cache, target: Cache):
                """Bring everyone who is not finished, and what the cache holds of them, to the first slots."""
                writing_B = (batch.last_B != EOS) & (jnp.arange(size) < batch.slots)
                slots = jnp.sum(writing_B)
                slot_B = jnp.where(writing_B, jnp.cumsum(writing_B) - 1, size)
                source_B = jnp.zeros(size, jnp.int32).at[slot_B].set(jnp.arange(size), mode="drop")
                # Nobody moves to a later slot, so what a chunk overwrites has been read.
                target = jax.lax.fori_loop(
                    0,
                    (slots + chunk - 1) // chunk,
                    lambda place, target: _with_slots(
                        target,
                        jax.tree.map(
                            lambda array: array[jax.lax.dynamic_slice_in_dim(source_B, place * chunk, chunk)],
                            target if cache is target else cache,
                        ),
                        place * chunk,
                    ),
                    target,
                )
                batch = batch._replace(
                    slots=slots, sequence_B=batch.sequence_B[source_B], last_B=batch.last_B[source_B]
                )
                return batch, target

            positions = min(_SHORTEST_CACHE, width)
            batch = Batch(
                position=jnp.int32(0),
                slots=jnp.where(active, size, 0),
                sequence_B=jnp.arange(size),
                last_B=jnp.full(size, EOS, jnp.uint8),
                tokens_BxT=jnp.full((size, width), EOS, jnp.uint8),
                decoded=jnp.int32(0),
            )
            cache = model.init_cache(size, positions)
            while True:
                batch, cache = jax.lax.while_loop(
                    lambda carry, end=positions: (carry[0].position < end) & (carry[0].slots > 0),
                    write_segment,
                    (batch, cache),
                )
                if positions == width:
                    return batch.tokens_BxT, batch.decoded
                positions = min(2 * positions, width)
                batch, cache = close_ranks(batch, cache, model.init_cache(size, positions))

        tokens, decoded = jax.lax.map(write_batch, jnp.arange(batches))
        return tokens.reshape(-1, width)[:rows], jnp.sum(decoded)

    return sample


def _slots_of(cache: Cache, first: jax.Array, slots: int) -> Cache:
    return jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, first, slots), cache)


def _with_slots(cache: Cache, part: Cache, first: jax.Array) -> Cache:
    """The cache with these slots, whose positions may be fewer, written into it."""
    return jax.tree.map(
        lambda array, new: jax.lax.dynamic_update_slice(array, new, (first,) + (0,) * (array.ndim - 1)), cache, part
    )
