"""The table of `jaxloop doctor`: what was found, and beside it `ok` or what to do.

It imports next to nothing, for it is read where packages do not fit.
"""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxloop.errors import printable
from jaxloop.runs.findings import Finding


def show_findings(findings: list[Finding], console: Console) -> None:
    """Print a line for each finding, and one for all."""
    if not console.is_terminal:
        console.width = max(console.width, 160)
    table = Table()
    table.add_column("check", no_wrap=True)
    table.add_column("found", ratio=3, overflow="fold")
    table.add_column("ok, or what to do", ratio=2, overflow="fold")
    for one in findings:
        table.add_row(*(Text(printable(text)) for text in (one.check, one.found, one.to_do or "ok")))
    console.print(table)
    wrong = sum(bool(one.to_do) for one in findings)
    summed = f"{wrong} of {len(findings)} lines say what to do" if wrong else "all is as it should be"
    console.print(summed, highlight=False, soft_wrap=True)


def as_json(findings: list[Finding]) -> dict:
    """The same for programs."""
    return {
        "ok": not any(one.to_do for one in findings),
        "lines": [{**one._asdict(), "ok": not one.to_do} for one in findings],
    }
