"""manifest.json: with what, where and for how long a run was computed, and which figures were drawn of it."""

import os
import platform
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax

from jaxloop import __version__, layout
from jaxloop.config.schema import Config
from jaxloop.errors import DamageError
from jaxloop.files import digest, read_file, seal_json, unseal_json, write_whole
from jaxloop.runs.environment import results_depend_on
from jaxloop.runs.own_parts import own_parts, sources_of
from jaxloop.systems.registry import system_of

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "rapidfuzz")
_MOST_BYTES = 2**26


class Manifest(NamedTuple):
    """What manifest.json says of a run."""

    sessions: list[dict]  # the commands, the first one first
    figures: dict[str, str]  # digest of each figure that the last command drew


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.json.

    Raises:
      DamageError: it is not what the run wrote.
    """
    content = unseal_json(read_file(path, _MOST_BYTES), path)
    sessions, figures = content.get("sessions"), content.get("figures", {})
    if not isinstance(sessions, list) or not all(isinstance(one, dict) for one in sessions):
        raise DamageError(f"{path}: is damaged")
    if not isinstance(figures, dict) or not figures.keys() <= set(layout.FIGURES):
        raise DamageError(f"{path}: is damaged")
    return Manifest(sessions, figures)


class Session:
    """This command, as the last one in the manifest of a run."""

    def __init__(self, config: Config, command: str):
        """Begin it, after none.

        Args:
          config: of the run.
          command: how this was called.
        """
        self._config, self._command, self._began = config, command, time.perf_counter()
        self._started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._earlier: list[dict] = []

    def follow(self, path: Path, is_between: Callable[[], bool]) -> list[str]:
        """Let this session come after those of a manifest; what there is to be warned of.

        Args:
          path: of the manifest, which may be missing.
          is_between: whether some of the run is computed, and some is not.
        """
        if not path.exists():
            return []
        try:
            self._earlier = read_manifest(path).sessions
        except DamageError as error:
            return [f"{error}; it is begun anew, and nothing else depends on it"]
        if not self._earlier:
            return []
        before = self._earlier[-1].get("results_depend_on", {})
        differ = [
            f"{name} was {before.get(name)}, is {value}"
            for name, value in _environment(self._config).items()
            if before.get(name) != value
        ]
        if not differ or not is_between():
            return []
        return [
            f"{path.parent}: was begun in another environment ({'; '.join(differ)}); what is computed from here on "
            "may differ in its last bits, and then in its course, from a run in one environment"
        ]

    def write(self, path: Path, figures: Iterable[Path]) -> None:
        """Write the manifest.

        Args:
          path: where.
          figures: what this session has drawn.
        """
        session = {
            "command": self._command,
            "started": self._started,
            "seconds": round(time.perf_counter() - self._began, 1),
            "jaxloop": __version__,
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in _PACKAGES},
            "results_depend_on": _environment(self._config),
            "platform": jax.local_devices()[0].platform,
            "device": jax.local_devices()[0].device_kind,
            "devices": len(jax.devices()),
            "processes": jax.process_count(),
            "cores": os.cpu_count(),
            "machine": platform.platform(),
            **({"own_parts": sources_of(self._config)} if own_parts(self._config) else {}),
        }
        drawn = {figure.stem: digest(figure.read_bytes()) for figure in figures}
        write_whole(path, seal_json({"sessions": [*self._earlier, session], "figures": drawn}))


def _environment(config: Config) -> dict[str, str]:
    """What the last bits of results depend on, beside the settings."""
    return {**results_depend_on(), **system_of(config).results_depend_on(config)}
