"""A generation that is the same on every machine: its random numbers change where somebody means it."""

import hashlib
import json

import numpy as np
import pytest
from processes import TESTS

from jaxloop.config.presets import load
from jaxloop.config.schema import loops
from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.loop.run_loops import run_loops
from jaxloop.systems.registry import learner_of, system_of

WHAT_TO_DO = (
    "\nThe rows of a loop are others than they were: a random number is drawn otherwise, or a memory, a source or a "
    "learner does another thing. If that was not meant, it is a fault. If it was, every result that anybody has "
    "published with this version changes: say so in notebooks/changelog.md, and write the new digest here:\n"
)


def digest(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


# Of each memory the last training rows of `resample`, whose every choice is a whole number.
MEMORIES = {
    "full_synthetic": "92cf0dd3867e6df2",
    "balanced": "1fe3e576c53e1ce8",
    "incremental": "29d691224c381caf",
    "expanding": "5f3d22e54a695f67",
    "window": "6e4d00c43152ec43",
    "subsampled": "c0b5f40a893053e0",
    "fixed_real": "19bdb82341631934",
}


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_rows_of_a_loop_are_what_they_were(memory):
    """Catches a purpose, a seed or an order that changes: results that cannot be compared with earlier ones."""
    settings = ["grid={}", "learner.name=resample", f"cycle.name={memory}", "cycle.fresh_share=0.3"]
    config = load(str(TESTS / "tiny.toml"), [*settings, "cycle.generations=5"])
    system, records = system_of(config), []
    run_loops(loops(config), {}, system, learner_of(system, config, 1), lambda *_: {}, records.append, lambda *_: None)
    carries = [record.state.carry for record in records]
    found = digest(*(array for carry in carries for rows in carry for array in rows), records[-1].state.sampled)
    assert found == MEMORIES[memory], WHAT_TO_DO + json.dumps({memory: found})


def test_the_source_of_the_gaussian_is_what_it_was():
    """Catches real rows that are drawn otherwise."""
    config = load("gaussian")
    rows = system_of(config).first_rows(config, 3)
    expected = host_generator(3, Purpose.REAL_ROWS).standard_normal(config.cycle.rows)
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
