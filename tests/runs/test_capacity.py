"""How many loops are mapped together, and what happens where memory runs out, on accelerators and on CPUs."""

import jax
import pytest
from processes import TESTS, output_of
from tiny import results, run_tiny, tiny_config

from jaxloop.config.schema import loops
from jaxloop.errors import RunError
from jaxloop.learners.transformer.learner import TransformerLearner
from jaxloop.runs import capacity, runner
from jaxloop.runs.capacity import make_learner, needed_bytes
from jaxloop.runs.measuring import measures_of
from jaxloop.runs.programs import programs
from jaxloop.systems.logic import system as logic_system
from jaxloop.systems.logic.learners import transformer_learner
from jaxloop.systems.registry import system_of

SEEDS = "seeds=[5,0,3]"
NO_MEMORY = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4.2 GiB")
# As accelerators say it; XLA on a CPU, of JAX 0.10 and of JAX 0.7; and NumPy, on the way there and back.
WORDS = [
    NO_MEMORY,
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 2062500000 bytes."),
    jax.errors.JaxRuntimeError(
        "INTERNAL: Buffer Definition Event: Error preparing computation: Out of memory allocating 2062500000 bytes."
    ),
    MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)"),
]


def memory_for(most_loops: int, monkeypatch, error: Exception = NO_MEMORY):
    """Let devices hold so many loops at once only; gives the numbers that were tried."""
    work, tried = TransformerLearner._work, []

    def limited(self, *arguments):
        tried.append(self.loops_per_device)
        if self.loops_per_device > most_loops:
            raise error
        return work(self, *arguments)

    monkeypatch.setattr(TransformerLearner, "_work", limited)
    return tried


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """A run with memory enough."""
    folder = tmp_path_factory.mktemp("runs") / "apart"
    run_tiny(folder, SEEDS)
    return results(folder)


def test_where_memory_runs_out_half_as_many_loops_go_on(apart, tmp_path, monkeypatch):
    """Catches a run of hours that ends, or loses or repeats a generation, where one loop less would have fitted."""
    tried = memory_for(1, monkeypatch)
    display = run_tiny(tmp_path / "mapped", SEEDS, "population.loops_per_device=4")
    assert tried[:3] == [4, 2, 1] and set(tried[3:]) == {1}
    assert display.warnings == [f"out of memory: going on with {count} loops at once" for count in (4, 2)]
    assert results(tmp_path / "mapped") == apart


@pytest.mark.parametrize("error", WORDS, ids=["accelerator", "cpu", "older cpu", "numpy"])
def test_memory_that_has_run_out_is_known_by_every_name_it_has(error):
    """Catches a CPU's or NumPy's words that are taken for a fault of another kind, and end the run."""
    (program,) = programs(loops(tiny_config("grid={}", SEEDS, "population.loops_per_device=2")))
    learner = transformer_learner(program.config, 3)
    assert learner.loops_per_device == 2
    assert capacity.half_as_many(learner, error).loops_per_device == 1


DEVICES = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 4)
sys.path.insert(0, sys.argv[1])
import tiny
from jaxloop.learners.transformer.learner import TransformerLearner
work, tried = TransformerLearner._work, []
def limited(self, *arguments):
    tried.append(self.devices)
    if self.devices > 2:
        raise MemoryError("Unable to allocate 7.45 GiB")
    return work(self, *arguments)
TransformerLearner._work = limited
tiny.run_tiny(Path(sys.argv[2]), "seeds=[5,0,3]")
print(tried[:3])
"""


def test_where_memory_runs_out_a_cpu_trains_on_half_as_many_cores(apart, tmp_path):
    """Catches a machine of many cores whose run ends where half of them would have had the memory; and results that
    depend on how many cores there are.
    """
    assert output_of(DEVICES, TESTS, tmp_path / "run", JAX_PLATFORMS="cpu").split() == ["[4,", "2,", "2]"]
    assert results(tmp_path / "run") == apart


def test_rows_that_could_not_be_measured_are_not_gone_on_from(tmp_path, monkeypatch):
    """Catches a run that goes on with fewer loops at once after memory ran out while a generation was *measured* (its
    rows would be missing for ever, and a resume refused), or ends in a traceback.
    """
    run_tiny(tmp_path / "undisturbed", SEEDS, "learner.name=resample")
    kept_of, failures = runner.kept_of, iter([NO_MEMORY, MemoryError()])

    def measured(record, *others):
        if record.state.generation == 1 and (error := next(failures, None)):
            raise error
        return kept_of(record, *others)

    monkeypatch.setattr(runner, "kept_of", measured)
    with pytest.raises(RunError, match=r"^memory ran out; .*--plan.*; what was measured before is kept$"):
        run_tiny(tmp_path / "run", SEEDS, "learner.name=resample")
    run_tiny(tmp_path / "run", SEEDS, "learner.name=resample")
    assert results(tmp_path / "run") == results(tmp_path / "undisturbed")


def test_where_a_single_loop_does_not_fit_the_run_says_what_to_lower(tmp_path, monkeypatch):
    """Catches an endless halving, and a traceback of XLA's."""
    memory_for(0, monkeypatch)
    with pytest.raises(RunError, match=r"does not hold a single loop; lower sample.batch_rows"):
        run_tiny(tmp_path / "run", SEEDS, "population.loops_per_device=2")


def test_another_fault_of_the_device_is_not_taken_for_too_little_memory(tmp_path, monkeypatch):
    """Catches a broken program that is tried again and again with fewer loops."""
    tried = memory_for(0, monkeypatch, jax.errors.JaxRuntimeError("INTERNAL: the device is on fire"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="on fire"):
        run_tiny(tmp_path / "run", SEEDS, "population.loops_per_device=2")
    assert tried == [2]


def of_memory(bytes_limit, monkeypatch, *overrides):
    """The learner that is made on a device of so much memory, and how to ask what it needs there."""
    config = tiny_config("seeds=[0,1,2,3]", "grid={}", "model.width=8", "sample.batch_rows=60", *overrides)
    (program,) = programs(loops(config))
    logic = system_of(config)
    measures = measures_of(logic, program.loops)
    monkeypatch.setattr(capacity, "device_memory_bytes", lambda: bytes_limit)
    learner = make_learner(program, logic, measures)
    return learner, lambda: needed_bytes(learner, program, logic, measures)


def test_no_more_loops_are_mapped_together_than_fit(monkeypatch):
    """Catches a population that is planned past the memory of the device, or one loop at a time where all would fit."""
    alone, needed_alone = of_memory(None, monkeypatch, "population.loops_per_device=1")
    four, needed_together = of_memory(None, monkeypatch, "population.loops_per_device=4")
    assert (alone.loops_per_device, four.loops_per_device) == (1, 4)
    needed, needed_by_four = needed_alone(), needed_together()
    assert 2 < needed_by_four / needed < 6, "memory grows about as the loops do"
    # A CPU maps one loop, so the whole population stands in for what an accelerator would try first.
    monkeypatch.setattr(logic_system, "transformer_learner", _all_at_once)
    for limit, least, most in ((100 * needed_by_four, 4, 4), (needed_by_four, 2, 3), (needed, 1, 1)):
        learner, _ = of_memory(limit, monkeypatch)
        assert least <= learner.loops_per_device <= most
    learner, _ = of_memory(needed, monkeypatch, "population.loops_per_device=3")
    assert learner.loops_per_device == 3, "the setting has the last word"


def _all_at_once(config, count):
    mapped = config.population.loops_per_device or count
    population = config.population.model_copy(update={"loops_per_device": mapped})
    return transformer_learner(config.model_copy(update={"population": population}), count)
