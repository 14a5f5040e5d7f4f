"""The transformer: decoder-only, pre-norm, learned positions, GELU, tied embeddings, no biases (as nanoGPT).

Flax NNX defines it and nothing else: `make_model` splits the module once, and gives pure functions over a plain dict
of arrays.

Legend: B rows, L tokens a row (or the length of a cache), H heads, K width of a head, D width, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxloop.config import ModelSettings
from jaxloop.vocabulary import EOS, VOCABULARY_SIZE


class Cache(NamedTuple):
    """Keys and values of every token read so far, one array a layer."""

    keys_BxLxHxK: list[jax.Array]
    values_BxLxHxK: list[jax.Array]


class Model(NamedTuple):
    """The transformer as pure functions over its parameters."""

    init: Callable  # key -> parameters
    apply: Callable  # parameters, inputs_BxL, dropout key or None -> logits_BxLxV, for packed rows
    init_cache: Callable  # rows -> Cache
    decode: Callable  # parameters, token_B, position, Cache -> logits_BxV, Cache


class Block(nnx.Module):
    """Attention and a two-layer perceptron, each behind a norm and added to the stream."""

    def __init__(self, settings: ModelSettings, dtype, rngs: nnx.Rngs):
        width, heads = settings.width, settings.heads

        def linear(inputs, outputs, deviation=0.02):
            init = nnx.initializers.constant(deviation)
            return nnx.Linear(inputs, outputs, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs)

        # As in nanoGPT, the projections onto the stream are scaled down by the number of additions to it.
        onto_stream = 0.02 / np.sqrt(2 * settings.layers)

        self.heads = heads
        self.attention_norm = nnx.LayerNorm(width, use_bias=False, dtype=dtype, rngs=rngs)
        self.queries_keys_values = linear(width, 3 * width)
        self.attention_out = linear(width, width, onto_stream)
        self.mlp_norm = nnx.LayerNorm(width, use_bias=False, dtype=dtype, rngs=rngs)
        self.mlp_in = linear(width, 4 * width)
        self.mlp_out = linear(4 * width, width, onto_stream)
        self.dropout = nnx.Dropout(settings.dropout)

    def __call__(self, stream_BxLxD, attend, rngs):
        """One block; `attend` turns queries, keys and values (B, L, H, K) into what attention gives."""
        batch_shape = stream_BxLxD.shape[:-1]
        qkv = self.queries_keys_values(self.attention_norm(stream_BxLxD))
        queries, keys, values = (part.reshape(*batch_shape, self.heads, -1) for part in jnp.split(qkv, 3, axis=-1))
        attended = attend(queries, keys, values, rngs).reshape(stream_BxLxD.shape)
        stream_BxLxD += self._drop(self.attention_out(attended), rngs)
        hidden = jax.nn.gelu(self.mlp_in(self.mlp_norm(stream_BxLxD)))
        return stream_BxLxD + self._drop(self.mlp_out(hidden), rngs)

    def _drop(self, values, rngs):
        return self.dropout(values, deterministic=rngs is None, rngs=rngs)


class Transformer(nnx.Module):
    """Embeddings, blocks, a last norm, and the token embedding once more as the output layer.

    Built with every matrix filled with its standard deviation; `Model.init` multiplies the noise in.
    """

    def __init__(self, settings: ModelSettings, dtype, rngs: nnx.Rngs):
        init = nnx.initializers.constant(0.02)
        self.dtype = dtype
        self.tokens = nnx.Embed(VOCABULARY_SIZE, settings.width, embedding_init=init, dtype=dtype, rngs=rngs)
        self.positions = nnx.Embed(settings.context_tokens, settings.width, embedding_init=init, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(settings.dropout)
        self.blocks = nnx.List([Block(settings, dtype, rngs) for _ in range(settings.layers)])
        self.out_norm = nnx.LayerNorm(settings.width, use_bias=False, dtype=dtype, rngs=rngs)

    def _logits(self, stream):
        return self.tokens.attend(self.out_norm(stream)).astype(jnp.float32)

    def packed(self, inputs_BxL, dropout_key):
        """Logits of packed rows: attention and positions begin anew at each `<eos>`."""
        rngs = None if dropout_key is None or self.dropout.rate == 0 else nnx.Rngs(dropout_key)
        place_L = jnp.arange(inputs_BxL.shape[1])
        start_BxL = jax.lax.cummax(jnp.where(inputs_BxL == EOS, place_L[None], 0), axis=1)
        past_1xLxL = place_L[None, None, :] <= place_L[None, :, None]
        own_BxLxL = past_1xLxL & (place_L[None, None, :] >= start_BxL[:, :, None])
        bias_Bx1xLxL = jnp.where(own_BxLxL, 0.0, -1e30).astype(self.dtype)[:, None]

        def attend(queries, keys, values, rngs):
            scale = queries.shape[-1] ** -0.5
            scores_BxHxLxL = jnp.einsum("blhk,bmhk->bhlm", queries * scale, keys) + bias_Bx1xLxL
            weights_BxHxLxL = jax.nn.softmax(scores_BxHxLxL.astype(jnp.float32), axis=-1).astype(self.dtype)
            weights_BxHxLxL = self.dropout(weights_BxHxLxL, deterministic=rngs is None, rngs=rngs)
            return jnp.einsum("bhlm,bmhk->blhk", weights_BxHxLxL, values)

        stream = self.tokens(inputs_BxL.astype(jnp.int32)) + self.positions(place_L[None] - start_BxL)
        stream = self.dropout(stream, deterministic=rngs is None, rngs=rngs)
        for block in self.blocks:
            stream = block(stream, attend, rngs)
        return self._logits(stream)

    def decode(self, token_B, position, cache: Cache):
        """Logits after one more token of each row, all rows at the same position."""
        new_keys, new_values = [], []
        stream_BxD = self.tokens(token_B.astype(jnp.int32)) + self.positions(position)[None]
        for layer, block in enumerate(self.blocks):

            def attend(queries_BxHxK, keys_BxHxK, values_BxHxK, _, layer=layer):
                keys = cache.keys_BxLxHxK[layer].at[:, position].set(keys_BxHxK)
                values = cache.values_BxLxHxK[layer].at[:, position].set(values_BxHxK)
                new_keys.append(keys)
                new_values.append(values)
                read_1x1xL = (jnp.arange(keys.shape[1]) <= position)[None, None]
                scores_BxHxL = jnp.einsum("bhk,blhk->bhl", queries_BxHxK * queries_BxHxK.shape[-1] ** -0.5, keys)
                scores_BxHxL = jnp.where(read_1x1xL, scores_BxHxL.astype(jnp.float32), -1e30)
                weights_BxHxL = jax.nn.softmax(scores_BxHxL, axis=-1).astype(self.dtype)
                return jnp.einsum("bhl,blhk->bhk", weights_BxHxL, values)

            stream_BxD = block(stream_BxD, attend, None)
        return self._logits(stream_BxD), Cache(new_keys, new_values)


def activation_dtype(settings: ModelSettings):
    """The dtype of activations: float32 on the CPU, bfloat16 on accelerators, unless the settings say."""
    name = settings.activations
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def make_model(settings: ModelSettings) -> Model:
    """The model of these settings as pure functions; nothing is computed yet."""
    dtype = activation_dtype(settings)
    graph, _ = nnx.split(nnx.eval_shape(lambda: Transformer(settings, dtype, nnx.Rngs(0))))

    def init(key):
        _, state = nnx.split(Transformer(settings, dtype, nnx.Rngs(key)))
        leaves, structure = jax.tree.flatten(nnx.to_pure_dict(state))
        # One draw for all matrices: XLA needs a fifth of a second to compile each.
        sizes = [leaf.size if leaf.ndim > 1 else 0 for leaf in leaves]
        noise = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
        leaves = [
            deviation * part.reshape(deviation.shape) if deviation.ndim > 1 else deviation
            for deviation, part in zip(leaves, noise, strict=True)
        ]
        return jax.tree.unflatten(structure, leaves)

    def init_cache(rows):
        shape = (rows, settings.context_tokens, settings.heads, settings.width // settings.heads)
        empty = [jnp.zeros(shape, dtype) for _ in range(settings.layers)]
        return Cache(empty, empty)

    return Model(
        init=init,
        apply=lambda parameters, inputs_BxL, key=None: nnx.merge(graph, parameters).packed(inputs_BxL, key),
        init_cache=init_cache,
        decode=lambda parameters, *step: nnx.merge(graph, parameters).decode(*step),
    )


def parameter_count(settings: ModelSettings) -> int:
    """Number of parameters, without the position embedding (nanoGPT's way of counting)."""
    shapes = jax.eval_shape(make_model(settings).init, jax.random.key(0))
    counted = {name: shape for name, shape in shapes.items() if name != "positions"}
    return sum(leaf.size for leaf in jax.tree.leaves(counted))
