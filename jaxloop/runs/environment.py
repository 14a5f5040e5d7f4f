"""What a process computes on, and what JAX is told before it computes anything.

Results must be the same whatever somebody's shell or notebook has told JAX. What can be set is set here, for the whole
process; what cannot is said in words, and is among what results depend on.
"""

import contextlib
import hashlib
import logging
import os
import platform
import re
import warnings
from importlib import metadata
from pathlib import Path

import jax
import platformdirs

from jaxloop.runs.resources import core_count

_ROOT = Path("/")

# JAX's own defaults, for each of which there is a variable of the environment. A JAX that lacks one has no other value.
_SETTINGS = {
    # Which random numbers there are.
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_enable_custom_prng": False,
    # How wide and how exact numbers are.
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_default_matmul_precision": None,
    "jax_softmax_custom_jvp": False,
    "jax_accurate_erf_inv": False,
    "jax_allow_f16_reductions": True,
    # What is compiled.
    "jax_disable_jit": False,
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
    "jax_memory_fitting_effort": 0.0,
    "jax_memory_fitting_level": "O2",
    "jax_compiler_enable_remat_pass": True,
    "jax_enable_pgle": False,
    # What ends a run in its middle: infinite and undefined numbers are measures here, not errors.
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_debug_key_reuse": False,
    "jax_check_tracer_leaks": False,
    "jax_enable_checks": False,
    "jax_transfer_guard": "allow",
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
}
# Read by compilers and libraries under JAX when they are loaded.
_READ_BELOW_JAX = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
_DEVICE_COUNT = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def prepare() -> None:
    """Tell JAX all that results depend on, which devices there are and where programs are kept; changes the process.

    To be called before JAX computes anything; again does no harm.
    """
    for name, value in _SETTINGS.items():
        if name in jax.config.values:
            jax.config.update(name, value)
    use_all_cores()
    keep_compiled_programs()


def use_all_cores() -> None:
    """Make each core of a CPU a device of its own.

    Not one more: XLA keeps a thread for each device, and more threads than cores cost a quarter of the speed; unless
    JAX_NUM_CPU_DEVICES or XLA_FLAGS ask for a number. But two at least: XLA compiles a program for a single device
    differently, and its last bits would depend on that.
    """
    # Where the program around us has used JAX already, its devices are what there is.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", max(_devices_asked_for() or core_count(), 2))


def _devices_asked_for() -> int:
    """The number of CPU devices that the environment sets; 0 where it sets none."""
    flag = _DEVICE_COUNT.search(os.environ.get("XLA_FLAGS", ""))
    return max(jax.config.values["jax_num_cpu_devices"], int(flag[1]) if flag else 0)


def keep_compiled_programs() -> None:
    """Keep what XLA compiles in the user's cache folder, so that a second start compiles nothing.

    Where JAX has been told of a folder already (JAX_COMPILATION_CACHE_DIR), that one is used.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        # A home folder may be shared by machines whose processors differ: each kind has its own programs.
        processor = "".join(sorted(set(processor_lines())))
        kind = hashlib.sha256(processor.encode()).hexdigest()[:12]
        folder = platformdirs.user_cache_path("jaxloop") / "compiled" / kind
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    logger = logging.getLogger("jax._src.compiler")
    if not any(isinstance(one, _DamagedPrograms) for one in logger.filters):
        logger.addFilter(_DamagedPrograms(logger.parent or logging.getLogger()))
        logger.setLevel(logging.DEBUG)
    # Such a program is compiled once more and then replaced, so nobody need know.
    warnings.filterwarnings("ignore", message="Error reading persistent compilation cache entry")


class _DamagedPrograms(logging.Filter):
    """Removes what is kept of a program that JAX could not read, before JAX keeps it anew.

    JAX itself never replaces what is there, and would compile the program at every start. It says of each program, in
    its log, which file it missed: one that is there is damaged, or half written.
    """

    def __init__(self, above: logging.Logger):
        super().__init__()
        self._above = above

    def filter(self, record: logging.LogRecord) -> bool:
        folder = jax.config.values["jax_compilation_cache_dir"]
        is_miss = str(record.msg).startswith("PERSISTENT COMPILATION CACHE MISS")
        if folder and is_miss and isinstance(record.args, tuple) and len(record.args) == 2:
            with contextlib.suppress(OSError):
                (Path(folder) / f"{record.args[1]}-cache").unlink(missing_ok=True)
        # Nothing is printed that would not be without this.
        return record.levelno >= self._above.getEffectiveLevel()


def processor_lines() -> list[str]:
    """What the system says of the processor's model and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return [platform.machine(), platform.processor()]
    return [line for line in lines if line.startswith(("model name", "flags", "Features"))]


def processor_name() -> str:
    """The processor's model."""
    names = (line.split(":", 1)[1].strip() for line in processor_lines() if "model name" in line)
    return next(names, platform.machine())


def devices_in_words() -> str:
    """What this process computes on, such as `2 CPU devices, JAX 0.10.2`."""
    devices = jax.local_devices()
    kind = "CPU" if devices[0].platform == "cpu" else devices[0].device_kind
    words = f"{len(devices)} {kind} device{'' if len(devices) == 1 else 's'}, JAX {jax.__version__}"
    return words if jax.process_count() == 1 else f"{words}, process {jax.process_index()} of {jax.process_count()}"


def results_depend_on() -> dict[str, str]:
    """What the last bits of results depend on, beside the settings of the run."""
    device = jax.local_devices()[0]
    return {
        **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "platform": device.platform,
        "device": device.device_kind if device.platform != "cpu" else processor_name(),
        **_read_below_jax(),
    }


def complaints() -> list[str]:
    """What is not as it should be with that on which is computed, a sentence each."""
    found = []
    if jax.default_backend() == "cpu":
        found += _idle_accelerators()
        if len(jax.local_devices()) < 2:
            found.append(
                "JAX was in use before with one CPU device: the last bits of results differ from those of a process "
                "that begins with jaxloop"
            )
    found += [
        f"{name} is set ({value}): results may differ in their last bits from those without it"
        for name, value in _read_below_jax().items()
    ]
    return found


def _read_below_jax() -> dict[str, str]:
    """What the environment tells what lies under JAX, but for the number of devices, which changes no result."""
    values = {name: _DEVICE_COUNT.sub("", os.environ.get(name, "")).strip() for name in _READ_BELOW_JAX}
    return {name: value for name, value in values.items() if value}


def _idle_accelerators() -> list[str]:
    """Why no accelerator computes where one is there or was meant to, and what to do; none where the CPU is meant."""
    asked_for = (jax.config.values.get("jax_platforms") or jax.config.values.get("jax_platform_name") or "").split(",")
    if asked_for[0] == "cpu" or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    version, means_cpu = metadata.version("jax"), "JAX_PLATFORMS=cpu says that the CPU is meant"
    plugins = _cuda_plugins()
    for kind, of_jax in plugins.items():
        if of_jax != metadata.version("jaxlib"):
            return [
                f"THE GPU IS NOT USED, all runs on the CPU: JAX {version} refuses its CUDA plugin, which is of JAX "
                f"{of_jax}; run: pip install 'jax[{kind}]=={version}' (or, to keep the plugin, pip install jaxloop "
                f"again with 'jax=={of_jax}' beside it); {means_cpu}"
            ]
    for name, platform_name, extra in (
        ("AN NVIDIA GPU", "cuda", next(iter(plugins), "cuda")),
        ("AN AMD GPU", "rocm", "rocm7-local"),
        ("A TPU", "tpu", "tpu"),
    ):
        if _is_there(platform_name):
            return [
                f"{name} IS THERE AND NOT USED, all runs on the CPU: {_why_not(platform_name)}; run: pip install "
                f"'jax[{extra}]=={version}'; {means_cpu}"
            ]
    return []


def _cuda_plugins() -> dict[str, str]:
    """Versions of JAX's installed plugins for NVIDIA's GPUs, by the name of JAX's extra that installs them."""
    found = {}
    for kind in ("cuda13", "cuda12"):
        for part in ("plugin", "pjrt"):
            with contextlib.suppress(metadata.PackageNotFoundError):
                found.setdefault(kind, metadata.version(f"jax-{kind}-{part}"))
    return found


def _is_there(platform_name: str) -> bool:
    """Whether the system has a device of this platform, whatever JAX makes of it."""
    patterns = {
        "cuda": ("dev/nvidia[0-9]*", "dev/nvidiactl", "dev/dxg", "proc/driver/nvidia/version"),
        "rocm": ("dev/kfd",),
        "tpu": ("dev/accel[0-9]*",),
    }
    if any(next(_ROOT.glob(pattern), None) for pattern in patterns[platform_name]):
        return True
    # Newer TPUs are devices of VFIO; whatever else is one is of another vendor than Google.
    return platform_name == "tpu" and any(_ROOT.glob("dev/vfio/[0-9]*")) and "0x1ae0" in _pci_vendors()


def _pci_vendors() -> set[str]:
    """The vendors of all devices on the PCI bus."""
    found = set()
    for path in _ROOT.glob("sys/bus/pci/devices/*/vendor"):
        with contextlib.suppress(OSError):
            found.add(path.read_text(encoding="utf-8").strip())
    return found


def _why_not(platform_name: str) -> str:
    """What JAX says of a platform that it does not use."""
    try:
        jax.devices(platform_name)
    except RuntimeError as error:
        return f"JAX says: {(str(error).splitlines() or ['nothing'])[0]}"
    return "JAX was told to prefer another platform"
