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
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import platformdirs
from jax.experimental.compilation_cache import compilation_cache

from jaxloop.errors import InputError
from jaxloop.learners.placement import on_cpu
from jaxloop.runs.findings import Finding, guarded, reason
from jaxloop.runs.hardware import is_cpu_chosen, is_there
from jaxloop.runs.resources import core_count
from jaxloop.runs.versions import check_packages, check_plugins, check_python, cuda_extra, refused_cuda

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
_CPU_MEANT = "JAX_PLATFORMS=cpu says that the CPU is meant"


def _told(name: str) -> Any:
    """What JAX was told of a setting, by its environment or by a program; None where this JAX has no such setting."""
    return jax.config.values.get(name)


def prepare() -> None:
    """Tell JAX all that results depend on, which devices there are and where programs are kept; changes the process.

    To be called before JAX computes anything; again does no harm.
    """
    for name, value in _SETTINGS.items():
        if name in jax.config.values:
            jax.config.update(name, value)
    _hear_of_plugins()
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
    return max(_told("jax_num_cpu_devices"), int(flag[1]) if flag else 0)


def keep_compiled_programs() -> None:
    """Keep what XLA compiles in the user's cache folder, so that a second start compiles nothing.

    Where JAX has been told of a folder already (JAX_COMPILATION_CACHE_DIR), that one is used.
    """
    if not _told("jax_compilation_cache_dir"):
        folder = _own_cache()
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


def _own_cache() -> Path:
    """The folder of compiled programs in the user's cache folder."""
    # A home folder may be shared by machines whose processors differ: each kind has its own programs.
    processor = "".join(sorted(set(processor_lines())))
    kind = hashlib.sha256(processor.encode()).hexdigest()[:12]
    return platformdirs.user_cache_path("jaxloop") / "compiled" / kind


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """Compile what is compiled within anew, whatever is kept of it.

    JAX asks once in a process whether programs are kept, and has to be told to ask again.
    """
    kept = _told("jax_enable_compilation_cache")
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    jax.clear_caches()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
        compilation_cache.reset_cache()


class _DamagedPrograms(logging.Filter):
    """Removes what is kept of a program that JAX could not read, before JAX keeps it anew.

    JAX itself never replaces what is there, and would compile the program at every start. It says of each program, in
    its log, which file it missed: one that is there is damaged, or half written.
    """

    def __init__(self, above: logging.Logger):
        super().__init__()
        self._above = above

    def filter(self, record: logging.LogRecord) -> bool:
        folder = _told("jax_compilation_cache_dir")
        told = record.args if isinstance(record.args, tuple) else ()
        if folder and str(record.msg).startswith("PERSISTENT COMPILATION CACHE MISS") and len(told) == 2:
            with contextlib.suppress(OSError):
                (Path(folder) / f"{told[1]}-cache").unlink(missing_ok=True)
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


class _BrokenPlugins(logging.Filter):
    """Keeps what JAX says of plugins that it cannot load, in place of a traceback in its log."""

    def __init__(self):
        super().__init__()
        self.said: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith("Jax plugin configuration error"):
            return True
        error = record.exc_info[1] if record.exc_info else None
        # JAX forgets to say which plugin it is, where that cannot be imported.
        about = str(record.msg) if "%s" in str(record.msg) and not record.args else record.getMessage()
        about = about.partition(": ")[2].replace("Plugin module %s", "a plugin")
        self.said.append(f"{about}: {reason(error)}" if error else about)
        return False


def _hear_of_plugins() -> _BrokenPlugins:
    """Who keeps what JAX says of broken plugins, in this process."""
    logger = logging.getLogger("jax._src.xla_bridge")
    heard = next((one for one in logger.filters if isinstance(one, _BrokenPlugins)), None) or _BrokenPlugins()
    logger.addFilter(heard)  # again does nothing
    return heard


def require_devices() -> None:
    """Reach the devices, or refuse.

    Raises:
      InputError: there are none, because JAX was told to use some that it does not find, or a plugin is broken.
    """
    try:
        jax.local_devices()
    except Exception as error:  # Each JAX has another one; some say nothing.
        said = [*_hear_of_plugins().said, *([reason(error)] if str(error) else [])]
        why = "; ".join(said) or "there are none of that kind"
        asked = _told("jax_platforms")
        if asked:
            raise InputError(
                f"JAX_PLATFORMS={asked}: JAX finds no such devices ({why}); unset it, or install what it needs: "
                f"{_installation(platforms_asked_for()[0])}; {_CPU_MEANT}"
            ) from None
        raise InputError(f"JAX finds no devices ({why}); reinstall the plugin, or remove it; {_CPU_MEANT}") from None


def _installation(platform_name: str) -> str:
    """The command that installs JAX's plugin for a platform."""
    if platform_name == "rocm":
        return f"pip install 'jax[rocm7-local]=={metadata.version('jax')}'"
    extra = {"gpu": "cuda", "cuda": "cuda", "tpu": "tpu"}.get(platform_name)
    return f"pip install 'jaxloop-collapse[{extra}]'" if extra else "jaxloop knows cuda, rocm, tpu, cpu"


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
    """What is not as it should be with that on which is computed, a sentence each: the cheap checks of `doctor`.

    Raises:
      InputError: there is nothing to compute on.
    """
    require_devices()
    checks = {"Python": check_python, "packages": check_packages, **cheap_checks()}
    if on_cpu() and not is_cpu_meant():
        checks["plugins"] = check_plugins
    found = [one for name, look in checks.items() for one in guarded(name, look)]
    return [one.sentence for one in found if one.to_do]


def cheap_checks() -> dict[str, Callable[[], list[Finding]]]:
    """Checks of what JAX has made of this machine, by name; they take no time, and compute nothing."""
    return {
        "accelerator": check_accelerator,
        "environment": check_environment,
        "compiled programs": check_compiled_programs,
    }


def check_accelerator() -> list[Finding]:
    """Why no accelerator computes where one is there or was meant to, and what to do."""
    check = "accelerator"
    found = [Finding(check, f"JAX has a broken plugin: {said}", _mending()) for said in _hear_of_plugins().said]
    if not on_cpu():
        return found or [Finding(check, f"{jax.local_devices()[0].device_kind} computes")]
    if is_cpu_meant():
        return [Finding(check, "none, the CPU is meant")]
    if refused_cuda():
        return [*found, Finding(check, "no GPU computes, for the reason that stands at plugins")]
    return [*found, *_idle_accelerators()] or [Finding(check, "none is there")]


def check_environment() -> list[Finding]:
    """What the environment tells that results depend on."""
    found = [
        Finding(
            "environment",
            f"{name} is set ({value}): results may differ in their last bits from those without it",
            "unset it, or keep it for all that is compared",
        )
        for name, value in _read_below_jax().items()
    ]
    if on_cpu() and len(jax.local_devices()) < 2:
        found.append(
            Finding(
                "environment",
                "JAX was in use before with one CPU device: the last bits of results differ from those of a process "
                "that begins with jaxloop",
                "begin with jaxloop where that matters",
            )
        )
    return found or [Finding("environment", "says nothing that results depend on")]


def check_compiled_programs() -> list[Finding]:
    """Whether compiled programs are kept."""
    check, every_start = "compiled programs", "every start compiles all anew"
    folder = _told("jax_compilation_cache_dir")
    if not _told("jax_enable_compilation_cache"):
        return [Finding(check, f"are not kept, JAX_ENABLE_COMPILATION_CACHE says so: {every_start}")]
    if folder and "://" in folder:
        return [Finding(check, f"are kept in {folder}, which was not looked at")]
    place = Path(folder) if folder else _own_cache()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(2**16))
    except OSError as error:
        return [
            Finding(
                check,
                f"compiled programs cannot be kept in {place} ({error.strerror or error}): {every_start}",
                "name a folder that can be written with JAX_COMPILATION_CACHE_DIR",
            )
        ]
    return [Finding(check, f"are kept in {place}")]


def _read_below_jax() -> dict[str, str]:
    """What the environment tells what lies under JAX, but for the number of devices, which changes no result."""
    values = {name: _DEVICE_COUNT.sub("", os.environ.get(name, "")).strip() for name in _READ_BELOW_JAX}
    return {name: value for name, value in values.items() if value}


def platforms_asked_for() -> list[str]:
    """What JAX was told to compute on, the first one first; an empty text where it may choose."""
    return str(_told("jax_platforms") or _told("jax_platform_name") or "").split(",")


def is_cpu_meant() -> bool:
    """Whether somebody has said that the CPU is to compute."""
    return is_cpu_chosen(",".join(platforms_asked_for()))


def _mending() -> str:
    """What to do where a plugin is broken."""
    cuda = cuda_extra()
    again = f"pip install --force-reinstall 'jax[{cuda}]=={metadata.version('jax')}'" if cuda else "reinstall it"
    return f"{again}, or remove it; {_CPU_MEANT}"


def _idle_accelerators() -> list[Finding]:
    """Accelerators that are there, or were asked for, and do not compute, while the CPU does."""
    for name, platform_name in (("AN NVIDIA GPU", "cuda"), ("AN AMD GPU", "rocm"), ("A TPU", "tpu")):
        if is_there(platform_name):
            # What is installed and does not come up is of the right kind.
            extra = cuda_extra() if platform_name == "cuda" else None
            install = (
                f"pip install 'jax[{extra}]=={metadata.version('jax')}'" if extra else _installation(platform_name)
            )
            return [
                Finding(
                    "accelerator",
                    f"{name} IS THERE AND NOT USED, all runs on the CPU: {_why_not(platform_name)}",
                    f"run: {install}; {_CPU_MEANT}",
                )
            ]
    asked = platforms_asked_for()[0]
    if asked:
        return [
            Finding(
                "accelerator",
                f"JAX_PLATFORMS asks for {asked} first, and none is there: all runs on the CPU",
                f"unset it, or install what it needs: {_installation(asked)}",
            )
        ]
    return []


def _why_not(platform_name: str) -> str:
    """What JAX says of a platform that it does not use."""
    try:
        jax.devices(platform_name)
    except RuntimeError as error:
        return f"JAX says: {(str(error).splitlines() or ['nothing'])[0]}"
    return "JAX was told to prefer another platform"
