"""Programs in processes of their own: Python as it starts anew, and the command as a user calls it."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
JAXLOOP = [str(Path(sys.executable).with_name("jaxloop"))]


def call(*arguments: str, cwd: Path | None = None, text: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [*JAXLOOP, *arguments], capture_output=True, text=True, input=text, cwd=cwd, timeout=300, check=False
    )


def python(code: str, *arguments: object, **environment: str | None) -> subprocess.CompletedProcess:
    """Run a program with variables beside ours; None takes one away."""
    changed = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={name: value for name, value in changed.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def output_of(code: str, *arguments: object, **environment: str | None) -> str:
    """What a program prints; it must not fail, nor say anything of an error."""
    done = python(code, *arguments, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
