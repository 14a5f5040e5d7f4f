"""Checks in a process of their own: one that crashes or hangs costs its line, and no other.

A driver or a plugin can end the process, or never come back, and a dead network file system as well: nothing in Python
catches the one or stops the other. The parent also must not hold an accelerator that the checks are to try.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from typing import NamedTuple

from jaxloop.runs.findings import Finding, guarded

_KILLED_SECONDS = 2  # a process that waits for a dead device cannot even be killed


class Apart(NamedTuple):
    """What checks found, and what their process said beside it."""

    findings: list[Finding]
    log: str


def run_apart(module: str, arguments: list[str], limit_seconds: float, remedy: str) -> Apart:
    """Run the checks of a module in a process of their own.

    Args:
      module: has `checks(*arguments)`, which gives them by name.
      arguments: texts.
      limit_seconds: after so long it is ended.
      remedy: what to do where it crashes or hangs.
    """
    # Whatever this process imports from, and nothing else that lies in the folder where it was called.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "jaxloop.doctor.apart", str(limit_seconds), module, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, log, how = _outcome(process, limit_seconds)
    planned, done, found = ["imports"], {"imports"}, []
    for line in _messages(out):
        if "checks" in line:
            planned = line["checks"]
        elif "done" in line:
            done.add(line["done"])
        else:
            found.append(Finding(**line))
    if planned == ["imports"] and not found:
        done.clear()
    first, *others = [name for name in planned if name not in done] or [None]
    if first:
        found.append(Finding(first, how, remedy))
    found += [Finding(name, "not checked", f"after {first}, with which the checks ended") for name in others]
    return Apart(found, log)


def _outcome(process: subprocess.Popen, limit_seconds: float) -> tuple[bytes, str, str]:
    """All that a process wrote, what it said beside it, and how it ended, in words."""
    how = None
    try:
        out, log = process.communicate(timeout=limit_seconds)
    except subprocess.TimeoutExpired:
        how = f"no answer within {limit_seconds:g} seconds"
        process.kill()
        try:
            out, log = process.communicate(timeout=_KILLED_SECONDS)
        except subprocess.TimeoutExpired as error:
            out, log = error.output or b"", error.stderr or b""
    text = log.decode("utf-8", "replace")
    return out, text, how or _ending(process.returncode, text)


def _ending(code: int, log: str) -> str:
    """How a process ended before its time, with what it said last."""
    ended = f"the checks ended with code {code}"
    if code < 0:
        with contextlib.suppress(ValueError):  # A signal that Python has no name for.
            ended = f"the checks were ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if re.search("error|fail|fatal|killed", line, re.IGNORECASE)]
    said = (telling or lines or [""])[-1][:300]
    return f"{ended}: {said}" if said else ended


def _messages(out: bytes) -> list[dict]:
    """What the process said of its checks; the last line may be half written."""
    found = []
    for line in out.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def main(limit: str, module: str, *arguments: str) -> None:
    """Run the checks of a module, and say of each what it found, a JSON object a line on standard output."""
    # Where the parent is gone and nobody else ends this.
    faulthandler.dump_traceback_later(float(limit) + 10, exit=True)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries may print what they like

    def say(line: dict) -> None:
        print(json.dumps(line), file=answers, flush=True)

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    checks = {}

    def load() -> list[Finding]:
        checks.update(importlib.import_module(module).checks(*arguments))
        return []

    for finding in guarded("imports", load, note):
        say(finding._asdict())
    if not checks:
        return
    say({"checks": list(checks)})
    failed: dict[str, str] = {}
    for name, look in checks.items():
        for finding in guarded(name, look, note):
            # What one check could not have, others cannot either.
            if finding.to_do and finding.to_do in failed:
                finding = Finding(name, "not checked", f"as {failed[finding.to_do]}")
            elif finding.to_do:
                failed[finding.to_do] = name
            say(finding._asdict())
        say({"done": name})


if __name__ == "__main__":
    main(*sys.argv[1:])
