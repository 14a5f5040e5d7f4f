"""Devices, and the folder of compiled programs: decided once a process, so most tests have one of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from processes import TESTS, output_of
from tiny import results

from jaxloop.learners import placement
from jaxloop.runs.resources import core_count

RUN = """
import collections, json, sys
from pathlib import Path
import jax
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rpartition("/")[2]]))
sys.path.insert(0, sys.argv[1])
import tiny
tiny.run_tiny(Path(sys.argv[2]), "cycle.generations=2", *sys.argv[3:])
print(json.dumps([events["compile_requests_use_cache"], events["cache_hits"], jax.config.jax_compilation_cache_dir]))
"""


def run_with_caches_in(home: Path, run: Path, *overrides: str) -> tuple[int, int, str | None]:
    """Run the tiny config as somebody with this home; programs asked for, those found compiled, and the folder."""
    environment = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "caches"),
        "JAX_COMPILATION_CACHE_DIR": None,
        "MPLCONFIGDIR": str(home / "matplotlib"),  # it would say where it cannot write
    }
    return tuple(json.loads(output_of(RUN, TESTS, run, *overrides, **environment)))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The first start of a user: home, run folder, and what was compiled."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "home").mkdir()
    return folder / "home", folder / "run", run_with_caches_in(folder / "home", folder / "run")


def test_a_second_start_compiles_nothing(first, tmp_path):
    """A program whose key depends on the process, or that is too small or too quick for JAX to keep it, is compiled at
    each start; one that is read back must give the same bits.
    """
    home, run, (programs, found, folder) = first
    assert programs > 3 and found == 0
    assert Path(folder).is_relative_to(home)
    kept = sorted(path.name for path in Path(folder).iterdir())
    assert len(kept) == programs
    assert run_with_caches_in(home, tmp_path / "run") == (programs, programs, folder)
    assert sorted(path.name for path in Path(folder).iterdir()) == kept
    assert results(tmp_path / "run") == results(run)


def test_without_a_cache_folder_the_run_goes_on(tmp_path):
    """A home that cannot be written to, as on many clusters, must not stop a run."""
    (tmp_path / "caches").write_text("a file where the folder should be")
    programs, found, folder = run_with_caches_in(tmp_path, tmp_path / "run", "learner.name=ngram")
    assert (found, folder) == (0, None) and programs > 0
    assert (tmp_path / "run/summary.csv").exists()


def test_a_folder_that_jax_was_told_of_is_used(tmp_path):
    """Somebody who has set up JAX's own cache, for a cluster say, must find everything there and nothing elsewhere."""
    (tmp_path / "told").mkdir()
    code = "from jaxloop.runs.environment import *; prepare()\n"
    code += "print(jax.jit(lambda x: x + 1)(1), jax.config.jax_compilation_cache_dir)"
    told = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "caches")}
    output = output_of(code, **told, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "told"))
    assert output.split() == ["2", str(tmp_path / "told")]
    assert len(list((tmp_path / "told").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["told"]


def test_each_kind_of_processor_has_its_own_programs(tmp_path):
    """A home may be shared by machines: a program for instructions that this one lacks would end the process."""
    code = """
from jaxloop.runs import environment
folders = []
for lines in (["flags: a b", "model name: x"], ["model name: x", "flags: a b"], ["model name: x", "flags: a b c"]):
    environment.processor_lines = lambda: lines
    environment.jax.config.update("jax_compilation_cache_dir", None)
    environment.keep_compiled_programs()
    folders.append(environment.jax.config.jax_compilation_cache_dir)
print(folders[0] == folders[1], folders[0] == folders[2])
"""
    told = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": None}
    assert output_of(code, **told).split() == ["True", "False"]


def test_every_core_is_a_device():
    """Fewer devices than cores leave cores idle, more cost speed; a single one would be compiled for differently."""
    code = "import jax, os, sys; from jaxloop.learners import placement; from jaxloop.runs.environment import *\n"
    code += "use_all_cores(); print(len(jax.devices()), placement.measuring_device() == jax.devices()[-1])"
    assert output_of(code, JAX_PLATFORMS="cpu").split() == [str(max(core_count(), 2)), "True"]
    if hasattr(os, "sched_setaffinity"):
        one = "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])\n"
        assert output_of(one + code, JAX_PLATFORMS="cpu").split() == ["2", "True"]


def test_devices_that_are_in_use_already_are_left_alone():
    """A notebook that has used JAX before must not get an error from it."""
    code = "import jax; jax.numpy.zeros(1).block_until_ready(); before = jax.devices()\n"
    code += "from jaxloop.runs.environment import *; prepare(); print(jax.devices() == before)"
    assert output_of(code, JAX_PLATFORMS="cpu").split() == ["True"]


def test_more_loops_than_places_and_fewer():
    """A place that is not filled must not be taken for a loop, and no loop must be left without one."""
    code = """
import jax
jax.config.update("jax_num_cpu_devices", 5)
from jaxloop.config.schema import PopulationSettings
from jaxloop.learners.placement import Placement
for per_device in (0, 1, 3):
    settings = PopulationSettings(loops_per_device=per_device)
    print([[Placement(settings, loops).places, Placement(settings, loops).mesh.size] for loops in (1, 2, 4, 9)])
"""
    one, same, three = (json.loads(line) for line in output_of(code, JAX_PLATFORMS="cpu").splitlines())
    assert one == same == [[2, 2], [2, 2], [4, 4], [5, 5]]
    assert three == [[2, 2], [4, 2], [12, 4], [15, 5]]


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    """XLA's options come and go; one that is gone must cost speed, and not the run."""
    jit = jax.jit

    def jit_of_another_day(function, compiler_options=None, **others):
        return jit(function, compiler_options=compiler_options and {"xla_of_another_day": "1"}, **others)

    placement._of_the_cpu.cache_clear()
    known = placement._compiler_options()
    assert known is None or jit(lambda: 0, compiler_options=known)() == 0
    placement._of_the_cpu.cache_clear()
    monkeypatch.setattr(jax, "jit", jit_of_another_day)
    assert placement._compiler_options() is None
    placement._of_the_cpu.cache_clear()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_the_memory_of_a_parent_is_not_counted():
    """Linux hands the peak of a process on to those that it starts: from a large notebook every run seemed as large."""
    child = "from jaxloop.learners.placement import peak_memory_bytes; print(peak_memory_bytes())"
    parent = f"import subprocess, sys; held = b'1' * 2**30; subprocess.run([sys.executable, '-c', {child!r}])"
    held = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True).stdout
    assert 2**26 < int(held) < 2**29
