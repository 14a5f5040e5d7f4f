"""Streams of random numbers: told apart by seed, purpose and generation, and by nothing else."""

import itertools

import numpy as np

from jaxloop.loop.keys import Purpose, host_generator

# Small numbers in every place, so that a sum or an exchange of two arguments makes two streams equal.
SEEDS, GENERATIONS = (0, 1, 2, 3, 2**31 - 1), (*range(20), 100, 256, 1000, 10**5)
ARGUMENTS = list(itertools.product(SEEDS, Purpose, GENERATIONS))


def host_draw(seed, purpose, generation):
    return tuple(host_generator(seed, purpose, generation).integers(2**63, size=2).tolist())


def test_purpose_numbers_are_pinned():
    """Catches a purpose that was renumbered, renamed or reused: every result would change without a word."""
    assert {purpose.name: int(purpose) for purpose in Purpose} == {
        "REAL_ROWS": 0,
        "FRESH_ROWS": 1,
        "HELD_OUT_ROWS": 2,
        "CYCLE": 3,
        "VALIDATION_SPLIT": 4,
        "BATCH_ORDER": 5,
        "PARAMETERS": 6,
        "DROPOUT": 7,
        "SAMPLING": 8,
        "CURATION": 9,
        "DETECTION": 10,
    }
    assert len(Purpose.__members__) == len(set(Purpose))  # no alias


def test_derivation_is_pinned():
    """Catches a change in how seed, purpose and generation make a stream, which changes every result too."""
    expected = np.random.default_rng([7, 3, 5]).integers(2**63, size=4)
    assert host_generator(7, Purpose.CYCLE, 5).integers(2**63, size=4).tolist() == expected.tolist()


def test_host_streams_all_differ():
    """Catches an argument that is left out, added to another or exchanged with it: two streams would be one."""
    assert len({host_draw(*arguments) for arguments in ARGUMENTS}) == len(ARGUMENTS)


def test_same_arguments_same_stream():
    """Catches hidden state: a resumed loop must draw what it would have drawn."""
    assert [host_draw(*arguments) for arguments in ARGUMENTS] == [host_draw(*arguments) for arguments in ARGUMENTS]


def test_generation_defaults_to_the_first():
    """Catches a default generation that is not the one of the real rows."""
    assert host_draw(4, Purpose.REAL_ROWS, 0) == tuple(host_generator(4, Purpose.REAL_ROWS).integers(2**63, size=2))
