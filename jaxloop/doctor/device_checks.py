"""Checks of the devices that JAX has: reached, right, and the same twice; and the runs that their memory holds."""

import contextlib
import functools
import importlib
import time
from collections.abc import Callable

import jax
import numpy as np

from jaxloop.config.presets import load
from jaxloop.config.schema import PopulationSettings, loops
from jaxloop.errors import InputError
from jaxloop.learners.placement import Placement, on_cpu
from jaxloop.learners.transformer.one_step import (
    MOST_BFLOAT16,
    MOST_FLOAT32,
    Activations,
    StepResult,
    differences,
    make_tiny_step,
)
from jaxloop.runs.costs import require_memory, total
from jaxloop.runs.environment import (
    cheap_checks,
    devices_in_words,
    nothing_kept,
    platforms_asked_for,
    prepare,
    require_devices,
)
from jaxloop.runs.findings import Finding
from jaxloop.runs.programs import programs
from jaxloop.runs.resources import size_text
from jaxloop.systems.registry import system_of

_HURRY_SECONDS = 25  # later than this nothing is compiled that need not be
_PRESETS = ("quick", "compact", "paper")
_NOT_THIS = "compute nothing here that is to be believed: look for another driver, another JAX or another device"


def checks() -> dict[str, Callable[[], list[Finding]]]:
    """All of them, by name; prepares this process as a run would."""
    begun = time.monotonic()
    importlib.import_module("jaxloop.runs.runner")  # and all that it imports, which a run needs
    prepare()
    found = {
        "devices": check_devices,
        **cheap_checks(),
        "memory of runs": check_memory_of_runs,
        "float32": check_float32,
        "bfloat16": check_bfloat16,
        "the same twice": lambda: check_same_twice(begun),
    }
    return {name: functools.partial(_with_devices, look) for name, look in found.items()}


def _with_devices(look: Callable[[], list[Finding]]) -> list[Finding]:
    """What a check finds; it is refused where there are no devices."""
    require_devices()
    return look()


def check_devices() -> list[Finding]:
    """The devices, and the memory that programs may take of each."""
    if on_cpu():
        return [Finding("devices", f"{devices_in_words()}; they share the machine's memory")]
    sizes = [_memory_bytes(place) for place in range(jax.local_device_count())]
    texts = dict.fromkeys(size_text(size) if size else "of unknown size" for size in sizes)
    told = f"memory for programs: {', '.join(texts)} each"
    if not all(sizes):
        told += " (it has no statistics; a run takes fewer loops at once where memory runs out)"
    return [Finding("devices", f"{devices_in_words()}; {told}")]


def _memory_bytes(place: int) -> int | None:
    """What programs may take of the memory of a device; None where it does not tell."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # so some plugins say that they have no statistics
        return (jax.local_devices()[place].memory_stats() or {}).get("bytes_limit")
    return None


def check_memory_of_runs() -> list[Finding]:
    """Which presets the memory holds that is there now."""
    said, to_do = [], ""
    for name in _PRESETS:
        config, warnings = load(name, []), []
        try:
            needed = size_text(total(require_memory(programs(loops(config)), system_of(config), warnings.append)))
            said.append(f"{name} takes {needed}{' and hardly fits' if warnings else ''}")
        except InputError as error:
            warnings.append(str(error))
            said.append(f"{name} does not fit")
        if name == _PRESETS[0] and warnings:
            to_do = warnings[0]
    return [Finding("memory of runs", "; ".join(said), to_do)]


class _Steps:
    """One step, compiled for all devices at once as a run's programs are."""

    def __init__(self, activations: Activations, precision: str | None = None):
        self._activations: Activations = activations
        step, corpus = _step(activations)
        devices = jax.local_devices()
        placement = Placement(PopulationSettings(loops_per_device=0), len(devices))
        self._precision, self._program = precision, placement.map(step)
        self._corpora = placement.put([corpus])

    def compiled_anew(self) -> "_Steps":
        """The same program, not yet compiled."""
        return _Steps(self._activations, self._precision)

    def results(self) -> list[StepResult]:
        """What each device gives."""
        with jax.default_matmul_precision(self._precision):
            stacked = jax.device_get(self._program(self._corpora))
        return [jax.tree.map(lambda leaf, place=place: leaf[place], stacked) for place in range(len(stacked.nats))]


def _step(activations: Activations) -> tuple[Callable, object]:
    """A step of a tiny model, on rows such as a run has."""
    config = load(_PRESETS[0], [])
    return make_tiny_step(activations, system_of(config).first_rows(config, 0)[:100])


@functools.cache
def _of_the_cpu() -> StepResult:
    """What is right: float32 throughout, on a device of the CPU.

    Raises:
      InputError: JAX was told to leave the CPU alone.
    """
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        asked = f"JAX_PLATFORMS={','.join(platforms_asked_for())}"
        raise InputError(f"{asked} leaves no CPU to compare with; say {asked},cpu") from None
    step, corpus = _step("float32")
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        return jax.device_get(jax.jit(step)(corpus))


@functools.cache
def _as_runs_compute() -> _Steps:
    """In what activations are on these devices unless the settings say otherwise."""
    return _Steps("float32" if on_cpu() else "bfloat16")


def check_float32() -> list[Finding]:
    """A step in float32 on every device against the CPU's."""
    if on_cpu():
        return _compared("float32", _as_runs_compute(), MOST_FLOAT32, "the CPU itself")
    return _compared("float32", _Steps("float32", "highest"), MOST_FLOAT32, "the CPU")


def check_bfloat16() -> list[Finding]:
    """A step in bfloat16 on every device against the CPU's in float32."""
    steps = _Steps("bfloat16") if on_cpu() else _as_runs_compute()
    return _compared("bfloat16", steps, MOST_BFLOAT16, "float32 on the CPU")


def _compared(check: str, steps: _Steps, most: float, other: str) -> list[Finding]:
    """How far the devices are from what is right, at the most."""
    right = _of_the_cpu()
    far = [
        (share, name, str(device))
        for device, result in zip(jax.local_devices(), steps.results(), strict=True)
        for name, share in differences(result, right).items()
    ]
    wrong = [one for one in far if not one[0] <= most]  # nor is what is not a number
    share, name, _ = wrong[0] if wrong else max(far)
    found = f"{share:.1e} from {other} ({name}), at most {most:g} of the norm"
    if not wrong:
        return [Finding(check, found)]
    devices = ", ".join(dict.fromkeys(device for _, _, device in wrong))
    return [Finding(check, f"{devices}: {found} is right", _NOT_THIS)]


def check_same_twice(begun: float) -> list[Finding]:
    """The bits of a step: of a program that runs twice, of all devices, and of one that is compiled anew.

    Args:
      begun: when the checks began, by the monotonic clock.
    """
    check = "the same twice"
    steps = _as_runs_compute()
    first, second = steps.results(), steps.results()
    if not _same(first, second):
        return [Finding(check, "one program gave two results", _NOT_THIS)]
    apart = [str(device) for device, one in zip(jax.local_devices(), first, strict=False) if not _same(one, first[0])]
    if apart:
        return [Finding(check, f"{jax.local_devices()[0]} and {', '.join(apart)} differ in their bits", _NOT_THIS)]
    if time.monotonic() - begun > _HURRY_SECONDS:
        return [Finding(check, "the same bits; nothing was compiled anew, for that takes long here")]
    with nothing_kept():
        anew = steps.compiled_anew().results()
    if _same(first, anew):
        return [Finding(check, "the same bits, also of a program that is compiled anew")]
    # A GPU's compiler chooses kernels by timing them; what is kept of it is what makes runs repeatable.
    return [Finding(check, "the same bits; compiled anew, a program has other last ones: keep what is compiled")]


def _same(one: object, other: object) -> bool:
    """Whether two trees hold the same bits."""
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(left).tobytes() == np.asarray(right).tobytes() for left, right in leaves)
