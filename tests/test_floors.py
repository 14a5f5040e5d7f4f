"""Which part of the library may know which: imports that would close a circle, or let one system into all others."""

import ast
import sys
from pathlib import Path

import pytest

import jaxloop

ROOT = Path(jaxloop.__file__).parent
BELOW_SYSTEMS = ("measures", "learners", "report", "loop", "analysis", "config")


def imports(folder: str) -> set[tuple[str, str]]:
    """(file, module) of every import in a folder's files, wherever it stands."""
    found = set()
    for path in (ROOT / folder).glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, "imports are absolute"
                # What is imported may be a module itself.
                found |= {(path.name, f"{node.module}.{name.name}") for name in node.names}
            elif isinstance(node, ast.Import):
                found |= {(path.name, name.name) for name in node.names}
    assert found
    return found


@pytest.mark.parametrize("folder", BELOW_SYSTEMS)
def test_what_all_systems_share_knows_none_of_them(folder):
    """A learner that knows one system's words is of no use to another one."""
    assert [one for one in imports(folder) if one[1].startswith("jaxloop.systems")] == []


def test_the_loop_needs_arrays_and_settings_only():
    """The loop is the part that every system, learner and measure relies on: it must not rely on any."""
    may = ("numpy", "jaxloop.loop", "jaxloop.config")
    others = [one for one in imports("loop") if one[1].split(".")[0] not in sys.stdlib_module_names]
    assert others and [one for one in others if not one[1].startswith(may)] == []
