"""Progress in a notebook: one output that is redrawn, in place of a terminal's moving cursor."""

import io
import sys

from rich.console import Console, RenderableType

WIDTH, HEIGHT = 100, 40
_PAGE = '<pre style="line-height: normal; white-space: pre; font-family: monospace; margin: 0">{code}</pre>'


def in_kernel() -> bool:
    """Whether this process is the kernel of a notebook, and not a command that a cell has started."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython and ipython.get_ipython(), "kernel", None) is not None


def as_html(content: RenderableType) -> str:
    """What Rich would draw, as HTML."""
    console = Console(file=io.StringIO(), record=True, width=WIDTH, height=HEIGHT, force_jupyter=False)
    console.print(content)
    return console.export_html(code_format=_PAGE, inline_styles=True)


class NotebookLive:
    """What `rich.live.Live` is in a terminal."""

    def __init__(self, content: RenderableType):
        """Keep what is shown first."""
        self._content, self._shown = content, None

    def start(self) -> None:
        """Show it."""
        from IPython.display import HTML, display

        self._shown = display(HTML(as_html(self._content)), display_id=True)

    def update(self, content: RenderableType, refresh: bool = True) -> None:
        """Show something else in its place."""
        from IPython.display import HTML

        if self._shown is not None:
            self._shown.update(HTML(as_html(content)))

    def stop(self) -> None:
        """Leave it standing."""
