"""Attention of rows that hold several expressions, written out with its derivative.

The derivative that JAX finds by itself contracts over the queries of (L, L) matrices, which XLA's CPU backend does at a
quarter of its speed, and makes several passes over them. Here the small matrices are transposed instead, and each of
the large ones is written once: `weights`, and in the derivative `score_gradients`.

Legend: B rows, L positions a row (l queries, m keys), H heads, K width of a head.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxloop.learners.placement import nvidia_capability


@jax.custom_vjp
def attend(queries_BxLxHxK, keys_BxLxHxK, values_BxLxHxK, bias_BxLxL, kept_BxHxLxL=None):
    """softmax(queries keys^T / sqrt(K) + bias) values, softmax and sums in float32.

    Args:
      queries_BxLxHxK, keys_BxLxHxK, values_BxLxHxK: in the dtype of activations.
      bias_BxLxL: float32, about minus infinity where a query must not see a key; not differentiated.
      kept_BxHxLxL: dropout's factors of the weights, 0 or 1 / (1 - rate), not differentiated; None for no dropout.

    Returns:
      (B, L, H, K) in the dtype of the queries.
    """
    return _forward(queries_BxLxHxK, keys_BxLxHxK, values_BxLxHxK, bias_BxLxL, kept_BxHxLxL)[0]


def _einsum(formula, *arrays):
    return jnp.einsum(formula, *arrays, preferred_element_type=jnp.float32)


def _forward(queries_BxLxHxK, keys_BxLxHxK, values_BxLxHxK, bias_BxLxL, kept_BxHxLxL):
    dtype, scale = queries_BxLxHxK.dtype, queries_BxLxHxK.shape[-1] ** -0.5
    queries_BxHxLxK = (queries_BxLxHxK * scale).swapaxes(1, 2)
    keys_BxHxKxL = keys_BxLxHxK.transpose(0, 2, 3, 1)
    values_BxHxKxL = values_BxLxHxK.transpose(0, 2, 3, 1)
    scores_BxHxLxL = _einsum("bhlk,bhkm->bhlm", queries_BxHxLxK, keys_BxHxKxL) + bias_BxLxL[:, None]
    weights_BxHxLxL = jnp.exp(scores_BxHxLxL - jnp.max(scores_BxHxLxL, axis=-1, keepdims=True))
    total_BxHxLx1 = jnp.sum(weights_BxHxLxL, axis=-1, keepdims=True)
    kept_weights = weights_BxHxLxL if kept_BxHxLxL is None else weights_BxHxLxL * kept_BxHxLxL
    attended_BxHxLxK = _einsum("bhlm,bhkm->bhlk", kept_weights.astype(dtype), values_BxHxKxL) / total_BxHxLx1
    residuals = (
        queries_BxHxLxK,
        keys_BxHxKxL,
        values_BxHxKxL,
        weights_BxHxLxL.astype(dtype),
        total_BxHxLx1,
        attended_BxHxLxK,
        kept_BxHxLxL,
    )
    return attended_BxHxLxK.swapaxes(1, 2).astype(dtype), residuals


def _backward(residuals, gradient_BxLxHxK):
    queries_BxHxLxK, keys_BxHxKxL, values_BxHxKxL, weights, total_BxHxLx1, attended_BxHxLxK, kept = residuals
    dtype, scale = queries_BxHxLxK.dtype, queries_BxHxLxK.shape[-1] ** -0.5
    # Divided by the softmax's total here, on (L, K), and not on (L, L).
    gradient_BxHxLxK = gradient_BxLxHxK.swapaxes(1, 2) / total_BxHxLx1
    mean_BxHxLx1 = jnp.sum(gradient_BxHxLxK * attended_BxHxLxK, axis=-1, keepdims=True)
    gradient_BxHxLxK = gradient_BxHxLxK.astype(dtype)
    weight_gradients = _einsum("bhlk,bhkm->bhlm", gradient_BxHxLxK, values_BxHxKxL)
    if kept is not None:
        weight_gradients *= kept
    score_gradients = (weights * (weight_gradients - mean_BxHxLx1)).astype(dtype)
    kept_weights = weights if kept is None else (weights * kept).astype(dtype)
    value_gradients_BxHxKxL = _einsum("bhkl,bhlm->bhkm", gradient_BxHxLxK.swapaxes(2, 3), kept_weights)
    query_gradients_BxHxLxK = _einsum("bhlm,bhkm->bhlk", score_gradients, keys_BxHxKxL) * scale
    key_gradients_BxHxKxL = _einsum("bhkl,bhlm->bhkm", queries_BxHxLxK.swapaxes(2, 3), score_gradients)
    return (
        query_gradients_BxHxLxK.swapaxes(1, 2).astype(dtype),
        key_gradients_BxHxKxL.transpose(0, 3, 1, 2).astype(dtype),
        value_gradients_BxHxKxL.transpose(0, 3, 1, 2).astype(dtype),
        None,
        None,
    )


attend.defvjp(_forward, _backward)


def kernels_for(qkv_BxLx3xHxK: jax.Array) -> Callable | None:
    """What computes the same in two kernels, where there are such for these shapes on the device of programs."""
    if not nvidia_capability():
        return None
    # Pallas takes 0.1 s to import.
    from jaxloop.learners.transformer import attention_kernels

    return attention_kernels.attend_by_kernels if attention_kernels.is_for_kernels(qkv_BxLx3xHxK) else None
