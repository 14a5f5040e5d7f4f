"""One strict session for all tests: several CPU devices, and no silent promotion of ranks."""

import jax

from jaxloop.population import use_all_cores

use_all_cores()
jax.config.update("jax_numpy_rank_promotion", "raise")
