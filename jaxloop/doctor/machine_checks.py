"""Checks of a machine without JAX: packages, drivers, cores and memory, and the folder where runs would go."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from jaxloop.runs import resources
from jaxloop.runs.findings import Finding
from jaxloop.runs.hardware import is_cpu_chosen, is_there, pci_vendors
from jaxloop.runs.versions import check_packages, check_plugins, check_python

_NVIDIA, _NVIDIA_SECONDS = "0x10de", 15  # as a vendor on the PCI bus
_ROOMY_BYTES, _ROOMY_FILES = 2**30, 10_000
_TRIED_BYTES = 2**20


def checks(out: str) -> dict[str, Callable[[], list[Finding]]]:
    """All of them, by name.

    Args:
      out: the folder where runs would go.
    """
    return {
        "Python": check_python,
        "packages": check_packages,
        "plugins": check_chosen_plugins,
        "cores": check_cores,
        "memory": check_memory,
        # The last two may never come back, and then end the others.
        "folder of runs": lambda: check_folder(Path(out)),
        "NVIDIA's driver": check_driver,
    }


def check_chosen_plugins() -> list[Finding]:
    """JAX's plugins, with which nothing need be done where the CPU is chosen."""
    chosen = is_cpu_chosen(os.environ.get("JAX_PLATFORMS", ""))
    return [one._replace(to_do="" if chosen else one.to_do) for one in check_plugins()]


def check_driver() -> list[Finding]:
    """What NVIDIA's driver says of its GPUs; nothing where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = "--query-gpu=name,driver_version,memory.total,memory.used"
    done = subprocess.run(
        [program, asked, "--format=csv,noheader"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_NVIDIA_SECONDS,
        check=False,
    )
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode or not lines:
        said = f"nvidia-smi says: {lines[0] if lines else f'code {done.returncode}'}"
        if not (is_there("cuda") or _NVIDIA in pci_vendors()):
            return [Finding("NVIDIA's driver", f"{said}; no GPU of NVIDIA's is there")]
        return [Finding("NVIDIA's driver", said, "put the driver right, without it no GPU computes")]
    gpus = {line: lines.count(line) for line in lines}
    return [Finding("NVIDIA's driver", "; ".join(f"{count} x {line} used" for line, count in gpus.items()))]


def check_cores() -> list[Finding]:
    """The cores that a process may have, and how many models a run trains on them."""
    cores, there = resources.core_count(), resources.machine_core_count()
    limited = f" of {there}, the limit of a container, a batch system or an affinity" if cores < there else ""
    # Two at least, for the reason given in `environment.use_all_cores`.
    meaning = f"{max(cores, 2)} models train at once on the CPU"
    more = "more with population.loops_per_device, fewer where memory is short"
    return [Finding("cores", f"{cores}{limited}; {meaning} ({more})")]


def check_memory() -> list[Finding]:
    """The memory that a process may have."""
    memory = resources.memory()
    most, free = (resources.size_text(size) for size in (memory.most_bytes, memory.free_bytes))
    return [Finding("memory", f"{memory.limit} {most}, {free} are free")]


def check_folder(out: Path) -> list[Finding]:
    """Whether runs can be written, and locked, where they would go, and the room that there is."""
    # NumPy, which these import, may be what is broken.
    from jaxloop.files import write_whole
    from jaxloop.runs.lock import Lock

    check, another = "folder of runs", "name another folder with --out"
    there = resources.existing(out)
    disk = resources.disk(out)
    free = f"{out.absolute()}: {resources.size_text(disk.free_bytes)} free"
    found = []
    try:
        with tempfile.TemporaryDirectory(prefix=".jaxloop_doctor_", dir=there) as tried:
            write_whole(Path(tried) / "file", bytes(_TRIED_BYTES))
            lock = Lock(Path(tried), 0)
            lock.release()
    except OSError as error:
        return [Finding(check, f"{free}; {there} cannot be written: {error.strerror or error}", another)]
    if lock.warning:
        found.append(
            Finding(check, f"{there}: has no locks", f"take care that no two jaxloop run in one folder, or {another}")
        )
    if disk.free_bytes < _ROOMY_BYTES:
        found.append(Finding(check, f"only {free}", f"a long run may fill it: make room, or {another}"))
    if disk.free_files is not None and disk.free_files < _ROOMY_FILES:
        found.append(Finding(check, f"room for only {disk.free_files:,} files more", f"make room, or {another}"))
    return found or [Finding(check, f"{free}, can be written and locked")]
