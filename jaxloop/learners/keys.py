"""Where random numbers on the devices come from: the seeds, purposes and generations of `jaxloop.loop.keys`."""

import jax

from jaxloop.loop.keys import Purpose


def device_key(seed: jax.Array, purpose: Purpose, generation: jax.Array) -> jax.Array:
    """The JAX key for one purpose of one generation; seed and generation may be traced."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), generation)
