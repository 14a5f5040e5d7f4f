"""One strict session for all tests: several CPU devices, no silent promotion of ranks, and a cache of its own.

What XLA compiles is kept in a temporary folder, not in the user's; processes that tests start share it.
"""

import atexit
import os
import shutil
import tempfile

_compiled = tempfile.mkdtemp(prefix="jaxloop_tests_")
atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled

import jax  # noqa: E402

from jaxloop.population import use_all_cores  # noqa: E402

use_all_cores()
jax.config.update("jax_compilation_cache_dir", _compiled)
jax.config.update("jax_numpy_rank_promotion", "raise")
