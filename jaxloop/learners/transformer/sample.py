"""Sampling from a model: exactly N sequences are started, and all of them are finished.

Taking the first N to finish would favour short ones. A sequence that fills the context without `<eos>` is kept as
it is. The random numbers belong to the sequence and the place in it, not to how it is computed.

Sequences that begin alike are in the same state, so the model reads each prefix once. The sequences of a batch grow as
a prefix tree, one position after the other: the model reads the newest nodes, a chunk at a time, each sequence draws
its next token from the logits of its prefix, and those that drew alike share the next node. So the work follows the
different prefixes that are written, not N times the context; a model that has collapsed costs next to nothing.

Legend: N sequences of a batch, T tokens a row (the context), P prefixes that they end in, C prefixes of a chunk,
L positions that are read, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloop.learners.placement import Array, most_of_mapped, on_cpu
from jaxloop.learners.transformer.model import Cache, Model

# The model reads this many positions first, then twice as many, and so on.
_SHORTEST_READ = 16


class Batches(NamedTuple):
    """Which batches to write."""

    first: Array
    count: Array


class Work(NamedTuple):
    """What sampling took, in tokens."""

    read: Array | int  # different prefixes
    computed: Array | int  # those, and what chunks had beside them


class Tree(NamedTuple):
    """A batch that is being written; places for prefixes that are not in use hold anything."""

    position: jax.Array
    prefix_count: jax.Array
    first_node: jax.Array  # the nodes of these prefixes follow each other
    prefix_N: jax.Array  # what each sequence ends in; P where it is finished
    token_P: jax.Array  # the last of each prefix, uint8
    node_PxT: jax.Array  # the nodes of what each prefix begins with, root first
    tokens_TxN: jax.Array  # uint8
    log_prob_N: jax.Array  # nats, of what each sequence has written so far
    work: Work


def choose(logits_NxV: jax.Array, uniform_N: jax.Array) -> jax.Array:
    """Inverse-transform sampling: the token in whose slice of the cumulated softmax the uniform number falls."""
    cumulated_NxV = jnp.cumsum(jax.nn.softmax(logits_NxV, axis=-1), axis=-1)
    # Scaling by the last sum, which rounding keeps from being 1, leaves no gap above it.
    token_N = jnp.sum(cumulated_NxV <= uniform_N[:, None] * cumulated_NxV[:, -1:], axis=-1)
    return jnp.minimum(token_N, logits_NxV.shape[-1] - 1).astype(jnp.uint8)


def chunk_prefixes(batch_rows: int) -> int:
    """Prefixes that are read at once: what a CPU core does well, or far more on an accelerator."""
    return min(32 if on_cpu() else 512, batch_rows)


def batch_count(rows: int, batch_rows: int) -> int:
    """Into how many batches, alike in size, the rows are divided."""
    return -(-rows // batch_rows)


def make_sample(model: Model, rows: int, width: int, batch_rows: int) -> Callable:
    """Build `sample(parameters, key, temperature, Batches) -> tokens_NxT, log_prob_N, Work`.

    The rows are uint8, `<eos>` from the end of each on, with the log-probability (nats) at which the model, at this
    temperature, writes each. Batches are written one after the other; the rows of those that are not asked for are
    nothing but `<eos>`, which is the greatest token, with a log-probability of 0, and cost nothing.
    """
    count, vocabulary = batch_count(rows, batch_rows), model.vocabulary
    size = -(-rows // count)
    chunk = chunk_prefixes(size)
    places = -(-size // chunk) * chunk

    def chunks_of(tree: Tree) -> jax.Array:
        return -(-most_of_mapped(tree.prefix_count) // chunk)

    def read(parameters: dict, tree: Tree, cache: Cache, positions: int):
        """Logits of all prefixes, (P, V), whose nodes are added to the cache."""
        node_PxL = tree.node_PxT[:, :positions]

        def read_chunk(index, carry):
            logits_PxV, cache = carry
            first = index * chunk
            token_C, node_CxL = (
                jax.lax.dynamic_slice_in_dim(array, first, chunk) for array in (tree.token_P, node_PxL)
            )
            logits_CxV, cache = model.decode(
                parameters, token_C, tree.position, node_CxL, tree.first_node + first, cache
            )
            return jax.lax.dynamic_update_slice_in_dim(logits_PxV, logits_CxV, first, 0), cache

        return jax.lax.fori_loop(0, chunks_of(tree), read_chunk, (jnp.zeros((places, vocabulary.size)), cache))

    def grow(tree: Tree, token_N: jax.Array, log_prob_N: jax.Array) -> Tree:
        """The tree in which each sequence that is not finished goes on with this token, of this log-probability."""
        # A branch is a prefix and a next token; those that somebody takes are numbered in order.
        nowhere = places * vocabulary.size
        branch_N = jnp.where(token_N == vocabulary.end, nowhere, tree.prefix_N * vocabulary.size + token_N)
        taken = jnp.zeros(nowhere, jnp.int32).at[branch_N].set(1, mode="drop")
        number = jnp.cumsum(taken)
        prefix_N = number.at[branch_N].get(mode="fill", fill_value=places + 1) - 1
        parent_P = jnp.zeros(places, jnp.int32).at[prefix_N].set(tree.prefix_N, mode="drop")
        parents_node_Px1 = tree.first_node + parent_P[:, None]
        is_parents_1xT = jnp.arange(width)[None] == tree.position
        return Tree(
            position=tree.position + 1,
            prefix_count=number[-1],
            first_node=tree.first_node + most_of_mapped(tree.prefix_count),
            prefix_N=prefix_N,
            token_P=jnp.zeros(places, jnp.uint8).at[prefix_N].set(token_N, mode="drop"),
            node_PxT=jnp.where(is_parents_1xT, parents_node_Px1, tree.node_PxT[parent_P]),
            tokens_TxN=tree.tokens_TxN.at[tree.position].set(token_N),
            log_prob_N=tree.log_prob_N + log_prob_N,
            work=Work(tree.work.read + tree.prefix_count, tree.work.computed + chunks_of(tree) * chunk),
        )

    def sample(parameters: dict, key: jax.Array, temperature: jax.Array, batches: Batches):
        def write_batch(turn, carry):
            tokens, log_prob, work, cache = carry
            index, asked_for = batches.first + turn, turn < batches.count
            keys_N = jax.vmap(lambda sequence: jax.random.fold_in(key, sequence))(index * size + jnp.arange(size))
            uniform_TxN = jax.vmap(lambda sequence_key: jax.random.uniform(sequence_key, (width,)), out_axes=1)(keys_N)

            def write_position(tree, cache, positions):
                logits_PxV, cache = read(parameters, tree, cache, positions)
                logits_NxV = logits_PxV.at[tree.prefix_N].get(mode="clip") / temperature
                token_N = choose(logits_NxV, uniform_TxN[tree.position])
                log_prob_Nx1 = jnp.take_along_axis(jax.nn.log_softmax(logits_NxV), token_N[:, None], axis=1)
                goes_on_N = tree.prefix_N < places
                token_N = jnp.where(goes_on_N, token_N, jnp.uint8(vocabulary.end))
                return grow(tree, token_N, jnp.where(goes_on_N, log_prob_Nx1[:, 0], 0)), cache

            tree = Tree(
                position=jnp.int32(0),
                prefix_count=jnp.where(asked_for, 1, 0),
                first_node=jnp.int32(0),
                prefix_N=jnp.where(asked_for, jnp.zeros(size, jnp.int32), places),
                token_P=jnp.full(places, vocabulary.end, jnp.uint8),
                node_PxT=jnp.zeros((places, width), jnp.int32),
                tokens_TxN=jnp.full((width, size), vocabulary.end, jnp.uint8),
                log_prob_N=jnp.zeros(size),
                work=work,
            )
            positions = 0
            while positions < width:
                positions = min(max(2 * positions, _SHORTEST_READ), width)
                tree, cache = jax.lax.while_loop(
                    lambda carry, end=positions: (
                        (carry[0].position < end) & (most_of_mapped(carry[0].prefix_count) > 0)
                    ),
                    lambda carry, positions=positions: write_position(*carry, positions),
                    (tree, cache),
                )
            index = jnp.where(asked_for, index, count)
            tokens = tokens.at[index].set(tree.tokens_TxN.T, mode="drop")
            return tokens, log_prob.at[index].set(tree.log_prob_N, mode="drop"), tree.work, cache

        # One node each for all that a batch could write, and room for a chunk's unused places.
        cache = model.init_cache(size * width + chunk)
        nothing = jnp.full((count, size, width), vocabulary.end, jnp.uint8), jnp.zeros((count, size))
        tokens, log_prob, work, _ = jax.lax.fori_loop(
            0, most_of_mapped(batches.count), write_batch, (*nothing, Work(jnp.int32(0), jnp.int32(0)), cache)
        )
        return tokens.reshape(-1, width)[:rows], log_prob.reshape(-1)[:rows], work

    return sample
