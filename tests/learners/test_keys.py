"""The device's random numbers: told apart by seed, purpose and generation, and by nothing else."""

import itertools

import jax
import numpy as np
import pytest

from jaxloop.learners.keys import device_key
from jaxloop.loop.keys import Purpose

# Small numbers in every place, so that a sum or an exchange of two arguments makes two streams equal.
SEEDS, GENERATIONS = (0, 1, 2, 3, 2**31 - 1), (*range(20), 100, 256, 1000, 10**5)
ARGUMENTS = list(itertools.product(SEEDS, Purpose, GENERATIONS))


def device_data(arguments):
    seeds, purposes, generations = (np.array(column, np.int32) for column in zip(*arguments, strict=True))
    make = jax.jit(jax.vmap(lambda *one: jax.random.key_data(device_key(*one))))
    return [tuple(row) for row in np.asarray(make(seeds, purposes, generations)).tolist()]


def test_the_way_from_arguments_to_key_is_pinned():
    """Catches a change in how seed, purpose and generation make a key, which changes every result too."""
    expected = jax.random.key_data(jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 3), 5))
    assert device_data([(7, Purpose.CYCLE, 5)]) == [tuple(expected.tolist())]


def test_device_keys_all_differ():
    """Catches an argument that is left out, added to another or exchanged with it: two streams would be one."""
    assert len(set(device_data(ARGUMENTS))) == len(ARGUMENTS)


def test_same_arguments_same_key():
    """Catches hidden state: a resumed loop must draw what it would have drawn."""
    assert device_data(ARGUMENTS) == device_data(ARGUMENTS)


@pytest.mark.parametrize("arguments", [(0, Purpose.REAL_ROWS, 0), (5, Purpose.SAMPLING, 9)])
def test_device_key_is_the_same_traced_and_not(arguments):
    """Catches a key that depends on whether its seed is traced: a loop beside others would differ from it alone."""
    key = device_key(*arguments)
    assert jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert [tuple(jax.random.key_data(key).tolist())] == device_data([arguments])
