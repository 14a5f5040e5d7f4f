"""Whether this machine is fit for jaxloop: every check, in at most a minute, whatever crashes or hangs."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from jaxloop.doctor.apart import run_apart
from jaxloop.runs.findings import Finding

_MACHINE_SECONDS, _DEVICE_SECONDS = 20, 50


class Examination(NamedTuple):
    """What all checks found, and what was said beside it: warnings of libraries, tracebacks."""

    findings: list[Finding]
    log: str


def examine(out: Path) -> Examination:
    """Look at packages, devices, folders, cores and memory.

    Args:
      out: the folder where runs would go; nothing is left there.
    """
    parts = (
        (
            "jaxloop.doctor.machine_checks",
            [str(out)],
            _MACHINE_SECONDS,
            "a driver or a disk does not answer: look at nvidia-smi and at what is mounted",
        ),
        (
            "jaxloop.doctor.device_checks",
            [],
            _DEVICE_SECONDS,
            "put JAX, its plugin or the driver right; JAX_PLATFORMS=cpu computes on the CPU meanwhile",
        ),
    )
    with ThreadPoolExecutor(len(parts)) as pool:
        found = list(pool.map(lambda part: run_apart(*part), parts))
    return Examination([line for one in found for line in one.findings], "".join(one.log for one in found))
