"""What a process computes on: what JAX is told, accelerators that stand idle, programs that are damaged."""

import json
import os
import subprocess
import sys
from importlib import metadata

import jax
import pytest
from processes import TESTS, python
from tiny import results, run_tiny

from jaxloop.runs import environment, hardware

TINY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny
tiny.run_tiny(Path(sys.argv[2]), *sys.argv[3:])
"""
ONE = ["cycle.generations=2", "cycle.fresh_share=0.5"]
HOSTILE = {
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "3",
    "JAX_ENABLE_X64": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    "JAX_DISABLE_JIT": "1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_DEBUG_NANS": "1",
    "JAX_DEBUG_INFS": "1",
    "JAX_TRANSFER_GUARD": "disallow",
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    run_tiny(path, *ONE)
    return path


def test_what_the_environment_tells_jax_changes_no_bit(undisturbed, tmp_path):
    """Other random bits, other widths of numbers, a run that ends in its middle, by a variable of a shell."""
    done = python(TINY, TESTS, tmp_path / "run", *ONE, **HOSTILE)
    assert (done.returncode, done.stderr) == (0, "")
    assert results(tmp_path / "run") == results(undisturbed)


def test_what_jax_is_told_are_its_own_defaults():
    """A value that is none of JAX's defaults would change the results of everybody."""
    code = "import jax, json; print(json.dumps({n: str(getattr(v, 'value', v)) for n, v in jax.config.values.items()}))"
    without = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    output = subprocess.run([sys.executable, "-c", code], env=without, capture_output=True, text=True, check=True)
    defaults = json.loads(output.stdout)
    for name, value in environment._SETTINGS.items():
        if name in defaults and not name.startswith("jax_transfer_guard"):
            assert defaults[name] == str(value), name


def test_what_xla_reads_itself_is_said_and_among_what_results_depend_on(monkeypatch):
    """A flag of XLA changes last bits, and nothing in a run folder would tell; the number of devices changes none."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    assert environment.complaints() == [] and "XLA_FLAGS" not in environment.results_depend_on()
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_cpu_enable_fast_math=true")
    assert environment.results_depend_on()["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=true"
    assert "XLA_FLAGS is set (--xla_cpu_enable_fast_math=true)" in environment.complaints()[0]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without an accelerator, whose devices and installed plugins are added to; nobody asks for the CPU."""
    monkeypatch.setattr(hardware, "_ROOT", tmp_path / "root")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    platforms = jax.config.jax_platforms
    jax.config.update("jax_platforms", None)
    monkeypatch.syspath_prepend(tmp_path / "site")

    def add(*paths: str, **plugins: str) -> None:
        for path in paths:
            (tmp_path / "root" / path).mkdir(parents=True)
        for name, version in plugins.items():
            folder = tmp_path / "site" / f"{name}-{version}.dist-info"
            folder.mkdir(parents=True)
            text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
            (folder / "METADATA").write_text(text)

    yield add
    jax.config.update("jax_platforms", platforms)


def test_a_machine_without_an_accelerator_is_no_matter(machine):
    """A warning on every laptop is one that nobody reads."""
    machine("dev/null", "dev/vfio/vfio", "dev/vfio/12")
    assert environment.complaints() == []


@pytest.mark.parametrize("part", ["plugin", "pjrt"])
def test_a_plugin_of_another_jax_is_named_with_what_to_do(machine, part):
    """pip replaces JAX and leaves the plugin, as on Colab: JAX then runs on the CPU without a word."""
    machine("dev/nvidia0", **{f"jax_cuda12_{part}": "0.1.2"})
    (line,) = environment.complaints()
    assert line.startswith("THE GPU IS NOT USED") and "which is of JAX 0.1.2" in line
    assert f"pip install 'jax[cuda12]=={metadata.version('jax')}'" in line


@pytest.mark.parametrize(
    ("path", "words", "package"),
    [
        ("dev/nvidia0", "AN NVIDIA GPU IS THERE", "jaxloop-collapse[cuda]"),
        ("dev/nvidia3", "AN NVIDIA GPU IS THERE", "jaxloop-collapse[cuda]"),
        ("proc/driver/nvidia/version", "AN NVIDIA GPU IS THERE", "jaxloop-collapse[cuda]"),
        ("dev/kfd", "AN AMD GPU IS THERE", f"jax[rocm7-local]=={metadata.version('jax')}"),
        ("dev/accel0", "A TPU IS THERE", "jaxloop-collapse[tpu]"),
    ],
)
def test_an_accelerator_that_jax_does_not_use_is_named_with_what_to_do(machine, path, words, package):
    """Hours on two cores beside an idle accelerator."""
    machine(path)
    (line,) = environment.complaints()
    assert line.startswith(words) and f"pip install '{package}'" in line


def test_a_plugin_that_fits_and_does_not_come_up_is_told_with_jaxs_reason(machine):
    """An old driver: the plugin is right, and to install it again helps nobody who is not told why."""
    machine("dev/nvidia0", jax_cuda13_plugin=metadata.version("jaxlib"))
    (line,) = environment.complaints()
    assert "JAX says: " in line and "jax[cuda13]" in line


def test_a_platform_that_is_asked_for_and_not_there_is_named(machine):
    """Catches hours on two cores where `JAX_PLATFORMS=cuda,cpu` meant a GPU: JAX takes the CPU without a word."""
    jax.config.update("jax_platforms", "cuda,cpu")
    (line,) = environment.complaints()
    assert "JAX_PLATFORMS asks for cuda first" in line and "pip install 'jaxloop-collapse[cuda]'" in line


@pytest.mark.parametrize(
    ("asked", "advice"),
    [("cuda", "[cuda]'"), ("gpu", "[cuda]'"), ("tpu", "[tpu]'"), ("nothing_of_the_kind", "knows cuda, rocm, tpu")],
)
def test_devices_that_are_not_there_are_a_refusal_in_words(asked, advice, tmp_path):
    """Catches `AssertionError: ` as all that is said of `JAX_PLATFORMS=cuda` on a machine without a GPU."""
    done = python(TINY, TESTS, tmp_path / "run", *ONE, JAX_PLATFORMS=asked)
    last = done.stderr.splitlines()[-1]
    assert f"InputError: JAX_PLATFORMS={asked}: JAX finds no such devices" in last and advice in last


BROKEN = """
import sys
from jaxloop.runs.environment import complaints, prepare
prepare()
for line in complaints():
    print(line)
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "def initialize(): raise RuntimeError('no driver\\nmore')",
            "jax_plugins.broken.initialize(): RuntimeError: no driver",
        ),
        (
            "raise ImportError('libcuda.so.1: cannot open')",
            "could not be loaded: ImportError: libcuda.so.1: cannot open",
        ),
    ],
)
def test_a_broken_plugin_is_one_line(text, said, tmp_path):
    """Catches a plugin that fails, in whose place the CPU computes: JAX prints a traceback, and goes on."""
    folder = tmp_path / "jax_plugins" / "broken"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(text)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = python(BROKEN, PYTHONPATH=path, JAX_PLATFORMS=None)
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith("JAX has a broken plugin: ") and said in line and "JAX_PLATFORMS=cpu" in line


def test_programs_that_cannot_be_kept_are_named_with_what_to_do(tmp_path, monkeypatch):
    """Catches a folder that cannot be written: every start compiles anew for minutes, and nothing tells why."""
    (tmp_path / "file").write_text("")
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file"))
    try:
        (line,) = environment.complaints()
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
    assert (
        line.startswith(f"compiled programs cannot be kept in {tmp_path / 'file'}")
        and "JAX_COMPILATION_CACHE_DIR" in line
    )


def test_what_is_compiled_anew_is_not_read_from_what_is_kept(tmp_path):
    """Catches a comparison of a kept program with itself: JAX asks once only whether it keeps programs."""
    code = """
import collections
import jax
from jaxloop.runs.environment import nothing_kept, prepare
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rpartition("/")[2]]))
prepare()
program = jax.jit(lambda x: x + 1)
program(1.0)
with nothing_kept():
    program(1.0)
print(events["compile_requests_use_cache"], events["cache_hits"])
jax.clear_caches()
program(1.0)
print(events["compile_requests_use_cache"], events["cache_hits"])
"""
    assert python(code, JAX_COMPILATION_CACHE_DIR=str(tmp_path)).stdout == "1 0\n2 1\n"


@pytest.mark.parametrize("asked", ["platforms", "hidden"])
def test_who_asks_for_the_cpu_gets_no_warning(machine, monkeypatch, asked):
    machine("dev/nvidia0", jax_cuda12_plugin="0.1.2")
    if asked == "platforms":
        jax.config.update("jax_platforms", "cpu")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environment.complaints() == []


def test_a_damaged_program_is_compiled_once_more_and_then_kept(tmp_path):
    """JAX never replaces what it cannot read: each start would compile it again, and warn; so would half a file."""
    code = """
import collections, sys
import jax
from jaxloop.runs.environment import prepare
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rpartition("/")[2]]))
prepare()
jax.jit(lambda x: x + 1)(1.0), jax.jit(lambda x: x * x)(2.0)
print(events["compile_requests_use_cache"], events["cache_hits"])
"""
    folder = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    assert python(code, **folder).stdout == "2 0\n"
    first, second = sorted(tmp_path.glob("*-cache"))
    whole = first.read_bytes(), second.read_bytes()
    first.write_bytes(whole[0][: len(whole[0]) // 2])
    second.write_bytes(b"")
    mended = python(code, **folder)
    assert (mended.stdout, mended.stderr) == ("2 0\n", "")
    again = python(code, **folder)
    assert (again.stdout, again.stderr) == ("2 2\n", "")


def test_every_module_can_be_imported_and_run_without_posix(undisturbed, tmp_path):
    """Windows has neither `resource` nor `fcntl`: an import of one alone would stop everything there."""
    without = """
import importlib, os, pkgutil, sys, psutil
for name in ("resource", "fcntl"):
    sys.modules[name] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "sched_getaffinity", "statvfs"):
    delattr(os, name)
import jaxloop
for module in pkgutil.walk_packages(jaxloop.__path__, "jaxloop."):
    if module.name != "jaxloop.__main__":
        importlib.import_module(module.name)
"""
    after = "from jaxloop.learners.placement import peak_memory_bytes; assert peak_memory_bytes() > 2**20"
    done = python(without + TINY + after, TESTS, tmp_path / "run", *ONE)
    assert (done.returncode, done.stderr) == (0, "")
    assert results(tmp_path / "run") == results(undisturbed)
