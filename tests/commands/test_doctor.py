"""The command `jaxloop doctor`: its table, its JSON and its exit code."""

import io
import json
import os
import subprocess

import pytest
from processes import JAXLOOP
from rich.console import Console

from jaxloop.commands.table_of_findings import as_json, show_findings
from jaxloop.runs.findings import Finding


def doctor(folder, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*JAXLOOP, "doctor", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_devices_of_the_tests_are_fit(tmp_path):
    """Catches a check that is missing, or that finds fault with a machine that passes all other tests."""
    done = doctor(tmp_path, "--json")
    found = json.loads(done.stdout)
    lines = {line["check"]: line for line in found["lines"]}
    for check in ("Python", "packages", "devices", "float32", "bfloat16", "the same twice"):
        assert lines[check]["ok"], lines[check]
    assert lines.keys() >= {"plugins", "cores", "memory", "folder of runs", "accelerator", "environment"}
    assert lines.keys() >= {"compiled programs", "memory of runs"}
    assert done.returncode == (0 if found["ok"] else 1) and "the CPU itself" in lines["float32"]["found"]
    assert done.stderr.startswith("┏") and list(tmp_path.iterdir()) == []


def test_what_is_to_be_done_is_in_the_table_and_the_exit_code(tmp_path):
    """Catches a script that goes on with a machine that has nothing to compute on, and a traceback for a table."""
    done = doctor(tmp_path, "--out", "/dev/null/runs", JAX_PLATFORMS="nothing_of_the_kind")
    assert (done.returncode, done.stderr) == (1, "")
    table = " ".join(done.stdout.replace("│", " ").split())
    assert "JAX_PLATFORMS=nothing_of_the_kind: JAX finds no such devices" in table and "name another folder" in table
    assert "lines say what to do" in done.stdout.splitlines()[-1]


FINDINGS = [Finding("one", "fine"), Finding("another", "[red]not\x1b[31m so fine[/red] " + "long " * 30, "do that")]


@pytest.mark.parametrize("width", [200, 80, 40])
def test_the_table_loses_no_word_to_a_narrow_terminal(width):
    """Catches advice that is cut where it is needed most, and text of libraries that is taken for markup."""
    out = io.StringIO()
    show_findings(FINDINGS, Console(file=out, width=width, force_terminal=True, color_system=None))
    words = " ".join(out.getvalue().replace("│", " ").split())
    assert words.count("long") == 30 and "[red]not" in words and "\x1b[31m" not in words and "…" not in words
    assert "1 of 2 lines say what to do" in words


def test_the_json_says_the_same():
    """Catches a program that is told another thing than people are."""
    found = as_json(FINDINGS)
    assert [line["ok"] for line in found["lines"]] == [True, False] and found["ok"] is False
    assert found["lines"][0] == {"check": "one", "found": "fine", "to_do": "", "ok": True}
    assert as_json(FINDINGS[:1])["ok"] is True
