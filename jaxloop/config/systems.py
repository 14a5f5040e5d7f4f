"""The systems by name, and where the class of each one's settings lies; imported when a config names it."""

import functools
import importlib
from typing import Any

SYSTEMS = {
    "logic": "jaxloop.systems.logic.settings:LogicConfig",
}
DEFAULT_SYSTEM = "logic"


@functools.cache
def class_of(name: str) -> Any:
    """The subclass of `schema.Config` of one of SYSTEMS."""
    module, _, attribute = SYSTEMS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
