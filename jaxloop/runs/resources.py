"""What the process may have of this machine: memory, cores and disk, with the limits of containers and batch systems.

A container is limited by control groups of Linux. They stand in one another, and the least limit of all holds: from the
process's own group, which /proc/self/cgroup names, up to the root. In a container that path may be the host's, which
is not there; its root is then the container's own group. Version 1 has a tree for each controller, version 2 one tree.
"""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil

_ROOT = Path("/")


class Memory(NamedTuple):
    """The memory that this process can have."""

    most_bytes: int  # if nobody else held any
    held_bytes: int  # by this process, now
    free_bytes: int  # that it could take in addition, now
    limit: str  # what sets the most, in words


class Disk(NamedTuple):
    """The room on a disk."""

    free_bytes: int
    free_files: int | None  # None where the file system knows no such number


def _groups(controller: str) -> Iterator[Path]:
    """Folders of every control group that this process is in, for a controller; they need not exist."""
    try:
        lines = (_ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and controller not in controllers.split(","):
            continue
        group = PurePosixPath(path.removeprefix("/"))
        for mounted in (controllers, controller) if controllers else ("", "unified"):
            for folder in (group, *group.parents):
                yield _ROOT / "sys/fs/cgroup" / mounted / folder


def _words(path: Path) -> list[str]:
    """What a file of a control group holds; nothing where it is not there."""
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """The number in a file of a control group; None where there is none or no limit."""
    words = _words(path)
    return int(words[0]) if words and words[0].isdigit() else None


def _group_memory() -> Iterator[tuple[int, int]]:
    """(limit, held) in bytes for every control group that has a limit; what is held and can be given back not counted.

    Above memory.high nothing is killed, but everything is slowed down until it gets nowhere.
    """
    for group in _groups("memory"):
        for limit_name, held_name, idle_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.high", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _number(group / limit_name)
            if limit is not None:
                words = _words(group / "memory.stat")
                idle = dict(zip(words[::2], words[1::2], strict=False)).get(idle_name, "0")
                yield limit, max((_number(group / held_name) or 0) - int(idle), 0)


def memory() -> Memory:
    """The memory of the machine, or the least that a container, a batch system or `ulimit` leaves of it.

    Swap is not counted: a model that trains in it gets nowhere.
    """
    process, whole = psutil.Process(), psutil.virtual_memory()
    own = process.memory_info()
    most, free, limit = whole.total, whole.available, "this machine has"
    for group_most, held in _group_memory():
        free = min(free, group_most - held)
        if group_most < most:
            most, limit = group_most, "the container may have"
    if hasattr(psutil, "RLIMIT_AS"):
        for kind in (psutil.RLIMIT_AS, psutil.RLIMIT_DATA):
            # Addresses that are reserved and hold nothing count here as well.
            soft, _ = process.rlimit(kind)
            allowed = soft - (own.vms - own.rss)
            if soft != psutil.RLIM_INFINITY and allowed < most:
                most, limit = max(allowed, 0), "ulimit leaves"
    return Memory(most, own.rss, max(min(free, most - own.rss), 0), limit)


def core_count() -> int:
    """CPU cores that this process may use: those of its affinity, or fewer where a quota of time is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups("cpu"):
        quota, *period = _words(group / "cpu.max") or ["max"]
        if not period:
            quota, period = (_words(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            quota = (quota or ["max"])[0]
        if quota.isdigit() and period:
            cores = min(cores, max(math.ceil(int(quota) / int(period[0])), 1))
    return cores


def machine_core_count() -> int:
    """CPU cores of the machine, whoever may use them."""
    return os.cpu_count() or 1


def existing(path: Path) -> Path:
    """A folder that is there, or that of those above it in which it would be made."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def disk(path: Path) -> Disk:
    """The room for a folder that is there, or will be made."""
    there, files = existing(path), None
    if hasattr(os, "statvfs"):
        found = os.statvfs(there)
        files = found.f_favail if found.f_files else None
    return Disk(shutil.disk_usage(there).free, files)


def size_text(size: float) -> str:
    """So many bytes for a reader."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:,.3g} {name}" if size < 1000 * unit else f"{size / unit:,.0f} {name}"
    return f"{size / 2**10:,.3g} KiB"
