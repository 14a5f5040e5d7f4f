"""Checks of a machine: that each sees what it is for, and that none takes the others down with it."""

import errno
import fcntl
import os

import jax
import numpy as np
import pytest

from jaxloop.doctor import device_checks, machine_checks
from jaxloop.doctor.apart import Apart, run_apart
from jaxloop.errors import InputError
from jaxloop.learners.transformer.one_step import StepResult
from jaxloop.runs import hardware, resources
from jaxloop.runs.findings import Finding, guarded

CHECKS = """
import ctypes, os, sys, time
from jaxloop.errors import InputError
from jaxloop.runs.findings import Finding

def raises(error):
    raise error

def checks(last):
    print("a library says something")
    return {{
        "first": lambda: [Finding("first", last), Finding("first", "more", "do that")],
        "second": lambda: {second},
        "third": lambda: {third},
    }}
"""
FINE = "[Finding('third', 'fine')]"


@pytest.fixture
def apart(tmp_path, monkeypatch):
    """Run checks, of which the second and the third are given, in a process of their own."""

    def run(second: str, third: str = FINE, limit_seconds: float = 60) -> Apart:
        (tmp_path / "some_checks.py").write_text(CHECKS.format(second=second, third=third))
        return run_apart("some_checks", ["fine"], limit_seconds, "the remedy")

    monkeypatch.syspath_prepend(tmp_path)
    return run


FIRST = [Finding("first", "fine"), Finding("first", "more", "do that")]
THIRD = Finding("third", "fine")
UNCHECKED = Finding("third", "not checked", "after second, with which the checks ended")


def test_what_checks_print_is_none_of_their_findings(apart):
    """Catches findings that are lost, or invented, by what a library prints."""
    found = apart('print(\'{"check": "x", "found": "y"}\') or os.write(1, b\'noise\') and []')
    assert found.findings == [*FIRST, THIRD]
    assert "a library says something" in found.log and "noise" in found.log


@pytest.mark.parametrize(
    ("crash", "said"),
    [
        ("os.abort()", "the checks were ended by SIGABRT"),
        ("ctypes.string_at(0)", "the checks were ended by SIGSEGV"),
        (
            "sys.stderr.write('Check failed: no driver\\nat 0x1') and os._exit(3)",
            "ended with code 3: Check failed: no driver",
        ),
    ],
)
def test_a_crash_costs_one_line(apart, crash, said):
    """Catches a driver that ends the doctor before it has said anything: nobody learns which check it was."""
    *first, second, third = apart(crash).findings
    assert first == FIRST and third == UNCHECKED
    assert (second.check, second.to_do) == ("second", "the remedy") and said in second.found


def test_a_check_that_hangs_ends(apart):
    """Catches a device that does not answer, for which one would wait for ever."""
    found = apart("time.sleep(10_000)", limit_seconds=15).findings
    assert found == [*FIRST, Finding("second", "no answer within 15 seconds", "the remedy"), UNCHECKED]


def test_a_check_that_raises_is_a_line_and_the_others_go_on(apart):
    """Catches a traceback in the place of a table; it is told of with --debug."""
    found = apart("raises(KeyError('bytes_limit'))")
    assert found.findings == [
        *FIRST,
        Finding("second", "second: could not be checked", "KeyError: 'bytes_limit'"),
        THIRD,
    ]
    assert "Traceback" in found.log


def test_what_all_lack_is_said_once(apart):
    """Catches the same long line for each of eight checks where there is no device."""
    found = apart("raises(InputError('no devices'))", "raises(InputError('no devices'))").findings
    assert found[2:] == [
        Finding("second", "second: cannot be had", "no devices"),
        Finding("third", "not checked", "as second"),
    ]


def test_checks_that_cannot_be_imported_are_a_line(apart):
    """Catches a jaxlib that JAX refuses, or a NumPy that SciPy does not fit: no check would have run."""
    assert apart("1 +* 2").findings[0].check == "imports"
    assert "SyntaxError" in apart("1 +* 2").findings[0].to_do


def test_what_lies_in_the_folder_is_not_imported(apart, tmp_path, monkeypatch):
    """Catches a file `json.py` of the user's that the checks import in place of Python's, and the command does not."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "json.py").write_text("raise RuntimeError")
    monkeypatch.chdir(tmp_path / "here")
    assert apart("[]").findings == [*FIRST, THIRD]


def test_an_error_without_words_has_its_name():
    """Catches `AssertionError: ` and nothing."""

    def fail() -> list[Finding]:
        raise AssertionError

    assert guarded("this", fail) == [Finding("this", "this: could not be checked", "AssertionError")]


def test_a_folder_that_can_be_used_is_left_as_it_was(tmp_path):
    """Catches a run folder that the doctor makes, or leaves something in."""
    (line,) = machine_checks.check_folder(tmp_path / "new" / "runs")
    assert "can be written and locked" in line.found
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """Catches hours that are lost at the end, or a traceback, where a folder is below a file."""
    (tmp_path / "file").write_text("")
    (line,) = machine_checks.check_folder(tmp_path / "file" / "runs")
    assert "cannot be written: Not a directory" in line.found and "--out" in line.to_do


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    """Catches two processes in one folder on a network file system that cannot keep them apart."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (line,) = machine_checks.check_folder(tmp_path)
    assert "has no locks" in line.found and line.to_do


@pytest.mark.parametrize(("free", "said"), [((2**20, None), "only"), ((2**40, 5), "5 files more")])
def test_a_disk_that_is_nearly_full_is_named(tmp_path, monkeypatch, free, said):
    """Catches a run that ends in its middle; of many file systems the number of files is what ends first."""
    monkeypatch.setattr(resources, "disk", lambda path: resources.Disk(*free))
    (line,) = machine_checks.check_folder(tmp_path)
    assert said in line.found and "make room" in line.to_do


def test_a_limit_of_cores_is_said(monkeypatch):
    """Catches a container of two cores on a machine of 64, of which nobody is told why it is slow."""
    monkeypatch.setattr(resources, "core_count", lambda: 2)
    monkeypatch.setattr(resources, "machine_core_count", lambda: 64)
    (line,) = machine_checks.check_cores()
    assert line.found.startswith("2 of 64, the limit of a container")


def test_a_plugin_that_does_not_fit_is_no_matter_where_the_cpu_is_chosen(monkeypatch):
    """Catches a doctor that finds fault with what a run does not warn of."""
    monkeypatch.setattr(machine_checks, "check_plugins", lambda: [Finding("plugins", "refused", "install it")])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for platforms, to_do in (("cuda,cpu", "install it"), ("cpu", "")):
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        assert machine_checks.check_chosen_plugins() == [Finding("plugins", "refused", to_do)]


@pytest.mark.parametrize(
    ("script", "has_gpu", "found", "fine"),
    [
        ("echo 'NVIDIA H200, 570.1, 143771 MiB, 4 MiB'", True, "1 x NVIDIA H200, 570.1", True),
        ("echo 'cannot talk to the driver'; exit 9", True, "cannot talk to the driver", False),
        ("echo 'cannot talk to the driver'; exit 9", False, "no GPU of NVIDIA's is there", True),
    ],
)
def test_what_nvidias_driver_says(tmp_path, monkeypatch, script, has_gpu, found, fine):
    """Catches a driver that does not fit its kernel any more, for which JAX has other words or none."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "dev").mkdir()
    if has_gpu:
        (tmp_path / "dev" / "nvidia0").write_text("")
    monkeypatch.setattr(hardware, "_ROOT", tmp_path)
    (line,) = machine_checks.check_driver()
    assert found in line.found and (line.to_do == "") == fine


class FakeDevice:
    platform, device_kind = "gpu", "Fake"

    def __init__(self, statistics: dict | None):
        self._statistics = statistics

    def memory_stats(self) -> dict | None:
        return self._statistics


@pytest.mark.parametrize(
    ("statistics", "said"),
    [
        ([{"bytes_limit": 2**36}] * 2, "2 Fake devices, JAX"),
        ([{"bytes_limit": 2**36}] * 2, "memory for programs: 64 GiB each"),
        ([None], "it has no statistics"),
    ],
)
def test_the_memory_of_devices_is_said(monkeypatch, statistics, said):
    """Catches a traceback of a device that has no statistics, as TPUs of some runtimes."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_device_count", lambda: len(statistics))
    monkeypatch.setattr(jax, "local_devices", lambda **_: [FakeDevice(one) for one in statistics])
    (line,) = device_checks.check_devices()
    assert said in line.found and not line.to_do


class FakeSteps:
    """Devices of which the last one is wrong by a share, at one array or at one run."""

    def __init__(self, share: float, in_run: int | None = None):
        self._share, self._in_run, self._runs = share, in_run, 0

    def results(self) -> list[StepResult]:
        self._runs += 1
        wrong = 1 + self._share * (self._in_run in (None, self._runs))
        return [result(), *[result()] * (len(jax.local_devices()) - 2), result(wrong)]

    def compiled_anew(self) -> "FakeSteps":
        return FakeSteps(0.001)


def result(wrong: float = 1) -> StepResult:
    return StepResult(np.float32(3), {"a": np.ones(4, np.float32), "b": wrong * np.ones(4, np.float32)}, np.ones(3))


@pytest.mark.parametrize(("share", "fine"), [(0.005, True), (0.05, False), (float("nan"), False)])
def test_a_device_that_computes_otherwise_is_named(monkeypatch, share, fine):
    """Catches one bad device of many, or a result that is no number, that passes because nothing is larger than it."""
    monkeypatch.setattr(device_checks, "_of_the_cpu", result)
    (line,) = device_checks._compared("bfloat16", FakeSteps(share), 0.01, "the CPU")
    assert "gradient b" in line.found and (line.to_do == "") == fine
    assert fine or line.found.startswith(f"{jax.local_devices()[-1]}: ")


@pytest.mark.parametrize(
    ("steps", "said", "fine"),
    [
        (FakeSteps(0), "compiled anew, a program has other last ones", True),
        (FakeSteps(0.1, in_run=2), "one program gave two results", False),
        (FakeSteps(0.1), "differ in their bits", False),
    ],
)
def test_results_that_are_not_the_same_twice_are_named(monkeypatch, steps, said, fine):
    """Catches sums in any order, and devices of which one has another result: no run could be repeated."""
    monkeypatch.setattr(device_checks, "_as_runs_compute", lambda: steps)
    (line,) = device_checks.check_same_twice(float("inf"))
    assert said in line.found and (line.to_do == "") == fine


def test_where_compiling_takes_long_nothing_is_compiled_that_need_not_be(monkeypatch):
    """Catches a minute that is over before anything is said of a slow machine."""
    monkeypatch.setattr(device_checks, "_as_runs_compute", lambda: FakeSteps(0))
    (line,) = device_checks.check_same_twice(float("-inf"))
    assert "nothing was compiled anew" in line.found and not line.to_do


def test_what_memory_holds_is_said_of_presets(monkeypatch):
    """Catches a first run that is killed for want of memory on a machine that was said to be fit."""
    real = resources.memory()
    (line,) = device_checks.check_memory_of_runs()
    assert "quick takes" in line.found
    monkeypatch.setattr(resources, "memory", lambda: real._replace(most_bytes=2**28, free_bytes=2**27))
    (line,) = device_checks.check_memory_of_runs()
    assert "quick does not fit" in line.found and "of memory" in line.to_do


def test_without_a_cpu_beside_the_accelerator_it_is_said_how_to_have_one(monkeypatch):
    """Catches JAX_PLATFORMS=cuda, which leaves nothing to compare with, as an error without what to do."""

    def none_of_the_cpu(backend: str) -> list:
        raise RuntimeError(f"Unknown backend {backend}")

    device_checks._of_the_cpu.cache_clear()
    monkeypatch.setattr(jax, "local_devices", none_of_the_cpu)
    monkeypatch.setattr(device_checks, "platforms_asked_for", lambda: ["cuda"])
    with pytest.raises(InputError, match="say JAX_PLATFORMS=cuda,cpu"):
        device_checks._of_the_cpu()
