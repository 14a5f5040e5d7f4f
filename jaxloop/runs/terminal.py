"""Where the commands write: a terminal with a cursor that can be moved, or a pipe, a file, a notebook's cell."""

import os
import sys

from rich.console import Console


def make_console(stderr: bool = False) -> Console:
    """A console for standard output or error that moves no cursor and sets no colour where there is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    # Said outright, since FORCE_COLOR, which kernels and CI set, would make a terminal of a pipe.
    is_terminal = stream.isatty() and not (_is_notebook() or _is_dumb())
    return Console(stderr=stderr, force_terminal=is_terminal, force_jupyter=False)


def _is_notebook() -> bool:
    """Whether a kernel is the parent: its `!command` has a pseudo-terminal, and every redraw becomes more lines there.

    jupyter_client sets the first of these for every kernel that it starts, Colab's too; ipykernel sets the others.
    """
    environment = os.environ
    return "JPY_PARENT_PID" in environment or (environment.get("GIT_PAGER") == "cat" and "CLICOLOR" in environment)


def _is_dumb() -> bool:
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")
