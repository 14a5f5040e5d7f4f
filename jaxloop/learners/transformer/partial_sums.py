"""Sums of a step that several devices share, with the same bits for any number of them from two on.

Floating-point sums depend on their order. So a step always has as many partial sums as the settings say, each of them
is computed by one device in one order, and they are added in the order of their numbers, whoever has computed which.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxloop.learners.placement import SHARES


def add_in_order(partial_sum: Callable[[jax.Array], Any], count: int, devices: int, nothing: Any) -> Any:
    """Add partial sums 0, 1, ... to nothing, in this order; traced.

    Args:
      partial_sum: what computes one of them from its number, a tree of float32 arrays.
      count: of partial sums.
      devices: over how many they are divided, a divisor of the count, on the axis `SHARES` of `jax.shard_map`.
      nothing: zeros like a partial sum.
    """
    if devices == 1:
        return jax.lax.fori_loop(
            0, count, lambda number, total: jax.tree.map(jnp.add, total, partial_sum(number)), nothing
        )
    own = count // devices
    parts = jax.lax.map(partial_sum, jax.lax.axis_index(SHARES) * own + jnp.arange(own))

    def add(parts_Ox, nothing):
        """Each device adds all parts of its share of the numbers, and hands that on."""
        parts_OxN = parts_Ox.reshape(own, -1)
        size = parts_OxN.shape[1]
        parts_OxN = jnp.pad(parts_OxN, ((0, 0), (0, -size % devices)))
        shares_PxM = jax.lax.all_to_all(parts_OxN, SHARES, split_axis=1, concat_axis=0, tiled=True)
        nothing_M = jnp.zeros_like(shares_PxM[0])
        total_M = jax.lax.fori_loop(0, count, lambda number, total_M: total_M + shares_PxM[number], nothing_M)
        return jax.lax.all_gather(total_M, SHARES, tiled=True)[:size].reshape(nothing.shape)

    return jax.tree.map(add, parts, nothing)
