"""The examples of jaxloop/README.md, as somebody would take them: every one runs by its own command."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import jaxloop
from jaxloop import api

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "jaxloop" / "README.md").read_text(), re.DOTALL | re.MULTILINE)
COMMANDS = [text.strip() for _, text in BLOCKS if text.startswith("jaxloop run")]
QUICKLY = ["cycle.generations=3", "seeds=[0]", "controls=false", "train.steps=20", "cycle.rows=60"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the files of the examples."""
    path, files = tmp_path_factory.mktemp("examples"), {}
    for _, text in BLOCKS:
        if name := re.match(r"# (\w+\.(?:py|toml))", text):
            files[name[1]] = files.get(name[1], "") + text
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_there_is_an_example_of_every_kind():
    """Catches an example that is taken out, and a kind of part that has none."""
    kinds = "cycle.name=", "curation.name=", "measure.own=", "learner.name=", "run dice.toml"
    assert [kind for kind, command in zip(kinds, COMMANDS, strict=True) if kind in command] == list(kinds)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_run(command, folder):
    """Catches an example that a change of the house has broken: the first thing that a newcomer tries."""
    words = shlex.split(command)[2:]
    less = [one for one in QUICKLY if not one.startswith("train") or "learner.name" not in command]
    less = less[:1] if "dice" in command else less
    done = subprocess.run(
        [sys.executable, "-m", "jaxloop", "run", *words, *less, "--no-figures"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "kept diversity" in done.stdout and "collapse" in done.stdout


def test_the_door_hands_on_what_is_public():
    """Catches a public name in one of the two lists only, and one without a word of what it is."""
    assert sorted(jaxloop.__all__) == sorted(api.__all__)
    for name in jaxloop.__all__:
        assert getattr(jaxloop, name) is getattr(api, name)
        assert getattr(api, name).__doc__
