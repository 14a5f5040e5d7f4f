"""The transformer: decoder-only, pre-norm, learned positions, GELU, tied embeddings, no biases (as nanoGPT).

Flax NNX defines it and nothing else: `make_model` splits the module once, and gives pure functions over a plain dict
of arrays.

Legend: B rows, L positions a row, N positions in all (B x L), H heads, K width of a head, D width, V vocabulary;
C sequences that are written side by side, M nodes of the cache.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxloop.learners.placement import on_cpu
from jaxloop.learners.transformer.attention import attend, kernels_for
from jaxloop.learners.transformer.dropout import Dropout
from jaxloop.learners.transformer.settings import ModelSettings
from jaxloop.learners.vocabulary import Vocabulary


class Cache(NamedTuple):
    """Keys and values of every token that was read: the nodes of a prefix tree, one array a layer."""

    keys_MxD: list[jax.Array]
    values_MxD: list[jax.Array]


def matrices_of(parameters: Any) -> Any:
    """Which of these arrays are matrices, as bools."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, parameters)


def _as_they_are(parameters: Any) -> Any:
    return parameters


class Model(NamedTuple):
    """The transformer as pure functions over its parameters."""

    vocabulary: Vocabulary  # of what it reads and writes
    init: Callable  # key -> parameters
    apply: Callable  # parameters, inputs_BxL, depth_BxL, dropout key or None -> logits_BxLxV, for prefix trees
    init_cache: Callable  # nodes -> Cache
    decode: Callable  # parameters, token_C, position, node_CxL, first node, Cache -> logits_CxV, Cache
    matrices: Callable = matrices_of  # parameters -> which of them are matrices: bools, in a tree like theirs
    nested: Callable = _as_they_are  # parameters -> as they are kept: nested, of arrays


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def look_up(table_VxD, index_N, dtype):
    """The rows of a table that the indices name, (N, D) in this dtype, with a gradient that is a product of matrices.

    The gradient that JAX finds by itself adds N rows into V places one by one, in the dtype of the rows: in bfloat16
    sums over thousands of positions lose most of what is added (15% of the token embedding's gradient), and on a GPU
    the additions wait for each other (36 of 42 milliseconds of a step of `paper` on an H200) and come in any order.
    """
    return table_VxD.astype(dtype)[index_N]


def _look_up_forward(table_VxD, index_N, dtype):
    return look_up(table_VxD, index_N, dtype), (index_N, table_VxD[:, :0])


def _look_up_backward(dtype, residuals, gradient_NxD):
    index_N, table_Vx0 = residuals
    summed_VxD = jnp.einsum(
        "nv,nd->vd",
        jax.nn.one_hot(index_N, len(table_Vx0), dtype=dtype),
        gradient_NxD,
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST,
    )
    return summed_VxD.astype(table_Vx0.dtype), None


look_up.defvjp(_look_up_forward, _look_up_backward)


class Block(nnx.Module):
    """Attention and a two-layer perceptron, each behind a norm and added to the stream."""

    def __init__(self, settings: ModelSettings, dtype, rngs: nnx.Rngs):
        width = settings.width

        def linear(inputs, outputs, deviation=0.02):
            init = nnx.initializers.constant(deviation)
            return nnx.Linear(inputs, outputs, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs)

        # As in nanoGPT, the projections onto the stream are scaled down by the number of additions to it.
        onto_stream = 0.02 / np.sqrt(2 * settings.layers)

        self.attention_norm = nnx.LayerNorm(width, use_bias=False, dtype=dtype, rngs=rngs)
        self.queries_keys_values = linear(width, 3 * width)
        self.attention_out = linear(width, width, onto_stream)
        self.mlp_norm = nnx.LayerNorm(width, use_bias=False, dtype=dtype, rngs=rngs)
        self.mlp_in = linear(width, 4 * width)
        # As (outputs, inputs): its gradient is a wide matrix then, which XLA computes faster on a CPU than a tall one.
        self.mlp_out = nnx.Einsum(
            "nf,df->nd",
            (width, 4 * width),
            kernel_init=nnx.initializers.constant(onto_stream),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, stream_NxD, read, drop=None):
        """One block; `read` turns queries, keys and values, (N, 3D), into what attention gives, (N, D)."""
        # Two axes only: XLA's CPU backend takes twice as long over the same product with three.
        attended = self.attention_out(read(self.queries_keys_values(self.attention_norm(stream_NxD))))
        stream_NxD += drop(attended) if drop else attended
        hidden = jax.nn.gelu(self.mlp_in(self.mlp_norm(stream_NxD)))
        hidden = self.mlp_out(hidden)
        return stream_NxD + (drop(hidden) if drop else hidden)


class Transformer(nnx.Module):
    """Embeddings, blocks, a last norm, and the token embedding once more as the output layer.

    Built with every matrix filled with its standard deviation; `Model.init` multiplies the noise in.
    """

    def __init__(self, settings: ModelSettings, vocabulary: Vocabulary, dtype, rngs: nnx.Rngs):
        init = nnx.initializers.constant(0.02)
        self.dtype = dtype
        self.tokens = nnx.Embed(vocabulary.size, settings.width, embedding_init=init, dtype=dtype, rngs=rngs)
        self.positions = nnx.Embed(settings.context_tokens, settings.width, embedding_init=init, dtype=dtype, rngs=rngs)
        self.dropout, self.heads = settings.dropout, settings.heads
        # Each by a name of its own: how Flax holds lists, and whether it reads back what it saves of one, has changed.
        self.block_names = tuple(f"block_{layer:03d}" for layer in range(settings.layers))
        for name in self.block_names:
            setattr(self, name, Block(settings, dtype, rngs))
        self.out_norm = nnx.LayerNorm(settings.width, use_bias=False, dtype=dtype, rngs=rngs)

    def _blocks(self) -> list[Block]:
        return [getattr(self, name) for name in self.block_names]

    def _logits(self, stream):
        return self.tokens.attend(self.out_norm(stream)).astype(jnp.float32)

    def _embed(self, table, index_N) -> jax.Array:
        # On a CPU single additions in float32 are right, and faster.
        if on_cpu() and self.dtype == jnp.float32:
            return table(index_N)
        return jnp.asarray(look_up(table.embedding[...], index_N, self.dtype))

    def packed(self, inputs_BxL, depth_BxL, dropout_key):
        """Logits of rows of prefix trees (see `packing`): each position reads its ancestors and itself."""
        rows, row_tokens = inputs_BxL.shape
        drop = Dropout(self.dropout, dropout_key) if dropout_key is not None and self.dropout else None
        query, key = jnp.arange(row_tokens)[None, :, None], jnp.arange(row_tokens)[None, None, :]
        # A subtree ends at the first later position that is no deeper than its root.
        no_deeper_BxLxL = depth_BxL[:, None, :] <= depth_BxL[:, :, None]
        end_BxL = jnp.min(jnp.where((key > query) & no_deeper_BxLxL, key, row_tokens), axis=-1)
        ancestor_BxLxL = (key <= query) & (query < end_BxL[:, None, :])
        bias_BxLxL = jnp.where(ancestor_BxLxL, 0.0, -1e30)

        def read(qkv_Nx3D):
            qkv_BxLx3xHxK = qkv_Nx3D.reshape(rows, row_tokens, 3, self.heads, -1)
            if by_kernels := kernels_for(qkv_BxLx3xHxK):
                attended = by_kernels(qkv_BxLx3xHxK, bias_BxLxL, drop.next_draw() if drop else None)
            else:
                kept = drop(jnp.ones((rows, self.heads, row_tokens, row_tokens), self.dtype)) if drop else None
                by_row = (part.reshape(rows, row_tokens, self.heads, -1) for part in jnp.split(qkv_Nx3D, 3, axis=-1))
                attended = attend(*by_row, bias_BxLxL, kept)
            return jnp.reshape(attended, (rows * row_tokens, -1))

        stream_NxD = self._embed(self.tokens, inputs_BxL.reshape(-1).astype(jnp.int32))
        stream_NxD = stream_NxD + self._embed(self.positions, depth_BxL.reshape(-1).astype(jnp.int32))
        stream_NxD = drop(stream_NxD) if drop else stream_NxD
        for block in self._blocks():
            stream_NxD = block(stream_NxD, read, drop)
        return self._logits(stream_NxD).reshape(rows, row_tokens, -1)

    def decode(self, token_C, position, node_CxL, first_node, cache: Cache):
        """Logits after one more token of each of C sequences, all at this position (less than L).

        The nodes of the cache that hold what a sequence has read so far are in `node_CxL`, in order; what stands there
        from `position` on does not count. The new tokens are kept at the C nodes from `first_node` on.
        """
        count, row_tokens = node_CxL.shape
        place_1xL = jnp.arange(row_tokens)[None]
        own_Cx1 = first_node + jnp.arange(count)[:, None]
        node_CxL = jnp.where(place_1xL == position, own_Cx1, node_CxL)
        unread_1xLx1 = (place_1xL > position)[..., None]
        keys, values = list(cache.keys_MxD), list(cache.values_MxD)
        stream_CxD = self.tokens(token_C.astype(jnp.int32)) + self.positions(position)[None]
        for layer, block in enumerate(self._blocks()):

            def read(qkv_Cx3D, layer=layer):
                heads = self.heads
                queries_CxD, keys_CxD, values_CxD = jnp.split(qkv_Cx3D, 3, axis=-1)
                head_width = queries_CxD.shape[1] // heads
                for kept, new_CxD in ((keys, keys_CxD), (values, values_CxD)):
                    kept[layer] = jax.lax.dynamic_update_slice(kept[layer], new_CxD, (first_node, 0))
                # One query a sequence: nothing that a product of matrices could share. Sums over the width of a head
                # are products with a matrix of ones and zeros, for a CPU is slow at sums over a short last axis.
                queries_Cx1xD = (queries_CxD.astype(jnp.float32) * head_width**-0.5)[:, None]
                products_NxD = (queries_Cx1xD * keys[layer][node_CxL]).reshape(count * row_tokens, -1)
                of_head_DxH = jnp.repeat(jnp.eye(heads), head_width, axis=0)
                scores_NxH = jnp.dot(products_NxD, of_head_DxH, precision=jax.lax.Precision.HIGHEST)
                scores_CxLxH = jnp.where(unread_1xLx1, -1e30, scores_NxH.reshape(count, row_tokens, heads))
                weights_CxLxHx1 = jax.nn.softmax(scores_CxLxH, axis=1).astype(self.dtype)[..., None]
                values_CxLxHxK = values[layer][node_CxL].reshape(count, row_tokens, heads, head_width)
                return jnp.sum(weights_CxLxHx1 * values_CxLxHxK, axis=1).reshape(count, -1)

            stream_CxD = block(stream_CxD, read)
        return self._logits(stream_CxD), Cache(keys, values)


def activation_dtype(settings: ModelSettings):
    """The dtype of activations: float32 on the CPU, bfloat16 on accelerators, unless the settings say."""
    name = settings.activations
    if name == "auto":
        name = "float32" if on_cpu() else "bfloat16"
    return jnp.dtype(name)


def make_model(settings: ModelSettings, vocabulary: Vocabulary) -> Model:
    """The model of these settings, for tokens of this vocabulary, as pure functions; nothing is computed yet."""
    dtype = activation_dtype(settings)
    graph, _ = nnx.split(nnx.eval_shape(lambda: Transformer(settings, vocabulary, dtype, nnx.Rngs(0))))

    def init(key):
        _, state = nnx.split(Transformer(settings, vocabulary, dtype, nnx.Rngs(key)))
        leaves, structure = jax.tree.flatten(nnx.to_pure_dict(state))
        # One draw for all matrices: XLA needs a fifth of a second to compile each.
        sizes = [leaf.size if leaf.ndim > 1 else 0 for leaf in leaves]
        noise = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
        leaves = [
            deviation * part.reshape(deviation.shape) if deviation.ndim > 1 else deviation
            for deviation, part in zip(leaves, noise, strict=True)
        ]
        return jax.tree.unflatten(structure, leaves)

    def init_cache(nodes):
        return Cache(*([jnp.zeros((nodes, settings.width), dtype) for _ in range(settings.layers)] for _ in range(2)))

    return Model(
        vocabulary=vocabulary,
        init=init,
        apply=lambda parameters, inputs_BxL, depth_BxL, key=None: nnx.merge(graph, parameters).packed(
            inputs_BxL, depth_BxL, key
        ),
        init_cache=init_cache,
        decode=lambda parameters, *step: nnx.merge(graph, parameters).decode(*step),
    )


def parameter_count(settings: ModelSettings, vocabulary: Vocabulary) -> int:
    """Number of parameters, without the position embedding (nanoGPT's way of counting)."""
    shapes = jax.eval_shape(make_model(settings, vocabulary).init, jax.random.key(0))
    counted = {name: shape for name, shape in shapes.items() if name != "positions"}
    return sum(leaf.size for leaf in jax.tree.leaves(counted))
