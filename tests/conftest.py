"""One strict session for all tests: several CPU devices, no silent promotion of ranks or dtypes, a cache of its own.

What XLA compiles is kept in a temporary folder, not in the user's; all workers, and the processes that tests start,
share it.
"""

import atexit
import os
import shutil
import tempfile

if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker has its environment from the process that starts it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxloop_tests_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"  # in the processes that tests start, too

import jax

from jaxloop.runs.environment import prepare

prepare()
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_numpy_rank_promotion", "raise")
