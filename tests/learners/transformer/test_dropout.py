"""Dropout as accelerators draw it: a hash of the place. On CPUs it is Flax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.learners.transformer.dropout import Draw, Dropout, is_kept

PLACES = jnp.arange(2**20, dtype=jnp.uint32)


def kept(key: int, call: int, rate: float) -> np.ndarray:
    seeds = jax.random.bits(jax.random.key(key), (2,))
    return np.asarray(jax.jit(lambda seeds: is_kept(PLACES, Draw(seeds, call, rate)))(seeds))


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.2, 0.5, 0.9])
def test_the_share_that_is_kept_is_the_one_that_is_asked_for(rate):
    """Catches a threshold of the wrong side or too few bits: 12 draws of a million, 4 standard errors."""
    shares = np.array([kept(key, call, rate).mean() for key in range(4) for call in range(1, 4)])
    assert np.abs(shares - (1 - rate)).max() < 4 * np.sqrt(rate * (1 - rate) / len(PLACES))
    assert shares.std() < 2 * np.sqrt(rate * (1 - rate) / len(PLACES))


def test_draws_of_places_calls_and_passes_have_nothing_to_do_with_each_other():
    """Catches a hash that mixes too little: neighbours, positions below each other in a matrix, calls and passes would
    be dropped together. Correlations of a million pairs, 5 standard errors for a hundred of them.
    """
    draws = {(key, call): kept(key, call, 0.2) for key in range(3) for call in range(1, 5)}
    most = 5 / np.sqrt(len(PLACES))
    assert np.abs(np.corrcoef(list(draws.values())) - np.eye(len(draws))).max() < most
    one = draws[0, 1].astype(np.float64)
    for shift in (1, 2, 3, 16, 64, 128, 384, 1024, 128 * 128):
        assert abs(np.corrcoef(one[:-shift], one[shift:])[0, 1]) < most, shift
    # No other call or pass is this one moved by a few places.
    for other in (draws[0, 2], draws[1, 1]):
        for shift in range(1, 64):
            assert abs(np.corrcoef(one[:-shift], other[shift:])[0, 1]) < most, shift


def test_places_that_meet_are_told_apart():
    """Catches a second seed that decides nothing, and a call that only moves the mask: what another pass, or another
    call far behind, has at the same sum of place and first seed would be the same mask once more.
    """
    most, seeds = 5 / np.sqrt(len(PLACES)), jnp.array([5, 6], jnp.uint32)
    one = np.asarray(is_kept(PLACES, Draw(seeds, 1, 0.2)))
    other_pass = np.asarray(is_kept(PLACES, Draw(seeds.at[1].set(7), 1, 0.2)))
    assert abs(np.corrcoef(one, other_pass)[0, 1]) < most
    moved = 0x9E3779B9 * 3 % 2**32  # how far the fourth call lies behind the first one
    fourth = np.asarray(is_kept(PLACES - np.uint32(moved), Draw(seeds, 4, 0.2)))
    assert abs(np.corrcoef(one, fourth)[0, 1]) < most


def test_runs_of_dropped_places_are_as_long_as_chance_makes_them():
    """Catches a hash whose neighbours avoid or follow each other: the chi-square of windows of eight places."""
    windows = kept(5, 1, 0.5).reshape(-1, 8) @ (1 << np.arange(8))
    counts = np.bincount(windows, minlength=256)
    expected = counts.sum() / 256
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 255 - 5 * np.sqrt(2 * 255) < chi_square < 255 + 5 * np.sqrt(2 * 255)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_what_is_kept_grows_so_that_the_mean_stays(monkeypatch, backend):
    """Catches a missing factor, values that are neither zero nor scaled, and the same draw at each call."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    values = jnp.full((500, 300), 3.0)
    drop = Dropout(0.2, jax.random.key(0))
    first, second = np.asarray(drop(values)), np.asarray(drop(values))
    np.testing.assert_allclose(np.unique([first, second]), [0, 3 / 0.8], rtol=1e-6)
    assert abs(first.mean() - 3) < 4 * 3 * np.sqrt(0.25 / values.size)
    assert 0.3 < np.mean((first == 0) != (second == 0)) < 0.34
    again = Dropout(0.2, jax.random.key(0))
    np.testing.assert_array_equal(first, again(values))
    assert np.mean(np.asarray(Dropout(0.2, jax.random.key(1))(values)) != first) > 0.3
