"""Attention as two kernels of an NVIDIA GPU, forwards and backwards: no (L, L) matrix is ever in its memory.

They are written for rows so short that one processor holds the whole matrix of a head. The product of matrices,
transposes and softmax that XLA makes of `attention.attend` are some 20 kernels, which took 0.8 of 5.2 milliseconds of
a step of `paper` on an H200.

Legend: as in `attention`; B rows, L positions a row, H heads, K width of a head.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxloop.learners.placement import nvidia_capability
from jaxloop.learners.transformer.dropout import Draw, is_kept

try:
    from jax.experimental.pallas import triton

    _PARAMETERS = triton.CompilerParams(num_warps=8, num_stages=1)
except ImportError:  # Deprecated since JAX 0.11. A JAX without it computes attention as on other devices.
    _PARAMETERS = None


def _product(one, other, over=(1, 0)):
    """The product of two matrices over these axes of them, summed in float32."""
    dimensions = ((over[:1], over[1:]), ((), ()))
    return jax.lax.dot_general(one, other, dimensions, preferred_element_type=jnp.float32)


def _scores(queries_ref, keys_ref, bias_ref):
    queries_LxK, keys_LxK = queries_ref[...], keys_ref[...]
    scale = queries_LxK.shape[1] ** -0.5
    return _product(queries_LxK, keys_LxK, over=(1, 1)) * scale + bias_ref[...]


def _drop(values_LxL, draw):
    row_tokens = len(values_LxL)
    query_LxL, key_LxL = (jax.lax.broadcasted_iota(jnp.uint32, values_LxL.shape, axis) for axis in range(2))
    matrix = pl.program_id(0) * pl.num_programs(1) + pl.program_id(1)
    place_LxL = (matrix.astype(jnp.uint32) * row_tokens + query_LxL) * row_tokens + key_LxL
    return jnp.where(is_kept(place_LxL, draw), values_LxL / (1 - draw.rate), 0.0)


def _forward_kernel(drawn, queries_ref, keys_ref, values_ref, bias_ref, *refs):
    *seeds_ref, attended_ref, log_total_ref = refs
    scores_LxL = _scores(queries_ref, keys_ref, bias_ref)
    greatest_L = jnp.max(scores_LxL, axis=1)
    weights_LxL = jnp.exp(scores_LxL - greatest_L[:, None])
    total_L = jnp.sum(weights_LxL, axis=1)
    if seeds_ref:
        weights_LxL = _drop(weights_LxL, Draw(*seeds_ref, *drawn))
    values_LxK = values_ref[...]
    attended_LxK = _product(weights_LxL.astype(values_LxK.dtype), values_LxK) / total_L[:, None]
    attended_ref[...] = attended_LxK.astype(attended_ref.dtype)
    log_total_ref[...] = greatest_L + jnp.log(total_L)


def _backward_kernel(
    drawn, queries_ref, keys_ref, values_ref, bias_ref, attended_ref, log_total_ref, gradient_ref, *refs
):
    *seeds_ref, qkv_gradient_ref = refs
    gradient_LxK, values_LxK = gradient_ref[...], values_ref[...]
    dtype, scale = values_LxK.dtype, values_LxK.shape[1] ** -0.5
    weights_LxL = jnp.exp(_scores(queries_ref, keys_ref, bias_ref) - log_total_ref[...][:, None])
    mean_L = jnp.sum(gradient_LxK.astype(jnp.float32) * attended_ref[...].astype(jnp.float32), axis=1)
    weight_gradients_LxL = _product(gradient_LxK, values_LxK, over=(1, 1))
    kept_weights_LxL = weights_LxL
    if seeds_ref:
        weight_gradients_LxL = _drop(weight_gradients_LxL, Draw(*seeds_ref, *drawn))
        kept_weights_LxL = _drop(weights_LxL, Draw(*seeds_ref, *drawn))
    score_gradients_LxL = (weights_LxL * (weight_gradients_LxL - mean_L[:, None])).astype(dtype)
    found = (
        _product(score_gradients_LxL, keys_ref[...]) * scale,
        _product(score_gradients_LxL, queries_ref[...], over=(0, 0)) * scale,
        _product(kept_weights_LxL.astype(dtype), gradient_LxK, over=(0, 0)),
    )
    for part, gradient in enumerate(found):
        qkv_gradient_ref[:, part, :] = gradient.astype(qkv_gradient_ref.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attend(qkv_BxLx3xHxK, bias_BxLxL, seeds_2, drawn, interpreted):
    return _forward(qkv_BxLx3xHxK, bias_BxLxL, seeds_2, drawn, interpreted)[0]


def attend_by_kernels(qkv_BxLx3xHxK, bias_BxLxL, draw: Draw | None = None, interpreted: bool = False) -> jax.Array:
    """What `attention.attend` computes, where `is_for_kernels`.

    Args:
      qkv_BxLx3xHxK: queries, keys and values.
      bias_BxLxL: float32, about minus infinity where a query must not see a key; not differentiated.
      draw: of the weights that are dropped, as `dropout.is_kept` says for their places in (B, H, L, L); None for none.
      interpreted: compute it on any device, slowly.

    Returns:
      (B, L, H, K) in the dtype of the queries.
    """
    seeds_2 = draw.seeds_2 if draw else None
    return _attend(qkv_BxLx3xHxK, bias_BxLxL, seeds_2, draw and draw[1:], interpreted)


def is_for_kernels(qkv_BxLx3xHxK: jax.Array) -> bool:
    """Whether programs run on what has units for such products, in shapes that one of its processors holds."""
    _, row_tokens, _, _, head_width = qkv_BxLx3xHxK.shape
    if _PARAMETERS is None or qkv_BxLx3xHxK.dtype != jnp.bfloat16 or not {row_tokens, head_width} <= {16, 32, 64, 128}:
        return False
    # The kernel backwards holds two matrices of weights and three of width K, or up to a quarter more, as XLA plans it.
    held_bytes = 2 * (2 * row_tokens**2 + 3 * row_tokens * head_width)
    return 1.25 * held_bytes <= _shared_memory_bytes(nvidia_capability())


def _shared_memory_bytes(capability: tuple[int, ...]) -> int:
    """What a kernel may take of a processor's fast memory, by the CUDA programming guide's table."""
    if capability < (8, 0):
        return 0
    if (9, 0) <= capability < (12, 0):
        return 227 * 1024
    return (163 if capability in ((8, 0), (8, 7)) else 99) * 1024


def _run(kernel, drawn, interpreted, qkv_BxLx3xHxK, inputs, outputs):
    """Run a kernel for each row and head on queries, keys, values and more, each a pair of axes and array or shape."""
    rows, row_tokens, _, heads, head_width = qkv_BxLx3xHxK.shape
    blocks = {
        "BLHK": pl.BlockSpec((None, row_tokens, None, head_width), lambda row, head: (row, 0, head, 0)),
        "BL3HK": pl.BlockSpec((None, row_tokens, 3, None, head_width), lambda row, head: (row, 0, 0, head, 0)),
        "BHL": pl.BlockSpec((None, None, row_tokens), lambda row, head: (row, head, 0)),
        "BLL": pl.BlockSpec((None, row_tokens, row_tokens), lambda row, head: (row, 0, 0)),
        "2": pl.BlockSpec((2,), lambda row, head: (0,)),
    }
    parts = [
        pl.BlockSpec((None, row_tokens, None, None, head_width), lambda row, head, part=part: (row, 0, part, head, 0))
        for part in range(3)
    ]
    return pl.pallas_call(
        functools.partial(kernel, drawn),
        grid=(rows, heads),
        in_specs=[*parts, *(blocks[axes] for axes, _ in inputs)],
        out_specs=[blocks[axes] for axes, _ in outputs],
        out_shape=[shape for _, shape in outputs],
        compiler_params=_PARAMETERS,
        interpret=interpreted,
    )(*[qkv_BxLx3xHxK] * 3, *(array for _, array in inputs))


def _seeds(seeds_2):
    return [] if seeds_2 is None else [("2", seeds_2)]


def _forward(qkv_BxLx3xHxK, bias_BxLxL, seeds_2, drawn, interpreted):
    rows, row_tokens, _, heads, head_width = qkv_BxLx3xHxK.shape
    attended = jax.ShapeDtypeStruct((rows, row_tokens, heads, head_width), qkv_BxLx3xHxK.dtype)
    log_total = jax.ShapeDtypeStruct((rows, heads, row_tokens), jnp.float32)
    inputs, outputs = [("BLL", bias_BxLxL), *_seeds(seeds_2)], [("BLHK", attended), ("BHL", log_total)]
    attended, log_total = _run(_forward_kernel, drawn, interpreted, qkv_BxLx3xHxK, inputs, outputs)
    return attended, (qkv_BxLx3xHxK, bias_BxLxL, attended, log_total, seeds_2)


def _backward(drawn, interpreted, residuals, gradient_BxLxHxK):
    qkv_BxLx3xHxK, bias_BxLxL, attended_BxLxHxK, log_total_BxHxL, seeds_2 = residuals
    inputs = [("BLL", bias_BxLxL), ("BLHK", attended_BxLxHxK), ("BHL", log_total_BxHxL), ("BLHK", gradient_BxLxHxK)]
    outputs = [("BL3HK", jax.ShapeDtypeStruct(qkv_BxLx3xHxK.shape, qkv_BxLx3xHxK.dtype))]
    inputs += _seeds(seeds_2)
    (qkv_gradient_BxLx3xHxK,) = _run(_backward_kernel, drawn, interpreted, qkv_BxLx3xHxK, inputs, outputs)
    return qkv_gradient_BxLx3xHxK, None, None


_attend.defvjp(_forward, _backward)
