"""The self-consuming training loop, exactly measured.

The public names are those in `__all__`; `jaxloop/README.md` is the map of all else.
"""

import warnings
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxloop.api import (
        Carry,
        Column,
        Columns,
        Config,
        Curator,
        DamageError,
        InputError,
        LearnerSettings,
        Measured,
        Measures,
        Memory,
        Purpose,
        RowFormat,
        Rows,
        Run,
        RunError,
        Seconds,
        System,
        SystemSettings,
        Task,
        Written,
        draw,
        host_generator,
        join,
        open_run,
        presets,
        run,
        settings,
    )

__all__ = [
    "Carry", "Column", "Columns", "Config", "Curator", "DamageError", "InputError", "LearnerSettings", "Measured",
    "Measures", "Memory", "Purpose", "RowFormat", "Rows", "Run", "RunError", "Seconds", "System", "SystemSettings",
    "Task", "Written", "draw", "host_generator", "join", "open_run", "presets", "run", "settings",
]  # fmt: skip
__version__ = metadata.version("jaxloop-collapse")

try:
    metadata.version("jaxloop")
except metadata.PackageNotFoundError:
    pass
else:
    warnings.warn(
        "the unrelated PyPI package 'jaxloop' is installed beside 'jaxloop-collapse'; both are imported as 'jaxloop' "
        "and overwrite each other's files: run 'pip uninstall jaxloop', then reinstall jaxloop-collapse",
        stacklevel=2,
    )


def __getattr__(name: str) -> object:
    """Import the public names when they are asked for: the command line does not wait for JAX and pandas."""
    if name not in __all__:
        raise AttributeError(f"module 'jaxloop' has no attribute {name!r}")
    from jaxloop import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
