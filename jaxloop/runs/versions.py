"""Whether the installed packages fit: jaxloop's bounds, what its packages ask of each other, and JAX's plugins.

Nothing is imported, only read of what is installed: a package that does not fit may not even be importable.
"""

import contextlib
import platform
import re
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jaxloop.runs.findings import Finding

_OWN = "jaxloop-collapse"
# Those that results depend on most come first.
_FIRST = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_LIBRARIES = re.compile(r"libtpu|jax-rocm\d+-(plugin|pjrt)")


def check_python() -> list[Finding]:
    """Python against what jaxloop asks for."""
    asked = ",".join(metadata.metadata(_OWN).get_all("Requires-Python") or [])
    version = platform.python_version()
    fits = Requirement(f"python{asked}").specifier.contains(version, prereleases=True)
    to_do = "" if fits else f"jaxloop needs Python {asked}: make a virtual environment of such a one"
    return [Finding("Python", f"{version}, {platform.machine()}", to_do)]


def check_packages() -> list[Finding]:
    """Packages against jaxloop's bounds, and against what those that jaxloop needs ask of each other."""
    bounds = _asked_by(_OWN)
    names = list(dict.fromkeys([*_FIRST, *(canonicalize_name(one.name) for one in bounds)]))
    versions = {name: version for name in names if (version := _version(name))}
    misfits = []
    for who in (_OWN, *versions):
        for bound in bounds if who == _OWN else _asked_by(who):
            name = canonicalize_name(bound.name)
            version = versions.get(name)
            if name in names and not (version and bound.specifier.contains(version, prereleases=True)):
                asker = "jaxloop" if who == _OWN else f"{who} {versions[who]}"
                there = f"{name} {version} is there" if version else f"{name} is not there"
                wanted = f"{name}{bound.specifier}"
                misfits.append(
                    Finding("packages", f"{asker} needs {wanted}, and {there}", f"run: pip install '{wanted}'")
                )
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [Finding("packages", said), *misfits]


def check_plugins() -> list[Finding]:
    """Plugins of JAX for accelerators against JAX, as it is going to take them or not."""
    jax, jaxlib = _version("jax"), _version("jaxlib")
    if not (jax and jaxlib):
        return []
    found = [Finding("plugins", f"{name} {version}") for name, version in installed_plugins().items()]
    found += [
        Finding(
            "plugins",
            f"THE GPU IS NOT USED: JAX {jax} refuses its CUDA plugin, which is of JAX {refused}",
            f"run: pip install 'jax[{extra}]=={jax}' (or, to keep the plugin, pip install jaxloop again with "
            f"'jax=={refused}' beside it); JAX_PLATFORMS=cpu says that the CPU is meant",
        )
        for extra, refused in refused_cuda().items()
    ]
    for bound, extra in _asked_with_extras("jax"):
        version = _LIBRARIES.fullmatch(canonicalize_name(bound.name)) and _version(bound.name)
        if version and not bound.specifier.contains(version, prereleases=True):
            found.append(
                Finding(
                    "plugins",
                    f"JAX {jax} is made for {bound.name}{bound.specifier}, and {version} is there",
                    f"run: pip install 'jax[{extra}]=={jax}'",
                )
            )
    return found or [Finding("plugins", "none: JAX has the CPU alone")]


def installed_plugins() -> dict[str, str]:
    """Versions of JAX's installed plugins for accelerators, by their names; the newest CUDA first."""
    cuda = [f"jax-{extra}-{part}" for extra in ("cuda13", "cuda12") for part in ("plugin", "pjrt")]
    others = {canonicalize_name(bound.name) for bound, _ in _asked_with_extras("jax")}
    names = [*cuda, *sorted(name for name in others if _LIBRARIES.fullmatch(name))]
    return {name: version for name in names if (version := _version(name))}


def cuda_extra() -> str | None:
    """JAX's extra of the CUDA plugin that is installed; None where there is none."""
    return next((name.split("-")[1] for name in installed_plugins() if name.startswith("jax-cuda")), None)


def refused_cuda() -> dict[str, str]:
    """Versions of the CUDA plugins that JAX refuses, for they are not of its jaxlib's, by JAX's extras."""
    jaxlib, found = _version("jaxlib") or "", {}
    for name, version in installed_plugins().items():
        if name.startswith("jax-cuda") and _numbers(version) != _numbers(jaxlib):
            found.setdefault(name.split("-")[1], version)
    return found


def _version(name: str) -> str | None:
    """Of an installed package; None where there is none, or nothing but the rest of one."""
    with contextlib.suppress(metadata.PackageNotFoundError, KeyError):
        return metadata.version(name)
    return None


def _asked_by(name: str) -> list[Requirement]:
    """What a package needs on this machine, without extras."""
    found = [Requirement(text) for text in metadata.requires(name) or []]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def _asked_with_extras(name: str) -> list[tuple[Requirement, str]]:
    """What the extras of a package need on this machine, with the name of the extra."""
    try:
        there = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return []
    found = [Requirement(text) for text in metadata.requires(name) or []]
    return [
        (one, extra)
        for extra in there.get_all("Provides-Extra") or []
        for one in found
        if one.marker and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})
    ]


def _numbers(version: str) -> str:
    """The numbers that a version begins with, which are all that JAX compares."""
    found = _NUMBERS.match(version)
    return found[0] if found else version
