"""One loop's steps over several accelerators; here devices of the CPU that pretend to be such."""

import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from processes import TESTS, output_of

from jaxloop.config.schema import PopulationSettings
from jaxloop.learners import placement
from jaxloop.learners.placement import SHARES, greatest_divisor
from jaxloop.learners.transformer.partial_sums import add_in_order


def test_parts_are_added_in_their_order_by_any_number_of_devices():
    """Catches sums in the order of devices or of arrival, a part that is added twice or left out, and arrays whose size
    no number of devices divides: the parts are so unlike in size that any other order has other bits.
    """
    generator = np.random.default_rng(0)
    parts = {
        "odd": generator.normal(size=(4, 7, 3)) * 10.0 ** generator.integers(-3, 4, (4, 7, 3)),
        "one": generator.normal(size=4),
    }
    parts = jax.tree.map(lambda array: np.asarray(array, np.float32), parts)
    expected = jax.tree.map(lambda array: ((array[0] + array[1]) + array[2]) + array[3], parts)
    reversed_sum = jax.tree.map(lambda array: ((array[3] + array[2]) + array[1]) + array[0], parts)
    assert not np.array_equal(expected["odd"], reversed_sum["odd"])
    nothing = jax.tree.map(lambda array: jnp.zeros(array.shape[1:]), parts)

    def summed(parts, devices):
        return add_in_order(lambda number: jax.tree.map(lambda array: array[number], parts), 4, devices, nothing)

    for devices in (1, 2):
        mesh = Mesh(np.array(jax.devices()[:devices]), (SHARES,))
        spread = jax.shard_map(
            lambda parts, devices=devices: summed(parts, devices),
            mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False,
        )  # fmt: skip
        jax.tree.map(np.testing.assert_array_equal, jax.jit(spread)(parts), expected)


@pytest.mark.parametrize(
    ("shares", "loops", "sharing", "needlessly_idle"),
    [(1, 1, 1, 7), (8, 1, 8, 0), (4, 2, 4, 0), (3, 1, 3, 5), (8, 3, 2, 0), (7, 2, 1, 6), (1, 8, 1, 0), (4, 20, 1, 0)],
)
def test_accelerators_that_are_left_over_share_a_loops_work(monkeypatch, shares, loops, sharing, needlessly_idle):
    """Catches devices that stand idle and nobody says so, and a division that leaves one of them more than another."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: list(range(8)))
    monkeypatch.setattr(jax, "local_device_count", lambda: 8)
    monkeypatch.setattr(placement, "Mesh", lambda devices, axes: SimpleNamespace(devices=devices))
    monkeypatch.setattr(placement, "NamedSharding", lambda mesh, spec: None)
    places = placement.Placement(PopulationSettings(), loops, shares)
    assert places.sharing == sharing
    assert places.mesh.devices.shape == (min(loops, 8), sharing)
    assert places.places == -(-loops // 8) * min(loops, 8)
    said = places.hints("its.setting", 100)
    assert not said or places.hints("its.setting", places.sharing) == []
    assert len(said) == bool(needlessly_idle)
    assert all(f"{needlessly_idle} of 8 devices stand idle" in line for line in said)
    for line in said:
        wanted = int(re.search(r"its.setting=(\d+)", line)[1])
        assert placement.Placement(PopulationSettings(), loops, wanted).hints("", 100) == []
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert placement.Placement(PopulationSettings(), loops, shares).sharing == 1


def test_the_greatest_divisor_is_one_that_fits():
    """Catches devices that would divide parts unevenly."""
    assert [greatest_divisor(12, most) for most in range(1, 14)] == [1, 2, 3, 4, 4, 6, 6, 6, 6, 6, 6, 12, 12]


TRAIN = """
import json, sys
import jax
sys.path.insert(0, sys.argv[1])
jax.config.update("jax_num_cpu_devices", 4)
from jaxloop.runs.environment import prepare
prepare()
jax.default_backend = lambda: "tpu"
import numpy as np
from tiny import tasks_of, tiny_config
from jaxloop.config.schema import loops
from jaxloop.systems.logic.learners import transformer_learner
from jaxloop.systems.logic.language import language_of

there, found = jax.local_devices(), []
for partial_sums, devices, count in ((4, 2, 2), (4, 2, 1), (4, 3, 1), (4, 4, 1), (1, 4, 2)):
    jax.local_devices = lambda *_, **__: there[:devices]
    config = tiny_config(
        "grid={}", f"seeds={[*range(count)]}", "model.dropout=0.1", "model.activations=float32",
        f"train.partial_sums={partial_sums}",
    )
    group, learner = loops(config), transformer_learner(config, count)
    rows_NxT = language_of(config.language).draw(np.random.default_rng(0), 60, 16)
    tasks = tasks_of(group, [0] * count, [rows_NxT] * count, [{"asked": learner.probe(rows_NxT)}] * count)
    (written, *_), _ = learner.finish(learner.start(tasks), lambda share: None)
    leaves = jax.tree.leaves(written.parameters)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
    found.append({
        "sharing": learner._placement.sharing,
        "chunk_rows": learner.shape.chunk_rows,
        "bits": b"".join(leaf.tobytes() for leaf in [*leaves, written.points, written.probed["asked"]]).hex(),
        "nats": float(written.probed["asked"][0].mean()),
    })
print(json.dumps(found))
"""


def test_a_loop_has_the_same_bits_on_any_number_of_accelerators():
    """Catches sums, dropout or samples that depend on how many devices share the loop; 30 steps on one device beside
    another loop, two, three (of which two are used) and four. (A program for nothing but one device XLA compiles
    otherwise, at least for CPUs.) Another number of partial sums is another rounding, no other model.
    """
    *sharing, single = json.loads(output_of(TRAIN, TESTS))
    assert [one["sharing"] for one in sharing] == [1, 2, 2, 4]
    assert len({one["bits"] for one in sharing}) == 1
    assert sharing[0]["chunk_rows"] < single["chunk_rows"]
    assert sharing[0]["bits"] != single["bits"]
    assert abs(sharing[0]["nats"] - single["nats"]) < 0.02 * abs(single["nats"])
