"""Which accelerators the system has, whatever JAX makes of them."""

import contextlib
import os
from pathlib import Path

_ROOT = Path("/")


def is_there(platform_name: str) -> bool:
    """Whether the system has a device of this platform, whatever JAX makes of it."""
    patterns = {
        "cuda": ("dev/nvidia[0-9]*", "dev/nvidiactl", "dev/dxg", "proc/driver/nvidia/version"),
        "rocm": ("dev/kfd",),
        "tpu": ("dev/accel[0-9]*",),
    }
    if any(next(_ROOT.glob(pattern), None) for pattern in patterns[platform_name]):
        return True
    # Newer TPUs are devices of VFIO; whatever else is one is of another vendor than Google.
    return platform_name == "tpu" and any(_ROOT.glob("dev/vfio/[0-9]*")) and "0x1ae0" in pci_vendors()


def is_cpu_chosen(platforms: str) -> bool:
    """Whether somebody has said that the CPU is to compute, by the platforms of JAX or by hiding all GPUs."""
    return platforms.split(",")[0] == "cpu" or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")


def pci_vendors() -> set[str]:
    """The vendors of all devices on the PCI bus."""
    found = set()
    for path in _ROOT.glob("sys/bus/pci/devices/*/vendor"):
        with contextlib.suppress(OSError):
            found.add(path.read_text(encoding="utf-8").strip())
    return found
