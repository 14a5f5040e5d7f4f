"""What a config names and Python has to import: the settings of a system, and parts of one's own.

A part of one's own stands in a config as "module:Name". Only a run imports it; whoever reads a folder does not.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from annotated_types import GroupedMetadata
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from jaxloop.errors import DamageError, InputError, RunError

SYSTEMS = {
    "logic": "jaxloop.systems.logic.settings:LogicConfig",
    "gaussian": "jaxloop.systems.gaussian.settings:GaussianConfig",
}
DEFAULT_SYSTEM = "logic"


def is_own(name: str) -> bool:
    """Whether a name is that of a part of one's own, "module:Name"."""
    module, colon, part = name.partition(":")
    return bool(colon) and all(word.isidentifier() for word in (*module.split("."), part))


class Named(GroupedMetadata):
    """What is said, in `Annotated`, of a setting that is one of these names, or a part of one's own."""

    def __init__(self, *names: str):
        self._names = names

    def __iter__(self) -> Iterator[object]:
        yield AfterValidator(self._check)
        yield WithJsonSchema({"enum": [*self._names, "module:Name"]})

    def _check(self, name: str) -> str:
        if name in self._names or is_own(name):
            return name
        raise ValueError(f"should be {', '.join(map(repr, self._names))}, or one of your own, as 'module:Name'")


class NamedInOrder(GroupedMetadata):
    """The same of a setting that is "all", one of these names, several in their order, or a part of one's own."""

    def __init__(self, *names: str):
        self._names = names

    def __iter__(self) -> Iterator[object]:
        yield BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given)
        yield AfterValidator(self._check)
        yield WithJsonSchema({"enum": ["all", *self._names, "[several]", "module:Name"]})

    def _check(self, given: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (given,) if isinstance(given, str) else given
        known = ", ".join(map(repr, self._names))
        if given == "all" or (len(names) == 1 and is_own(names[0])):
            return names[0]
        if not names or not set(names) <= set(self._names):
            raise ValueError(
                f"should be 'all', {known}, several of these in a list, or one of your own, as 'module:Name'"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"should have each check once, and has {list(names)}")
        return names[0] if len(names) == 1 else names


@functools.cache
def system_settings(name: str) -> Any:
    """The subclass of `schema.Config` of one of SYSTEMS."""
    return get(SYSTEMS[name])


def get(path: str) -> Any:
    """What stands at "module:Name"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def import_own(path: str, setting: str, needs: tuple[str, ...]) -> Any:
    """Import a part of one's own; a module beside which the command is called is found, too.

    Args:
      path: "module:Name".
      setting: that names it.
      needs: what a part of its kind must have.

    Raises:
      InputError: there is no such part, or it is of another kind.
    """
    where = f"{setting} = {path!r}"
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    module, _, name = path.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{where}: there is no module {error.name!r}; it must be installed, or lie where you are"
        ) from None
    except (Exception, SystemExit) as error:  # Whatever somebody's module does when it is imported.
        raise InputError(f"{where}: cannot be imported: {type(error).__name__}: {error}") from None
    part = getattr(found, name, None)
    if part is None:
        raise InputError(f"{where}: the module has no such name")
    missing = [name for name in needs if not hasattr(part, name)]
    if not isinstance(part, type) or missing:
        has = f"a class with {', '.join(needs)}"
        raise InputError(f"{where}: must be {has}, and {f'has no {missing[0]}' if missing else 'is no class'}")
    return part


def path_of(part: type, setting: str) -> str:
    """The import path of a class, "module:Name".

    Raises:
      InputError: it is no class that could be imported.
    """
    if not isinstance(part, type) or "." in part.__qualname__:
        raise InputError(
            f"{setting}: {part!r} is no class at the top of a module or notebook, and could not be found again"
        )
    return f"{part.__module__}:{part.__qualname__}"


def made(part: type, setting: str, path: str, *arguments: Any) -> Any:
    """An object of a class of one's own, `guarded`.

    Raises:
      InputError: it cannot be made.
    """
    try:
        return guarded(part(*arguments), setting, path)
    except (Exception, SystemExit) as error:
        raise InputError(f"{setting} = {path!r}: cannot be made: {type(error).__name__}: {error}") from None


def guarded(part: Any, setting: str, path: str) -> Any:
    """A part of one's own, so that what goes wrong in it is told in one line that names it."""
    return _Guarded(part, f"{setting} = {path!r}")


class _Guarded:
    def __init__(self, part: Any, where: str):
        self._part, self._where = part, where

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        return self._told(found) if callable(found) else found

    def _told(self, function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return function(*arguments, **options)
            except (InputError, DamageError, RunError, MemoryError):
                raise
            except (Exception, SystemExit) as error:
                raise RunError(
                    f"{self._where}: {type(error).__name__}: {error}; what was measured before is kept"
                ) from error

        return call
