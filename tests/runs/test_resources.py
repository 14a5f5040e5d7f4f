"""What the process may have: limits of containers, which stand in folders of text, and of `ulimit`."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from jaxloop.runs import resources

GIB = 2**30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Build a machine's control groups: what /proc/self/cgroup says, and files below /sys/fs/cgroup."""

    def build(says: str, **files: object) -> None:
        for name, content in {"proc/self/cgroup": says, **files}.items():
            path = tmp_path / (name if name.startswith("proc") else f"sys/fs/cgroup/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")

    monkeypatch.setattr(resources, "_ROOT", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory_of(64 * GIB))
    return build


def memory_of(total: int):
    """A machine of so much memory, of which three quarters are free."""
    return type("Memory", (), {"total": total, "available": 3 * total // 4})


V1_NONE = 2**63 - 4096
V1 = "memory.limit_in_bytes"
LIMITED = {
    "version 2, the container's own root": ("0::/", {"memory.max": 8 * GIB}, 8),
    "version 2, a group within others of which one has less": (
        "0::/user.slice/job.scope/step",
        {
            "user.slice/memory.max": "max",
            "user.slice/job.scope/memory.max": 3 * GIB,
            "user.slice/job.scope/step/memory.max": 5 * GIB,
        },
        3,
    ),
    "version 2, slowed down from a limit on": ("0::/a", {"a/memory.max": "max", "a/memory.high": 4 * GIB}, 4),
    "version 2, no limit": ("0::/a", {"a/memory.max": "max"}, 64),
    "version 1": ("4:memory:/job\n0::/", {f"memory/{V1}": V1_NONE, f"memory/job/{V1}": 6 * GIB}, 6),
    "version 1, with the path of the host outside of the container": (
        "7:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123",
        {f"memory/{V1}": 2 * GIB},
        2,
    ),
    "version 1, no limit": ("4:memory:/", {f"memory/{V1}": V1_NONE}, 64),
    "both versions": ("4:memory:/a\n0::/b", {f"memory/a/{V1}": 7 * GIB, "unified/b/memory.max": 6 * GIB}, 6),
    "more than the machine has": ("0::/", {"memory.max": 99 * GIB}, 64),
    "a path out of the tree": ("0::/../x", {"memory.max": 5 * GIB}, 5),
    "nothing but the file": ("", {}, 64),
}


@pytest.mark.parametrize("case", LIMITED)
def test_the_least_limit_of_all_groups_holds(case, groups):
    """Catches a limit that is not seen, in either version or above the process's own group: the kernel then kills the
    run without a word. And one that is seen where there is none, which would refuse a run.
    """
    says, files, gib = LIMITED[case]
    groups(says, **files)
    memory = resources.memory()
    assert memory.most_bytes == gib * GIB
    assert memory.limit == ("this machine has" if gib == 64 else "the container may have")


def test_what_others_in_the_container_hold_is_not_free(groups):
    """Catches memory that another process has counted as free, and the cache of files, which is given back, as held."""
    groups(
        "0::/job",
        **{
            "job/memory.max": 8 * GIB,
            "job/memory.current": 5 * GIB,
            "job/memory.stat": f"anon 1\nfile 9\ninactive_file {2 * GIB}\n",
        },
    )
    assert resources.memory().free_bytes == 5 * GIB
    groups("4:memory:/", **{f"memory/{V1}": 4 * GIB, "memory/memory.usage_in_bytes": 3 * GIB})
    assert resources.memory().free_bytes == 1 * GIB


def test_without_control_groups_the_machine_counts(tmp_path, monkeypatch):
    """Catches a traceback on macOS and Windows, which have none."""
    monkeypatch.setattr(resources, "_ROOT", tmp_path)
    memory = resources.memory()
    assert memory.most_bytes == psutil.virtual_memory().total
    assert 0 < memory.held_bytes < memory.most_bytes and memory.free_bytes > 0
    assert resources.core_count() >= 1


QUOTAS = {
    "version 2": ("0::/a", {"a/cpu.max": "150000 100000"}, 2),
    "version 2, above": ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
    "version 2, a part of a core": ("0::/", {"cpu.max": "20000 100000"}, 1),
    "version 1": (
        "1:cpu,cpuacct:/a",
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
        4,
    ),
    "version 1, no quota": ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
    "no quota": ("0::/", {"cpu.max": "max 100000"}, 64),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_a_quota_of_time_counts_as_cores(case, groups, monkeypatch):
    """Catches 64 devices in a container of two cores' time: 64 models in its memory, which throttle each other."""
    says, files, cores = QUOTAS[case]
    groups(says, **files)
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert resources.core_count() == cores
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda _: range(1), raising=False)
    assert resources.core_count() == 1


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_AS"), reason="only Linux has such limits")
def test_a_limit_of_addresses_counts():
    """Catches a batch system's limit (`ulimit -v`) that is not seen: allocations then fail in the middle of a run."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2)\n"
    code += "from jaxloop.runs.resources import memory; found = memory(); print(found.most_bytes / 2**30, found.limit)"
    words = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert 2 < float(words[0]) <= 3 and words[1:] == ["ulimit", "leaves"]


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    """Catches the room of another disk, and a traceback, for a folder that the run will make."""
    there, beside = resources.disk(tmp_path / "runs" / "new"), resources.disk(Path(tmp_path))
    assert there.free_bytes == pytest.approx(beside.free_bytes, rel=0.1)
    assert there.free_files is None or there.free_files > 0
