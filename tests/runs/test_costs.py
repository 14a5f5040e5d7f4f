"""What a run is said to need, against what XLA plans, what a process really holds, and the memory that is there."""

import json
import math
import re
import subprocess
import sys

import jax
import pytest
from processes import TESTS
from tiny import run_tiny, tiny_config

from jaxloop.config.presets import load
from jaxloop.config.schema import loops
from jaxloop.errors import InputError
from jaxloop.learners.transformer.costs import place_parts, weight_count
from jaxloop.learners.transformer.model import make_model
from jaxloop.runs import costs, resources, runner
from jaxloop.runs.capacity import make_learner, needed_bytes
from jaxloop.runs.costs import require_memory, size_text, total
from jaxloop.runs.measuring import measures_of
from jaxloop.runs.programs import programs
from jaxloop.systems.logic import system
from jaxloop.systems.logic.system import Logic
from jaxloop.systems.logic.vocabulary import VOCABULARY

LOGIC = Logic()
GIB = 2**30


def needed(source: str, *overrides: str) -> float:
    """Bytes that a run is said to need."""
    return total(require_memory(programs(loops(load(source, overrides))), LOGIC, lambda message: None))


@pytest.fixture
def there(monkeypatch):
    """Let this process have so much memory, of which so much is free."""

    def have(most: float, free: float | None = None) -> None:
        free = most if free is None else free
        memory = resources.Memory(int(most), 0, int(free), "the container may have")
        monkeypatch.setattr(resources, "memory", lambda: memory)

    return have


@pytest.mark.parametrize("overrides", [(), ("model.layers=3", "model.width=24", "model.context_tokens=20")])
def test_weights_are_counted_without_making_them(overrides):
    """Catches a matrix that is left out: the greatest part of what a large model needs."""
    settings = tiny_config(*overrides).model
    shapes = jax.eval_shape(make_model(settings, VOCABULARY).init, jax.random.key(0))
    assert weight_count(settings, VOCABULARY) == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def test_what_a_loop_takes_of_a_device_is_what_xla_plans():
    """Catches an estimate that knows nothing of the optimiser, of a second model, or of what the sampler keeps."""
    large = ("model.width=256", "sample.batch_rows=3000", "cycle.rows=3000")
    (program,) = programs(loops(tiny_config("grid={}", *large)))
    measures = measures_of(LOGIC, program.loops)
    planned = needed_bytes(make_learner(program, LOGIC, measures), program, LOGIC, measures)
    assert 0.7 < total(place_parts(program.config, VOCABULARY)) / planned < 1.6


PEAK = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny
from jaxloop.learners.placement import peak_memory_bytes
tiny.run_tiny(Path(sys.argv[2]), *sys.argv[3:])
print(json.dumps(peak_memory_bytes()))
"""


@pytest.mark.parametrize(
    "overrides",
    [
        ("cycle.rows=60000", "learner.name=ngram", "model.context_tokens=100", "cycle.name=balanced", "seeds=[0, 1]"),
        ("model.width=1024", "train.steps=1", "cycle.generations=1"),
    ],
)
def test_what_a_run_is_said_to_need_is_about_what_it_holds(overrides, tmp_path):
    """Catches rows, models or tables that are not counted, or counted twice: a run that is killed, or refused."""
    settings = ["cycle.generations=2", "grid={}", *overrides]
    arguments = [sys.executable, "-c", PEAK, str(TESTS), str(tmp_path / "run"), *settings]
    peak = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    said = total(require_memory(programs(loops(tiny_config(*settings))), LOGIC, lambda message: None))
    assert 0.6 < said / peak < 2


def test_a_model_that_cannot_fit_is_refused_before_anything_is_made(there, tmp_path, monkeypatch):
    """Catches width 4096 under 8 GiB: the kernel kills it without a word. The line says what is needed, what is there
    and what to lower.
    """
    monkeypatch.setattr(runner, "measures_of", lambda system, loops: pytest.fail("something was made first"))
    there(8 * GIB)
    with pytest.raises(InputError) as refusal:
        run_tiny(tmp_path / "run", "model.width=4096", "model.layers=2")
    words = (
        r"the run needs about 2\d.* GiB of memory, and the container may have 8 GiB; 2\d.* GiB are for models: lower "
    )
    assert re.match(words + "model.width or model.layers$", str(refusal.value))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sample.batch_rows=100000", "cycle.rows=100000"], "lower sample.batch_rows"),
        (["cycle.rows=1000000", "learner.name=resample"], "lower cycle.rows"),
        (["cycle.rows=30000", "cycle.name=balanced", "cycle.generations=500", "learner.name=oracle"], "are for rows"),
        (["cycle.rows=100", "cycle.generations=100000", "learner.name=resample"], "run fewer cells, seeds or gen"),
        (["train.steps=1000000"], "lower train.steps"),
    ],
)
def test_the_refusal_names_what_takes_the_memory(overrides, words, there):
    """Catches advice that changes nothing."""
    there(3 * GIB)
    with pytest.raises(InputError, match=words):
        require_memory(programs(loops(load("bench", overrides))), LOGIC, lambda message: None)


def test_a_run_that_hardly_fits_is_warned_of(there, tmp_path):
    """Catches a run that is refused although it may fit, and one that is killed without having been told of."""
    found = programs(loops(tiny_config("learner.name=resample")))
    need, said = total(require_memory(found, LOGIC, lambda message: None)), []
    for most, free, warnings in ((4, 4, 0), (1.2, 1.2, 1), (0.9, 0.9, 2), (4, 1, 3)):
        there(most * need, free * need)
        require_memory(found, LOGIC, said.append)
        assert len(said) == warnings, (most, free)
    display = run_tiny(tmp_path / "run", "learner.name=resample")
    assert display.warnings == said[-1:] and "are free" in said[-1]


def test_where_memory_is_short_fewer_models_are_trained_at_once(there, monkeypatch):
    """Catches a machine of many cores and little memory, on which each core begins a model."""
    devices = jax.local_devices() * 32
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    config = tiny_config("model.width=1024", "grid={}", f"seeds={list(range(100))}")
    (program,) = programs(loops(config))
    each = total(costs.learner_parts(program, LOGIC, 1))
    for count in (64, 10, 2):
        there(2**40, (count + 0.5) * each / 0.8 + 2**28)
        assert costs.fitting_places(program, LOGIC) == pytest.approx(count, abs=1)
    there(0.5 * each)
    assert costs.fitting_places(program, LOGIC) == 2
    # What cannot be had with 64 models at once is no reason to refuse the run.
    there(10 * each)
    said = []
    require_memory([program], LOGIC, said.append)
    assert "fewer models are trained at once" in said[0]


def test_more_devices_than_fit_are_not_used(monkeypatch):
    """Catches a learner that does not ask."""
    counts = []
    monkeypatch.setattr(system, "transformer_learner", lambda config, count: counts.append(count))
    monkeypatch.setattr(costs, "fitting_places", lambda program, system: 3)
    (program,) = programs(loops(tiny_config("grid={}", "seeds=[0,1,2,3,4]")))
    make_learner(program, LOGIC, {})
    assert counts == [3]


def test_an_accelerator_that_cannot_hold_a_single_loop_is_named(there, monkeypatch):
    """Catches minutes of compiling, and a halving of loops that ends with one, for a model that no device holds."""
    there(1000 * GIB)
    monkeypatch.setattr(costs, "device_memory_bytes", lambda: 8 * GIB)
    found = programs(loops(load("bench", ["model.width=8192"])))
    with pytest.raises(InputError, match=r"a loop needs about .* and a device has 8 GiB"):
        require_memory(found, LOGIC, lambda message: None)


def test_sizes_are_said_as_people_say_them():
    """Catches bytes that nobody reads, and 1,234 GiB with six digits."""
    said = [size_text(size) for size in (1000, 3 * 2**20, 1.5 * GIB, 1200 * GIB)]
    assert said == ["0.977 KiB", "3 MiB", "1.5 GiB", "1,200 GiB"]
