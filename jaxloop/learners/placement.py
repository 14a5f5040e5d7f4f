"""Many loops at once: how the axis of loops is laid over the devices of the machine.

On the CPU every core is a device and computes one loop at a time: the program of a device never depends on how many
loops there are, so a loop's results do not either. On accelerators each device maps several loops together.
"""

import contextlib
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxloop.config.schema import PopulationSettings

# The axis of a mesh along which devices share the work of one loop.
SHARES = "shares"

# What a program reads and what it gives back: before it is sent, or on a device, or traced.
Array = jax.Array | np.ndarray


def on_cpu() -> bool:
    """Whether programs run on the CPU, and not on accelerators; all that goes by it asks here."""
    return jax.default_backend() == "cpu"


def nvidia_capability() -> tuple[int, ...]:
    """The compute capability of an NVIDIA GPU, (9, 0) for an H100; nothing where programs do not run on one."""
    device = jax.config.values["jax_default_device"] or jax.local_devices()[0]
    parts = str(getattr(device, "compute_capability", "")).split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()


def _compiler_options() -> dict[str, str] | None:
    """What XLA is told of programs."""
    return _of_the_cpu() if on_cpu() else None


@functools.cache
def _of_the_cpu() -> dict[str, str] | None:
    """No YNNPACK, whose threads fight over products as small as ours.

    Without it a loop that is alone trains a fifth faster. The option is XLA's own affair and may go one day.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def measuring_device() -> jax.Device:  # pyright: ignore[reportInvalidTypeForm]
    """The device of what the host measures: the CPU device that is the last to be given a loop."""
    try:
        return jax.local_devices(backend="cpu")[-1]
    except RuntimeError:  # JAX was told to use accelerators only.
        return jax.local_devices()[-1]


@jax.custom_batching.custom_vmap
def most_of_mapped(count: jax.Array) -> jax.Array:
    """The greatest of the loops mapped together: where the bounds of a loop differ, JAX copies all that it holds."""
    return count


@most_of_mapped.def_vmap
def _most_of_mapped(axis_size, in_batched, counts):
    return jax.numpy.max(counts, axis=0), False


def device_memory_bytes() -> int | None:
    """What programs may take of the memory of an accelerator; None where the device does not tell, as on a CPU."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit")


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far; on accelerators, that of the first device."""
    statistics_of_device = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics_of_device:
        return statistics_of_device["peak_bytes_in_use"]
    # Linux hands `ru_maxrss` on from the process that starts another one, however large that was.
    with contextlib.suppress(OSError):  # Other systems do not have it, and a sandbox may not tell.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        if peak := re.search(r"VmHWM:\s*(\d+) kB", status):
            return int(peak[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows counts it elsewhere.
        held = psutil.Process().memory_info()
        return getattr(held, "peak_wset", held.rss)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def planned_bytes(program: jax.stages.Wrapped, *shapes: object) -> int:
    """Memory that a mapped program takes on each device, as XLA plans it: arguments, results and what lies between."""
    memory = program.lower(*shapes).compile().memory_analysis()
    if memory is None:
        return 0
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return held + memory.temp_size_in_bytes


def greatest_divisor(number: int, most: int) -> int:
    """The greatest divisor of a number that is no greater than the most."""
    return max(divisor for divisor in range(1, most + 1) if number % divisor == 0)


class Placement:
    """Places for loops: some on each device, filled in order; those left over train nothing.

    Where there are more accelerators than loops, several of them can share one loop's places: as many as divide the
    shares that its work has, on the axis `SHARES` of the mesh. What they do not share each of them does.
    """

    def __init__(self, settings: PopulationSettings, loop_count: int, shares: int = 1):
        there = jax.local_devices()
        # No more devices than loops, but two on a CPU, for the reason given in `environment.use_all_cores`.
        devices = min(len(there), max(loop_count, 2 if on_cpu() else 1))
        self.per_device = min(settings.loops_per_device, loop_count) or (1 if on_cpu() else -(-loop_count // devices))
        self.places = devices * self.per_device
        self.sharing = 1 if on_cpu() else greatest_divisor(shares, len(there) // devices)
        self.mesh = Mesh(np.array(there[: devices * self.sharing]).reshape(devices, -1), ("loops", SHARES))
        self._sharding = NamedSharding(self.mesh, PartitionSpec("loops"))

    def hints(self, setting: str, most: int) -> list[str]:
        """What would use accelerators that stand idle, where this setting has the shares of a loop's work.

        Args:
          setting: its name.
          most: into how many shares the work can be divided sensibly.
        """
        there, rows = jax.local_device_count(), len(self.mesh.devices)
        could_share = min(there // rows, most)
        if on_cpu() or could_share <= self.sharing:
            return []
        idle = there - self.mesh.devices.size
        return [
            f"{idle} of {there} devices stand idle; a run with {setting}={could_share}, in a folder of its own, would "
            "let them share the steps of each loop"
        ]

    def map(self, function: Callable, donate: tuple[int, ...] = ()) -> jax.stages.Wrapped:
        """Compile a function of one loop's arrays into one of arrays with a leading axis of places."""

        def one_device(*arrays):
            if self.per_device > 1:
                return jax.vmap(function)(*arrays)
            results = function(*jax.tree.map(lambda array: array[0], arrays))
            return jax.tree.map(lambda result: jax.numpy.asarray(result)[None], results)

        spread = jax.shard_map(
            one_device,
            mesh=self.mesh,
            in_specs=PartitionSpec("loops"),
            out_specs=PartitionSpec("loops"),
            check_vma=False,
        )
        return jax.jit(spread, donate_argnums=donate, compiler_options=_compiler_options())

    def put(self, members: list[Any]) -> Any:
        """Stack one tree of arrays a loop along the axis of places, and send each to its device.

        Places that are left over repeat the loops' arrays.
        """
        filled = [members[place % len(members)] for place in range(self.places)]
        return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *filled), self._sharding)

    def shapes(self, member: Any) -> Any:
        """What `put` would make of loops like this one, without making it."""
        return jax.tree.map(lambda leaf: self._shape((self.places, *np.shape(leaf)), np.asarray(leaf).dtype), member)

    def results(self, program: Callable, *arrays: object) -> Any:
        """The shapes of what a mapped program gives back."""
        return jax.tree.map(lambda leaf: self._shape(leaf.shape, leaf.dtype), jax.eval_shape(program, *arrays))

    def _shape(self, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._sharding)

    def repeat(self, arrays: Any, loops: int) -> Any:
        """The arrays of the first places, which have the loops, in those that are left over too, as `put` has them."""
        source = np.arange(self.places) % loops
        return jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf)[source], arrays), self._sharding)
