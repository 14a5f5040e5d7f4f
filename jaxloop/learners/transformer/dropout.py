"""Dropout: which activations of one pass are set to zero, and by how much the others grow."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxloop.learners.placement import on_cpu

# 2^32 divided by the golden ratio: its multiples lie far apart.
_APART = 0x9E3779B9


class Draw(NamedTuple):
    """One of the draws of a pass, on an accelerator."""

    seeds_2: Any  # uint32, of the pass
    call: int
    rate: float  # the share that is dropped


class Dropout:
    """Drops a share of the activations of one pass, other ones at each call.

    On accelerators the random bits of JAX, twenty rounds of Threefry for each of them, are what dropout costs, and have
    to be kept for the way back. There a hash of the place, seeded by JAX, decides: it is computed where it is needed.
    """

    def __init__(self, rate: float, key: jax.Array):
        self._rate, self._keys, self._calls = rate, nnx.Rngs(key).default, 0
        self._seeds_2 = None if on_cpu() else jax.random.bits(key, (2,))

    def __call__(self, values: jax.Array) -> jax.Array:
        """The values, of which some are dropped and the others are as much greater."""
        if on_cpu():
            kept = jax.random.bernoulli(self._keys(), 1 - self._rate, values.shape)
        else:
            places = jnp.arange(values.size, dtype=jnp.uint32).reshape(values.shape)
            kept = is_kept(places, self.next_draw())
        return jax.lax.select(kept, values / (1 - self._rate), jnp.zeros_like(values))

    def next_draw(self) -> Draw:
        """What decides of one more call."""
        self._calls += 1
        return Draw(self._seeds_2, self._calls, self._rate)


def is_kept(places: jax.Array, draw: Draw) -> jax.Array:
    """Which of these places (uint32) keep their activation: by Wellons's hash `triple32` of each place.

    The second seed, and the call once more, come in between: places that the first one happens to make the same are
    told apart. Hashes of two products (MurmurHash3's, PCG) leave correlations of 0.006 between places a power of two
    apart.
    """
    of_call = np.uint32(draw.call * _APART % 2**32)
    mixed = places + of_call + draw.seeds_2[0]
    mixed = ((mixed ^ (mixed >> 17)) * np.uint32(0xED5AD4BB) ^ draw.seeds_2[1]) + of_call
    mixed = (mixed ^ (mixed >> 11)) * np.uint32(0xAC4C1B51)
    mixed = (mixed ^ (mixed >> 15)) * np.uint32(0x31848BAB)
    return mixed ^ (mixed >> 14) < np.uint32(min(round((1 - draw.rate) * 2**32), 2**32 - 1))
